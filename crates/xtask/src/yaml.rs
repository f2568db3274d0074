//! A small YAML writer: block style, keys in the order of the value, strings quoted where needed.

use serde_json::Value;

/// Words that a reader may take for something else than a string.
const RESERVED: [&str; 10] = [
    "true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan",
];

/// The value as a YAML document, with a line break at its end.
pub(crate) fn document(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(_) | Value::Array(_) if !is_empty(value) => block(value, 0, &mut out),
        scalar => {
            out.push_str(&inline(scalar));
            out.push('\n');
        }
    }
    out
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => true,
    }
}

fn block(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                out.push_str(&pad);
                entry(key, value, indent, out);
            }
        }
        Value::Array(list) => {
            for item in list {
                out.push_str(&pad);
                out.push_str("- ");
                let mut nested = String::new();
                if is_empty(item) {
                    nested = inline(item) + "\n";
                } else {
                    block(item, indent + 2, &mut nested);
                }
                out.push_str(nested.trim_start_matches(' '));
            }
        }
        _ => {}
    }
}

fn entry(key: &str, value: &Value, indent: usize, out: &mut String) {
    out.push_str(&string(key));
    out.push(':');
    if is_empty(value) {
        out.push(' ');
        out.push_str(&inline(value));
        out.push('\n');
    } else {
        out.push('\n');
        let deeper = if value.is_array() { indent } else { indent + 2 };
        block(value, deeper, out);
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        scalar => scalar.to_string(),
    }
}

/// Plain when nobody can take it for something else; a JSON string is a YAML string, too.
fn string(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '$')
        && !text.ends_with(' ')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || " ._/()-$,;+".contains(c))
        && !RESERVED.contains(&text.to_ascii_lowercase().as_str());
    if plain {
        text.to_owned()
    } else {
        Value::String(text.to_owned()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn writes_nested_blocks() {
        let value = json!({"a": {"b": [1, {"c": "x", "d": []}]}, "e": "yes", "f": "a: b", "g": {}});
        let text = "a:\n  b:\n  - 1\n  - c: x\n    d: []\ne: \"yes\"\nf: \"a: b\"\ng: {}\n";
        assert_eq!(document(&value), text);
    }

    #[test]
    fn quotes_what_reads_as_something_else() {
        for text in ["1", "-x", "", "null", "a # b", "[x]", "x ", "{{ .Values }}"] {
            assert_eq!(string(text), Value::String(text.to_owned()).to_string());
        }
        assert_eq!(string("Lets one connector in."), "Lets one connector in.");
    }
}
