use proptest::prelude::*;

use super::*;

/// RFC 9729 §5, unwrapped.
const EXAMPLE: &str = "Concealed k=YmFzZW1lbnQ, a=VGhpcyBpcyBh-HB1YmxpYyBrZXkgaW4gdXNl_GhlcmU, \
    s=2055, v=dmVyaWZpY2F0aW9u_zE2Qg, p=SW5zZXJ0_HNpZ25hdHVyZSBvZiBub25jZSBoZXJlIHdoaWNoIHRha2VzI\
    DUxMiBiaXRz-GZvciBFZDI1NTE5IQ";

fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn public(key: &Ed25519KeyPair) -> [u8; 32] {
    key.public_key().as_ref().try_into().unwrap()
}

#[test]
fn reads_the_example_of_the_rfc() {
    let credentials = parse(EXAMPLE.as_bytes()).unwrap();
    assert_eq!(credentials.key_id, b"basement");
    assert_eq!(&credentials.public_key[..9], b"This is a");
    assert_eq!(&credentials.verification[..12], b"verification");
    assert_eq!(&credentials.proof[..6], b"Insert");
    assert_eq!(credentials.realm, "");
    assert!(!verify(&credentials, &[0; 48]));
}

#[test]
fn the_export_context_is_laid_out_as_figure_1() {
    let public_key = [0xab; 32];
    let context = ExportContext {
        key_id: b"basement",
        public_key: &public_key,
        scheme: "https",
        host: "gw.example",
        port: 8443,
        realm: "",
    };
    let expected = [
        &[0x08, 0x07, 8][..],
        b"basement",
        &[32],
        &public_key,
        &[5],
        b"https",
        &[10],
        b"gw.example",
        &[0x20, 0xfb, 0],
    ]
    .concat();
    assert_eq!(export_context(&context), expected);
    // A length above 63 takes two bytes, and no more.
    let long = export_context(&ExportContext {
        key_id: &[1; 64],
        realm: "r",
        ..context
    });
    assert_eq!(&long[..5], [0x08, 0x07, 0x40, 64, 1]);
    assert_eq!(&long[long.len() - 2..], [1, b'r']);
}

#[test]
fn the_signed_content_is_that_of_section_3_3() {
    // Figure 3 with the context string as the text has it (erratum 8807).
    let expected = [
        "20".repeat(64),
        "48545450".to_owned(),
        "20436f6e6365616c6564".to_owned(),
        "2041757468656e7469636174696f6e".to_owned(),
        "00".to_owned(),
        "01".repeat(32),
    ]
    .concat();
    let content = signed_content(&[1; 32]);
    assert_eq!(data_encoding::HEXLOWER.encode(&content), expected);
}

#[test]
fn what_one_key_signs_verifies_for_one_connection() {
    let mut output = [7; 48];
    output[32..].fill(9);
    let key = key(1);
    let header = sign(&key, b"laptop", &output);
    let credentials = parse(header.as_bytes()).unwrap();
    assert_eq!(
        (&credentials.key_id[..], credentials.public_key),
        (&b"laptop"[..], public(&key))
    );
    assert!(verify(&credentials, &output));
    for index in 0..48 {
        let mut other = output;
        other[index] ^= 1;
        assert!(!verify(&credentials, &other), "byte {index} does not count");
    }
    let stolen = Credentials {
        public_key: public(&self::key(2)),
        ..credentials.clone()
    };
    assert!(!verify(&stolen, &output));
    for index in 0..64 {
        let mut forged = credentials.clone();
        forged.proof[index] ^= 1;
        assert!(!verify(&forged, &output));
    }
}

#[test]
fn any_malformed_parameter_voids_the_field() {
    let good = sign(&key(1), b"k", &[3; 48]);
    let replaced = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    let a = BASE64URL_NOPAD.encode(&public(&key(1)));
    for bad in [
        replaced("Concealed ", "Basic "),
        replaced("Concealed ", "Concealed,"),
        replaced("s=2055", "s=2056"),
        replaced("s=2055", "s=02055"),
        replaced("s=2055", "s=+2055"),
        replaced("s=2055", "s=\"2055\""),
        replaced("s=2055, ", ""),
        replaced("k=aw", "k=aw=="),
        replaced("k=aw", "k=\"aw\""),
        replaced("k=aw", "k=ax"),
        replaced("k=aw", "k=a"),
        replaced("k=aw", "k=aw, k=aw"),
        replaced("k=aw", "k=aw, K=aw"),
        replaced("k=aw, ", ""),
        replaced(&a, &a[..42]),
        replaced("v=", "v=AA"),
        replaced("v=", "w="),
        replaced("p=", "p=AA"),
        replaced("p=", "q"),
        format!("{good}, realm=\"open"),
        format!("{good}, realm=\"a\"b\""),
        format!("{good}, x={}", "y".repeat(MAX_VALUE_BYTES)),
        replaced(
            "k=aw",
            &format!("k={}", BASE64URL_NOPAD.encode(&[0; MAX_KEY_ID_BYTES + 1])),
        ),
        String::new(),
        "Concealed".to_owned(),
    ] {
        assert_eq!(parse(bad.as_bytes()), None, "{bad}");
    }
    assert_eq!(parse(b"Concealed \xff"), None);
}

#[test]
fn spelling_that_http_allows_is_read() {
    let good = sign(&key(1), b"k", &[3; 48]);
    let expected = parse(good.as_bytes()).unwrap();
    for same in [
        good.replacen("Concealed", "CONCEALED", 1),
        good.replace(", ", " ,,\t"),
        good.replacen("k=", "K = ", 1),
        format!(" {good}, future=\"a,b\\\"\" "),
    ] {
        assert_eq!(parse(same.as_bytes()), Some(expected.clone()), "{same}");
    }
    let realm = format!("{good}, realm=\"a \\\"b\\\", c\"");
    assert_eq!(parse(realm.as_bytes()).unwrap().realm, "a \"b\", c");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_trip(
        seed in any::<u8>(),
        id in prop::collection::vec(any::<u8>(), 0..64),
        fill in any::<[u8; 32]>(),
    ) {
        let mut output = [0; 48];
        output[8..40].copy_from_slice(&fill);
        let credentials = parse(sign(&key(seed), &id, &output).as_bytes()).unwrap();
        prop_assert_eq!(&credentials.key_id, &id);
        prop_assert!(verify(&credentials, &output));
    }

    #[test]
    fn any_value_is_read_without_panic(value in "Concealed [kapsv=,\"\\\\ a-zA-Z0-9]{0,100}") {
        let _ = parse(value.as_bytes());
    }
}
