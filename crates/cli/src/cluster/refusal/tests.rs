use super::*;

fn failure(refusal: &Refusal) -> (Exit, String) {
    let failure = refusal.failure(&Asked {
        verb: "list",
        resource: "vpcingresspoints",
        namespace: "team",
        server: "https://api.example:6443",
    });
    (failure.exit, failure.to_string())
}

fn status(code: u16) -> Refusal {
    Refusal::Status {
        code,
        message: "the server's words".to_owned(),
    }
}

#[test]
fn each_refusal_has_a_status_and_a_cure() {
    for (refusal, exit, part) in [
        (status(401), Exit::NoPermission, "log in again"),
        (
            status(403),
            Exit::NoPermission,
            "the server's words (403); is team the right namespace",
        ),
        (status(404), Exit::Unavailable, "masque-gateway-crds"),
        (status(422), Exit::Config, "the server's words (422)"),
        (status(429), Exit::TemporaryFailure, "try again"),
        (status(503), Exit::TemporaryFailure, "try again"),
        (Refusal::Timeout, Exit::Unavailable, "no answer for 10 s"),
        (
            Refusal::Unreachable("refused".into()),
            Exit::Unavailable,
            "reached: refused",
        ),
        (
            Refusal::Untrusted("UnknownIssuer".into()),
            Exit::Unavailable,
            "new kubeconfig",
        ),
        (
            Refusal::Login("no token".into()),
            Exit::NoPermission,
            "no token",
        ),
    ] {
        let (found, text) = failure(&refusal);
        assert_eq!(found, exit, "{refusal:?}");
        assert!(text.contains(part), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn only_what_may_pass_is_waited_for() {
    let passing = |code| status(code).is_passing();
    assert!(passing(500) && passing(503) && passing(429));
    assert!(!passing(401) && !passing(403) && !passing(404) && !passing(409));
    assert!(Refusal::Timeout.is_passing() && Refusal::Unreachable(String::new()).is_passing());
    assert!(!Refusal::Untrusted(String::new()).is_passing());
}

#[test]
fn a_certificate_is_found_among_its_wrappers() {
    let fault = rustls::CertificateError::UnknownIssuer;
    let tls = rustls::Error::InvalidCertificate(fault);
    let wrapped = io::Error::other(io::Error::other(tls));
    let refusal = Refusal::from(kube::Error::Service(Box::new(wrapped)));
    assert!(matches!(refusal, Refusal::Untrusted(_)), "{refusal:?}");
    let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
    let refusal = Refusal::from(kube::Error::Service(Box::new(refused)));
    assert_eq!(
        refusal,
        Refusal::Unreachable("connection refused".to_owned())
    );
}

#[test]
fn a_login_program_has_the_last_word() {
    use std::os::unix::process::ExitStatusExt;
    let out = std::process::Output {
        status: std::process::ExitStatus::from_raw(256),
        stdout: Vec::new(),
        stderr: b"a long story\ntoken expired, run `cloud login`\n".to_vec(),
    };
    let error = AuthError::AuthExecRun {
        cmd: "cloud".to_owned(),
        out: Box::new(out),
    };
    let wrapped = kube::Error::Service(Box::new(error));
    let Refusal::Login(text) = Refusal::from(wrapped) else {
        panic!("another refusal");
    };
    assert_eq!(
        text,
        "the kubeconfig's login program failed (exit status: 1): token expired, run `cloud login`"
    );
}
