//! Static types of values: what a field is declared as and what an expression yields.

use std::fmt;
use std::sync::Arc;

use smol_str::SmolStr;

/// The type of a value, known when the file is read.
#[derive(Clone, PartialEq, Debug)]
pub enum Type {
    /// Not known until the record is there (CEL's `dyn`).
    Any,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    /// Exact decimal number, 28 significant digits.
    Decimal,
    Timestamp,
    Duration,
    /// CEL's `type(x)`.
    Type,
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    /// A nested map of fields.
    Object(Arc<Shape>),
    /// `optional T` in a declaration: may be missing or null, and reads as null.
    Nullable(Arc<Type>),
    /// CEL's `optional_type`: what `event.?x` yields.
    Optional(Arc<Type>),
}

/// Named fields in a fixed order: the declared fields of a source, or the row of a table.
#[derive(PartialEq, Debug, Default)]
pub struct Shape {
    pub fields: Vec<Field>,
}

/// A named and typed place in a [`Shape`].
#[derive(Clone, PartialEq, Debug)]
pub struct Field {
    pub name: SmolStr,
    pub ty: Type,
}

impl Shape {
    /// The slot of a field. Linear: used when a file is read and for untyped access, not per record.
    pub fn slot(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.name == name)
    }
}

impl Type {
    pub fn list(of: Type) -> Type {
        Type::List(Arc::new(of))
    }

    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new(key), Arc::new(value))
    }

    /// `optional T`; an optional of an optional, of `any` or of null is itself.
    pub fn nullable(of: Type) -> Type {
        match of {
            Type::Nullable(_) | Type::Any | Type::Null => of,
            other => Type::Nullable(Arc::new(other)),
        }
    }

    /// The type without `optional`.
    pub fn strip_nullable(&self) -> &Type {
        match self {
            Type::Nullable(inner) => inner,
            other => other,
        }
    }
}

impl fmt::Display for Type {
    /// As it is written in a topology file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Any => f.write_str("any"),
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::String => f.write_str("string"),
            Type::Bytes => f.write_str("bytes"),
            Type::Decimal => f.write_str("decimal"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Duration => f.write_str("duration"),
            Type::Type => f.write_str("type"),
            Type::List(of) => write!(f, "list<{of}>"),
            Type::Map(key, value) => write!(f, "map<{key}, {value}>"),
            Type::Object(shape) => {
                f.write_str("{ ")?;
                for (i, field) in shape.fields.iter().enumerate() {
                    write!(f, "{}{}: {}", if i == 0 { "" } else { ", " }, field.name, field.ty)?;
                }
                f.write_str(" }")
            }
            Type::Nullable(of) => write!(f, "optional {of}"),
            Type::Optional(of) => write!(f, "optional_type<{of}>"),
        }
    }
}
