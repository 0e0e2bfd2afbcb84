//! Which form of a function fits the types it is called with.
//!
//! The forms are read from the signature texts of the table, so what the manual says is what the checker does.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use crate::expression::functions::{FUNCTIONS, Function};
use crate::expression::types::{free, is_open, join, name_of, settle, type_named};
use crate::model::Type;

/// A type in a signature: with variables such as `T`, which stand for one type throughout it.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    Any,
    Variable(char),
    Exactly(Type),
    List(Box<Pattern>),
    Map(Box<Pattern>, Box<Pattern>),
    Optional(Box<Pattern>),
}

/// One form of a function.
pub(super) struct Signature {
    pub text: &'static str,
    /// `string.size()`: the first parameter stands before the dot.
    pub is_method: bool,
    pub parameters: Vec<Pattern>,
    pub result: Pattern,
}

/// A function of the table with its forms.
pub(super) struct Entry {
    pub function: &'static Function,
    pub signatures: Vec<Signature>,
}

/// The rows of the table by name. Special forms have no signature that could be read, and none here.
static ENTRIES: LazyLock<BTreeMap<&'static str, Vec<Entry>>> = LazyLock::new(|| {
    let mut entries: BTreeMap<&'static str, Vec<Entry>> = BTreeMap::new();
    for function in FUNCTIONS {
        let signatures = if function.is_special() {
            Vec::new()
        } else {
            function.signatures.iter().filter_map(|text| read_signature(text, function.name)).collect()
        };
        entries.entry(function.name).or_default().push(Entry { function, signatures });
    }
    entries
});

/// The rows of this name.
pub(super) fn entries(name: &str) -> &'static [Entry] {
    ENTRIES.get(name).map_or(&[], Vec::as_slice)
}

/// The names that can be called, in the order of the manual.
pub(super) fn function_names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|function| function.name).filter(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()))
}

/// Reads `string.charAt(int) -> string`, `math.abs(int) -> int`, `size(list<T>) -> int`, `int + int -> int`, `-int -> int`.
pub(super) fn read_signature(text: &'static str, name: &str) -> Option<Signature> {
    let (left, result) = text.split_once(" -> ")?;
    let result = Pattern::read(result)?;
    let Some((head, list)) = left.strip_suffix(')').and_then(|left| left.split_once('(')) else {
        let parameters = match left.split_once(&format!(" {name} ")) {
            Some((a, b)) => vec![Pattern::read(a)?, Pattern::read(b)?],
            None => vec![Pattern::read(left.strip_prefix(name)?)?],
        };
        return Some(Signature { text, is_method: false, parameters, result });
    };
    let mut parameters = Vec::new();
    let is_method = head != name;
    if is_method {
        parameters.push(Pattern::read(head.strip_suffix(name)?.strip_suffix('.')?)?);
    }
    for parameter in split_list(list) {
        parameters.push(Pattern::read(parameter)?);
    }
    Some(Signature { text, is_method, parameters, result })
}

