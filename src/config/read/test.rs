//! Blocks under `tests`: steps and what they expect.

use smol_str::SmolStr;

use crate::config::codes;
use crate::config::data::Data;
use crate::config::diagnostic::Place;
use crate::config::diagnostic::Placed;
use crate::config::keys::DEAD_LETTER;
use crate::config::keys::EXPECT_DEAD_LETTER;
use crate::config::keys::EXPECT_METRIC;
use crate::config::keys::EXPECT_OUTPUT;
use crate::config::keys::EXPECT_REDIS;
use crate::config::keys::EXPECT_TABLE;
use crate::config::keys::EXPECTATIONS;
use crate::config::keys::REBALANCE;
use crate::config::keys::RECORD;
use crate::config::keys::SEND;
use crate::config::keys::STEP;
use crate::config::keys::TEST;
use crate::config::read::Fields;
use crate::config::read::Reader;
use crate::config::spec::ExpectDeadLetter;
use crate::config::spec::ExpectMetric;
use crate::config::spec::ExpectOutput;
use crate::config::spec::ExpectRedis;
use crate::config::spec::ExpectTable;
use crate::config::spec::Expectation;
use crate::config::spec::ExpectedRecord;
use crate::config::spec::ExpectedValue;
use crate::config::spec::MetricIs;
use crate::config::spec::RedisHolds;
use crate::config::spec::Send;
use crate::config::spec::Step;
use crate::config::spec::StepKind;
use crate::config::spec::TestSpec;
use crate::config::suggest;
use crate::config::yaml::Entry;
use crate::config::yaml::Node;
use crate::config::yaml::Yaml;

