//! The text of a template.

use std::net::Ipv6Addr;

use super::{Operator, Part, TemplateError, Variable};

/// RFC 9484 §3: visible ASCII; RFC 6570 §2.1: what a literal may hold.
pub(super) fn check_characters(text: &str) -> Result<(), TemplateError> {
    for (position, character) in text.char_indices() {
        let escape = || {
            let digits = text.as_bytes().get(position + 1..position + 3);
            digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
        };
        let allowed = match character {
            '"' | '<' | '>' | '\\' | '^' | '`' => false,
            // RFC 6570 reserves these operators; `parts` refuses them by name.
            '|' => text[..position].ends_with('{'),
            '%' => escape(),
            other => other.is_ascii_graphic(),
        };
        if !allowed {
            return Err(TemplateError::Character {
                character,
                position,
            });
        }
    }
    Ok(())
}

/// A host, in brackets if it is an IPv6 literal, and an optional port.
pub(super) fn is_authority(authority: &str) -> bool {
    if let Some(rest) = authority.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((host, "")) => host.parse::<Ipv6Addr>().is_ok(),
            Some((host, port)) => {
                host.parse::<Ipv6Addr>().is_ok() && port.strip_prefix(':').is_some_and(is_port)
            }
            None => false,
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let host_ok = !host.is_empty()
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    host_ok && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    digits && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// Path and query of a template.
pub(super) fn parts(text: &str) -> Result<Vec<Part>, TemplateError> {
    if !text.starts_with('/') {
        return Err(TemplateError::Path);
    }
    let mut parts = Vec::new();
    let mut seen = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let position = text.len() - rest.len();
        let Some(inner) = rest.strip_prefix('{') else {
            let end = rest.find('{').unwrap_or(rest.len());
            let (literal, tail) = rest.split_at(end);
            if let Some(offset) = literal.find('}') {
                return Err(TemplateError::Expression(position + offset));
            }
            if let Some(offset) = literal.find('#') {
                // A fragment never reaches the proxy.
                return Err(TemplateError::Character {
                    character: '#',
                    position: position + offset,
                });
            }
            parts.push(Part::Literal(literal.to_owned()));
            rest = tail;
            continue;
        };
        let Some((expression, tail)) = inner.split_once('}') else {
            return Err(TemplateError::Expression(position));
        };
        parts.push(parse_expression(expression, position, &mut seen)?);
        rest = tail;
    }
    check_query(&parts)?;
    Ok(parts)
}

fn parse_expression(
    expression: &str,
    position: usize,
    seen: &mut Vec<Variable>,
) -> Result<Part, TemplateError> {
    let (operator, names) = match expression.chars().next() {
        None => return Err(TemplateError::Expression(position)),
        Some('?') => (Operator::Query, &expression[1..]),
        Some('&') => (Operator::Continuation, &expression[1..]),
        Some(c @ ('+' | '#' | '.' | '/' | ';' | '=' | ',' | '!' | '@' | '|')) => {
            return Err(TemplateError::Operator(c));
        }
        Some(_) => (Operator::Simple, expression),
    };
    let mut variables = Vec::new();
    for name in names.split(',') {
        let variable = match name {
            "target" => Variable::Target,
            "ipproto" => Variable::Protocol,
            other => return Err(TemplateError::Variable(other.to_owned())),
        };
        if seen.contains(&variable) {
            return Err(TemplateError::Repeated(variable.name()));
        }
        seen.push(variable);
        variables.push(variable);
    }
    Ok(Part::Expression(operator, variables))
}

/// `{?…}` begins the one query there is, `{&…}` goes on with it.
fn check_query(parts: &[Part]) -> Result<(), TemplateError> {
    let mut in_query = false;
    for part in parts {
        match part {
            Part::Literal(literal) => in_query |= literal.contains('?'),
            Part::Expression(Operator::Query, _) if in_query => return Err(TemplateError::Query),
            Part::Expression(Operator::Query, _) => in_query = true,
            Part::Expression(Operator::Continuation, _) if !in_query => {
                return Err(TemplateError::Query);
            }
            Part::Expression(..) => {}
        }
    }
    Ok(())
}
