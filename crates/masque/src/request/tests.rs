use super::*;
use crate::{ProxyError, Scope, Template};

fn good() -> RequestHead {
    let template = Template::well_known("gw.example").unwrap();
    connect_ip_request(&template.expand(&Scope::ANY), Vec::new())
}

#[test]
fn n39_the_request_is_that_of_section_4_4() {
    let extra = vec![Field::new("authorization", "Concealed k=aw")];
    let template = Template::well_known("example.org").unwrap();
    let head = connect_ip_request(&template.expand(&Scope::ANY), extra);
    assert_eq!(head.method, "CONNECT");
    assert_eq!(head.protocol.as_deref(), Some("connect-ip"));
    assert_eq!(head.scheme.as_deref(), Some("https"));
    assert_eq!(head.authority.as_deref(), Some("example.org"));
    assert_eq!(head.path.as_deref(), Some("/.well-known/masque/ip/*/*/"));
    let names: Vec<&str> = head
        .fields
        .iter()
        .map(|field| field.name.as_str())
        .collect();
    assert_eq!(names, ["capsule-protocol", "authorization"]);
    assert_eq!(check_connect_ip(&head), Ok(()));
}

#[test]
fn n39_other_requests_are_refused_with_their_status() {
    let with = |edit: fn(&mut RequestHead)| {
        let mut head = good();
        edit(&mut head);
        check_connect_ip(&head).map_err(|error| error.status())
    };
    for (edit, status) in [
        ((|h| h.method = "GET".into()) as fn(&mut RequestHead), 405),
        (|h| h.method = "connect".into(), 405),
        (|h| h.protocol = None, 501),
        (|h| h.protocol = Some("connect-udp".into()), 501),
        (|h| h.protocol = Some("Connect-IP".into()), 501),
        (|h| h.scheme = None, 400),
        (|h| h.scheme = Some("http".into()), 400),
        (|h| h.scheme = Some(String::new()), 400),
        (|h| h.authority = None, 400),
        (|h| h.authority = Some(String::new()), 400),
        (|h| h.path = None, 400),
        (|h| h.path = Some(String::new()), 400),
        (|h| h.path = Some("*".into()), 400),
        (|h| h.fields.push(Field::new("content-length", "0")), 400),
        (|h| h.fields.push(Field::new("content-type", "x/y")), 400),
        (
            |h| h.fields.push(Field::new("transfer-encoding", "chunked")),
            400,
        ),
    ] {
        assert_eq!(with(edit), Err(status));
    }
    assert_eq!(
        with(|h| h.fields.clear()),
        Ok(()),
        "n32: Capsule-Protocol may be missing"
    );
    assert_eq!(with(|h| h.authority = Some("10.0.0.1:443".into())), Ok(()));
}

#[test]
fn n32_capsule_protocol_is_read_leniently() {
    let value = |lines: &[&'static str]| {
        capsule_protocol(
            lines
                .iter()
                .map(|line| line.as_bytes())
                .collect::<Vec<_>>()
                .into_iter(),
        )
    };
    for (lines, expected) in [
        (&["?1"][..], true),
        (&[" ?1 "], true),
        (&["?1;a=b; c=\"d\""], true),
        (&["?0"], false),
        (&[], false),
        (&["1"], false),
        (&["true"], false),
        (&["\"?1\""], false),
        (&["?1, ?1"], false),
        (&["?1", "?1"], false),
        (&["?1;"], false),
        (&["?2"], false),
        (&[""], false),
    ] {
        assert_eq!(value(lines), expected, "{lines:?}");
    }
    let long = format!("?1;a=\"{}\"", "x".repeat(MAX_FIELD_BYTES));
    assert!(!capsule_protocol(std::iter::once(long.as_bytes())));
}

#[test]
fn n40_success_is_exactly_200() {
    let ok = ok_response();
    assert_eq!(
        (ok.status, &ok.fields[..]),
        (200, &[Field::new("capsule-protocol", "?1")][..])
    );
    assert_eq!(check_response(&ok), Ok(Verdict::Open));
}

#[test]
fn n40_the_client_takes_any_other_2xx_and_nothing_else() {
    let check = |status| {
        check_response(&ResponseHead {
            status,
            fields: Vec::new(),
        })
    };
    for status in [200, 201, 203, 207, 299] {
        assert_eq!(check(status), Ok(Verdict::Open), "{status}");
    }
    for status in [100, 103] {
        assert_eq!(check(status), Ok(Verdict::Interim), "{status}");
    }
    for status in [300, 302, 307, 400, 401, 407, 500, 599] {
        let error = check(status).unwrap_err();
        assert_eq!(
            error,
            ResponseError::Refused {
                status,
                proxy_status: Vec::new()
            }
        );
        assert_eq!(error.code(), Code::H3_REQUEST_CANCELLED);
    }
}

#[test]
fn n30_responses_that_cannot_carry_capsules() {
    for status in [101, 204, 205, 206] {
        let error = check_response(&ResponseHead {
            status,
            fields: Vec::new(),
        })
        .unwrap_err();
        assert!(matches!(error, ResponseError::Malformed { .. }), "{status}");
        assert_eq!(error.code(), Code::H3_MESSAGE_ERROR);
    }
    for name in FORBIDDEN {
        let mut head = ok_response();
        head.fields.push(Field::new(name, "1"));
        assert_eq!(
            check_response(&head),
            Err(ResponseError::Malformed {
                status: 200,
                problem: name
            })
        );
    }
}

#[test]
fn n43_a_refusal_says_why() {
    let why = ProxyStatus::new("gw", ProxyError::DnsError).with_details("NXDOMAIN");
    let head = refusal(502, Some(&why));
    assert!(
        head.values("capsule-protocol").next().is_none(),
        "n32: not on a refusal"
    );
    let error = check_response(&head).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the proxy refused with status 502 (gw; error=dns_error; details=\"NXDOMAIN\")"
    );
    assert_eq!(
        error,
        ResponseError::Refused {
            status: 502,
            proxy_status: vec![why]
        }
    );
    assert_eq!(
        refusal(404, None),
        ResponseHead {
            status: 404,
            fields: Vec::new()
        }
    );
}
