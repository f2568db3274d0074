use proptest::prelude::*;

use super::*;

fn target(raw: &str) -> Result<Target, ScopeError> {
    Scope::parse(Some(raw), None).map(|scope| scope.target)
}

fn prefix(text: &str) -> Result<Target, ScopeError> {
    Ok(Target::Prefix(text.parse().unwrap()))
}

#[test]
fn n42_targets() {
    for (raw, expected) in [
        ("*", Ok(Target::Any)),
        ("%2A", Ok(Target::Any)),
        ("10.0.0.1", prefix("10.0.0.1/32")),
        ("10.0.0.0%2F8", prefix("10.0.0.0/8")),
        ("10.0.0.0%2f8", prefix("10.0.0.0/8")),
        ("0.0.0.0%2F0", prefix("0.0.0.0/0")),
        ("2001%3Adb8%3A%3A42", prefix("2001:db8::42/128")),
        ("2001%3Adb8%3A%3A%2F32", prefix("2001:db8::/32")),
        ("%3A%3a%2F0", prefix("::/0")),
        (
            "Target.Example.COM",
            Ok(Target::Host("target.example.com".into())),
        ),
        ("host", Ok(Target::Host("host".into()))),
        ("a.b.", Ok(Target::Host("a.b.".into()))),
        ("%61.b", Ok(Target::Host("a.b".into()))),
        (
            "xn--bcher-kva.example",
            Ok(Target::Host("xn--bcher-kva.example".into())),
        ),
    ] {
        assert_eq!(target(raw), expected, "{raw}");
    }
}

#[test]
fn n42_malformed_targets() {
    let encoding = ScopeError::Encoding { variable: "target" };
    let host_bits = |text: &str| ScopeError::HostBits(text.parse().unwrap());
    let host = |text: &str| ScopeError::Host(text.into());
    let length = |text: &str| ScopeError::PrefixLength(text.into());
    let long_label = "a".repeat(64);
    let long_name = vec!["abcdefgh"; 30].join(".");
    for (raw, error) in [
        ("", ScopeError::Empty { variable: "target" }),
        ("2001:db8::1", ScopeError::ColonNotEncoded),
        ("10.0.0.0/8", ScopeError::SlashNotEncoded),
        ("10.0.0.1%2F8", host_bits("10.0.0.1/8")),
        ("2001%3Adb8%3A%3A1%2F64", host_bits("2001:db8::1/64")),
        ("10.0.0.0%2F33", length("10.0.0.0/33")),
        ("10.0.0.0%2F008", length("10.0.0.0/008")),
        ("10.0.0.0%2F+8", length("10.0.0.0/+8")),
        ("10.0.0.0%2F", length("10.0.0.0/")),
        ("10.0.0.0%2F8%2F8", length("10.0.0.0/8/8")),
        ("%3A%3A%2F129", length("::/129")),
        ("%3A%3A%2F1000", length("::/1000")),
        (
            "fe80%3A%3A1%25eth0",
            ScopeError::ZoneId("fe80::1%eth0".into()),
        ),
        ("fe80%3A%3A1%", encoding.clone()),
        ("a%2", encoding.clone()),
        ("a%zz", encoding.clone()),
        ("a%00", encoding.clone()),
        ("a%20b", encoding.clone()),
        ("caf%C3%A9", encoding),
        ("host%2F8", host("host/8")),
        ("256.0.0.1", host("256.0.0.1")),
        ("10.1", host("10.1")),
        ("2130706433", host("2130706433")),
        ("0x7f.1", host("0x7f.1")),
        ("0x7f000001", host("0x7f000001")),
        ("%3A%3Ag", host("::g")),
        ("-a.b", host("-a.b")),
        ("a..b", host("a..b")),
        (".", host(".")),
        ("a@b", host("a@b")),
        ("[%3A%3A1]", host("[::1]")),
        (&long_label, host(&long_label)),
        (&long_name, host(&long_name)),
    ] {
        assert_eq!(target(raw), Err(error.clone()), "{raw}");
        assert_eq!(error.status(), 400);
    }
}

#[test]
fn n42_protocols() {
    let protocol = |raw: &str| Scope::parse(None, Some(raw)).map(|scope| scope.protocol);
    for (raw, expected) in [("*", None), ("%2a", None), ("1", Some(1)), ("17", Some(17))] {
        assert_eq!(protocol(raw), Ok(expected), "{raw}");
    }
    assert_eq!(protocol("255"), Ok(Some(255)));
    assert_eq!(protocol("006"), Ok(Some(6)), "1*3DIGIT");
    assert_eq!(
        protocol(""),
        Err(ScopeError::Empty {
            variable: "ipproto"
        })
    );
    for bad in ["256", "tcp", "+6", "-1", "0006", "6,17", "0x6"] {
        assert_eq!(
            protocol(bad),
            Err(ScopeError::Protocol(bad.into())),
            "{bad}"
        );
    }
    assert_eq!(
        protocol("%"),
        Err(ScopeError::Encoding {
            variable: "ipproto"
        })
    );
}

