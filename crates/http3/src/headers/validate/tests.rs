use super::*;

fn lines(pairs: &[(&str, &str)]) -> Vec<Line> {
    pairs
        .iter()
        .map(|(name, value)| Line::new(*name, *value))
        .collect()
}

const EXTENDED: [(&str, &str); 5] = [
    (":method", "CONNECT"),
    (":protocol", "connect-ip"),
    (":scheme", "https"),
    (":authority", "proxy.example"),
    (":path", "/.well-known/masque/ip/*/*/"),
];
const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "a.example"),
    (":path", "/"),
];
const CONNECT: [(&str, &str); 2] = [(":method", "CONNECT"), (":authority", "a.example:443")];

/// `base` without the field `remove`, with `add` behind it.
fn edit(base: &[(&str, &str)], remove: &str, add: &[(&str, &str)]) -> Result<RequestHead, String> {
    let kept = base
        .iter()
        .filter(|(name, _)| *name != remove)
        .chain(add)
        .copied();
    request(&lines(&kept.collect::<Vec<_>>())).map_err(|malformed| malformed.0.to_owned())
}

#[test]
fn valid_requests() {
    let head = edit(&EXTENDED, "", &[("capsule-protocol", "?1")]).unwrap();
    assert_eq!(head.protocol.as_deref(), Some("connect-ip"));
    assert_eq!(head.values("capsule-protocol").collect::<Vec<_>>(), [b"?1"]);
    assert_eq!(edit(&CONNECT, "", &[]).unwrap().path, None);
    edit(
        &CONNECT,
        ":authority",
        &[(":authority", "[2001:db8::1]:443")],
    )
    .unwrap();
    edit(
        &GET,
        "",
        &[
            ("te", "trailers"),
            ("x", "a\tb"),
            ("y", ""),
            ("z", "caf\u{e9}"),
        ],
    )
    .unwrap();
    edit(&GET, ":method", &[(":method", "OPTIONS")]).unwrap();
    let head = edit(
        &GET,
        "",
        &[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")],
    )
    .unwrap();
    assert_eq!(head.values("cookie").collect::<Vec<_>>(), [b"a=1; b=2"]);
    assert_eq!(head.fields.len(), 2);
    let empty_ones = [("cookie", ""), ("cookie", "a=1"), ("cookie", "")];
    let head = edit(&GET, "", &empty_ones).unwrap();
    assert_eq!(head.values("cookie").collect::<Vec<_>>(), [b"a=1"]);
    let head = edit(&GET, ":authority", &[("host", "b.example")]).unwrap();
    assert_eq!(head.authority.as_deref(), Some("b.example"));
    edit(&GET, "", &[("host", "A.example")]).unwrap();
}

#[test]
fn n11_malformed_requests() {
    for (remove, add) in [
        ("", &[("Upper", "x")][..]),
        ("", &[("", "x")]),
        ("", &[("sp ace", "x")]),
        ("", &[("x", "a\nb")]),
        ("", &[("x", "a\0")]),
        ("", &[("x", " a")]),
        ("", &[("x", "a\t")]),
        ("", &[("x", "\u{7f}")]),
        ("", &[("connection", "close")]),
        ("", &[("keep-alive", "1")]),
        ("", &[("proxy-connection", "x")]),
        ("", &[("transfer-encoding", "chunked")]),
        ("", &[("upgrade", "connect-ip")]),
        ("", &[("te", "gzip")]),
        ("", &[("te", "trailers, gzip")]),
        ("", &[(":path", "/")]),
        ("", &[(":status", "200")]),
        ("", &[(":unknown", "x")]),
        (":path", &[("x", "y"), (":path", "/")]),
        (":path", &[]),
        (":path", &[(":path", "")]),
        (":path", &[(":path", "x")]),
        (":path", &[(":path", "*")]),
        (":path", &[(":path", "/a b")]),
        (":scheme", &[]),
        (":scheme", &[(":scheme", "1x")]),
        (":method", &[]),
        (":method", &[(":method", "G T")]),
        (":authority", &[]),
        (":authority", &[(":authority", "")]),
        (":authority", &[(":authority", "user@a.example")]),
        ("", &[("host", "b.example")]),
        ("", &[("host", "")]),
        (":authority", &[("host", "a"), ("host", "a")]),
        ("", &[(":protocol", "connect-ip")]), // item 20: with another method
    ] {
        assert!(
            edit(&GET, remove, add).is_err(),
            "without {remove:?}, with {add:?}"
        );
    }
}

#[test]
fn n20_extended_connect_needs_scheme_path_and_authority() {
    for name in [":scheme", ":path", ":authority"] {
        assert!(edit(&EXTENDED, name, &[]).is_err(), "without {name}");
        assert!(
            edit(&EXTENDED, name, &[(name, "")]).is_err(),
            "empty {name}"
        );
    }
    assert!(edit(&EXTENDED, ":protocol", &[(":protocol", "")]).is_err());
    assert!(edit(&EXTENDED, ":protocol", &[(":protocol", "a/b/c")]).is_err());
    edit(&EXTENDED, ":protocol", &[(":protocol", "never-heard-of/1")]).unwrap();
}

#[test]
fn n15_classic_connect() {
    assert!(edit(&CONNECT, "", &[(":scheme", "https")]).is_err());
    assert!(edit(&CONNECT, "", &[(":path", "/")]).is_err());
    assert!(edit(&CONNECT, ":authority", &[]).is_err());
    assert!(edit(&CONNECT, ":authority", &[("host", "a.example:443")]).is_err());
    for target in [
        "a", "a:", ":1", "a:0", "a:65536", "a:+1", "::1:443", "[]:1", "u@a:1", "a:1/",
    ] {
        let result = edit(&CONNECT, ":authority", &[(":authority", target)]);
        assert!(result.is_err(), "{target}");
    }
}

#[test]
fn responses() {
    let status = |pairs: &[(&str, &str)]| response(&lines(pairs)).map(|head| head.status).ok();
    assert_eq!(status(&[(":status", "200"), ("x", "y")]), Some(200));
    assert_eq!(status(&[(":status", "103")]), Some(103));
    for bad in ["", "20", "2000", "099", "600", "2x0", "101", "+20"] {
        assert_eq!(status(&[(":status", bad)]), None, "{bad}");
    }
    assert_eq!(status(&[]), None);
    assert_eq!(status(&[(":status", "200"), (":status", "200")]), None);
    assert_eq!(status(&[(":method", "GET")]), None);
    assert_eq!(status(&[("x", "y"), (":status", "200")]), None);
    assert_eq!(status(&[(":status", "200"), ("te", "trailers")]), None);
    assert_eq!(trailers(&lines(&[("x", "y")])), Ok(()));
    assert!(trailers(&lines(&[(":status", "200")])).is_err());
}

#[test]
fn content_lengths() {
    let length = |values: &[&str]| {
        let fields: Vec<_> = values
            .iter()
            .map(|v| Field::new("content-length", *v))
            .collect();
        content_length(&fields).ok()
    };
    assert_eq!(length(&[]), Some(None));
    assert_eq!(length(&["42"]), Some(Some(42)));
    assert_eq!(length(&["42", "42"]), Some(Some(42)));
    for bad in [
        &["42", "43"][..],
        &["+1"],
        &["-1"],
        &[""],
        &["1, 1"],
        &["18446744073709551616"],
    ] {
        assert_eq!(length(bad), None, "{bad:?}");
    }
}
