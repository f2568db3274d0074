//! Names of VPCs, and where a gateway serves them.

use std::{fmt, str::FromStr};

/// Kubernetes bounds an object name (RFC 1123 subdomain) by this.
const NAME_MAX_CHARS: usize = 253;

/// `production-vpc`, or `team/production-vpc` for a VPC of another namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VpcName {
    namespace: Option<String>,
    name: String,
}

/// Why a text is no VPC name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no VPC name: lowercase letters, digits, `-` and `.` make one, as in \
     `production-vpc` or `team/production-vpc`"
)]
pub struct VpcNameError {
    text: String,
}

impl VpcName {
    /// The object's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The object's namespace, when it was given.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// A file name that no other VPC has: names hold no `_`.
    pub fn file_stem(&self) -> String {
        self.to_string().replace('/', "_")
    }

    /// Reads [`VpcName::file_stem`] back.
    pub fn from_file_stem(stem: &str) -> Option<Self> {
        stem.replacen('_', "/", 1).parse().ok()
    }
}

impl FromStr for VpcName {
    type Err = VpcNameError;

    fn from_str(text: &str) -> Result<Self, VpcNameError> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        if !is_name(name) || !namespace.is_none_or(is_name) {
            return Err(VpcNameError {
                text: text.to_owned(),
            });
        }
        Ok(Self {
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        })
    }
}

impl fmt::Display for VpcName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

fn is_name(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= NAME_MAX_CHARS
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for text in ["production-vpc", "team/production-vpc", "a.b/c"] {
            let vpc: VpcName = text.parse().unwrap();
            assert_eq!(vpc.to_string(), text);
            assert_eq!(VpcName::from_file_stem(&vpc.file_stem()), Some(vpc));
        }
    }

    #[test]
    fn what_would_leave_the_path_is_refused() {
        let long = "x".repeat(NAME_MAX_CHARS + 1);
        for text in [
            "", "/", "a/", "/a", "a/b/c", "A", "a_b", "-a", "..", "a%2f", "a?b", &long,
        ] {
            assert!(text.parse::<VpcName>().is_err(), "{text:?}");
        }
    }
}