#[test]
fn n55_a_scope_of_an_extension_header_is_refused() {
    for (raw, number) in [
        ("0", 0),
        ("00", 0),
        ("43", 43),
        ("044", 44),
        ("%360", 60),
        ("254", 254),
    ] {
        let error = Scope::parse(None, Some(raw)).unwrap_err();
        assert_eq!(error, ScopeError::ExtensionHeader(number), "{raw}");
        assert_eq!(error.status(), 400);
    }
    assert!(Scope::parse(None, Some("50")).is_ok(), "ESP hides the rest");
}

#[test]
fn n38_missing_variables_are_wildcards() {
    assert_eq!(Scope::parse(None, None), Ok(Scope::ANY));
    assert_eq!(Scope::parse(Some("*"), Some("*")), Ok(Scope::ANY));
}

#[test]
fn n45_variables_are_percent_encoded() {
    let scope = |target| Scope {
        target,
        protocol: Some(6),
    };
    for (target, expected) in [
        (Target::Any, "*"),
        (prefix("10.0.0.0/8").unwrap(), "10.0.0.0%2F8"),
        (prefix("10.0.0.1/32").unwrap(), "10.0.0.1"),
        (prefix("2001:db8::42/128").unwrap(), "2001%3Adb8%3A%3A42"),
        (prefix("2001:db8::/32").unwrap(), "2001%3Adb8%3A%3A%2F32"),
        (Target::Host("a-b.example".into()), "a-b.example"),
    ] {
        assert_eq!(scope(target).target_variable(), expected);
    }
    assert_eq!(scope(Target::Any).protocol_variable(), "6");
    assert_eq!(Scope::ANY.protocol_variable(), "*");
}

#[test]
fn n45_offered_routes_are_narrowed() {
    let offered: Vec<IpNet> = ["10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"]
        .map(|p| p.parse().unwrap())
        .to_vec();
    let narrow = |raw: &str, resolved: &[&str]| {
        let resolved: Vec<IpAddr> = resolved.iter().map(|ip| ip.parse().unwrap()).collect();
        Scope::parse(Some(raw), Some("17"))
            .unwrap()
            .narrow(&offered, &resolved)
    };
    let ranges = |list: &[&str]| {
        let list: Vec<IpNet> = list.iter().map(|p| p.parse().unwrap()).collect();
        from_prefixes(&list, Some(17))
    };
    assert_eq!(narrow("*", &[]), from_prefixes(&offered, Some(17)));
    assert_eq!(narrow("10.1.0.0%2F16", &[]), ranges(&["10.1.0.0/16"]));
    assert_eq!(
        narrow("0.0.0.0%2F0", &[]),
        ranges(&["10.0.0.0/8", "192.0.2.0/24"])
    );
    assert_eq!(narrow("172.16.0.1", &[]), []);
    assert_eq!(
        narrow("db.internal", &["10.0.0.5", "2001:db8::5", "1.1.1.1"]),
        ranges(&["10.0.0.5/32", "2001:db8::5/128"])
    );
    assert_eq!(narrow("db.internal", &[]), []);
}

proptest! {
    #[test]
    fn n42_any_text_is_a_scope_or_an_error(target in "\\PC{0,40}", protocol in "[0-9*%a-f+]{0,5}") {
        if let Ok(scope) = Scope::parse(Some(&target), Some(&protocol)) {
            let again = Scope::parse(
                Some(&scope.target_variable()),
                Some(&scope.protocol_variable()),
            );
            prop_assert_eq!(again, Ok(scope));
        }
    }

    #[test]
    fn n45_prefixes_round_trip(bits in any::<u128>(), length in 0..=128u8, v4 in any::<bool>()) {
        let address: IpAddr = if v4 {
            Ipv4Addr::from(bits as u32).into()
        } else {
            Ipv6Addr::from(bits).into()
        };
        let length = if v4 { length / 4 } else { length };
        let prefix = IpNet::new(address, length).unwrap().trunc();
        let scope = Scope { target: Target::Prefix(prefix), protocol: None };
        prop_assert_eq!(Scope::parse(Some(&scope.target_variable()), None), Ok(scope));
    }
}
