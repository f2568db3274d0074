//! Label selectors.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// Whether an object with these labels is selected. An empty selector selects everything.
pub(crate) fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let by_label = selector.match_labels.iter().flatten();
    let by_expression = selector.match_expressions.iter().flatten();
    by_label
        .into_iter()
        .all(|(key, value)| labels.get(key) == Some(value))
        && by_expression
            .into_iter()
            .all(|requirement| holds(requirement, labels))
}

/// What is wrong with a selector: the path of the field below the selector, and why.
pub(crate) fn check(selector: &LabelSelector) -> Result<(), (String, String)> {
    for (i, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        let values = requirement.values.as_ref().map_or(0, Vec::len);
        let field = |name: &str| format!("matchExpressions[{i}].{name}");
        match requirement.operator.as_str() {
            "In" | "NotIn" if values == 0 => {
                let message = format!("{} needs at least one value", requirement.operator);
                return Err((field("values"), message));
            }
            "Exists" | "DoesNotExist" if values > 0 => {
                let message = format!("{} takes no values", requirement.operator);
                return Err((field("values"), message));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => return Err((field("operator"), format!("{other:?} is no operator"))),
        }
    }
    Ok(())
}

fn holds(requirement: &LabelSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    let listed = || {
        requirement
            .values
            .iter()
            .flatten()
            .any(|listed| Some(listed) == value)
    };
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        // Refused by `check`; an unknown operator selects nothing.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(json: &str) -> LabelSelector {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn selects_as_kubernetes_does() {
        let labels = [("team", "web"), ("env", "prod")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let is = |json: &str| matches(&selector(json), &labels);
        assert!(is("{}"));
        assert!(is(r#"{"matchLabels":{"team":"web"}}"#));
        assert!(!is(r#"{"matchLabels":{"team":"db"}}"#));
        let expression = |operator: &str, key: &str, values: &str| {
            is(&format!(
                r#"{{"matchExpressions":[{{"key":"{key}","operator":"{operator}","values":{values}}}]}}"#
            ))
        };
        assert!(expression("In", "team", r#"["db","web"]"#));
        assert!(!expression("In", "other", r#"["db"]"#));
        assert!(expression("NotIn", "other", r#"["db"]"#));
        assert!(!expression("NotIn", "team", r#"["web"]"#));
        assert!(expression("Exists", "team", "[]"));
        assert!(expression("DoesNotExist", "other", "[]"));
        assert!(!expression("DoesNotExist", "team", "[]"));
    }

    #[test]
    fn refuses_what_kubernetes_refuses() {
        for (operator, values) in [("In", "[]"), ("Exists", r#"["x"]"#), ("Is", r#"["x"]"#)] {
            let json = format!(
                r#"{{"matchExpressions":[{{"key":"a","operator":"{operator}","values":{values}}}]}}"#
            );
            assert!(check(&selector(&json)).is_err(), "{operator}");
        }
    }
}