impl Reader<'_> {
    pub(super) fn test(&mut self, node: &Node) -> Option<TestSpec> {
        let fields = self.block(node, &TEST)?;
        let name = fields.get("name").and_then(|node| self.text(node, "the name of a test"));
        let items = fields.get("steps").and_then(|node| self.items(node, "`steps`")).unwrap_or_default();
        let steps = items.iter().filter_map(|item| self.step(item)).collect();
        Some(TestSpec { name: name?, steps })
    }

    fn step(&mut self, node: &Node) -> Option<Step> {
        let fields = self.block(node, &STEP)?;
        let there: Vec<(&str, Place)> = fields.keys().collect();
        let (name, at) = match there[..] {
            [one] => one,
            [] if fields.broken => return None,
            [] => {
                let names: Vec<&str> = STEP.keys.iter().map(|key| key.name).collect();
                self.diagnostics
                    .push(codes::BAD_STEP, node.at, "a step without anything to do")
                    .help(format!("write one of {}", suggest::list(&names)));
                return None;
            }
            [(first, first_at), (second, at), ..] => {
                let message = format!("a step does one thing, not both `{first}` and `{second}`");
                self.diagnostics.push(codes::BAD_STEP, at, message).help("begin a new step with `- `").also(first_at, "first here");
                return None;
            }
        };
        let what = match name {
            "send" => StepKind::Send(self.send(fields.get("send")?)?),
            "expect" => StepKind::Expect(self.expect(fields.get("expect")?)?),
            "crash" => {
                self.only_true(fields.get("crash")?, "crash")?;
                StepKind::Crash
            }
            "commit" => {
                self.only_true(fields.get("commit")?, "commit")?;
                StepKind::Commit
            }
            "rebalance" => {
                let fields = self.block(fields.get("rebalance")?, &REBALANCE)?;
                StepKind::Rebalance { workers: fields.get("workers").and_then(|node| self.count(node, 1, 16))?.value as usize }
            }
            _ => StepKind::Advance(self.duration(fields.get("advance")?, 1)?.value),
        };
        Some(Step { at, what })
    }

    fn only_true(&mut self, node: &Node, name: &str) -> Option<()> {
        let flag = self.flag(node)?;
        if !flag.value {
            self.diagnostics.push(codes::BAD_STEP, flag.at, format!("`{name}: false` does nothing")).help("remove the step");
            return None;
        }
        Some(())
    }

    /// `{ source: value }`, or the long form with `to`.
    fn send(&mut self, node: &Node) -> Option<Send> {
        let entries = self.entries(node, "`send`")?;
        if entries.iter().any(|entry| entry.key == "to") {
            return self.send_long(node);
        }
        let [entry] = entries else {
            let message = format!("`send` takes one record, found {} keys", entries.len());
            let help = "write `send: { source: { … } }`, or `send: { to: source, value: { … }, key: … }`";
            self.diagnostics.push(codes::BAD_STEP, node.at, message).help(help);
            return None;
        };
        let source = Placed::new(entry.key.clone(), entry.key_at);
        // As in `replay`, null is a tombstone.
        let value = Some(Data::of(self.value_of(entry)?)).filter(|data| !data.value.is_null());
        Some(Send { to: source, value, key: None, headers: Vec::new(), time: None, partition: None })
    }

    fn send_long(&mut self, node: &Node) -> Option<Send> {
        let fields = self.block(node, &SEND)?;
        let tombstone = fields.get("tombstone").and_then(|node| self.flag(node)).is_some_and(|flag| flag.value);
        let value = fields.get("value").map(Data::of).filter(|data| !data.value.is_null());
        let null = fields.get("value").is_some() && value.is_none();
        if tombstone == (value.is_some() || null) && !fields.broken {
            let message = if tombstone { "a tombstone has no value" } else { "a record has a `value`, or `tombstone: true`" };
            self.diagnostics.push(codes::BAD_STEP, node.at, message).help("give one of the two");
        }
        let time = match fields.get("time") {
            Some(node) => Some(self.moment(node)?),
            None => None,
        };
        Some(Send {
            to: fields.get("to").and_then(|node| self.text(node, "the name of a source"))?,
            value,
            key: fields.get("key").map(Data::of),
            headers: self.headers(&fields),
            time,
            partition: fields.get("partition").and_then(|node| self.count(node, 0, 9_999)).map(|number| number.value as i32),
        })
    }

    fn headers(&mut self, fields: &Fields<'_>) -> Vec<(SmolStr, String)> {
        let headers = fields.get("headers").map(|node| self.texts(node, "`headers`")).unwrap_or_default();
        headers.into_iter().map(|(name, text)| (SmolStr::new(name.value), text)).collect()
    }

    /// A map from names to texts.
    fn texts(&mut self, node: &Node, noun: &str) -> Vec<(Placed<String>, String)> {
        let entries = self.entries(node, noun).unwrap_or_default();
        let text = |reader: &mut Self, entry: &Entry| {
            let text = reader.value_of(entry).and_then(|node| reader.text(node, "text"))?;
            Some((Placed::new(entry.key.clone(), entry.key_at), text.value))
        };
        entries.iter().filter_map(|entry| text(self, entry)).collect()
    }

    fn expect(&mut self, node: &Node) -> Option<Expectation> {
        let entries = self.entries(node, "`expect`")?;
        let kind = EXPECTATIONS.iter().find(|block| entries.iter().any(|entry| entry.key == block.keys[0].name));
        let Some(kind) = kind else {
            let names: Vec<&str> = EXPECTATIONS.iter().map(|block| block.keys[0].name).collect();
            let near = entries.iter().find_map(|entry| Some((entry.key_at, suggest::nearest(&entry.key, names.iter().copied())?)));
            let (at, help) = match near {
                Some((at, name)) => (at, format!("did you mean `{name}`?")),
                None => (node.at, format!("say what is looked at: {}", suggest::list(&names))),
            };
            self.diagnostics.push(codes::BAD_STEP, at, "an expectation of nothing that can be looked at").help(help);
            return None;
        };
        let fields = self.block(node, kind)?;
        match kind.keys[0].name {
            name if name == EXPECT_TABLE.keys[0].name => self.expect_table(node, &fields).map(Expectation::Table),
            name if name == EXPECT_REDIS.keys[0].name => self.expect_redis(node, &fields).map(Expectation::Redis),
            name if name == EXPECT_OUTPUT.keys[0].name => self.expect_output(&fields).map(Expectation::Output),
            name if name == EXPECT_DEAD_LETTER.keys[0].name => self.expect_dead_letter(&fields).map(Expectation::DeadLetter),
            name if name == EXPECT_METRIC.keys[0].name => self.expect_metric(node, &fields).map(Expectation::Metric),
            _ => None,
        }
    }

    fn expect_table(&mut self, node: &Node, fields: &Fields<'_>) -> Option<ExpectTable> {
        let absent = fields.get("absent").map(|node| self.only_true(node, "absent"));
        let row = fields.get("row").and_then(|node| self.entries(node, "`row`").map(|_| Data::of(node)));
        if absent.is_some() == fields.get("row").is_some() && !fields.broken {
            self.diagnostics.push(codes::BAD_STEP, node.at, "an expectation of a table has either `row` or `absent: true`");
            return None;
        }
        let window = match fields.get("window") {
            Some(node) => Some(self.moment(node)?),
            None => None,
        };
        Some(ExpectTable {
            table: fields.get("table").and_then(|node| self.text(node, "the name of a table"))?,
            key: fields.get("key").map(Data::of)?,
            window,
            row,
        })
    }

    fn expect_redis(&mut self, node: &Node, fields: &Fields<'_>) -> Option<ExpectRedis> {
        let kinds: Vec<(&str, Place)> = fields.keys().filter(|(key, _)| !matches!(*key, "redis" | "ttl")).collect();
        let ttl = match fields.get("ttl") {
            Some(node) => Some(self.duration(node, 0)?.value),
            None => None,
        };
        let holds = match kinds[..] {
            [] if ttl.is_some() || fields.broken => None,
            [] => {
                let help = "add `hash`, `json`, `string`, `zset`, `set`, `stream`, `published`, `ttl` or `absent: true`";
                self.diagnostics.push(codes::BAD_STEP, node.at, "an expectation of Redis says what the key holds").help(help);
                return None;
            }
            [(kind, _)] => Some(self.redis_holds(kind, fields)?),
            [(first, first_at), (second, at), ..] => {
                let message = format!("a Redis key holds one thing, not both `{first}` and `{second}`");
                self.diagnostics.push(codes::BAD_STEP, at, message).also(first_at, "first here");
                return None;
            }
        };
        Some(ExpectRedis { key: fields.get("redis").and_then(|node| self.text(node, "a Redis key"))?, ttl, holds })
    }

    fn redis_holds(&mut self, kind: &str, fields: &Fields<'_>) -> Option<RedisHolds> {
        Some(match kind {
            "absent" => {
                self.only_true(fields.get("absent")?, "absent")?;
                RedisHolds::Absent
            }
            "hash" => {
                let node = fields.get("hash")?;
                self.entries(node, "`hash`")?;
                RedisHolds::Hash(Data::of(node))
            }
            "json" => RedisHolds::Json(Data::of(fields.get("json")?)),
            "string" => RedisHolds::String(self.text(fields.get("string")?, "text")?.value),
            "zset" => {
                let node = fields.get("zset")?;
                for item in self.items(node, "`zset`")? {
                    let entries = self.entries(item, "a member of a sorted set")?;
                    if !entries.iter().any(|entry| entry.key == "member") || !entries.iter().any(|entry| entry.key == "score") {
                        self.diagnostics.push(codes::BAD_STEP, item.at, "a member of a sorted set has a `score` and a `member`");
                    }
                }
                RedisHolds::Zset(Data::of(node))
            }
            "set" => RedisHolds::Set(self.list(fields.get("set")?, "`set`")?),
            "stream" => RedisHolds::Stream(self.list(fields.get("stream")?, "`stream`")?),
            _ => RedisHolds::Published(self.list(fields.get("published")?, "`published`")?),
        })
    }

    fn list(&mut self, node: &Node, noun: &str) -> Option<Data> {
        self.items(node, noun)?;
        Some(Data::of(node))
    }

    fn expect_output(&mut self, fields: &Fields<'_>) -> Option<ExpectOutput> {
        let items = fields.get("records").and_then(|node| self.items(node, "`records`"));
        let mut records = Vec::new();
        for item in items.unwrap_or_default() {
            let Some(fields) = self.block(item, &RECORD) else { continue };
            let tombstone = fields.get("tombstone").and_then(|node| self.flag(node)).is_some_and(|flag| flag.value);
            let null = |node: &Node| matches!(&node.value, Yaml::Scalar(_)) && Data::of(node).value.is_null();
            let value = match fields.get("value") {
                Some(node) if tombstone => {
                    self.diagnostics.push(codes::BAD_STEP, node.at, "a tombstone has no value").help("give one of the two");
                    ExpectedValue::Tombstone
                }
                Some(node) if null(node) => ExpectedValue::Tombstone,
                Some(node) => ExpectedValue::Value(Data::of(node)),
                None if tombstone => ExpectedValue::Tombstone,
                None => ExpectedValue::NotCompared,
            };
            let headers = self.headers(&fields);
            records.push(ExpectedRecord { at: item.at, key: fields.get("key").map(Data::of), value, headers });
        }
        items?;
        Some(ExpectOutput { output: fields.get("output").and_then(|node| self.text(node, "the name of an output"))?, records })
    }

    fn expect_dead_letter(&mut self, fields: &Fields<'_>) -> Option<ExpectDeadLetter> {
        let fields = self.block(fields.get("dead_letter")?, &DEAD_LETTER)?;
        Some(ExpectDeadLetter {
            source: fields.get("source").and_then(|node| self.text(node, "the name of a source")),
            reason: fields.get("reason").and_then(|node| self.text(node, "a reason")),
            detail: fields.get("detail").and_then(|node| self.text(node, "a part of the detail")).map(|text| text.value),
            key: fields.get("key").map(Data::of),
            value: fields.get("value").map(Data::of),
            headers: self.headers(&fields),
            count: fields.get("count").and_then(|node| self.count(node, 0, 1_000_000)).map(|count| count.value),
        })
    }

    fn expect_metric(&mut self, node: &Node, fields: &Fields<'_>) -> Option<ExpectMetric> {
        let is = match (fields.get("is"), fields.get("at_least")) {
            (Some(node), None) => MetricIs::Exactly(self.count(node, 0, u64::MAX)?.value),
            (None, Some(node)) => MetricIs::AtLeast(self.count(node, 0, u64::MAX)?.value),
            _ if fields.broken => return None,
            _ => {
                self.diagnostics.push(codes::BAD_STEP, node.at, "an expectation of a metric has either `is` or `at_least`");
                return None;
            }
        };
        let metric = fields.get("metric").and_then(|node| self.text(node, "the name of a metric"))?;
        let labels = fields.get("labels").map(|node| self.texts(node, "`labels`")).unwrap_or_default();
        Some(ExpectMetric { metric, labels, is })
    }
}
