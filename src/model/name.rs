//! Names that are safe wherever a name can end up: a topic, a path, a Redis key, a metric label.
//!
//! Parsing is the only way in, so nobody checks a name again.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A name safe in a topic, a path and a Redis key: `[A-Za-z0-9._-]{1,200}`, but not `.` or `..`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// The longest name, in bytes. Kafka allows 249 in a topic; internal topics add a prefix and a suffix.
pub const NAME_LENGTH_MAX: usize = 200;

/// Why a text is not a [`Name`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotAName {
    pub text: String,
}

impl Name {
    /// Takes a text as a name.
    ///
    /// # Errors
    /// [`NotAName`] if it is empty, longer than [`NAME_LENGTH_MAX`], `.`, `..`, or has another character.
    pub fn parse(text: &str) -> Result<Name, NotAName> {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        let good = !text.is_empty() && text.len() <= NAME_LENGTH_MAX && text != "." && text != ".." && text.bytes().all(allowed);
        if good { Ok(Name(text.into())) } else { Err(NotAName { text: text.to_owned() }) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Name {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for NotAName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a name: 1 to {NAME_LENGTH_MAX} of the characters A-Z a-z 0-9 . _ -", self.text)
    }
}

impl std::error::Error for NotAName {}
