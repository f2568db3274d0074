//! The patterns that schemas use, as code: a check, and words for people.

use masque_api::{
    DURATION_PATTERN, Duration, HOSTNAME_PATTERN, LABEL_PATTERN, NAME_PATTERN,
    PATH_TEMPLATE_PATTERN, PROTOCOL_PATTERN,
};

/// A pattern in code.
pub(crate) struct Rule {
    /// Whether a text matches.
    pub(crate) holds: fn(&str) -> bool,
    /// What a text that matches is.
    pub(crate) what: &'static str,
    /// How to write one.
    pub(crate) hint: &'static str,
}

/// The rule of a pattern; a test makes sure that every pattern in a schema has one.
pub(crate) fn rule(pattern: &str) -> Option<Rule> {
    let rule = match pattern {
        NAME_PATTERN => Rule {
            holds: |text| text.split('.').all(is_label),
            what: "an object name",
            hint: "use lower-case letters, digits, '-' and '.', such as production-vpc",
        },
        LABEL_PATTERN => Rule {
            holds: is_label,
            what: "a DNS label",
            hint: "use lower-case letters, digits and '-', such as default",
        },
        HOSTNAME_PATTERN => Rule {
            holds: |text| {
                text.split('.')
                    .all(|part| is_label(&part.to_ascii_lowercase()))
            },
            what: "a host name",
            hint: "write it without scheme, port and wildcard, such as vpn.example.com",
        },
        DURATION_PATTERN => Rule {
            holds: |text| Duration(text.to_owned()).as_millis().is_ok(),
            what: "a duration",
            hint: "write it like 30s, 5m or 1h30m",
        },
        PATH_TEMPLATE_PATTERN => Rule {
            holds: |text| text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic()),
            what: "the path of a URI template",
            hint: "begin it with / and use visible ASCII, such as /vpn/{target}/{ipproto}/",
        },
        PROTOCOL_PATTERN => Rule {
            holds: |text| matches!(text, "TCP" | "UDP" | "SCTP" | "ICMP" | "Any"),
            what: "a protocol",
            hint: "write TCP, UDP, SCTP, ICMP, Any, or a protocol number without quotes",
        },
        _ => return None,
    };
    Some(rule)
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use masque_api::crds;
    use serde_json::Value;

    use super::*;

    fn patterns(schema: &Value, found: &mut Vec<String>) {
        match schema {
            Value::Object(map) => {
                if let Some(Value::String(pattern)) = map.get("pattern") {
                    found.push(pattern.clone());
                }
                map.values().for_each(|value| patterns(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| patterns(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_pattern_of_a_schema_has_a_rule() {
        let mut found = Vec::new();
        for crd in crds() {
            patterns(&serde_json::to_value(crd).unwrap(), &mut found);
        }
        assert!(found.len() > 10);
        for pattern in found {
            assert!(rule(&pattern).is_some(), "{pattern}");
        }
    }

    #[test]
    fn rules_say_what_the_patterns_say() {
        let holds = |pattern, text| (rule(pattern).unwrap().holds)(text);
        assert!(holds(NAME_PATTERN, "a-1.b"));
        assert!(!holds(NAME_PATTERN, "a..b"));
        assert!(!holds(NAME_PATTERN, "A"));
        assert!(holds(LABEL_PATTERN, "a-1"));
        assert!(!holds(LABEL_PATTERN, "a."));
        assert!(!holds(LABEL_PATTERN, "-a"));
        assert!(holds(HOSTNAME_PATTERN, "VPN.Example.com"));
        assert!(!holds(HOSTNAME_PATTERN, "vpn.example.com."));
        assert!(!holds(HOSTNAME_PATTERN, "*.example.com"));
        assert!(holds(DURATION_PATTERN, "1h30m"));
        assert!(!holds(DURATION_PATTERN, "5"));
        assert!(holds(PROTOCOL_PATTERN, "Any"));
        assert!(!holds(PROTOCOL_PATTERN, "tcp"));
        assert!(holds(PATH_TEMPLATE_PATTERN, "/vpn/{target}/{ipproto}/"));
        assert!(!holds(PATH_TEMPLATE_PATTERN, "vpn"));
        assert!(!holds(PATH_TEMPLATE_PATTERN, "/a b"));
    }
}
