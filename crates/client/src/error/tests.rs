use super::*;
use crate::ConnectorIdentity;

fn every_error() -> Vec<AttachError> {
    let mut errors = refusals();
    errors.extend(failures());
    errors
}

fn refusals() -> Vec<AttachError> {
    let vpc: VpcName = "production-vpc".parse().unwrap();
    let key = ConnectorIdentity::generate().unwrap().public_id();
    vec![
        AttachError::AuthenticationRequired {
            offers: "Bearer".into(),
        },
        AttachError::UnknownVpcOrKey {
            vpc: vpc.clone(),
            key,
        },
        AttachError::Denied {
            vpc,
            details: Some("suspended".into()),
        },
        AttachError::BadRequest { details: None },
        AttachError::Unavailable {
            details: None,
            retry_after: None,
        },
        AttachError::Status {
            status: 500,
            details: None,
        },
        AttachError::NotAGateway {
            missing: "no HTTP Datagrams",
        },
        AttachError::NoAddress {
            waited: Duration::from_secs(10),
        },
        AttachError::PoolExhausted,
        AttachError::Protocol {
            reason: "capsule".into(),
        },
        AttachError::Closed {
            reason: "bye".into(),
        },
        AttachError::GoingAway,
    ]
}

fn failures() -> Vec<AttachError> {
    let gateway: SocketAddr = "192.0.2.1:4433".parse().unwrap();
    let waited = Duration::from_secs(10);
    let mut errors = vec![
        AttachError::NameResolution {
            host: "gw.example".into(),
            reason: "not found".into(),
        },
        AttachError::Unreachable {
            gateway,
            reason: "connection refused".into(),
        },
        AttachError::NoAnswer { gateway, waited },
        AttachError::Handshake {
            reason: "no application protocol".into(),
        },
        AttachError::MtuTooSmall {
            available_bytes: 1162,
            needed_bytes: 1280,
        },
        AttachError::PathTooNarrow {
            gateway,
            mtu_bytes: Some(1280),
            is_exact: true,
            needed_bytes: 1359,
        },
        AttachError::PeerLost { silent: waited },
        AttachError::Config {
            reason: "bad".into(),
        },
        AttachError::Local {
            reason: "bad".into(),
        },
    ];
    for fault in [
        CertificateFault::UntrustedAuthority,
        CertificateFault::NameMismatch,
        CertificateFault::Expired,
        CertificateFault::NotYetValid,
        CertificateFault::Other,
    ] {
        let (host, reason) = ("gw.example".into(), "why".into());
        errors.push(AttachError::Certificate {
            fault,
            host,
            reason,
        });
    }
    errors
}

#[test]
fn every_error_is_one_line_with_its_own_code_and_advice() {
    let errors = every_error();
    let mut codes: Vec<&str> = errors.iter().map(AttachError::code).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), errors.len(), "codes are distinct");
    for error in errors {
        let (text, advice) = (error.to_string(), error.advice());
        assert!(
            !text.is_empty() && !text.contains('\n') && !text.ends_with('.'),
            "{text}"
        );
        assert!(
            !advice.is_empty() && !advice.contains('\n') && !advice.ends_with('.'),
            "{advice}"
        );
    }
}

#[test]
fn an_unknown_key_is_told_what_to_apply() {
    let errors = every_error();
    let unknown = errors
        .iter()
        .find(|e| e.code() == "unknown-vpc-or-key")
        .unwrap();
    assert!(
        unknown
            .to_string()
            .contains("no VPC named production-vpc for this key")
    );
    assert!(
        unknown
            .advice()
            .contains("datum-connect key --vpc production-vpc | kubectl apply")
    );
    // A standalone gateway has no cluster.
    assert!(unknown.advice().contains("folder of manifests"));
    assert_eq!(unknown.retry(), Retry::AfterChange);
}

#[test]
fn what_passes_by_itself_is_retried_and_a_wrong_authority_is_not() {
    for error in every_error() {
        let wanted = match error.code() {
            "unreachable" | "no-answer" | "pool-exhausted" | "unavailable" | "peer-lost"
            | "going-away" => Retry::Helps,
            "path-too-narrow" | "mtu-too-small" => Retry::AfterChange,
            "untrusted-authority" | "name-mismatch" | "not-a-gateway" => Retry::Useless,
            _ => continue,
        };
        assert_eq!(error.retry(), wanted, "{error}");
    }
    assert_eq!(
        AttachError::Status {
            status: 404,
            details: None
        }
        .retry(),
        Retry::Useless
    );
}
