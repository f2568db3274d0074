//! Checks a document against the schema of its kind, and says on which line it differs.
//!
//! The schema is the one that the API server gets, so that a folder and a cluster refuse the same
//! manifests: unknown fields, types, bounds, enumerations, patterns, duplicates.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

use super::{
    pattern,
    yaml::{Node, Value},
};
use crate::suggest;

/// One difference.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finding {
    pub(crate) line: u32,
    pub(crate) field: String,
    pub(crate) message: String,
    pub(crate) hint: String,
}

/// Everything in which `node` differs from `schema`; `path` is the node's own path.
pub(crate) fn check(node: &Node, schema: &JSONSchemaProps, path: &str) -> Vec<Finding> {
    let mut checker = Checker {
        findings: Vec::new(),
    };
    checker.value(node, schema, path);
    checker.findings
}

/// The path of a field of an object at `path`.
pub(crate) fn join(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
}

/// Findings of one document. More would not help anybody.
pub(crate) const MAX_FINDINGS: usize = 50;

struct Checker {
    findings: Vec<Finding>,
}

impl Checker {
    fn report(&mut self, line: u32, field: &str, message: String, hint: impl Into<String>) {
        if self.findings.len() < MAX_FINDINGS {
            let (field, hint) = (field.to_owned(), hint.into());
            self.findings.push(Finding {
                line,
                field,
                message,
                hint,
            });
        }
    }

    fn value(&mut self, node: &Node, schema: &JSONSchemaProps, path: &str) {
        if schema.x_kubernetes_int_or_string == Some(true) {
            match &node.value {
                Value::Text(text) => self.text(node, text, schema, path),
                Value::Int(number) => self.integer(node, *number, schema, path),
                Value::Float(_) => {}
                _ => {
                    let message = format!("expected a number or text, found {}", node.kind());
                    self.report(node.line, path, message, "");
                }
            }
            return;
        }
        match (schema.type_.as_deref(), &node.value) {
            (Some("object"), Value::Map(_)) => self.object(node, schema, path),
            (Some("array"), Value::List(items)) => self.list(node, items, schema, path),
            (Some("string"), Value::Text(text)) => self.text(node, text, schema, path),
            (Some("integer"), Value::Int(number)) => self.integer(node, *number, schema, path),
            (Some("boolean"), Value::Bool(_))
            | (Some("number"), Value::Int(_) | Value::Float(_))
            | (None, _) => {}
            (Some(expected), _) => self.wrong_type(node, expected, path),
        }
    }

    fn wrong_type(&mut self, node: &Node, expected: &str, path: &str) {
        let words = match expected {
            "object" => "a map",
            "array" => "a list",
            "string" => "text",
            "integer" => "a whole number",
            "boolean" => "true or false",
            other => other,
        };
        let hint = match (expected, &node.value) {
            ("string", Value::Int(number)) => format!("put it in quotes: \"{number}\""),
            ("string", Value::Bool(value)) => format!("put it in quotes: \"{value}\""),
            ("array", Value::Text(text)) => format!("write [{text}]"),
            ("integer", Value::Text(text)) if text.parse::<i64>().is_ok() => {
                format!("write {text} without quotes")
            }
            ("boolean", Value::Text(text)) => match text.to_lowercase().as_str() {
                "yes" | "on" | "true" | "y" => "write true".to_owned(),
                "no" | "off" | "false" | "n" => "write false".to_owned(),
                _ => String::new(),
            },
            (_, Value::Null) => "remove the line, or write a value".to_owned(),
            _ => String::new(),
        };
        let message = format!("expected {words}, found {}", node.kind());
        self.report(node.line, path, message, hint);
    }

    fn object(&mut self, node: &Node, schema: &JSONSchemaProps, path: &str) {
        let Value::Map(entries) = &node.value else {
            return;
        };
        let known = schema.properties.as_ref();
        let others = match &schema.additional_properties {
            Some(JSONSchemaPropsOrBool::Schema(schema)) => Some(&**schema),
            _ => None,
        };
        let open = schema.x_kubernetes_preserve_unknown_fields == Some(true);
        for (key, value) in entries {
            let field = join(path, &key.text);
            match known.and_then(|known| known.get(&key.text)).or(others) {
                // Null means not set, as the API server has it.
                Some(_) if value.value == Value::Null => {}
                Some(schema) => self.value(value, schema, &field),
                None if open => {}
                None => self.unknown_field(key.line, &field, &key.text, known),
            }
        }
        for name in schema.required.iter().flatten() {
            if node
                .field(name)
                .is_none_or(|value| value.value == Value::Null)
            {
                let message = format!("{name} is missing");
                let about = known.and_then(|known| known.get(name));
                let hint = about.and_then(|schema| schema.description.as_deref());
                self.report(
                    node.line,
                    path,
                    message,
                    hint.map(describe).unwrap_or_default(),
                );
            }
        }
        if let Some(most) = schema.max_properties
            && entries.len() as i64 > most
        {
            self.report(node.line, path, format!("has more than {most} entries"), "");
        }
    }

