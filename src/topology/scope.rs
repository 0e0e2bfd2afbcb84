//! The names that expressions may use, with their types.
//!
//! The order of the variables is that of `EVENT_SCOPE` and `ROW_SCOPE`: whoever runs a program gives the values in it.

use crate::codec::KeyCodec;
use crate::expression::Scope;
use crate::model::Type;
use crate::operators::fold::ROW_SCOPE;
use crate::operators::scope::window_shape;
use crate::operators::source::EVENT_SCOPE;

/// What a key of this codec is in an expression.
pub fn key_type(codec: KeyCodec) -> Type {
    match codec {
        KeyCodec::String | KeyCodec::Uuid => Type::String,
        KeyCodec::Int => Type::Int,
        KeyCodec::Json => Type::Any,
        KeyCodec::Bytes => Type::Bytes,
    }
}

/// Headers as expressions see them: text. Bytes that are not UTF-8 read with U+FFFD in their place.
fn headers_type() -> Type {
    Type::map(Type::String, Type::String)
}

/// Scope of sources and of what they set in tables.
pub fn event_scope(event: &Type, key: &Type) -> Scope {
    let [event_name, key_name, time, headers, topic, partition, offset] = EVENT_SCOPE;
    Scope::new([
        (event_name, event.clone()),
        (key_name, key.clone()),
        (time, Type::Timestamp),
        (headers, headers_type()),
        (topic, Type::String),
        (partition, Type::Int),
        (offset, Type::Int),
    ])
}

/// Scope of views and outputs. `window` is a name in windowed tables only; it comes last, so all slots stay the same.
pub fn row_scope(row: &Type, key: &Type, windowed: bool) -> Scope {
    let [row_name, old, key_name, time, headers, window] = ROW_SCOPE;
    let mut variables = vec![
        (row_name, row.clone()),
        (old, Type::nullable(row.clone())),
        (key_name, key.clone()),
        (time, Type::Timestamp),
        (headers, headers_type()),
    ];
    if windowed {
        variables.push((window, Type::Object(window_shape())));
    }
    Scope::new(variables)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::render::slot;

    #[test]
    fn slots_are_those_of_the_scopes() {
        let scope = event_scope(&Type::Any, &Type::String);
        assert_eq!(EVENT_SCOPE.map(|name| scope.slot(name)), [0, 1, 2, 3, 4, 5, 6].map(Some));
        let scope = row_scope(&Type::Any, &Type::String, true);
        assert_eq!(
            ROW_SCOPE.map(|name| scope.slot(name)),
            [slot::ROW, slot::OLD, slot::KEY, slot::TIME, slot::HEADERS, slot::WINDOW].map(Some)
        );
        assert_eq!(row_scope(&Type::Any, &Type::String, false).slot("window"), None);
    }
}
