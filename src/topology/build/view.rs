//! Views: which settings a Redis shape has, and what they compile to.

use crate::config::codes;
use crate::config::diagnostic::Place;
use crate::config::spec::Mapped;
use crate::config::spec::OnDeleteBlock;
use crate::config::spec::RedisBlock;
use crate::config::spec::ViewBlock;
use crate::config::suggest;
use crate::expression;
use crate::expression::Scope;
use crate::model::Name;
use crate::model::TableId;
use crate::model::Type;
use crate::topology::build::Builder;
use crate::topology::compile::Nulls;
use crate::topology::compile::Want;
use crate::topology::scope;
use crate::views::Member;
use crate::views::Notify;
use crate::views::OnViewDelete;
use crate::views::Template;
use crate::views::TemplatePart;
use crate::views::VIEWS;
use crate::views::ViewShape;
use crate::views::ViewSpec;
use crate::views::kind;
use crate::views::render::slot;

/// The settings that a shape cannot do without, beside `key`.
fn needed(shape: ViewShape) -> &'static [&'static str] {
    match shape {
        ViewShape::Zset => &["score", "member"],
        ViewShape::Set => &["member"],
        ViewShape::Hash | ViewShape::Json | ViewShape::String | ViewShape::Stream | ViewShape::Pubsub => &[],
    }
}

/// Whether each row has a Redis key of its own, so that the key must tell rows apart.
fn one_key_per_row(shape: ViewShape) -> bool {
    matches!(shape, ViewShape::Hash | ViewShape::Json | ViewShape::String)
}

