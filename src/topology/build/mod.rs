//! A `Spec` to a `Topology`: names become indices, expressions programs, choices enums, and defaults are filled in.
//!
//! What a broken part would have been is `any` for the parts that build on it, so that one mistake is one diagnostic.

mod output;
mod rule;
mod source;
mod table;
mod view;

use crate::codec::KeyCodec;
use crate::config::diagnostic::Diagnostics;
use crate::config::spec::Chosen;
use crate::config::spec::Spec;
use crate::model::SourceId;
use crate::model::TableId;
use crate::model::Type;
use crate::operators::fold::TableSpec;
use crate::operators::source::SourceSpec;
use crate::topology::Topology;
use crate::topology::compile::Compiler;

/// Builds the graph. `None` if a part of it could not be built; the reason has been reported.
pub fn build(spec: &Spec, diagnostics: &mut Diagnostics) -> Option<Topology> {
    let mut builder =
        Builder { spec, compiler: Compiler { file: spec.file.clone(), diagnostics }, sources: Vec::new(), tables: Vec::new() };
    for block in &spec.sources {
        let built = builder.source(block);
        builder.sources.push(built);
    }
    for block in &spec.tables {
        let built = builder.table(block);
        builder.tables.push(built);
    }
    let views: Vec<_> = spec.views.iter().map(|block| builder.view(block)).collect();
    let outputs: Vec<_> = spec.outputs.iter().map(|block| builder.output(block)).collect();
    let app = spec.app.as_ref()?.value.clone();
    Some(Topology {
        app,
        sources: builder.sources.into_iter().map(|source| source.spec).collect::<Option<Vec<_>>>()?,
        tables: builder.tables.into_iter().map(|table| table.spec).collect::<Option<Vec<_>>>()?,
        views: views.into_iter().collect::<Option<Vec<_>>>()?,
        outputs: outputs.into_iter().collect::<Option<Vec<_>>>()?,
    })
}

struct Builder<'a> {
    spec: &'a Spec,
    compiler: Compiler<'a>,
    sources: Vec<BuiltSource>,
    tables: Vec<BuiltTable>,
}

/// A source, and what is known of it even where it could not be built.
struct BuiltSource {
    event: Type,
    /// `None` where it was reported.
    key: Option<KeyCodec>,
    spec: Option<SourceSpec>,
}

/// A table, and what is known of it even where it could not be built.
struct BuiltTable {
    /// Type of `row`.
    row: Type,
    key: Option<KeyCodec>,
    windowed: bool,
    spec: Option<TableSpec>,
}

impl Builder<'_> {
    fn source_id(&self, name: &str) -> Option<SourceId> {
        self.spec.sources.iter().position(|source| &*source.name.value == name).map(SourceId)
    }

    fn table_id(&self, name: &str) -> Option<TableId> {
        self.spec.tables.iter().position(|table| &*table.name.value == name).map(TableId)
    }
}

/// The value for a choice as the table of keys spells it, or the default where it is left out.
fn chosen<T: Copy>(choice: &Option<Chosen>, default: T, values: &[(&str, T)]) -> T {
    choice.as_ref().and_then(|choice| values.iter().find(|(name, _)| *name == choice.value)).map_or(default, |(_, value)| *value)
}

/// The codec of values where none is given.
const VALUE_DEFAULT: &str = "json";

/// The one type that values of a codec have, if it is not a codec of values with fields.
fn plain_type(codec: &str) -> Option<Type> {
    match codec {
        "string" => Some(Type::String),
        "bytes" => Some(Type::Bytes),
        _ => None,
    }
}

/// The codec of keys that is chosen, or text.
fn key_codec(choice: &Option<Chosen>) -> KeyCodec {
    choice.as_ref().and_then(|choice| KeyCodec::parse(choice.value)).unwrap_or(KeyCodec::String)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys;
    use crate::views::VIEWS;

    #[test]
    fn every_choice_has_a_value() {
        let check = |choices: &[keys::Choice], values: &[&str]| {
            let there: Vec<&str> = choices.iter().filter(|choice| choice.later.is_none()).map(|choice| choice.name).collect();
            assert_eq!(there, values);
        };
        check(keys::KEY_CODECS, &KeyCodec::ALL.map(KeyCodec::name));
        check(keys::ON_ERROR, &source::ON_ERROR.map(|(name, _)| name));
        check(keys::ROLES, &table::ROLES.map(|(name, _)| name));
        check(keys::ON_TOMBSTONE, &table::ON_TOMBSTONE.map(|(name, _)| name));
        check(keys::WHEN_OWNER_MISSING, &table::WHEN_OWNER_MISSING.map(|(name, _)| name));
        check(keys::ON_TIMEOUT, &table::ON_TIMEOUT.map(|(name, _)| name));
        check(keys::ON_STALE, &table::ON_STALE.map(|(name, _)| name));
        check(keys::EMIT, &table::EMIT.map(|(name, _)| name));
        check(keys::ON_LATE, &table::ON_LATE.map(|(name, _)| name));
        check(keys::SHAPES, &VIEWS.iter().map(|kind| kind.name).collect::<Vec<_>>());
        check(keys::OUTPUT_ON_DELETE, &output::ON_DELETE.map(|(name, _)| name));
        for choice in keys::VALUE_CODECS.iter().filter(|choice| choice.later.is_none()) {
            assert!(crate::codec::codec(choice.name).is_some(), "{}", choice.name);
        }
    }
}
