//! Header sections: pseudo-header fields parsed once, the rest as a list.

pub(crate) mod codec;
pub(crate) mod validate;

/// One regular field line; the name is lowercase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Lowercase field name.
    pub name: String,
    /// The value's bytes (RFC 9110 §5.5 allows more than ASCII).
    pub value: Vec<u8>,
}

impl Field {
    /// Builds a field from text.
    pub fn new(name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self {
            name: name.into(),
            value: value.into(),
        }
    }
}

/// A validated request header section (RFC 9114 §4.3.1, RFC 8441 §4).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RequestHead {
    /// `:method`.
    pub method: String,
    /// `:protocol`, present exactly in an extended CONNECT.
    pub protocol: Option<String>,
    /// `:scheme`; absent in a classic CONNECT.
    pub scheme: Option<String>,
    /// `:authority`, or Host where a request has only that.
    pub authority: Option<String>,
    /// `:path`; absent in a classic CONNECT.
    pub path: Option<String>,
    /// Regular fields in their order.
    pub fields: Vec<Field>,
}

impl RequestHead {
    /// The values of every field called `name` (lowercase).
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields
            .iter()
            .filter(move |f| f.name == name)
            .map(|f| f.value.as_slice())
    }
}

/// A validated response header section.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ResponseHead {
    /// `:status`, 100..=599.
    pub status: u16,
    /// Regular fields in their order.
    pub fields: Vec<Field>,
}

impl ResponseHead {
    /// The values of every field called `name` (lowercase).
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields
            .iter()
            .filter(move |f| f.name == name)
            .map(|f| f.value.as_slice())
    }
}
