//! Requests and responses the tests send.

use masque_http3::{Field, RequestHead, ResponseHead};

pub(crate) fn connect_ip() -> RequestHead {
    RequestHead {
        method: "CONNECT".into(),
        protocol: Some("connect-ip".into()),
        scheme: Some("https".into()),
        authority: Some("proxy.example".into()),
        path: Some("/.well-known/masque/ip/*/*/".into()),
        fields: vec![
            Field::new("capsule-protocol", "?1"),
            Field::new("authorization", "Bearer x"),
        ],
    }
}

pub(crate) fn classic_connect() -> RequestHead {
    RequestHead {
        method: "CONNECT".into(),
        authority: Some("target.example:443".into()),
        ..RequestHead::default()
    }
}

pub(crate) fn get() -> RequestHead {
    RequestHead {
        method: "GET".into(),
        scheme: Some("https".into()),
        authority: Some("proxy.example".into()),
        path: Some("/".into()),
        ..RequestHead::default()
    }
}

pub(crate) fn status(status: u16) -> ResponseHead {
    ResponseHead {
        status,
        fields: vec![],
    }
}