    fn unknown_field(
        &mut self,
        line: u32,
        field: &str,
        name: &str,
        known: Option<&BTreeMap<String, JSONSchemaProps>>,
    ) {
        let names = || known.into_iter().flatten().map(|(name, _)| name.as_str());
        let hint = match suggest::closest(name, names()) {
            Some(meant) => format!("did you mean {meant}?"),
            None if names().count() == 0 => "remove it".to_owned(),
            None => format!("fields here are {}", names().collect::<Vec<_>>().join(", ")),
        };
        self.report(line, field, "unknown field".to_owned(), hint);
    }

    fn list(&mut self, node: &Node, items: &[Node], schema: &JSONSchemaProps, path: &str) {
        let count = items.len() as i64;
        if let Some(least) = schema.min_items
            && count < least
        {
            self.report(
                node.line,
                path,
                format!("needs at least {least} entry"),
                "add one",
            );
        }
        if let Some(most) = schema.max_items
            && count > most
        {
            let message = format!("has {count} entries, at most {most} are allowed");
            self.report(node.line, path, message, "split it over several resources");
            return;
        }
        if let Some(JSONSchemaPropsOrArray::Schema(schema)) = &schema.items {
            for (i, item) in items.iter().enumerate() {
                self.value(item, schema, &format!("{path}[{i}]"));
            }
        }
        self.duplicates(items, schema, path);
    }

    /// Lists that are sets, or maps by key, have no entry twice.
    fn duplicates(&mut self, items: &[Node], schema: &JSONSchemaProps, path: &str) {
        let keys = schema
            .x_kubernetes_list_map_keys
            .as_deref()
            .unwrap_or_default();
        let identity = |item: &Node| match schema.x_kubernetes_list_type.as_deref() {
            Some("set") => Some(item.to_json().to_string()),
            Some("map") => keys
                .iter()
                .map(|key| Some(item.field(key)?.to_json().to_string()))
                .collect::<Option<Vec<_>>>()
                .map(|values| values.join(" ")),
            _ => None,
        };
        let mut seen = BTreeMap::new();
        for (i, item) in items.iter().enumerate() {
            let Some(identity) = identity(item) else {
                continue;
            };
            if let Some(first) = seen.get(&identity) {
                let message = format!("{identity} is there twice, first as {path}[{first}]");
                self.report(
                    item.line,
                    &format!("{path}[{i}]"),
                    message,
                    "remove one of them",
                );
            } else {
                seen.insert(identity, i);
            }
        }
    }

    fn text(&mut self, node: &Node, text: &str, schema: &JSONSchemaProps, path: &str) {
        if let Some(allowed) = &schema.enum_ {
            let allowed: Vec<_> = allowed
                .iter()
                .filter_map(|value| value.0.as_str())
                .collect();
            if !allowed.contains(&text) {
                let message = format!("{text:?} is not one of {}", allowed.join(", "));
                let meant = suggest::closest(text, allowed.iter().copied());
                let hint = meant
                    .map(|meant| format!("did you mean {meant}?"))
                    .unwrap_or_default();
                self.report(node.line, path, message, hint);
            }
            return;
        }
        let length = text.chars().count() as i64;
        if let Some(most) = schema.max_length
            && length > most
        {
            let message = format!("has {length} characters, at most {most} are allowed");
            self.report(node.line, path, message, "");
            return;
        }
        if schema.min_length.is_some_and(|least| length < least) {
            self.report(node.line, path, "must not be empty".to_owned(), "");
            return;
        }
        if let Some(pattern) = &schema.pattern
            && let Some(rule) = pattern::rule(pattern)
            && !(rule.holds)(text)
        {
            self.report(
                node.line,
                path,
                format!("{text:?} is not {}", rule.what),
                rule.hint,
            );
        }
        if schema.format.as_deref() == Some("date-time") && text.parse::<jiff::Timestamp>().is_err()
        {
            let message = format!("{text:?} is not a time of RFC 3339");
            self.report(
                node.line,
                path,
                message,
                "write it like 2026-01-31T18:00:00Z",
            );
        }
    }

    fn integer(&mut self, node: &Node, number: i64, schema: &JSONSchemaProps, path: &str) {
        let least = schema.minimum.unwrap_or(f64::NEG_INFINITY);
        let most = schema.maximum.unwrap_or(f64::INFINITY);
        let value = number as f64;
        if value < least || value > most {
            let message = format!("{number} is outside {least}..{most}");
            self.report(node.line, path, message, "");
        } else if schema.format.as_deref() == Some("int32") && i32::try_from(number).is_err() {
            self.report(node.line, path, format!("{number} is too large"), "");
        }
    }
}

/// The first sentence of a description, for a hint.
fn describe(description: &str) -> String {
    let sentence = description.split(". ").next().unwrap_or(description);
    sentence
        .split(['\n'])
        .collect::<Vec<_>>()
        .join(" ")
        .trim_end_matches('.')
        .to_owned()
}
