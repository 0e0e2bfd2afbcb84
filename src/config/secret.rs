//! Secrets, and the `${env:NAME}` and `${file:PATH}` by which they get into a worker file.
//!
//! A [`Secret`] shows its content to nobody but the caller of [`Secret::expose`]; errors name places and variables, never values.

use std::fmt;
use std::hint::black_box;
use std::ops::Range;
use std::path::Path;

use crate::config::env::Environment;

/// A text that is never printed, logged or written.
#[derive(Clone, Default)]
pub struct Secret(Box<str>);

impl Secret {
    pub fn new(text: impl Into<Box<str>>) -> Secret {
        Secret(text.into())
    }

    /// The content, for the one call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether something that came from outside is this secret, in a time that depends on its length only.
    pub fn is(&self, given: &[u8]) -> bool {
        let secret = self.0.as_bytes();
        let mut difference = secret.len() ^ given.len();
        for (position, byte) in given.iter().enumerate() {
            // Goes on after the first difference, and on past the end of the secret.
            let expected = secret.get(position % secret.len().max(1)).copied().unwrap_or_default();
            difference |= usize::from(black_box(byte ^ expected));
        }
        black_box(difference) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// What stands in the place of a secret.
pub const MASK: &str = "********";

/// A text with its references filled in.
#[derive(Clone, PartialEq, Eq)]
pub struct Resolved {
    pub text: String,
    /// Whether it had any reference.
    pub has_references: bool,
}

/// Why a reference has no value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unresolved {
    /// Bytes of the reference in the text.
    pub at: Range<usize>,
    /// Lowercase, no full stop, without any value.
    pub message: String,
    pub help: String,
}

/// Fills in every `${env:NAME}` and `${file:PATH}` of a text.
///
/// # Errors
/// The first reference that has no value: a variable that is not set or empty, a file that cannot be read or is empty, or
/// something else in `${ }`.
pub fn resolve(text: &str, environment: &Environment) -> Result<Resolved, Unresolved> {
    let mut resolved = String::new();
    let mut at = 0;
    while let Some(start) = text[at..].find("${").map(|found| at + found) {
        resolved.push_str(&text[at..start]);
        let Some(end) = text[start..].find('}').map(|found| start + found) else {
            let message = "`${` without its `}`".to_owned();
            return Err(Unresolved { at: start..text.len(), message, help: FORMS.to_owned() });
        };
        let reference = &text[start + 2..end];
        let value = value_of(reference, environment).map_err(|(message, help)| Unresolved { at: start..end + 1, message, help })?;
        resolved.push_str(&value);
        at = end + 1;
    }
    resolved.push_str(&text[at..]);
    Ok(Resolved { text: resolved, has_references: at > 0 })
}

const FORMS: &str = "write `${env:NAME}` for a variable, `${file:/path}` for the content of a file";

fn value_of(reference: &str, environment: &Environment) -> Result<String, (String, String)> {
    match reference.split_once(':') {
        Some(("env", name)) => {
            let value = environment.variable(name).filter(|value| !value.is_empty());
            let state = if environment.variable(name).is_some() { "empty" } else { "not set" };
            value
                .map(str::to_owned)
                .ok_or_else(|| (format!("the variable `{name}` is {state}"), format!("set `{name}` before the worker starts")))
        }
        Some(("file", path)) => {
            let why =
                |cause: String| (format!("the file `{path}` cannot be read: {cause}"), "check the path and its permissions".to_owned());
            let text = (environment.read_file)(Path::new(path)).map_err(why)?;
            if text.is_empty() { Err(why("it is empty".to_owned())) } else { Ok(text) }
        }
        _ => Err((format!("`${{{reference}}}` is neither a variable nor a file"), FORMS.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        let mut environment = Environment::empty();
        environment.variables.insert("USER_NAME".to_owned(), "app".to_owned());
        environment.variables.insert("EMPTY".to_owned(), String::new());
        environment.read_file = |path| if path == Path::new("/run/p") { Ok("hunter2".to_owned()) } else { Err("no such file".to_owned()) };
        environment
    }

    #[test]
    fn references_are_filled_in() {
        let text = |text: &str| resolve(text, &environment()).map(|resolved| (resolved.text, resolved.has_references));
        assert_eq!(text("redis://${env:USER_NAME}:${file:/run/p}@h"), Ok(("redis://app:hunter2@h".to_owned(), true)));
        assert_eq!(text("plain $1 {x}"), Ok(("plain $1 {x}".to_owned(), false)));
    }

    #[test]
    fn a_reference_without_a_value_is_an_error_with_its_place() {
        let check = |text: &str, at: Range<usize>, message: &str| {
            let problem = resolve(text, &environment()).err().unwrap();
            assert_eq!((problem.at, problem.message.as_str()), (at, message), "{text}");
        };
        check("a${env:NO}", 1..10, "the variable `NO` is not set");
        check("${env:EMPTY}", 0..12, "the variable `EMPTY` is empty");
        check("${file:/x}", 0..10, "the file `/x` cannot be read: no such file");
        check("${HOME}", 0..7, "`${HOME}` is neither a variable nor a file");
        check("x${env:A", 1..8, "`${` without its `}`");
    }

    #[test]
    fn a_secret_shows_itself_to_nobody() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "********");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn a_secret_is_only_itself() {
        let secret = Secret::new("hunter2");
        assert!(secret.is(b"hunter2"));
        for wrong in ["", "hunter", "hunter22", "Hunter2", "hunter2hunter2", "\0\0\0\0\0\0\0"] {
            assert!(!secret.is(wrong.as_bytes()), "{wrong}");
        }
        assert!(!Secret::new("").is(b"x"));
        assert!(Secret::new("").is(b""));
    }
}
