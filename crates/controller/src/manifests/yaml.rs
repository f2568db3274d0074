//! YAML and JSON texts as trees that know on which line everything stood.
//!
//! YAML 1.2 core schema, of which JSON is a subset. Aliases are expanded within a bound; merge keys
//! and custom tags are refused.

use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map::Entry},
};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

/// Values of one document, with aliases expanded. A manifest with every list full has some
/// thousands.
pub(crate) const MAX_NODES: usize = 100_000;

/// Lists and maps inside one another.
pub(crate) const MAX_DEPTH: usize = 64;

/// A value and the line on which it begins, counted from 1.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) line: u32,
    pub(crate) value: Value,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub(crate) line: u32,
    pub(crate) text: String,
}

/// Why a text is not a document.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SyntaxError {
    pub(crate) line: u32,
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl SyntaxError {
    fn new(line: u32, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            line,
            message: message.into(),
            hint: hint.into(),
        }
    }
}

impl Node {
    /// The value under a key, when this is a map that has it.
    pub(crate) fn field(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries
                .iter()
                .find(|(k, _)| k.text == key)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text, when this is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// As JSON, without the entries of maps that are null: a field set to null is not set.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(n) => Json::from(*n),
            Value::Float(n) => Json::from(*n),
            Value::Text(text) => Json::String(text.clone()),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => entries
                .iter()
                .filter(|(_, value)| value.value != Value::Null)
                .map(|(key, value)| (key.text.clone(), value.to_json()))
                .collect(),
        }
    }

    /// The value's type in plain words.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

/// Splits a text into its documents, so that a syntax error costs only one of them: a line that
/// starts with `---` begins a document, whatever is around it. Gives the line each begins on.
pub(crate) fn split_documents(text: &str) -> Vec<(u32, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker && offset > start {
            documents.push((start_line, &text[start..offset]));
            (start, start_line) = (offset, number);
        }
        offset += line.len();
    }
    documents.push((start_line, &text[start..]));
    documents.retain(|(_, text)| !is_blank(text));
    documents
}

fn is_blank(text: &str) -> bool {
    text.lines().all(|line| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        line.is_empty() || line.starts_with('#')
    })
}

/// Parses one of [`split_documents`]; `first_line` is where it begins in its file.
pub(crate) fn parse(text: &str, first_line: u32) -> Result<Node, SyntaxError> {
    let mut loader = Loader {
        first_line,
        nodes: 0,
        anchors: BTreeMap::new(),
        open: Vec::new(),
    };
    let mut parser = Parser::new_from_str(text);
    let mut document = None;
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| {
            let line = loader.line(error.marker());
            let written = text.lines().nth(error.marker().line().saturating_sub(1));
            let hint = syntax_hint(written.unwrap_or_default());
            SyntaxError::new(line, format!("not YAML: {}", error.info()), hint)
        })?;
        let line = loader.line(&span.start);
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart(_) if document.is_some() => {
                return Err(SyntaxError::new(
                    line,
                    "another document",
                    "begin it with ---",
                ));
            }
            _ => {
                if let Some(node) = loader.event(event, line)? {
                    document = Some(node);
                }
            }
        }
    }
    document.ok_or_else(|| SyntaxError::new(first_line, "an empty document", "remove it"))
}

/// What is often wrong with a line that is not YAML.
fn syntax_hint(line: &str) -> &'static str {
    let mut words = line.split([' ', ',', '}', ']']);
    if words.any(|word| word.ends_with("::")) {
        "put addresses that end in :: in quotes"
    } else if line.contains('\t') {
        "indent with spaces instead of tabs"
    } else {
        ""
    }
}

/// A list or map whose end has not come yet.
struct Open {
    line: u32,
    anchor: usize,
    value: Value,
    /// The key of a map that waits for its value.
    key: Option<Key>,
    /// The keys of a map so far, with their lines.
    keys: BTreeMap<String, u32>,
}

struct Loader {
    first_line: u32,
    /// Values so far, with expanded ones.
    nodes: usize,
    anchors: BTreeMap<usize, Node>,
    open: Vec<Open>,
}

impl Loader {
    fn line(&self, mark: &Marker) -> u32 {
        let below = u32::try_from(mark.line().saturating_sub(1)).unwrap_or(u32::MAX);
        self.first_line.saturating_add(below)
    }

