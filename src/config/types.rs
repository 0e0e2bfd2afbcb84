//! Types of fields as they are written: `optional decimal`, `list<string>`, `map<string, int>`, `{ street: string }`.

use std::ops::Range;
use std::sync::Arc;

use crate::config::keys::TYPES;
use crate::config::suggest;
use crate::model::Field;
use crate::model::Shape;
use crate::model::Type;

/// Why a text is no type, and where in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TypeProblem {
    pub at: Range<usize>,
    pub message: String,
    pub help: Option<String>,
}

/// The deepest nesting of types.
const DEPTH_MAX: usize = 16;

/// Names that other languages use, and ours.
const OTHER_NAMES: [(&str, &str); 22] = [
    ("str", "string"),
    ("text", "string"),
    ("varchar", "string"),
    ("uuid", "string"),
    ("integer", "int"),
    ("long", "int"),
    ("int32", "int"),
    ("int64", "int"),
    ("bigint", "int"),
    ("short", "int"),
    ("uint64", "uint"),
    ("unsigned", "uint"),
    ("float", "double"),
    ("real", "double"),
    ("number", "double` or `decimal"),
    ("numeric", "decimal"),
    ("money", "decimal"),
    ("boolean", "bool"),
    ("datetime", "timestamp"),
    ("date", "timestamp"),
    ("time", "timestamp"),
    ("dyn", "any"),
];

/// Reads a type.
///
/// # Errors
/// [`TypeProblem`]: the first thing that is wrong.
pub fn parse(text: &str) -> Result<Type, TypeProblem> {
    let mut parser = Parser { text, at: 0 };
    let ty = parser.ty(0)?;
    parser.space();
    if parser.at < text.len() {
        return Err(parser.problem(parser.at..text.len(), format!("nothing is expected after the type, found `{}`", &text[parser.at..])));
    }
    Ok(ty)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    /// Bounded by [`DEPTH_MAX`], so it may call itself.
    fn ty(&mut self, depth: usize) -> Result<Type, TypeProblem> {
        if depth > DEPTH_MAX {
            return Err(self.problem(self.at..self.text.len(), format!("types are nested deeper than {DEPTH_MAX}")));
        }
        self.space();
        if self.peek() == Some('{') {
            return self.object(depth);
        }
        let start = self.at;
        let word = self.word();
        let at = start..self.at;
        Ok(match word {
            "optional" => {
                if self.at == self.text.trim_end().len() {
                    return Err(self.problem(at, "`optional` of what is missing".to_owned()).with("write `optional string`"));
                }
                Type::nullable(self.ty(depth + 1)?)
            }
            "list" => {
                self.expect('<', "list<string>")?;
                let of = self.ty(depth + 1)?;
                self.expect('>', "list<string>")?;
                Type::list(of)
            }
            "map" => {
                self.expect('<', "map<string, int>")?;
                let key_at = self.at;
                let key = self.ty(depth + 1)?;
                if !matches!(key, Type::Bool | Type::Int | Type::Uint | Type::String) {
                    let message = format!("keys of a map are bool, int, uint or string, not {key}");
                    return Err(self.problem(key_at..self.at, message));
                }
                self.expect(',', "map<string, int>")?;
                let value = self.ty(depth + 1)?;
                self.expect('>', "map<string, int>")?;
                Type::map(key, value)
            }
            "" => return Err(self.problem(start..self.text.len(), format!("a type is expected, found `{}`", &self.text[start..]))),
            name => named(name).ok_or_else(|| self.problem(at, format!("no type `{name}`")).with_name(name))?,
        })
    }

    fn object(&mut self, depth: usize) -> Result<Type, TypeProblem> {
        self.expect('{', "{ street: string }")?;
        let mut fields: Vec<Field> = Vec::new();
        self.space();
        while self.peek() != Some('}') {
            self.space();
            let start = self.at;
            let name = self.word().to_owned();
            if name.is_empty() {
                return Err(self
                    .problem(start..self.text.len(), "the name of a field is expected".to_owned())
                    .with("write `{ street: string }`"));
            }
            if fields.iter().any(|field| field.name == name) {
                return Err(self.problem(start..self.at, format!("`{name}` is there twice")));
            }
            self.expect(':', "{ street: string }")?;
            let ty = self.ty(depth + 1)?;
            fields.push(Field { name: name.into(), ty });
            self.space();
            if self.peek() != Some('}') {
                self.expect(',', "{ street: string, city: string }")?;
                self.space();
            }
        }
        self.at += 1;
        Ok(Type::Object(Arc::new(Shape { fields })))
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn space(&mut self) {
        self.at = self.text.len() - self.text[self.at..].trim_start().len();
    }

    fn word(&mut self) -> &'a str {
        let text: &'a str = self.text;
        let rest = &text[self.at..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn expect(&mut self, c: char, example: &str) -> Result<(), TypeProblem> {
        self.space();
        if self.peek() != Some(c) {
            let found = self.text[self.at..].chars().next().map_or("the end".to_owned(), |c| format!("`{c}`"));
            return Err(self
                .problem(self.at..self.text.len(), format!("`{c}` is expected, found {found}"))
                .with(&format!("write `{example}`")));
        }
        self.at += c.len_utf8();
        Ok(())
    }

    fn problem(&self, at: Range<usize>, message: String) -> TypeProblem {
        TypeProblem { at, message, help: None }
    }
}

impl TypeProblem {
    fn with(mut self, help: &str) -> TypeProblem {
        self.help = Some(help.to_owned());
        self
    }

    fn with_name(mut self, name: &str) -> TypeProblem {
        let lower = name.to_lowercase();
        self.help = match OTHER_NAMES.iter().find(|(other, _)| *other == lower) {
            Some((_, ours)) => Some(format!("write `{ours}`")),
            None if matches!(lower.as_str(), "array" | "set" | "seq") => Some("write `list<string>`".to_owned()),
            None if matches!(lower.as_str(), "object" | "struct" | "record" | "dict") => {
                Some("write its fields as a nested map".to_owned())
            }
            None => suggest::did_you_mean(name, TYPES.iter().map(|ty| ty.name).chain(["list", "map", "optional"]), "types"),
        };
        self
    }
}

fn named(name: &str) -> Option<Type> {
    Some(match name {
        "any" => Type::Any,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "decimal" => Type::Decimal,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_read_back_as_they_are_shown() {
        for text in
            ["string", "optional decimal", "list<map<string, optional int>>", "map<string, any>", "{ street: string, zip: optional int }"]
        {
            assert_eq!(parse(text).map(|ty| ty.to_string()).as_deref(), Ok(text));
        }
        for ty in TYPES {
            assert_eq!(parse(ty.name).map(|ty| ty.to_string()).as_deref(), Ok(ty.name));
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_type() {
        let cases = [
            ("strnig", 0..6, "no type `strnig`", Some("did you mean `string`?")),
            ("integer", 0..7, "no type `integer`", Some("write `int`")),
            ("list", 4..4, "`<` is expected, found the end", Some("write `list<string>`")),
            ("map<decimal, int>", 4..11, "keys of a map are bool, int, uint or string, not decimal", None),
            ("string?", 6..7, "nothing is expected after the type, found `?`", None),
        ];
        for (text, at, message, help) in cases {
            let problem = parse(text).unwrap_err();
            assert_eq!((problem.at, problem.message.as_str(), problem.help.as_deref()), (at, message, help), "{text}");
        }
    }
}
