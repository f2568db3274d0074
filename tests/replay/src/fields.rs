//! Field values: Concealed credentials, Proxy-Status, Capsule-Protocol.

use masque_protocol::{ProxyStatus, concealed, request};

use crate::input::Input;

pub(crate) fn run(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let lines = usize::from(input.u8() % 4) + 1;
    let whole = input.rest();
    let credentials = concealed::parse(whole);
    if let Some(credentials) = &credentials {
        assert!(credentials.key_id.len() <= concealed::MAX_KEY_ID_BYTES);
        let _ = concealed::verify(credentials, &[0; concealed::EXPORTER_OUTPUT_BYTES]);
    }
    let is_capsule = request::capsule_protocol(std::iter::once(whole));
    let members = ProxyStatus::parse(whole.splitn(lines, |byte| *byte == b'\n'));
    for member in &members {
        let text = member.to_string();
        let again = ProxyStatus::parse(std::iter::once(text.as_bytes()));
        let [again] = &again[..] else {
            panic!("{member:?} is written as {text:?}");
        };
        assert_eq!(again, member);
    }
    credentials.is_some() || is_capsule || !members.is_empty()
}
