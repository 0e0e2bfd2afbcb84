//! Blocks under `views`.

use crate::config::diagnostic::Placed;
use crate::config::keys::EXPIRE;
use crate::config::keys::NOTIFY;
use crate::config::keys::NameKind;
use crate::config::keys::REDIS;
use crate::config::keys::REPLACE_BY;
use crate::config::keys::SHAPES;
use crate::config::keys::VIEW;
use crate::config::keys::VIEW_ON_DELETE;
use crate::config::read::Reader;
use crate::config::spec::NotifyBlock;
use crate::config::spec::OnDeleteBlock;
use crate::config::spec::RedisBlock;
use crate::config::spec::ViewBlock;
use crate::config::yaml::Entry;
use crate::config::yaml::Node;

impl Reader<'_> {
    pub(super) fn view(&mut self, entry: &Entry) -> Option<ViewBlock> {
        let name = self.thing(entry);
        let fields = self.value_of(entry).and_then(|node| self.block(node, &VIEW))?;
        Some(ViewBlock {
            from: fields.get("from").and_then(|node| self.text(node, "the name of a table")),
            when: fields.get("when").and_then(|node| self.expression(node)),
            redis: fields.get("redis").and_then(|node| self.redis(node)),
            notify: fields.get("notify").and_then(|node| self.notify(node)),
            name: name?,
        })
    }

    fn redis(&mut self, node: &Node) -> Option<RedisBlock> {
        let fields = self.block(node, &REDIS)?;
        Some(RedisBlock {
            at: node.at,
            shape: fields.get("as").and_then(|node| self.choice(node, SHAPES)),
            key: fields.get("key").and_then(|node| self.expression(node)),
            fields: fields.get("fields").and_then(|node| self.named_expressions(node, "`fields`", NameKind::Free)),
            value: fields.get("value").and_then(|node| self.expression(node)),
            score: fields.get("score").and_then(|node| self.expression(node)),
            member: fields.get("member").and_then(|node| self.mapped(node, "`member`")),
            replace_by: fields.get("replace_by").and_then(|node| self.choice(node, REPLACE_BY)),
            keep_last: fields.get("keep_last").and_then(|node| self.count(node, 1, 10_000_000)),
            ttl: fields.get("ttl").and_then(|node| self.duration(node, 1)),
            on_delete: fields.get("on_delete").and_then(|node| self.on_delete(node)),
            keys: fields.keys().map(|(key, at)| (key.to_owned(), at)).collect(),
        })
    }

    fn on_delete(&mut self, node: &Node) -> Option<Placed<OnDeleteBlock>> {
        let what = if node.scalar().is_some() {
            match self.choice(node, VIEW_ON_DELETE)?.value {
                "keep" => OnDeleteBlock::Keep,
                _ => OnDeleteBlock::Del,
            }
        } else {
            let fields = self.block(node, &EXPIRE)?;
            OnDeleteBlock::Expire(fields.get("expire").and_then(|node| self.duration(node, 1))?.value)
        };
        Some(Placed::new(what, node.at))
    }

    fn notify(&mut self, node: &Node) -> Option<NotifyBlock> {
        let fields = self.block(node, &NOTIFY)?;
        Some(NotifyBlock {
            channel: fields.get("channel").and_then(|node| self.expression(node)),
            payload: fields.get("payload").and_then(|node| self.expression(node)),
        })
    }
}