    /// Takes one event; gives the document's root when it is complete.
    fn event(&mut self, event: Event<'_>, line: u32) -> Result<Option<Node>, SyntaxError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(&text, style, tag.as_deref(), line)?;
                self.count(1, line)?;
                self.complete(Node { line, value }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(tag, line)?;
                self.begin(line, anchor, Value::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(tag, line)?;
                self.begin(line, anchor, Value::Map(Vec::new()))
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => {
                    let node = Node {
                        line: open.line,
                        value: open.value,
                    };
                    self.complete(node, open.anchor)
                }
                None => Ok(None),
            },
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else {
                    return Err(SyntaxError::new(line, "an alias without its anchor", ""));
                };
                let size = size(node);
                let depth = depth(node);
                self.count(size, line)?;
                self.check_depth(self.open.len() + depth, line)?;
                let node = self.anchors[&anchor].clone();
                self.complete(node, 0)
            }
            _ => Ok(None),
        }
    }

    fn begin(
        &mut self,
        line: u32,
        anchor: usize,
        value: Value,
    ) -> Result<Option<Node>, SyntaxError> {
        self.count(1, line)?;
        self.check_depth(self.open.len() + 1, line)?;
        self.open.push(Open {
            line,
            anchor,
            value,
            key: None,
            keys: BTreeMap::new(),
        });
        Ok(None)
    }

    /// Puts a complete value where it belongs.
    fn complete(&mut self, node: Node, anchor: usize) -> Result<Option<Node>, SyntaxError> {
        if anchor != 0 {
            // A copy for every alias to come; its values count.
            self.count(size(&node), node.line)?;
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            return Ok(Some(node));
        };
        match &mut open.value {
            Value::List(items) => items.push(node),
            Value::Map(entries) => match open.key.take() {
                None => open.key = Some(key(node, &mut open.keys)?),
                Some(key) => entries.push((key, node)),
            },
            _ => {}
        }
        Ok(None)
    }

    fn count(&mut self, nodes: usize, line: u32) -> Result<(), SyntaxError> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            let message = format!("more than {MAX_NODES} values, aliases included");
            return Err(SyntaxError::new(
                line,
                message,
                "split the document, or use fewer aliases",
            ));
        }
        Ok(())
    }

    fn check_depth(&self, depth: usize, line: u32) -> Result<(), SyntaxError> {
        if depth > MAX_DEPTH {
            let message = format!("more than {MAX_DEPTH} levels of lists and maps");
            return Err(SyntaxError::new(
                line,
                message,
                "no resource needs that many",
            ));
        }
        Ok(())
    }
}

/// A value as the key of a map that has these keys, with their lines, already.
fn key(node: Node, keys: &mut BTreeMap<String, u32>) -> Result<Key, SyntaxError> {
    let line = node.line;
    let text = match node.value {
        Value::Text(text) => text,
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        _ => {
            return Err(SyntaxError::new(
                line,
                "a key must be text",
                "put it in quotes",
            ));
        }
    };
    if text == "<<" {
        let message = "merge keys (<<) are not supported";
        return Err(SyntaxError::new(line, message, "write the fields out"));
    }
    match keys.entry(text) {
        Entry::Occupied(entry) => {
            let message = format!(
                "{} is set twice, first on line {}",
                entry.key(),
                entry.get()
            );
            Err(SyntaxError::new(line, message, "remove one of them"))
        }
        Entry::Vacant(entry) => {
            let text = entry.key().clone();
            entry.insert(line);
            Ok(Key { line, text })
        }
    }
}

fn size(node: &Node) -> usize {
    match &node.value {
        Value::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|(_, value)| size(value)).sum::<usize>(),
        _ => 1,
    }
}

fn depth(node: &Node) -> usize {
    match &node.value {
        Value::List(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Map(entries) => 1 + entries.iter().map(|(_, v)| depth(v)).max().unwrap_or(0),
        _ => 0,
    }
}

fn refuse_tag(tag: Option<Cow<'_, Tag>>, line: u32) -> Result<(), SyntaxError> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() => Err(SyntaxError::new(
            line,
            format!("the tag {tag} means nothing here"),
            "remove it",
        )),
        _ => Ok(()),
    }
}

fn scalar(
    text: &str,
    style: ScalarStyle,
    tag: Option<&Tag>,
    line: u32,
) -> Result<Value, SyntaxError> {
    match tag {
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => {
            Ok(Value::Text(text.to_owned()))
        }
        Some(tag) if !tag.is_yaml_core_schema() => Err(SyntaxError::new(
            line,
            format!("the tag {tag} means nothing here"),
            "remove it",
        )),
        _ if style == ScalarStyle::Plain => Ok(plain(text)),
        _ => Ok(Value::Text(text.to_owned())),
    }
}

/// The core schema of YAML 1.2 (§10.3.2), without octal and hexadecimal numbers.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    // A leading zero is octal in YAML 1.1 and decimal in 1.2: better text than the wrong number.
    let ambiguous = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
    if !digits.starts_with(|c: char| c.is_ascii_digit()) || ambiguous {
        return Value::Text(text.to_owned());
    }
    if digits.bytes().all(|b| b.is_ascii_digit())
        && let Ok(number) = text.parse()
    {
        return Value::Int(number);
    }
    let float = digits
        .bytes()
        .all(|b| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
    match text.parse::<f64>() {
        Ok(number) if float && number.is_finite() => Value::Float(number),
        _ => Value::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests;
