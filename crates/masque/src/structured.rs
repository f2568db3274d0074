//! The few parts of Structured Fields (RFC 9651) that MASQUE needs.

/// Reads bare items and parameters; nothing is kept but slices and short strings.
pub(crate) struct Parser<'a> {
    rest: &'a [u8],
}

/// A bare item (RFC 9651 §3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Boolean(bool),
    String(String),
    Token(String),
    /// An integer, decimal, byte sequence, date or display string; nothing here reads their value.
    Other,
}

impl<'a> Parser<'a> {
    pub(crate) const fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    pub(crate) const fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Skips optional white space (SP, HTAB).
    pub(crate) fn skip_space(&mut self) {
        while let [b' ' | b'\t', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    /// Takes `byte` if it comes next.
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        match self.rest.split_first() {
            Some((first, rest)) if *first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// A key of a parameter (RFC 9651 §4.2.3.3).
    pub(crate) fn key(&mut self) -> Option<&'a str> {
        let starts = |b: u8| b.is_ascii_lowercase() || b == b'*';
        self.rest.first().filter(|b| starts(**b))?;
        let text = self
            .while_matches(|b| starts(b) || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'.'));
        std::str::from_utf8(text).ok()
    }

    /// A bare item.
    pub(crate) fn bare_item(&mut self) -> Option<Item> {
        match self.rest.first()? {
            b'?' => match self.rest {
                [_, digit @ (b'0' | b'1'), rest @ ..] => {
                    let value = *digit == b'1';
                    self.rest = rest;
                    Some(Item::Boolean(value))
                }
                _ => None,
            },
            b'"' => self.string().map(Item::String),
            b':' => {
                self.rest = &self.rest[1..];
                self.while_matches(|b| {
                    b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=')
                });
                self.take(b':').then_some(Item::Other)
            }
            b'-' | b'0'..=b'9' | b'@' => {
                self.rest = &self.rest[1..];
                self.while_matches(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-'));
                Some(Item::Other)
            }
            first if is_token_start(*first) => {
                let text = self.while_matches(is_token_byte);
                Some(Item::Token(String::from_utf8_lossy(text).into_owned()))
            }
            _ => None,
        }
    }

    /// Every parameter that follows an item, handed to `each`; `None` when they are malformed.
    pub(crate) fn parameters(&mut self, mut each: impl FnMut(&str, Item)) -> Option<()> {
        while self.take(b';') {
            self.skip_space();
            let key = self.key()?;
            let value = if self.take(b'=') {
                self.bare_item()?
            } else {
                Item::Boolean(true)
            };
            each(key, value);
        }
        Some(())
    }

    fn string(&mut self) -> Option<String> {
        let mut rest = self.rest.strip_prefix(b"\"")?;
        let mut text = String::new();
        loop {
            match rest {
                [b'"', tail @ ..] => {
                    self.rest = tail;
                    return Some(text);
                }
                [b'\\', escaped @ (b'"' | b'\\'), tail @ ..] => {
                    text.push(char::from(*escaped));
                    rest = tail;
                }
                [b'\\', ..] => return None,
                [byte @ 0x20..=0x7e, tail @ ..] => {
                    text.push(char::from(*byte));
                    rest = tail;
                }
                _ => return None,
            }
        }
    }

    fn while_matches(&mut self, matches: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self
            .rest
            .iter()
            .position(|b| !matches(*b))
            .unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        text
    }
}

const fn is_token_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'*'
}

const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
                | b':'
                | b'/'
        )
}

/// Whether `text` may stand as a token.
pub(crate) fn is_token(text: &str) -> bool {
    text.bytes().next().is_some_and(is_token_start) && text.bytes().all(is_token_byte)
}

/// Appends `text` as a string; a character that a string cannot hold becomes `?`.
pub(crate) fn put_string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                out.push('\\');
                out.push(character);
            }
            ' '..='~' => out.push(character),
            _ => out.push('?'),
        }
    }
    out.push('"');
}
