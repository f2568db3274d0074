use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> Node {
    parse(text, 1).unwrap()
}

fn error(text: &str) -> String {
    let error = parse(text, 1).unwrap_err();
    format!("{}: {}", error.line, error.message)
}

#[test]
fn knows_the_line_of_everything() {
    let node = parse("# comment\na: 1\nb:\n  - x\n  - c: y\n", 10).unwrap();
    assert_eq!(node.field("a").map(|node| node.line), Some(11));
    let Some(Value::List(items)) = node.field("b").map(|node| &node.value) else {
        panic!()
    };
    assert_eq!((items[0].line, items[1].line), (13, 14));
    assert_eq!(items[1].field("c").and_then(Node::text), Some("y"));
}

#[test]
fn scalars_follow_the_core_schema() {
    let value = |text: &str| {
        parsed(&format!("a: {text}"))
            .field("a")
            .unwrap()
            .value
            .clone()
    };
    assert_eq!(value("~"), Value::Null);
    assert_eq!(value("true"), Value::Bool(true));
    assert_eq!(value("-12"), Value::Int(-12));
    assert_eq!(value("1.5e3"), Value::Float(1500.0));
    assert_eq!(value("'12'"), Value::Text("12".into()));
    assert_eq!(value("!!str 12"), Value::Text("12".into()));
    let texts = [
        "yes",
        "0x10",
        "010",
        "10.0.0.0/16",
        "fd20::/64",
        "1.2.3.4",
        ".inf",
        "1e999",
    ];
    for text in texts {
        assert_eq!(value(text), Value::Text(text.into()), "{text}");
    }
}

#[test]
fn reads_json() {
    let node = parsed(r#"{"a": [1, "two", null], "b": {"c": true}}"#);
    assert_eq!(
        node.to_json().to_string(),
        r#"{"a":[1,"two",null],"b":{"c":true}}"#
    );
}

#[test]
fn a_document_begins_at_three_dashes() {
    let text = "---\na: 1\n--- # two\nb: [\n---\n\n---\nc: |\n  ----\n  text\n";
    let documents = split_documents(text);
    let lines: Vec<_> = documents.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [1, 3, 7]);
    assert!(parse(documents[0].1, 1).is_ok());
    assert!(parse(documents[1].1, 3).is_err());
    assert!(parse(documents[2].1, 7).is_ok());
    assert_eq!(split_documents("# only\n---\n# comments\n"), []);
}

#[test]
fn says_where_it_is_no_yaml() {
    assert!(error("a: 1\nb: [1, 2\nc: 3\n").contains("not YAML"));
    assert!(error("a: 1\na: 2").starts_with("2: a is set twice, first on line 1"));
    assert!(error("? [a]\n: b").contains("a key must be text"));
    assert!(error("a: !mine 1").contains("tag"));
    assert!(error("<<: {a: 1}").contains("merge keys"));
    assert!(error("a: *nowhere").contains("not YAML"));
    let address = parse("a: 1\nsid: fd00:0:1:3:e001:: # node-1\n", 1).unwrap_err();
    assert_eq!(
        (address.line, address.hint.as_str()),
        (2, "put addresses that end in :: in quotes")
    );
    let flow = parse("routes:\n- {prefix: a, sid: fd00::}\n", 1).unwrap_err();
    assert_eq!(
        (flow.line, flow.hint.as_str()),
        (2, "put addresses that end in :: in quotes")
    );
}

#[test]
fn aliases_are_expanded() {
    let node = parsed("a: &x {b: 1}\nc: *x\n");
    assert_eq!(node.field("c").unwrap().to_json().to_string(), r#"{"b":1}"#);
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let before = format!("*a{}", i - 1);
        bomb += &format!("a{i}: &a{i} [{}]\n", [before.as_str(); 9].join(", "));
    }
    assert!(error(&bomb).contains("values, aliases included"));
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    assert!(parse(&nested(MAX_DEPTH), 1).is_ok());
    assert!(error(&nested(MAX_DEPTH + 1)).contains("levels of lists"));
    // Past the limits of the parser itself, too.
    assert!(parse(&nested(100_000), 1).is_err());
    let block: String = (0..500).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    assert!(error(&block).contains("levels of lists"));
    // Depth by way of aliases.
    let mut chain = "a0: &a0 [x]\n".to_owned();
    for i in 1..=MAX_DEPTH {
        chain += &format!("a{i}: &a{i} [*a{}]\n", i - 1);
    }
    assert!(error(&chain).contains("levels of lists"));
}

#[test]
fn the_number_of_values_is_bounded() {
    let list = |count: usize| format!("[{}]", vec!["1"; count].join(","));
    assert!(parse(&list(MAX_NODES - 1), 1).is_ok());
    assert!(error(&list(MAX_NODES)).contains("values, aliases included"));
}

proptest! {
    #[test]
    fn no_text_panics(text in r"[ \n\-:\[\]{},&*!|>'\x22#?%@`a-c0-2\\\t]{0,80}") {
        for (line, document) in split_documents(&text) {
            if let Ok(node) = parse(document, line) {
                node.to_json();
            }
        }
    }

    #[test]
    fn any_unicode_is_text_or_an_error(text in ".{0,60}") {
        let _ = parse(&text, 1);
    }

    #[test]
    fn json_comes_back(json in json()) {
        let text = serde_json::to_string_pretty(&json).unwrap();
        prop_assert_eq!(parsed(&text).to_json(), json);
    }
}

/// JSON without nulls in maps, which are dropped, and without floats, whose digits may differ.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        // Without control characters and surrogates, which YAML cannot all hold.
        "[ -~äöü€]{0,12}".prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
            prop::collection::btree_map("[a-z]{1,6}", inner, 0..6)
                .prop_map(|map| map.into_iter().collect()),
        ]
    })
}
