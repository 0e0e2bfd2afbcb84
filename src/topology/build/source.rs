//! Sources.

use std::sync::Arc;

use crate::codec;
use crate::config::codes;
use crate::config::spec::SourceBlock;
use crate::model::Field;
use crate::model::Shape;
use crate::model::Type;
use crate::operators::source::OnError;
use crate::operators::source::SourceSpec;
use crate::topology::build::Builder;
use crate::topology::build::BuiltSource;
use crate::topology::build::VALUE_DEFAULT;
use crate::topology::build::chosen;
use crate::topology::build::key_codec;
use crate::topology::build::plain_type;
use crate::topology::compile::Nulls;
use crate::topology::compile::Want;
use crate::topology::compile::assignable;
use crate::topology::scope;

pub(super) const ON_ERROR: [(&str, OnError); 3] = [("dead_letter", OnError::DeadLetter), ("skip", OnError::Skip), ("fail", OnError::Fail)];

impl Builder<'_> {
    pub(super) fn source(&mut self, block: &SourceBlock) -> BuiltSource {
        let event = self.event_type(block);
        let key = (!block.broken || block.key.is_some()).then(|| key_codec(&block.key));
        let key_type = key.map_or(Type::Any, scope::key_type);
        let scope = scope::event_scope(&event, &key_type);
        let keyed_by = block.keyed_by.as_ref().map(|expression| self.compiler.any(expression, &scope));
        if let (Some(expression), Some(Some(program))) = (&block.keyed_by, &keyed_by) {
            let ty = program.ty().strip_nullable();
            if !assignable(ty, &key_type) {
                let message = format!("`keyed_by` is {ty}, but the key of `{}` is {key_type}", block.name.value);
                let wanted = if *ty == Type::Int {
                    "set `key: int`, or convert it: `string(…)`"
                } else {
                    "convert it, or set `key:` to the codec of the record key"
                };
                self.compiler.diagnostics.push(codes::KEY_MISMATCH, expression.at, message).help(wanted);
            }
        }
        let time =
            block.time.as_ref().map(|expression| self.compiler.wanted(expression, &scope, Want::Timestamp, Nulls::Refused, "`time`"));
        let id = block.id.as_ref().map(|expression| self.compiler.wanted(expression, &scope, Want::Scalar, Nulls::Refused, "`id`"));
        let when = block.when.as_ref().map(|expression| self.compiler.when(expression, &scope));
        let spec = || {
            Some(SourceSpec {
                name: block.name.value.clone(),
                topic: block.topic.as_ref()?.value.clone(),
                key: key?,
                value: codec::codec(block.value.as_ref().map_or(VALUE_DEFAULT, |value| value.value))?,
                event: event.clone(),
                // An expression that is there but did not compile leaves no source.
                keyed_by: keyed_by.map_or(Some(None), |program| program.map(Some))?,
                time: time.map_or(Some(None), |program| program.map(Some))?,
                id: id.map_or(Some(None), |program| program.map(Some))?,
                when: when.map_or(Some(None), |program| program.map(Some))?,
                on_error: chosen(&block.on_error, OnError::default(), &ON_ERROR),
                future_ms: block.future.as_ref().map(|future| future.value),
            })
        };
        let spec = spec();
        BuiltSource { event, key, spec }
    }

    fn event_type(&mut self, block: &SourceBlock) -> Type {
        let codec = block.value.as_ref().map_or(VALUE_DEFAULT, |value| value.value);
        let plain = plain_type(codec);
        let Some(fields) = &block.fields else {
            return plain.unwrap_or(Type::Any);
        };
        if let Some(plain) = plain {
            let message = format!("values of `{}` are {plain}: they have no fields", block.name.value);
            self.compiler.diagnostics.push(codes::NEEDS_JSON, fields.at, message).help("leave `fields` out, or set `value: json`");
            return Type::Any;
        }
        let fields =
            fields.value.iter().map(|field| Field { name: field.name.value.as_str().into(), ty: field.ty.value.clone() }).collect();
        Type::Object(Arc::new(Shape { fields }))
    }
}
