//! Blocks under `sources`.

use crate::config::keys::KEY_CODECS;
use crate::config::keys::NameKind;
use crate::config::keys::ON_ERROR;
use crate::config::keys::SOURCE;
use crate::config::keys::VALUE_CODECS;
use crate::config::read::Reader;
use crate::config::spec::SourceBlock;
use crate::config::yaml::Entry;
use crate::model::NAME_LENGTH_MAX;

impl Reader<'_> {
    /// The name is kept even where the block cannot be read: then nobody says that it does not exist.
    pub(super) fn source(&mut self, entry: &Entry) -> Option<SourceBlock> {
        let name = self.thing(entry);
        let fields = self.value_of(entry).and_then(|node| self.block(node, &SOURCE));
        let mut source = SourceBlock {
            name: name?,
            topic: None,
            key: None,
            value: None,
            fields: None,
            keyed_by: None,
            time: None,
            id: None,
            when: None,
            on_error: None,
            future: None,
            broken: true,
        };
        let Some(fields) = fields else { return Some(source) };
        source.broken = fields.broken;
        source.topic = fields.get("topic").and_then(|node| self.topic(node, NAME_LENGTH_MAX));
        source.key = fields.get("key").and_then(|node| self.choice(node, KEY_CODECS));
        source.value = fields.get("value").and_then(|node| self.choice(node, VALUE_CODECS));
        source.fields = fields.get("fields").and_then(|node| self.field_declarations(node, NameKind::Free));
        source.keyed_by = fields.get("keyed_by").and_then(|node| self.expression(node));
        source.time = fields.get("time").and_then(|node| self.expression(node));
        source.id = fields.get("id").and_then(|node| self.expression(node));
        source.when = fields.get("when").and_then(|node| self.expression(node));
        source.on_error = fields.get("on_error").and_then(|node| self.choice(node, ON_ERROR));
        source.future = fields.get("future").and_then(|node| self.duration(node, 0));
        source.broken |= fields.get("key").is_some() && source.key.is_none() || fields.get("value").is_some() && source.value.is_none();
        Some(source)
    }
}
