use proptest::prelude::*;

use super::*;
use crate::Target;

fn scope(target: &str, protocol: &str) -> Scope {
    Scope::parse(Some(target), Some(protocol)).unwrap()
}

#[test]
fn n36_templates_expand() {
    let any = Scope::ANY;
    let narrow = scope("2001%3Adb8%3A%3A%2F32", "17");
    for (template, scope, path) in [
        (
            "https://p.example/.well-known/masque/ip/{target}/{ipproto}/",
            &any,
            "/.well-known/masque/ip/*/*/",
        ),
        (
            "https://p.example:8443/ip/{target}/{ipproto}/",
            &narrow,
            "/ip/2001%3Adb8%3A%3A%2F32/17/",
        ),
        (
            "https://p.example/ip{?target,ipproto}",
            &narrow,
            "/ip?target=2001%3Adb8%3A%3A%2F32&ipproto=17",
        ),
        (
            "https://p.example/ip?v=1{&target,ipproto}",
            &any,
            "/ip?v=1&target=*&ipproto=*",
        ),
        (
            "https://p.example/ip?t={target}&i={ipproto}",
            &narrow,
            "/ip?t=2001%3Adb8%3A%3A%2F32&i=17",
        ),
        (
            "https://p.example/{target,ipproto}",
            &narrow,
            "/2001%3Adb8%3A%3A%2F32,17",
        ),
        ("https://p.example/vpn", &narrow, "/vpn"),
        ("https://p.example/", &narrow, "/"),
    ] {
        let template = Template::parse(template).unwrap();
        assert_eq!(template.expand(scope).path, path);
        assert_eq!(template.expand(scope).scheme, "https");
    }
    assert!(
        !Template::parse("https://p.example/vpn")
            .unwrap()
            .has_variables()
    );
}

#[test]
fn n36_bad_scheme_authority_or_path_is_refused() {
    use TemplateError as E;
    for (text, error) in [
        ("", E::Scheme(String::new())),
        ("/vpn", E::Scheme(String::new())),
        ("http://p.example/{target}", E::Scheme("http".into())),
        ("p.example/{target}", E::Scheme("p.example".into())),
        ("https:///vpn", E::Authority(String::new())),
        (
            "https://user@p.example/",
            E::Authority("user@p.example".into()),
        ),
        ("https://p.example:0/", E::Authority("p.example:0".into())),
        (
            "https://p.example:70000/",
            E::Authority("p.example:70000".into()),
        ),
        ("https://p.example:/", E::Authority("p.example:".into())),
        ("https://[::1/", E::Authority("[::1".into())),
        ("https://::1/", E::Authority("::1".into())),
        (
            "https://{target}/{ipproto}",
            E::Authority("{target}".into()),
        ),
        ("https://p.example", E::Path),
        ("https://p.example?t={target}", E::Path),
    ] {
        assert_eq!(Template::parse(text), Err(error), "{text}");
    }
}

#[test]
fn n36_bad_expressions_are_refused() {
    use TemplateError as E;
    let character = |character, position| E::Character {
        character,
        position,
    };
    for (text, error) in [
        ("https://p.example/{+target}", E::Operator('+')),
        ("https://p.example/{#target}", E::Operator('#')),
        ("https://p.example/{.target}", E::Operator('.')),
        (
            "https://p.example{/target}",
            E::Authority("p.example{".into()),
        ),
        ("https://p.example/x{/target}", E::Operator('/')),
        ("https://p.example/{;target}", E::Operator(';')),
        ("https://p.example/{|target}", E::Operator('|')),
        ("https://p.example/{target*}", E::Variable("target*".into())),
        (
            "https://p.example/{target:3}",
            E::Variable("target:3".into()),
        ),
        (
            "https://p.example/{target_host}",
            E::Variable("target_host".into()),
        ),
        ("https://p.example/{Target}", E::Variable("Target".into())),
        ("https://p.example/{target}/{target}", E::Repeated("target")),
        ("https://p.example/{target", E::Expression(1)),
        ("https://p.example/target}", E::Expression(7)),
        ("https://p.example/{}", E::Expression(1)),
        (
            "https://p.example/{{target}}",
            E::Variable("{target".into()),
        ),
        ("https://p.example/{target,}", E::Variable(String::new())),
        ("https://p.example/x{&target}", E::Query),
        ("https://p.example/x?a=1{?target}", E::Query),
        ("https://p.example/x#{target}", character('#', 2)),
        ("https://p.example/x y", character(' ', 19)),
        ("https://p.example/caf\u{e9}", character('\u{e9}', 21)),
        ("https://p.example/\"", character('"', 18)),
        ("https://p.example/%", character('%', 18)),
        ("https://p.example/%4", character('%', 18)),
        ("https://p.example/%gg", character('%', 18)),
    ] {
        assert_eq!(Template::parse(text), Err(error), "{text}");
    }
    let long = format!("https://p.example/{}", "a".repeat(MAX_TEMPLATE_BYTES));
    assert_eq!(Template::parse(&long), Err(E::TooLong(long.len())));
}

