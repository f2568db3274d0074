//! URI templates of a CONNECT-IP proxy (RFC 9484 §3, RFC 6570): [`Template`] expands at the client,
//! [`PathTemplate`] matches at the proxy.

use crate::{Scope, ScopeError};

mod parse;
mod path;

pub use path::PathTemplate;

/// The path that a proxy SHOULD serve on a domain of its own (RFC 9484 §3).
pub const WELL_KNOWN_PATH: &str = "/.well-known/masque/ip/{target}/{ipproto}/";

/// The longest template that is read.
const MAX_TEMPLATE_BYTES: usize = 2048;

/// A checked URI template.
///
/// RFC 9484 §3: level 3 or lower; absolute; non-empty scheme, authority and path; variables only in
/// path and query. The operators `+ # . / ;` and the modifiers of level 4 are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    scheme: String,
    authority: String,
    parts: Vec<Part>,
}

/// Why a template is refused (RFC 9484 §3); a client sends nothing with such a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Two variables with nothing between them that could end the first.
    #[error("the variable {0} is not followed by a delimiter")]
    Ambiguous(&'static str),
    /// No scheme, an empty host, user information, a bad port or a variable in the authority.
    #[error("the authority {0:?} is not a host with an optional port")]
    Authority(String),
    /// A character that a template may not hold outside of expressions, or an incomplete `%`.
    #[error("the character {character:?} at byte {position} is not allowed in a template")]
    Character {
        /// The character.
        character: char,
        /// Its position in bytes.
        position: usize,
    },
    /// A `{` without `}`, a `}` without `{`, or an empty expression.
    #[error("the expression at byte {0} is not closed, not opened or empty")]
    Expression(usize),
    /// An operator other than `?` and `&`.
    #[error("the operator {0:?} is not allowed; only {{var}}, {{?var}} and {{&var}} are")]
    Operator(char),
    /// The path is missing or does not begin with `/`.
    #[error("the path must begin with \"/\"")]
    Path,
    /// `{?…}` inside a query, `{&…}` outside, or a query value that is part literal, part variable.
    #[error("the query must be {{?var,…}}, or name=value pairs with whole variables as values")]
    Query,
    /// A variable that occurs twice.
    #[error("the variable {0} occurs twice")]
    Repeated(&'static str),
    /// A name that occurs twice in the query: no request would say which is which.
    #[error("the query parameter {0:?} occurs twice")]
    RepeatedParameter(String),
    /// Not `https`.
    #[error("the scheme must be https, not {0:?}")]
    Scheme(String),
    /// Longer than we read.
    #[error("the template has {0} bytes, at most {MAX_TEMPLATE_BYTES} are read")]
    TooLong(usize),
    /// A variable other than `target` and `ipproto`.
    #[error("the variable {0:?} is unknown; there are target and ipproto")]
    Variable(String),
}

/// A template expanded for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expanded {
    /// `:scheme`.
    pub scheme: String,
    /// `:authority`.
    pub authority: String,
    /// `:path`, with the query.
    pub path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variable {
    Target,
    Protocol,
}

impl Variable {
    const fn name(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Protocol => "ipproto",
        }
    }

    fn value(self, scope: &Scope) -> String {
        match self {
            Self::Target => scope.target_variable(),
            Self::Protocol => scope.protocol_variable(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    /// `{a,b}`: values joined by commas.
    Simple,
    /// `{?a,b}`: begins a query.
    Query,
    /// `{&a,b}`: goes on with a query.
    Continuation,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Expression(Operator, Vec<Variable>),
}

impl Template {
    /// Reads a template such as `https://proxy.example/.well-known/masque/ip/{target}/{ipproto}/`.
    ///
    /// # Errors
    /// [`TemplateError`]; nothing must be sent with such a template.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.len() > MAX_TEMPLATE_BYTES {
            return Err(TemplateError::TooLong(text.len()));
        }
        parse::check_characters(text)?;
        let Some((scheme, rest)) = text.split_once("://") else {
            let scheme = text.split([':', '/']).next().unwrap_or_default();
            return Err(TemplateError::Scheme(scheme.to_owned()));
        };
        // RFC 9484 §4: CONNECT-IP runs over TLS or QUIC.
        if !scheme.eq_ignore_ascii_case("https") {
            return Err(TemplateError::Scheme(scheme.to_owned()));
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if !parse::is_authority(authority) {
            return Err(TemplateError::Authority(authority.to_owned()));
        }
        let parts = parse::parts(path)?;
        Ok(Self {
            scheme: "https".to_owned(),
            authority: authority.to_owned(),
            parts,
        })
    }

    /// The default template of the proxy at `authority` (host, optional port).
    ///
    /// # Errors
    /// [`TemplateError::Authority`] when it is none.
    pub fn well_known(authority: &str) -> Result<Self, TemplateError> {
        Self::parse(&format!("https://{authority}{WELL_KNOWN_PATH}"))
    }

    /// Host and optional port of the proxy.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The host of the proxy; an IPv6 literal without its brackets.
    pub fn host(&self) -> &str {
        let host = match self.authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => host,
            _ => &self.authority,
        };
        host.strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host)
    }

    /// The port of the proxy; 443 by default.
    pub fn port(&self) -> u16 {
        self.authority
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok())
            .unwrap_or(443)
    }

    /// Whether a scope can be told to the proxy at all: the template names a variable.
    pub fn has_variables(&self) -> bool {
        self.parts
            .iter()
            .any(|part| matches!(part, Part::Expression(..)))
    }

    /// The request target for `scope`. A variable that the template lacks stays unsaid: the proxy
    /// takes it as `*`.
    pub fn expand(&self, scope: &Scope) -> Expanded {
        let mut path = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => path.push_str(literal),
                Part::Expression(operator, variables) => {
                    expand_expression(*operator, variables, scope, &mut path);
                }
            }
        }
        Expanded {
            scheme: self.scheme.clone(),
            authority: self.authority.clone(),
            path,
        }
    }
}

fn expand_expression(operator: Operator, variables: &[Variable], scope: &Scope, out: &mut String) {
    for (index, variable) in variables.iter().enumerate() {
        match (operator, index) {
            (Operator::Simple, 0) => {}
            (Operator::Simple, _) => out.push(','),
            (Operator::Query, 0) => out.push('?'),
            (Operator::Query | Operator::Continuation, _) => out.push('&'),
        }
        if operator != Operator::Simple {
            out.push_str(variable.name());
            out.push('=');
        }
        // The wildcard is sent as it stands, as in the examples of RFC 9484.
        out.push_str(&variable.value(scope));
    }
}

#[cfg(test)]
mod tests;
