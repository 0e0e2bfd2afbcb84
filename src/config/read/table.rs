//! Blocks under `tables`: sources of a table, field rules, windows.

use crate::config::codes;
use crate::config::keys::COLLECT;
use crate::config::keys::COUNT;
use crate::config::keys::DEDUPE;
use crate::config::keys::EMIT;
use crate::config::keys::INPUT;
use crate::config::keys::KEY_CODECS;
use crate::config::keys::LIMIT_DEFAULT;
use crate::config::keys::LIMIT_MAX;
use crate::config::keys::NameKind;
use crate::config::keys::ON_LATE;
use crate::config::keys::ON_STALE;
use crate::config::keys::ON_TIMEOUT;
use crate::config::keys::ON_TOMBSTONE;
use crate::config::keys::OWNER_MISSING;
use crate::config::keys::PUT;
use crate::config::keys::REMOVE;
use crate::config::keys::ROLES;
use crate::config::keys::RULE;
use crate::config::keys::TABLE;
use crate::config::keys::TOP;
use crate::config::keys::WHEN_OWNER_MISSING;
use crate::config::keys::WINDOW;
use crate::config::read::Fields;
use crate::config::read::Reader;
use crate::config::spec::Chosen;
use crate::config::spec::DedupeBlock;
use crate::config::spec::Expression;
use crate::config::spec::FieldBlock;
use crate::config::spec::InputBlock;
use crate::config::spec::Mapped;
use crate::config::spec::OwnerMissingBlock;
use crate::config::spec::RuleBlock;
use crate::config::spec::TableBlock;
use crate::config::spec::WindowBlock;
use crate::config::suggest;
use crate::config::yaml::Entry;
use crate::config::yaml::Node;
use crate::config::yaml::Yaml;