#[test]
fn n37_the_default_template() {
    let template = Template::well_known("[2001:db8::1]:8443").unwrap();
    assert_eq!((template.host(), template.port()), ("2001:db8::1", 8443));
    assert_eq!(template.authority(), "[2001:db8::1]:8443");
    assert_eq!(
        template.expand(&Scope::ANY).path,
        "/.well-known/masque/ip/*/*/"
    );
    let template = Template::well_known("[2001:db8::1]").unwrap();
    assert_eq!((template.host(), template.port()), ("2001:db8::1", 443));
    let template = Template::well_known("p.example").unwrap();
    assert_eq!((template.host(), template.port()), ("p.example", 443));
    assert!(Template::well_known("p.example/x").is_ok_and(|t| t.authority() == "p.example"));
}

fn matches(template: &str, path: &str) -> Option<Result<Scope, ScopeError>> {
    PathTemplate::parse(template).unwrap().match_path(path)
}

fn check_matches(template: &str, cases: &[(&str, Option<Result<Scope, ScopeError>>)]) {
    for (path, expected) in cases {
        assert_eq!(&matches(template, path), expected, "{template} {path}");
    }
}

const ANY: Option<Result<Scope, ScopeError>> = Some(Ok(Scope::ANY));

#[test]
fn n37_paths_match() {
    let narrow = || Some(Ok(scope("10.0.0.0%2F8", "17")));
    let well_known = |rest: &str| format!("/.well-known/masque/ip/{rest}");
    for (rest, expected) in [
        ("*/*/", ANY),
        ("%2A/%2A/", ANY),
        ("10.0.0.0%2F8/17/", narrow()),
        ("10.0.0.0%2F8/17", None),
        ("10.0.0.0/8/17/", None),
        ("10.0.0.0%2F8/17/x", None),
        ("10.0.0.0%2F8/17/?x=1", None),
        ("", None),
    ] {
        check_matches(WELL_KNOWN_PATH, &[(&well_known(rest), expected)]);
    }
    check_matches(
        WELL_KNOWN_PATH,
        &[("/.well-known/masque/udp/*/17/", None), ("", None)],
    );
    let vpc = "/vpc/prod/masque/ip/{target}/{ipproto}/";
    check_matches(
        vpc,
        &[
            ("/vpc/prod/masque/ip/*/*/", ANY),
            ("/vpc/test/masque/ip/*/*/", None),
        ],
    );
    check_matches(
        "/vpn",
        &[
            ("/vpn", ANY),
            ("/vpn/", None),
            ("/vpn?target=10.0.0.1", None),
        ],
    );
    check_matches("/{target}/{ipproto}", &[("/*/*", ANY), ("/*/*/x", None)]);
    check_matches("/", &[("/", ANY), ("/x", None)]);
    check_matches(
        "/{target,ipproto}",
        &[("/10.0.0.0%2F8,17", narrow()), ("/*", None)],
    );
}

#[test]
fn n37_queries_match() {
    let narrow = || Some(Ok(scope("10.0.0.0%2F8", "17")));
    check_matches(
        "/ip{?target,ipproto}",
        &[
            ("/ip?target=10.0.0.0%2F8&ipproto=17", narrow()),
            ("/ip?ipproto=17&target=10.0.0.0%2F8", narrow()),
            ("/ip?ipproto=17", Some(Ok(scope("*", "17")))),
            ("/ip", ANY),
            ("/ip?vpc=prod", None),
        ],
    );
    check_matches(
        "/ip?t={target}&i={ipproto}",
        &[
            ("/ip?t=10.0.0.0%2F8&i=17", narrow()),
            ("/ip?i=17", None),
            ("/ip", None),
        ],
    );
    check_matches(
        "/ip?v=1{&target}",
        &[("/ip?v=1&target=*", ANY), ("/ip?v=2&target=*", None)],
    );
    check_matches("/ip?v=1{&target}&w=2", &[("/ip?v=1&target=*&w=2", ANY)]);
    check_matches("/ip{?target}&w=2", &[("/ip?target=*&w=2", ANY)]);
}

