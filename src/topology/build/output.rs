//! Outputs.

use crate::codec;
use crate::codec::KeyCodec;
use crate::config::codes;
use crate::config::diagnostic::Place;
use crate::config::spec::Mapped;
use crate::config::spec::OutputBlock;
use crate::expression::Program;
use crate::model::Type;
use crate::operators::output::OnOutputDelete;
use crate::operators::output::OutputFrom;
use crate::operators::output::OutputSpec;
use crate::operators::output::OutputValue;
use crate::topology::build::Builder;
use crate::topology::build::VALUE_DEFAULT;
use crate::topology::build::chosen;
use crate::topology::build::plain_type;
use crate::topology::compile::assignable;
use crate::topology::scope;

pub(super) const ON_DELETE: [(&str, OnOutputDelete); 2] = [("tombstone", OnOutputDelete::Tombstone), ("ignore", OnOutputDelete::Ignore)];

/// How an output names the stale records of a table.
pub const STALE_SUFFIX: &str = ".stale";

impl Builder<'_> {
    pub(super) fn output(&mut self, block: &OutputBlock) -> Option<OutputSpec> {
        let named = block.from.as_ref().map_or("", |from| from.value.as_str());
        let (table_name, stale) = named.strip_suffix(STALE_SUFFIX).map_or((named, false), |table| (table, true));
        let table = self.table_id(table_name);
        let built = table.map(|id| &self.tables[id.0]);
        let table_key = built.and_then(|built| built.key);
        let key_type = table_key.map_or(Type::Any, scope::key_type);
        let windowed = built.is_none_or(|built| built.windowed);
        // Stale records are written as they came; settings beside them are refused in `check`.
        let row = if stale { Type::Any } else { built.map_or(Type::Any, |built| built.row.clone()) };
        let scope = scope::row_scope(&row, &key_type, windowed);
        let when = block.when.as_ref().map(|when| self.compiler.when(when, &scope));
        let key = block.key.as_ref().filter(|key| key.text.trim() != "key").map(|key| self.compiler.any(key, &scope));
        let set = block.set.as_ref().map(|set| match set {
            Mapped::Fields(fields) => self.compiler.named(&fields.value, &scope).map(|fields| (OutputValue::Fields(fields), None)),
            Mapped::Whole(whole) => {
                self.compiler.value(whole, &scope).map(|(program, ty)| (OutputValue::Whole(program), Some((ty, whole.at))))
            }
        });
        let codec = block.value.as_ref().map_or(VALUE_DEFAULT, |value| value.value);
        if let (Some(plain), true) = (plain_type(codec), set.as_ref().is_none_or(|set| set.is_some())) {
            self.check_plain(block, &plain, set.as_ref().and_then(|set| set.as_ref()).and_then(|(_, whole)| whole.as_ref()));
        }
        let headers = self.compiler.named(&block.headers, &scope);
        let from = table.map(|id| if stale { OutputFrom::Stale(id) } else { OutputFrom::Table(id) });
        let key = key.map_or(Some(None), |key| key.map(Some))?;
        Some(OutputSpec {
            name: block.name.value.clone(),
            from: from?,
            topic: block.topic.as_ref()?.value.clone(),
            key_codec: key.as_ref().map_or(table_key, |key| Some(key_codec(key)))?,
            key,
            value: codec::codec(codec)?,
            set: set.map_or(Some(None), |set| set.map(|(value, _)| Some(value)))?,
            when: when.map_or(Some(None), |program| program.map(Some))?,
            on_delete: chosen(&block.on_delete, OnOutputDelete::default(), &ON_DELETE),
            headers: headers?,
        })
    }

    /// A value without fields is one expression that yields it.
    fn check_plain(&mut self, block: &OutputBlock, plain: &Type, whole: Option<&(Type, Place)>) {
        match whole {
            Some((ty, _)) if assignable(ty, &Type::nullable(plain.clone())) => {}
            Some((ty, at)) => {
                let message = format!("the value is {plain}, but `set` is {ty}");
                self.compiler
                    .diagnostics
                    .push(codes::WRONG_RESULT, *at, message)
                    .help(format!("convert it: `{plain}(…)`, or write `value: json`"));
            }
            None => {
                let at = block.value.as_ref().map_or(block.name.at, |value| value.at);
                let help = format!("add `set:` with one expression that yields {plain}, or write `value: json`");
                self.compiler.diagnostics.push(codes::NEEDS_JSON, at, format!("a row with fields cannot be written as {plain}")).help(help);
            }
        }
    }
}

/// The codec for a computed key: that of its type.
fn key_codec(key: &Program) -> KeyCodec {
    match key.ty().strip_nullable() {
        Type::String => KeyCodec::String,
        Type::Int => KeyCodec::Int,
        Type::Bytes => KeyCodec::Bytes,
        _ => KeyCodec::Json,
    }
}
