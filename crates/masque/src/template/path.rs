//! Matching the path of a request against a template.

use super::{
    MAX_TEMPLATE_BYTES, Operator, Part, Scope, ScopeError, TemplateError, Variable, parse,
};
use crate::scope::is_unreserved;

/// The path and query of a template at the proxy, such as
/// `/.well-known/masque/ip/{target}/{ipproto}/`, `/vpn` or `/ip{?target,ipproto}`.
///
/// Every request path matches in at most one way: a variable is followed by the end or by a
/// delimiter that no encoded value holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate {
    path: Vec<Piece>,
    query: Option<Vec<Parameter>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Variable(Variable),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parameter {
    name: String,
    value: Piece,
    /// Whether expansion leaves it out when its variable has no value.
    optional: bool,
}

/// The raw values found so far.
#[derive(Default)]
struct Found<'a> {
    target: Option<&'a str>,
    protocol: Option<&'a str>,
}

impl<'a> Found<'a> {
    const fn set(&mut self, variable: Variable, value: &'a str) {
        match variable {
            Variable::Target => self.target = Some(value),
            Variable::Protocol => self.protocol = Some(value),
        }
    }
}

impl PathTemplate {
    /// Reads path and query of a template.
    ///
    /// # Errors
    /// [`TemplateError`]: not a template of RFC 9484 §3, or one that does not say where a variable
    /// ends.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.len() > MAX_TEMPLATE_BYTES {
            return Err(TemplateError::TooLong(text.len()));
        }
        parse::check_characters(text)?;
        let mut path = Vec::new();
        let mut query: Option<Vec<Piece>> = None;
        let mut parameters = Vec::new();
        for part in parse::parts(text)? {
            match part {
                Part::Literal(literal) => match (&mut query, literal.split_once('?')) {
                    (Some(query), _) if !parameters.is_empty() => {
                        // What follows `{?…}` or `{&…}` would else belong to its last value.
                        let next = literal.strip_prefix('&').ok_or(TemplateError::Query)?;
                        if query.is_empty() {
                            push_literal(query, next);
                        } else {
                            query.push(Piece::Literal(literal));
                        }
                    }
                    (Some(query), _) => query.push(Piece::Literal(literal)),
                    (None, Some((before, after))) => {
                        push_literal(&mut path, before);
                        let mut pieces = Vec::new();
                        push_literal(&mut pieces, after);
                        query = Some(pieces);
                    }
                    (None, None) => path.push(Piece::Literal(literal)),
                },
                Part::Expression(Operator::Simple, variables) => {
                    let pieces = query.as_mut().unwrap_or(&mut path);
                    for (index, variable) in variables.into_iter().enumerate() {
                        if index > 0 {
                            pieces.push(Piece::Literal(",".to_owned()));
                        }
                        pieces.push(Piece::Variable(variable));
                    }
                }
                Part::Expression(Operator::Query | Operator::Continuation, variables) => {
                    query.get_or_insert_default();
                    parameters.extend(variables.into_iter().map(|variable| Parameter {
                        name: variable.name().to_owned(),
                        value: Piece::Variable(variable),
                        optional: true,
                    }));
                }
            }
        }
        check_delimiters(&path)?;
        let query = match query {
            Some(pieces) => {
                let mut all = literal_parameters(&pieces)?;
                all.append(&mut parameters);
                check_names(&all)?;
                Some(all)
            }
            None => None,
        };
        Ok(Self { path, query })
    }

    /// The scope that a request's `:path` asks for; `None` when it is not of this template, and an
    /// error when it is but its variables are malformed.
    pub fn match_path(&self, path: &str) -> Option<Result<Scope, ScopeError>> {
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        let mut found = Found::default();
        match_pieces(&self.path, path, &mut found)?;
        match (&self.query, query) {
            (None, None) => {}
            (None, Some(_)) => return None,
            (Some(parameters), query) => {
                if let Err(error) = match_query(parameters, query.unwrap_or_default(), &mut found)?
                {
                    return Some(Err(error));
                }
            }
        }
        Some(Scope::parse(found.target, found.protocol))
    }
}

fn push_literal(pieces: &mut Vec<Piece>, literal: &str) {
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal.to_owned()));
    }
}