impl Reader<'_> {
    /// The name is kept even where the block cannot be read: then nobody says that it does not exist.
    pub(super) fn table(&mut self, entry: &Entry) -> Option<TableBlock> {
        let name = self.thing(entry);
        let fields = self.value_of(entry).and_then(|node| self.block(node, &TABLE));
        let mut table = TableBlock {
            name: name?,
            key: None,
            fields: None,
            inputs: Vec::new(),
            window: None,
            dedupe: None,
            on_stale: None,
            on_late: None,
            emit: None,
            keep: None,
            grave: None,
            query: None,
            broken: true,
        };
        let Some(fields) = fields else { return Some(table) };
        table.broken = fields.broken;
        table.key = fields.get("key").and_then(|node| self.table_key(node));
        table.fields = fields.get("fields").and_then(|node| self.field_declarations(node, NameKind::Field));
        if let Some(node) = fields.get("from") {
            self.inputs(node, &mut table);
        }
        table.window = fields.get("window").and_then(|node| self.window(node));
        table.dedupe = fields.get("dedupe").and_then(|node| self.dedupe(node));
        table.on_stale = fields.get("on_stale").and_then(|node| self.choice(node, ON_STALE));
        table.on_late = fields.get("on_late").and_then(|node| self.choice(node, ON_LATE));
        table.emit = fields.get("emit").and_then(|node| self.choice(node, EMIT));
        table.keep = fields.get("keep").and_then(|node| self.duration(node, 1));
        table.grave = fields.get("grave").and_then(|node| self.duration(node, 0));
        table.query = fields.get("query").and_then(|node| self.flag(node));
        table.broken |=
            table.window.as_ref().is_some_and(|window| window.broken) || fields.get("window").is_some() && table.window.is_none();
        Some(table)
    }

    /// A codec; an expression here would be another key than the sources'.
    fn table_key(&mut self, node: &Node) -> Option<Chosen> {
        let text = node.scalar().map(|scalar| scalar.text.as_str()).unwrap_or_default();
        if text.contains(['.', '(', '+', '[', ' ']) {
            let message = "a table is keyed by its sources' keys: re-keying comes with streams";
            let help = "`key` of a table is a codec, such as `string`; say with `keyed_by` of the source what the record key equals";
            self.diagnostics.push(codes::REKEYING, node.at, message).help(help);
            return None;
        }
        self.choice(node, KEY_CODECS)
    }

    fn inputs(&mut self, node: &Node, table: &mut TableBlock) {
        if let Yaml::Scalar(scalar) = &node.value {
            let message = format!("`from` of a table is a map of sources, not `{}`", scalar.text);
            self.diagnostics
                .push(codes::WRONG_SHAPE, node.at, message)
                .help(format!("write `from: {{ {}: {{ set: {{ name: event.name }} }} }}`", scalar.text));
            table.broken = true;
            return;
        }
        let Some(entries) = self.entries(node, "`from`") else {
            table.broken = true;
            return;
        };
        for entry in entries {
            let Some(source) = self.user_name(entry, NameKind::Thing) else {
                table.broken = true;
                continue;
            };
            let mut input = InputBlock {
                source,
                role: None,
                order_by: Vec::new(),
                when: None,
                set: Vec::new(),
                on_tombstone: None,
                owner_missing: None,
            };
            match self.value_of(entry).and_then(|node| self.block(node, &INPUT)) {
                Some(fields) => {
                    table.broken |= fields.broken;
                    table.broken |= !self.input(&fields, &mut input);
                }
                None => table.broken = true,
            }
            table.inputs.push(input);
        }
    }

    /// Whether the fields that it sets are known.
    fn input(&mut self, fields: &Fields<'_>, input: &mut InputBlock) -> bool {
        input.role = fields.get("role").and_then(|node| self.choice(node, ROLES));
        input.order_by = fields.get("order_by").map(|node| self.order_by(node)).unwrap_or_default();
        input.when = fields.get("when").and_then(|node| self.expression(node));
        input.on_tombstone = fields.get("on_tombstone").and_then(|node| self.choice(node, ON_TOMBSTONE));
        input.owner_missing = fields.get("when_owner_missing").and_then(|node| self.owner_missing(node));
        let Some(node) = fields.get("set") else { return true };
        let Some(entries) = self.entries(node, "`set` of a table") else { return false };
        let mut known = true;
        for entry in entries {
            let rule = self.value_of(entry).and_then(|node| self.rule(node));
            match self.user_name(entry, NameKind::Field) {
                Some(name) => input.set.push(FieldBlock { name, rule }),
                None => known = false,
            }
        }
        // A role that was reported is not missing.
        known && !(fields.get("role").is_some() && input.role.is_none())
    }

    fn order_by(&mut self, node: &Node) -> Vec<Expression> {
        match &node.value {
            Yaml::Sequence(items) => items.iter().filter_map(|item| self.expression(item)).collect(),
            _ => self.expression(node).into_iter().collect(),
        }
    }

    fn owner_missing(&mut self, node: &Node) -> Option<OwnerMissingBlock> {
        if node.scalar().is_some() {
            let what = self.choice(node, WHEN_OWNER_MISSING)?;
            return Some(OwnerMissingBlock { at: node.at, what: Some(what), max_wait: None, on_timeout: None, max_per_key: None });
        }
        let fields = self.block(node, &OWNER_MISSING)?;
        Some(OwnerMissingBlock {
            at: node.at,
            what: fields.get("do").and_then(|node| self.choice(node, WHEN_OWNER_MISSING)),
            max_wait: fields.get("max_wait").and_then(|node| self.duration(node, 1)),
            on_timeout: fields.get("on_timeout").and_then(|node| self.choice(node, ON_TIMEOUT)),
            max_per_key: fields.get("max_per_key").and_then(|node| self.count(node, 1, 100_000)),
        })
    }

    fn window(&mut self, node: &Node) -> Option<WindowBlock> {
        let fields = self.block(node, &WINDOW)?;
        let there = |key: &'static str| fields.get(key).is_some();
        if !there("tumbling") && !fields.broken {
            self.diagnostics.push(codes::MISSING_KEY, node.at, "a window has no length").help("add `tumbling: 1m`");
        }
        let window = WindowBlock {
            at: node.at,
            tumbling: fields.get("tumbling").and_then(|node| self.duration(node, 1)),
            grace: fields.get("grace").and_then(|node| self.duration(node, 0)),
            keep: fields.get("keep").and_then(|node| self.duration(node, 1)),
            idle_close: fields.get("idle_close").and_then(|node| self.duration(node, 1)),
            broken: fields.broken,
        };
        let grace_is_broken = there("grace") && window.grace.is_none();
        Some(WindowBlock { broken: window.broken || window.tumbling.is_none() || grace_is_broken, ..window })
    }

    fn dedupe(&mut self, node: &Node) -> Option<DedupeBlock> {
        let fields = self.block(node, &DEDUPE)?;
        Some(DedupeBlock {
            at: node.at,
            by: fields.get("by").and_then(|node| self.expression(node)),
            duration: fields.get("for").and_then(|node| self.duration(node, 1)),
        })
    }

    /// An expression, or one rule by its name.
    fn rule(&mut self, node: &Node) -> Option<RuleBlock> {
        let Yaml::Mapping(entries) = &node.value else {
            return self.expression(node).map(RuleBlock::Last);
        };
        let names: Vec<&str> = RULE.keys.iter().map(|key| key.name).filter(|name| *name != "limit").collect();
        let rules: Vec<&Entry> = entries.iter().filter(|entry| names.contains(&entry.key.as_str())).collect();
        let [rule] = rules[..] else {
            match (rules.first(), entries.iter().find(|entry| entry.key != "limit")) {
                (Some(first), _) => {
                    let second = rules[1];
                    let message = format!("a field has one rule, not both `{}` and `{}`", first.key, second.key);
                    self.diagnostics
                        .push(codes::BAD_RULE, second.key_at, message)
                        .help("give the other one a field of its own")
                        .also(first.key_at, "first here");
                }
                (None, Some(other)) => {
                    let help = suggest::did_you_mean(&other.key, names.iter().copied(), "field rules");
                    self.diagnostics.push(codes::BAD_RULE, other.key_at, format!("no field rule `{}`", other.key)).help_if(help);
                }
                (None, None) => {
                    let help = format!("write an expression, or one of the field rules: {}", suggest::list(&names));
                    self.diagnostics.push(codes::BAD_RULE, node.at, "a field rule is expected").help(help);
                }
            }
            return None;
        };
        let fields = self.block(node, &RULE)?;
        let takes_limit = matches!(rule.key.as_str(), "collect" | "distinct");
        if let (Some(limit), false) = (fields.get("limit"), takes_limit) {
            let help = if rule.key == "top" { "write it inside: `top: { by: event.score, limit: 10 }`" } else { "leave it out" };
            self.diagnostics.push(codes::BAD_RULE, limit.at, format!("`{}` takes no `limit` here", rule.key)).help(help);
        }
        let limit = match fields.get("limit") {
            Some(node) if takes_limit => self.count(node, 1, LIMIT_MAX)?.value as usize,
            _ => LIMIT_DEFAULT as usize,
        };
        let name = RULE.key(&rule.key)?.name;
        self.named_rule(name, fields.get(name)?, limit)
    }

    fn named_rule(&mut self, name: &str, node: &Node, limit: usize) -> Option<RuleBlock> {
        Some(match name {
            "last" => RuleBlock::Last(self.expression(node)?),
            "first" => RuleBlock::First(self.expression(node)?),
            "min" => RuleBlock::Min(self.expression(node)?),
            "max" => RuleBlock::Max(self.expression(node)?),
            "sum" => RuleBlock::Sum(self.expression(node)?),
            "avg" => RuleBlock::Avg(self.expression(node)?),
            "count" => {
                self.count_rule(node)?;
                RuleBlock::Count(node.at)
            }
            "collect" => {
                let (value, limit) = self.collected(node, limit)?;
                RuleBlock::Collect { value, limit }
            }
            "distinct" => {
                let (value, limit) = self.collected(node, limit)?;
                RuleBlock::Distinct { value, limit }
            }
            "top" => {
                let fields = self.block(node, &TOP)?;
                let value = match fields.get("value") {
                    Some(node) => Some(self.mapped(node, "`value`")?),
                    None => None,
                };
                let by = fields.get("by").and_then(|node| self.expression(node));
                let limit = fields.get("limit").and_then(|node| self.count(node, 1, LIMIT_MAX));
                RuleBlock::Top { by: by?, limit: limit?.value as usize, value }
            }
            "put" => {
                let fields = self.block(node, &PUT)?;
                let at = fields.get("at").and_then(|node| self.expression(node));
                let value = fields.get("value").and_then(|node| self.mapped(node, "`value`"));
                RuleBlock::Put { at: at?, value: value? }
            }
            "remove" => {
                let fields = self.block(node, &REMOVE)?;
                RuleBlock::Remove { at: fields.get("at").and_then(|node| self.expression(node))? }
            }
            _ => return None,
        })
    }

    /// `count: {}` takes nothing: what one counts conditionally is a sum.
    fn count_rule(&mut self, node: &Node) -> Option<()> {
        if node.scalar().is_some() {
            let help = "write `count: {}`; to count only some records, `sum: 'cond(event.ok, 1, 0)'`";
            self.diagnostics.push(codes::BAD_RULE, node.at, "`count` takes nothing").help(help);
            return None;
        }
        self.block(node, &COUNT).filter(|fields| !fields.broken).map(drop)
    }

    /// `collect: event.x`, or `collect: { value: …, limit: … }`. A map without `value` is a map of fields.
    fn collected(&mut self, node: &Node, limit: usize) -> Option<(Mapped, usize)> {
        let Yaml::Mapping(_) = &node.value else {
            return self.expression(node).map(|value| (Mapped::Whole(value), limit));
        };
        let fields = self.block(node, &COLLECT)?;
        let value = fields.get("value").and_then(|node| self.mapped(node, "`value`"));
        let limit = match fields.get("limit") {
            Some(node) => self.count(node, 1, LIMIT_MAX)?.value as usize,
            None => limit,
        };
        Some((value?, limit))
    }
}