/// Splits at the commas that are not within `<…>`.
fn split_list(list: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in list.char_indices() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(list[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if !list[start..].trim().is_empty() {
        parts.push(list[start..].trim());
    }
    parts
}

impl Pattern {
    fn read(text: &str) -> Option<Pattern> {
        let text = text.trim();
        if let Some((outer, inner)) = text.strip_suffix('>').and_then(|text| text.split_once('<')) {
            let mut parts = split_list(inner).into_iter();
            let first = Box::new(Pattern::read(parts.next()?)?);
            return Some(match outer {
                "list" => Pattern::List(first),
                "optional" => Pattern::Optional(first),
                "map" => Pattern::Map(first, Box::new(Pattern::read(parts.next()?)?)),
                _ => return None,
            });
        }
        Some(match text {
            "any" => Pattern::Any,
            "timestamp" => Pattern::Exactly(Type::Timestamp),
            "duration" => Pattern::Exactly(Type::Duration),
            _ if text.len() == 1 => Pattern::Variable(text.chars().next()?),
            _ => Pattern::Exactly(type_named(text)?),
        })
    }

    /// Whether a value of this type may be given, binding the variables.
    fn accepts(&self, ty: &Type, bound: &mut BTreeMap<char, Type>) -> bool {
        match (self, ty) {
            (Pattern::Any, _) => true,
            (Pattern::Variable(name), _) => match bound.get(name) {
                None => {
                    bound.insert(*name, ty.clone());
                    true
                }
                Some(known) => match join(known, ty) {
                    Some(joined) => {
                        bound.insert(*name, joined);
                        true
                    }
                    None => false,
                },
            },
            (_, ty) if is_open(ty) => {
                self.bind_open(ty, bound);
                true
            }
            (Pattern::Exactly(expected), _) => expected == ty,
            (Pattern::List(of), Type::List(ty)) | (Pattern::Optional(of), Type::Optional(ty)) => of.accepts(ty, bound),
            (Pattern::Map(key, value), Type::Map(key_ty, value_ty)) => key.accepts(key_ty, bound) && value.accepts(value_ty, bound),
            (Pattern::Map(key, value), Type::Object(_)) => key.accepts(&Type::String, bound) && value.accepts(&Type::Any, bound),
            _ => false,
        }
    }

    /// Nothing is known of the argument, so its variables are whatever it is.
    fn bind_open(&self, ty: &Type, bound: &mut BTreeMap<char, Type>) {
        match self {
            Pattern::Variable(name) => {
                bound.entry(*name).or_insert_with(|| ty.clone());
            }
            Pattern::List(of) | Pattern::Optional(of) => of.bind_open(ty, bound),
            Pattern::Map(key, value) => {
                key.bind_open(ty, bound);
                value.bind_open(ty, bound);
            }
            Pattern::Any | Pattern::Exactly(_) => {}
        }
    }

    fn result(&self, bound: &BTreeMap<char, Type>) -> Type {
        match self {
            Pattern::Any => Type::Any,
            Pattern::Variable(name) => bound.get(name).cloned().unwrap_or_else(free),
            Pattern::Exactly(ty) => ty.clone(),
            Pattern::List(of) => Type::list(of.result(bound)),
            Pattern::Map(key, value) => Type::map(key.result(bound), value.result(bound)),
            Pattern::Optional(of) => Type::Optional(Arc::new(of.result(bound))),
        }
    }
}

/// Why no form fits.
#[derive(PartialEq, Debug)]
pub(super) enum Mismatch {
    /// It would fit if this argument were not null.
    MayBeNull(usize),
    /// This argument is of no type that any form takes there; what is taken.
    Argument(usize, Vec<String>),
    /// The arguments do not go together.
    Together,
}

impl Signature {
    fn fits(&self, types: &[&Type]) -> Option<Type> {
        if self.parameters.len() != types.len() {
            return None;
        }
        let mut bound = BTreeMap::new();
        let fits = self.parameters.iter().zip(types).all(|(parameter, ty)| parameter.accepts(ty, &mut bound));
        fits.then(|| self.result.result(&bound))
    }
}

/// The type of the result, of the forms that fit. Where an argument is `any`, several may.
pub(super) fn resolve(signatures: &[&Signature], types: &[&Type]) -> Result<Type, Mismatch> {
    let results: Vec<Type> = signatures.iter().filter_map(|signature| signature.fits(types)).collect();
    if let Some((first, rest)) = results.split_first() {
        let same = rest.iter().all(|result| settle(result) == settle(first));
        return Ok(if same { first.clone() } else { Type::Any });
    }
    let stripped: Vec<&Type> = types.iter().map(|ty| ty.strip_nullable()).collect();
    if signatures.iter().any(|signature| signature.fits(&stripped).is_some()) {
        let first = types.iter().position(|ty| matches!(ty, Type::Nullable(_))).unwrap_or(0);
        return Err(Mismatch::MayBeNull(first));
    }
    for (position, ty) in stripped.iter().enumerate() {
        let fitting = |parameter: &Pattern| parameter.accepts(ty, &mut BTreeMap::new());
        if !signatures.iter().filter_map(|signature| signature.parameters.get(position)).any(fitting) {
            let mut expected: Vec<String> = Vec::new();
            for parameter in signatures.iter().filter_map(|signature| signature.parameters.get(position)) {
                let text = parameter.to_string();
                if !expected.contains(&text) {
                    expected.push(text);
                }
            }
            return Err(Mismatch::Argument(position, expected));
        }
    }
    Err(Mismatch::Together)
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Any => f.write_str("any"),
            Pattern::Variable(name) => write!(f, "{name}"),
            Pattern::Exactly(ty) => f.write_str(match ty {
                Type::Timestamp => "timestamp",
                Type::Duration => "duration",
                other => name_of(other),
            }),
            Pattern::List(of) => write!(f, "list<{of}>"),
            Pattern::Map(key, value) => write!(f, "map<{key}, {value}>"),
            Pattern::Optional(of) => write!(f, "optional<{of}>"),
        }
    }
}
