//! Blocks under `outputs`.

use crate::config::keys::NameKind;
use crate::config::keys::OUTPUT;
use crate::config::keys::OUTPUT_ON_DELETE;
use crate::config::keys::VALUE_CODECS;
use crate::config::read::Reader;
use crate::config::spec::OutputBlock;
use crate::config::yaml::Entry;
use crate::model::NAME_LENGTH_MAX;

impl Reader<'_> {
    /// The name is kept even where the block cannot be read: then nobody says that it does not exist.
    pub(super) fn output(&mut self, entry: &Entry) -> Option<OutputBlock> {
        let name = self.thing(entry);
        let fields = self.value_of(entry).and_then(|node| self.block(node, &OUTPUT));
        let mut output = OutputBlock {
            name: name?,
            from: None,
            topic: None,
            key: None,
            value: None,
            set: None,
            when: None,
            on_delete: None,
            headers: Vec::new(),
            keys: Vec::new(),
        };
        let Some(fields) = fields else { return Some(output) };
        output.from = fields.get("from").and_then(|node| self.text(node, "the name of a table"));
        output.topic = fields.get("topic").and_then(|node| self.topic(node, NAME_LENGTH_MAX));
        output.key = fields.get("key").and_then(|node| self.expression(node));
        output.value = fields.get("value").and_then(|node| self.choice(node, VALUE_CODECS));
        output.set = fields.get("set").and_then(|node| self.mapped(node, "`set`"));
        output.when = fields.get("when").and_then(|node| self.expression(node));
        output.on_delete = fields.get("on_delete").and_then(|node| self.choice(node, OUTPUT_ON_DELETE));
        output.headers = fields
            .get("headers")
            .and_then(|node| self.named_expressions(node, "`headers`", NameKind::Free))
            .map(|headers| headers.value)
            .unwrap_or_default();
        output.keys = fields.keys().map(|(key, at)| (key.to_owned(), at)).collect();
        Some(output)
    }
}