/// What may stand behind a variable: a character that [`crate::scope::percent_encode`] never
/// writes, that is not the wildcard, and not the colon that careless clients leave unencoded.
fn is_delimiter(byte: u8) -> bool {
    !is_unreserved(byte) && !matches!(byte, b'%' | b'*' | b':')
}

fn check_delimiters(pieces: &[Piece]) -> Result<(), TemplateError> {
    for pair in pieces.windows(2) {
        let [Piece::Variable(variable), next] = pair else {
            continue;
        };
        let delimited = match next {
            Piece::Literal(literal) => literal.bytes().next().is_some_and(is_delimiter),
            Piece::Variable(_) => false,
        };
        if !delimited {
            return Err(TemplateError::Ambiguous(variable.name()));
        }
    }
    Ok(())
}

/// A request's parameter is that of its name, whatever the order, so a name says one thing.
fn check_names(parameters: &[Parameter]) -> Result<(), TemplateError> {
    for (index, Parameter { name, .. }) in parameters.iter().enumerate() {
        if parameters[..index].iter().any(|other| other.name == *name) {
            return Err(TemplateError::RepeatedParameter(name.clone()));
        }
    }
    Ok(())
}

/// `name=value` pairs whose value is all literal or one variable.
fn literal_parameters(pieces: &[Piece]) -> Result<Vec<Parameter>, TemplateError> {
    let mut parameters: Vec<Parameter> = Vec::new();
    let mut open: Option<String> = None;
    for piece in pieces {
        match piece {
            Piece::Variable(_) => {
                let name = open.take().ok_or(TemplateError::Query)?;
                parameters.push(Parameter {
                    name,
                    value: piece.clone(),
                    optional: false,
                });
            }
            Piece::Literal(text) => {
                // What follows a variable begins the next pair.
                let text = match (parameters.is_empty(), text.strip_prefix('&')) {
                    (false, Some(text)) => text,
                    (true, None) => text.as_str(),
                    _ => return Err(TemplateError::Query),
                };
                let mut pairs = text.split('&').peekable();
                while let Some(pair) = pairs.next() {
                    let (name, value) = pair.split_once('=').ok_or(TemplateError::Query)?;
                    if value.is_empty() && pairs.peek().is_none() {
                        open = Some(name.to_owned());
                    } else {
                        let value = Piece::Literal(value.to_owned());
                        parameters.push(Parameter {
                            name: name.to_owned(),
                            value,
                            optional: false,
                        });
                    }
                }
            }
        }
    }
    if let Some(name) = open {
        let value = Piece::Literal(String::new());
        parameters.push(Parameter {
            name,
            value,
            optional: false,
        });
    }
    Ok(parameters)
}

fn match_pieces<'a>(pieces: &[Piece], mut rest: &'a str, found: &mut Found<'a>) -> Option<()> {
    for (index, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Literal(literal) => rest = rest.strip_prefix(literal.as_str())?,
            Piece::Variable(variable) => {
                let end = match pieces.get(index + 1) {
                    Some(Piece::Literal(literal)) => rest.find(literal.as_str())?,
                    _ => rest.len(),
                };
                let (value, tail) = rest.split_at(end);
                // A segment more than the template has is another resource.
                if value.contains('/') {
                    return None;
                }
                found.set(*variable, value);
                rest = tail;
            }
        }
    }
    rest.is_empty().then_some(())
}

fn match_query<'a>(
    parameters: &[Parameter],
    query: &'a str,
    found: &mut Found<'a>,
) -> Option<Result<(), ScopeError>> {
    let mut given = vec![false; parameters.len()];
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let index = parameters
            .iter()
            .position(|parameter| parameter.name == name)?;
        match &parameters[index].value {
            Piece::Literal(literal) if literal == value => {}
            Piece::Literal(_) => return None,
            Piece::Variable(variable) if given[index] => {
                return Some(Err(ScopeError::Repeated {
                    variable: variable.name(),
                }));
            }
            Piece::Variable(variable) => found.set(*variable, value),
        }
        given[index] = true;
    }
    let complete = parameters
        .iter()
        .zip(&given)
        .all(|(parameter, given)| *given || parameter.optional);
    complete.then_some(Ok(()))
}