impl Builder<'_> {
    pub(super) fn view(&mut self, block: &ViewBlock) -> Option<ViewSpec> {
        let table = block.from.as_ref().and_then(|from| self.table_id(&from.value));
        let (row, key, windowed) = match table.map(|id| &self.tables[id.0]) {
            Some(table) => (table.row.clone(), table.key.map_or(Type::Any, scope::key_type), table.windowed),
            // Which table was meant is not known: it may have windows.
            None => (Type::Any, Type::Any, true),
        };
        let scope = scope::row_scope(&row, &key, windowed);
        let when = block.when.as_ref().map(|when| self.compiler.when(when, &scope));
        let notify = block.notify.as_ref().map(|notify| {
            let channel = notify.channel.as_ref().and_then(|channel| self.compiler.template(channel, &scope));
            let payload = match &notify.payload {
                Some(payload) => self.compiler.value(payload, &scope).map(|(program, _)| program),
                // `key` is a name of this scope, so it compiles.
                None => expression::compile("key", &scope).ok(),
            };
            Some(Notify { channel: channel?, payload: payload? })
        });
        let mut spec = block.redis.as_ref().and_then(|redis| self.redis(&block.name.value, redis, &scope, table, windowed))?;
        spec.when = when.map_or(Some(None), |program| program.map(Some))?;
        spec.notify = notify.map_or(Some(None), |notify| notify.map(Some))?;
        Some(spec)
    }

    /// The view without `when` and `notify`.
    fn redis(&mut self, name: &Name, block: &RedisBlock, scope: &Scope, table: Option<TableId>, windowed: bool) -> Option<ViewSpec> {
        let shape = block.shape.as_ref().and_then(|shape| VIEWS.iter().find(|kind| kind.name == shape.value)).map(|kind| kind.shape);
        if let Some(shape) = shape {
            self.check_settings(block, shape);
        }
        let key = block.key.as_ref().and_then(|key| self.compiler.template(key, scope));
        if let (Some(shape), Some(template), Some(written)) = (shape, &key, &block.key)
            && one_key_per_row(shape)
        {
            self.check_key(template, written.at, windowed && table.is_some());
        }
        let fields = block.fields.as_ref().map(|fields| self.compiler.named(&fields.value, scope));
        let value = block.value.as_ref().map(|value| self.compiler.value(value, scope).map(|(program, _)| program));
        let score = block.score.as_ref().map(|score| self.compiler.wanted(score, scope, Want::Number, Nulls::Allowed, "`score`"));
        let member = block.member.as_ref().map(|member| match member {
            Mapped::Fields(fields) => self.compiler.named(&fields.value, scope).map(Member::Fields),
            Mapped::Whole(expression) => self.compiler.value(expression, scope).map(|(program, _)| Member::Whole(program)),
        });
        let on_delete = match block.on_delete.as_ref().map(|on_delete| on_delete.value) {
            None | Some(OnDeleteBlock::Del) => OnViewDelete::Del,
            Some(OnDeleteBlock::Keep) => OnViewDelete::Keep,
            Some(OnDeleteBlock::Expire(ms)) => OnViewDelete::Expire(ms),
        };
        Some(ViewSpec {
            name: name.clone(),
            table: table?,
            when: None,
            shape: shape?,
            key: key?,
            fields: fields.map_or(Some(None), |fields| fields.map(Some))?,
            value: value.map_or(Some(None), |program| program.map(Some))?,
            score: score.map_or(Some(None), |program| program.map(Some))?,
            member: member.map_or(Some(None), |member| member.map(Some))?,
            ttl_ms: block.ttl.as_ref().map(|ttl| ttl.value),
            on_delete,
            notify: None,
            keep_last: block.keep_last.as_ref().map(|keep| keep.value),
            replace_by_score: block.replace_by.is_some(),
        })
    }

    fn check_settings(&mut self, block: &RedisBlock, shape: ViewShape) {
        let kind = kind(shape);
        let (name, allowed) = (kind.name, kind.fields);
        for (key, at) in block.keys.iter().filter(|(key, _)| key != "as" && !allowed.contains(&key.as_str())) {
            let owners: Vec<&str> = VIEWS.iter().filter(|other| other.fields.contains(&key.as_str())).map(|other| other.name).collect();
            let help = format!("`{key}` belongs to {}; `{name}` has {}", suggest::list(&owners), suggest::list(allowed));
            self.compiler.diagnostics.push(codes::NOT_FOR_SHAPE, *at, format!("`{key}` is nothing that `as: {name}` has")).help(help);
        }
        for key in needed(shape).iter().filter(|key| !block.keys.iter().any(|(there, _)| there == *key)) {
            let at = block.shape.as_ref().map_or(block.at, |shape| shape.at);
            let help = match *key {
                "score" => "add `score: unix_ms(time)`, or another number",
                _ => "add `member: key`, or another value",
            };
            self.compiler.diagnostics.push(codes::MISSING_KEY, at, format!("`as: {name}` has no `{key}`")).help(help);
        }
        if let Some(on_delete) = &block.on_delete
            && matches!(shape, ViewShape::Zset | ViewShape::Set)
            && matches!(on_delete.value, OnDeleteBlock::Expire(_))
        {
            let message = format!("a member of a {name} cannot expire by itself");
            self.compiler.diagnostics.push(codes::NOT_WITH_THIS, on_delete.at, message).help("write `on_delete: del`, or leave it out");
        }
    }

    /// The key must tell the rows apart, and in windowed tables the windows.
    fn check_key(&mut self, template: &Template, at: Place, windowed: bool) {
        let mut values = template.parts.iter().filter_map(TemplatePart::program);
        if values.clone().next().is_none() {
            let message = "all rows would write the same Redis key";
            self.compiler.diagnostics.push(codes::CONSTANT_REDIS_KEY, at, message).help("put the row's key into it: `product:{key}`");
        } else if windowed && !values.any(|program| program.uses(slot::WINDOW)) {
            let message = "all windows of a key would write the same Redis key";
            let help = "put the window into it: `chart:{key}:{unix_ms(window.start)}`, or collect the windows with `as: zset`";
            self.compiler.diagnostics.push(codes::KEY_WITHOUT_WINDOW, at, message).help(help);
        }
    }
}