#[test]
fn n42_malformed_variables_are_errors_not_misses() {
    let empty = |variable| Some(Err(ScopeError::Empty { variable }));
    for (template, path, expected) in [
        (
            WELL_KNOWN_PATH,
            "/.well-known/masque/ip//17/",
            empty("target"),
        ),
        (
            WELL_KNOWN_PATH,
            "/.well-known/masque/ip/*//",
            empty("ipproto"),
        ),
        (
            WELL_KNOWN_PATH,
            "/.well-known/masque/ip/2001:db8::1/*/",
            Some(Err(ScopeError::ColonNotEncoded)),
        ),
        (
            WELL_KNOWN_PATH,
            "/.well-known/masque/ip/*/256/",
            Some(Err(ScopeError::Protocol("256".into()))),
        ),
        (
            "/ip{?target}",
            "/ip?target=10.0.0.0/8",
            Some(Err(ScopeError::SlashNotEncoded)),
        ),
        ("/ip{?target}", "/ip?target=", empty("target")),
        ("/ip{?target}", "/ip?target", empty("target")),
        (
            "/ip{?target}",
            "/ip?target=*&target=*",
            Some(Err(ScopeError::Repeated { variable: "target" })),
        ),
    ] {
        assert_eq!(matches(template, path), expected, "{template} {path}");
    }
}

#[test]
fn n37_ambiguous_path_templates_are_refused() {
    use TemplateError as E;
    for (text, error) in [
        ("/{target}{ipproto}", E::Ambiguous("target")),
        ("/{target}-{ipproto}", E::Ambiguous("target")),
        ("/{target}*", E::Ambiguous("target")),
        ("/x?t={target}{ipproto}", E::Query),
        ("/x?t={target}x", E::Query),
        ("/x?{target}", E::Query),
        ("/x?t=a{target}", E::Query),
        ("/x?&t={target}", E::Query),
        ("/x{?target}a=b", E::Query),
        ("/x?t=a&t=b", E::RepeatedParameter("t".into())),
        (
            "/x?target=a{&target}",
            E::RepeatedParameter("target".into()),
        ),
        ("vpn", E::Path),
        ("/{host}", E::Variable("host".into())),
    ] {
        assert_eq!(PathTemplate::parse(text), Err(error), "{text}");
    }
}

fn any_scope() -> impl Strategy<Value = Scope> {
    let prefix = (any::<u128>(), 0..=128u8).prop_map(|(bits, length)| {
        let address = std::net::Ipv6Addr::from(bits).into();
        Target::Prefix(ipnet::IpNet::new(address, length).unwrap().trunc())
    });
    let host = "[a-z][a-z0-9]{0,10}(\\.[a-z]{2,5}){0,2}".prop_map(Target::Host);
    let target = prop_oneof![Just(Target::Any), prefix, host];
    // What stands between the numbers of IPv6 extension headers.
    let protocol = prop_oneof![
        1..43u8,
        45..51u8,
        52..60u8,
        61..135u8,
        141..253u8,
        Just(255)
    ];
    let protocol = proptest::option::of(protocol);
    (target, protocol).prop_map(|(target, protocol)| Scope { target, protocol })
}

proptest! {
    #[test]
    fn n45_what_the_client_expands_the_proxy_matches(scope in any_scope(), which in 0..6usize) {
        let path = [
            WELL_KNOWN_PATH,
            "/vpc/prod/masque/ip/{target}/{ipproto}/",
            "/ip{?target,ipproto}",
            "/ip?t={target}&i={ipproto}",
            "/a?v=1{&ipproto,target}",
            "/x/{ipproto,target}",
        ][which];
        let template = Template::parse(&format!("https://p.example{path}")).unwrap();
        let expanded = template.expand(&scope);
        prop_assert!(expanded.path.bytes().all(|b| b.is_ascii_graphic()));
        prop_assert_eq!(matches(path, &expanded.path), Some(Ok(scope)));
    }

    #[test]
    fn n36_any_text_is_a_template_or_an_error(text in "(https://)?[a-z./{}?&=,+%:\\[\\]]{0,40}") {
        let _ = Template::parse(&text).map(|template| template.expand(&Scope::ANY));
        if let Ok(template) = PathTemplate::parse(&text) {
            let _ = template.match_path(&text);
        }
    }

    #[test]
    fn n42_any_path_is_matched_without_panic(path in "/?[a-z0-9*/?&=%.:\\PC]{0,40}") {
        let others = ["/{target}/{ipproto}", "/{target}{?ipproto}", "/?t={target}"];
        for template in [WELL_KNOWN_PATH].iter().chain(&others) {
            let _ = matches(template, &path);
        }
    }
}
