//! Runs the tests of a topology file: steps and expectations, on the engine that runs in production.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value as Tree;

use crate::codec::json::to_json;
use crate::config::diagnostic::{Place, SourceText};
use crate::config::spec::{
    ExpectDeadLetter, ExpectMetric, ExpectOutput, ExpectRedis, ExpectTable, Expectation, ExpectedValue, MetricIs, RedisHolds, Step,
    StepKind, TestSpec,
};
use crate::model::{Clock, Headers, Key, Object, TableId, Time, Value};
use crate::operators::DeadLetter;
use crate::runtime::observe::CommittedOutput;
use crate::state::layout;
use crate::testkit::driver::{Driver, DriverError, DriverSettings};
use crate::testkit::send::{ToSend, encode, key_value};
use crate::topology::{Plan, Topology};
use crate::views::place::Held;

/// Characters of a dead letter's value in a message: enough to know it again.
const DEAD_LETTER_VALUE_SHOWN_MAX: usize = 200;

/// A test that failed: where, and what was expected and found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Line and column of the step, from 1.
    pub line: usize,
    pub column: usize,
    /// What is wrong, and expected and actual below each other.
    pub text: String,
}

/// Runs one test.
///
/// # Errors
/// The first step that fails.
pub fn run(plan: &Plan, file: &SourceText, test: &TestSpec) -> Result<(), Failure> {
    let place = |at: Place| file.line_column(at.start);
    let fail = |at: Place, text: String| {
        let (line, column) = place(at);
        Failure { line, column, text }
    };
    let driver = Driver::new(plan.clone(), DriverSettings::default(), Vec::new()).map_err(|error| fail(test.name.at, error.0))?;
    let mut scenario = Scenario { driver, outputs: BTreeMap::new(), dead_letters: Vec::new(), published: Vec::new() };
    for step in &test.steps {
        scenario.step(step).map_err(|text| fail(step.at, text))?;
    }
    Ok(())
}

struct Scenario {
    driver: Driver,
    /// Per output: records since the last expectation.
    outputs: BTreeMap<usize, Vec<CommittedOutput>>,
    dead_letters: Vec<DeadLetter>,
    published: Vec<(String, String)>,
}

impl Scenario {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        let said = |error: DriverError| error.0;
        match &step.what {
            StepKind::Send(send) => {
                let headers =
                    send.headers.iter().map(|(name, value)| (name.clone(), Some(Bytes::copy_from_slice(value.as_bytes())))).collect();
                let to_send = ToSend {
                    to: &send.to.value,
                    value: send.value.as_ref().map(|data| data.text.as_str()),
                    key: send.key.as_ref().map(|data| &data.value),
                    headers,
                    time: send.time.map(Time),
                    partition: send.partition,
                };
                let encoded = encode(&self.driver.plan().topology, to_send).map_err(said)?;
                let time = encoded.time.unwrap_or_else(|| self.driver.clock.now());
                self.driver.send(&encoded.topic, encoded.partition, encoded.key, encoded.value, time, encoded.headers).map_err(said)?;
                self.driver.process().map_err(said)
            }
            StepKind::Commit => self.driver.settle().map_err(said),
            StepKind::Crash => self.driver.crash().map_err(said),
            StepKind::Rebalance { workers } => self.driver.rebalance(*workers).map_err(said),
            StepKind::Advance(ms) => {
                self.driver.settle().map_err(said)?;
                self.driver.advance(*ms).map_err(said)
            }
            StepKind::Expect(expectation) => {
                // Expectations see what is committed.
                self.driver.settle().map_err(said)?;
                self.collect();
                self.expect(expectation)
            }
        }
    }

    fn collect(&mut self) {
        for committed in self.driver.tap.take() {
            self.dead_letters.extend(committed.dead_letters);
            for output in committed.outputs {
                self.outputs.entry(output.output.0).or_default().push(output);
            }
        }
        let published = self.driver.redis.with(|place| place.take_published());
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        self.published.extend(published.into_iter().map(|(channel, payload)| (text(channel), text(payload))));
    }

    fn expect(&mut self, expectation: &Expectation) -> Result<(), String> {
        match expectation {
            Expectation::Table(expected) => self.expect_table(expected),
            Expectation::Redis(expected) => self.expect_redis(expected),
            Expectation::Output(expected) => self.expect_output(expected),
            Expectation::DeadLetter(expected) => self.expect_dead_letter(expected),
            Expectation::Metric(expected) => self.expect_metric(expected),
        }
    }

    fn expect_table(&mut self, expected: &ExpectTable) -> Result<(), String> {
        let topology = &self.driver.plan().topology;
        let index =
            topology.tables.iter().position(|table| *table.name == *expected.table.value.as_str()).ok_or("there is no such table")?;
        let codec = topology.tables[index].key;
        let value = key_value(codec, &expected.key.value).map_err(|error| error.0)?;
        let record_key = codec.store_key(&value).map_err(|bad| bad.detail)?;
        let key = expected.window.map_or_else(|| record_key.clone(), |start| layout::windowed_key(&record_key, Time(start)));
        let row = self.row(TableId(index), &key)?;
        let name = format!("table `{}`, key {}", expected.table.value, expected.key.value);
        match (&expected.row, row) {
            (None, None) => Ok(()),
            (None, Some(row)) => {
                Err(unlike(&format!("{name}: the row is there"), &Tree::String("absent".into()), &to_json(&Value::Object(row))))
            }
            (Some(expected), None) => Err(unlike(&format!("{name}: there is no row"), &expected.value, &Tree::String("absent".into()))),
            (Some(expected), Some(row)) => {
                let actual = to_json(&Value::Object(row));
                if contains(&actual, &expected.value) {
                    Ok(())
                } else {
                    Err(unlike(&format!("{name}: the row differs"), &expected.value, &actual))
                }
            }
        }
    }

    /// The committed row, from whichever worker has it.
    fn row(&mut self, table: TableId, key: &Key) -> Result<Option<Object>, String> {
        for thread in self.driver.threads() {
            for task in thread.tasks_mut() {
                let Some(at) = task.tables.iter().position(|known| known.id() == table) else { continue };
                let store = task.tables[at].rows();
                let bytes = task.state.get_committed(store, key).map_err(|error| error.to_string())?;
                if let Some(bytes) = bytes {
                    let row = task.tables[at].show_stored(bytes).map_err(|error| error.to_string())?;
                    if row.is_some() {
                        return Ok(row);
                    }
                }
            }
        }
        Ok(None)
    }

    fn expect_redis(&mut self, expected: &ExpectRedis) -> Result<(), String> {
        let key = &expected.key.value;
        let now = self.driver.clock.now();
        let held = self.driver.redis.get(key, now);
        let shown = |held: &Option<Held>| held.as_ref().map_or(Tree::String("absent".into()), held_json);
        let differs = |what: &str, wanted: &Tree| Err(unlike(&format!("Redis key `{key}`: {what}"), wanted, &shown(&held)));
        if let Some(ttl) = expected.ttl {
            let actual = self.driver.redis.with(|place| place.ttl_ms(key.as_bytes(), now));
            if actual != Some(ttl) {
                return Err(format!("Redis key `{key}`: the TTL differs\n  expected: {ttl} ms\n  actual:   {actual:?}"));
            }
        }
        let Some(holds) = &expected.holds else { return Ok(()) };
        match (holds, &held) {
            (RedisHolds::Absent, None) => Ok(()),
            (RedisHolds::Absent, Some(_)) => differs("it is there", &Tree::String("absent".into())),
            (RedisHolds::Hash(data), Some(Held::Hash(_))) if contains(&shown(&held), &texts(&data.value)) => Ok(()),
            (RedisHolds::Json(data), Some(Held::String(text))) => {
                let actual: Tree = serde_json::from_slice(text).unwrap_or(Tree::Null);
                if contains(&actual, &data.value) { Ok(()) } else { differs("it differs", &data.value) }
            }
            (RedisHolds::String(wanted), Some(Held::String(text))) if text == wanted.as_bytes() => Ok(()),
            (RedisHolds::String(wanted), _) => differs("it differs", &Tree::String(wanted.clone())),
            (RedisHolds::Set(data), Some(Held::Set(_)))
            | (RedisHolds::Stream(data), Some(Held::Stream(_)))
            | (RedisHolds::Zset(data), Some(Held::Zset(_))) => {
                let actual = unpacked(shown(&held));
                if same_list(&actual, &data.value) {
                    Ok(())
                } else {
                    Err(unlike(&format!("Redis key `{key}`: it differs"), &data.value, &actual))
                }
            }
            (RedisHolds::Published(data), _) => {
                let taken: Vec<Tree> =
                    self.published.iter().filter(|(channel, _)| channel == key).map(|(_, payload)| Tree::String(payload.clone())).collect();
                self.published.retain(|(channel, _)| channel != key);
                let actual = unpacked(Tree::Array(taken));
                if same_list(&actual, &data.value) {
                    Ok(())
                } else {
                    Err(unlike(&format!("channel `{key}`: the messages differ"), &data.value, &actual))
                }
            }
            (
                RedisHolds::Hash(data) | RedisHolds::Json(data) | RedisHolds::Set(data) | RedisHolds::Stream(data) | RedisHolds::Zset(data),
                _,
            ) => differs("it differs", &data.value),
        }
    }

    fn expect_output(&mut self, expected: &ExpectOutput) -> Result<(), String> {
        let name = &expected.output.value;
        let index = self
            .driver
            .plan()
            .topology
            .outputs
            .iter()
            .position(|output| *output.name == *name.as_str())
            .ok_or("there is no such output")?;
        let records = self.outputs.remove(&index).unwrap_or_default();
        let shows_headers = expected.records.iter().any(|record| !record.headers.is_empty());
        let actual = Tree::Array(records.iter().map(|record| output_json(record, shows_headers)).collect());
        let wanted = Tree::Array(expected.records.iter().map(wanted_json).collect());
        let is_same = records.len() == expected.records.len()
            && records.iter().zip(&expected.records).all(|(record, expected)| {
                let key = expected.key.as_ref().is_none_or(|key| contains(&to_json(&record.key), &key.value));
                let value = match &expected.value {
                    ExpectedValue::NotCompared => true,
                    ExpectedValue::Tombstone => record.value.is_none(),
                    ExpectedValue::Value(data) => record.value.as_ref().is_some_and(|value| contains(&to_json(value), &data.value)),
                };
                let headers = expected.headers.iter().all(|(name, value)| has_header(&record.headers, name, value));
                key && value && headers
            });
        if is_same { Ok(()) } else { Err(unlike(&format!("output `{name}`: the records since the last look differ"), &wanted, &actual)) }
    }

    /// Those that are found are taken, so that `count: 0` afterwards says that there were no others.
    fn expect_dead_letter(&mut self, expected: &ExpectDeadLetter) -> Result<(), String> {
        let topology = &self.driver.plan().topology;
        let (found, left): (Vec<DeadLetter>, Vec<DeadLetter>) =
            std::mem::take(&mut self.dead_letters).into_iter().partition(|letter| is_expected(expected, letter, topology));
        let count = found.len() as u64;
        if expected.count.map_or(count > 0, |wanted| wanted == count) {
            self.dead_letters = left;
            return Ok(());
        }
        let list = |letters: &[DeadLetter]| match letters {
            [] => "none".to_owned(),
            some => some.iter().map(|letter| format!("\n    {}", letter_text(letter, topology))).collect(),
        };
        let wanted = expected.count.map_or("at least one".to_owned(), |count| count.to_string());
        Err(format!(
            "dead letters like this one: the number differs\n  expected: {wanted}\n  actual:   {count}\n  found:    {}\n  others:   {}",
            list(&found),
            list(&left)
        ))
    }

    fn expect_metric(&mut self, expected: &ExpectMetric) -> Result<(), String> {
        let labels: Vec<(&str, &str)> = expected.labels.iter().map(|(name, value)| (name.value.as_str(), value.as_str())).collect();
        let actual = self.driver.metrics.sum(&expected.metric.value, &labels);
        let (holds, wanted) = match expected.is {
            MetricIs::Exactly(wanted) => (actual == wanted as i64, wanted.to_string()),
            MetricIs::AtLeast(wanted) => (actual >= wanted as i64, format!("at least {wanted}")),
        };
        if holds {
            Ok(())
        } else {
            Err(format!("metric `{}`: it differs\n  expected: {wanted}\n  actual:   {actual}", expected.metric.value))
        }
    }
}

fn is_expected(expected: &ExpectDeadLetter, letter: &DeadLetter, topology: &Topology) -> bool {
    let source = &topology.sources[letter.source.0];
    let headers = expected.headers.iter().all(|(name, value)| has_header(&letter.headers, name, value));
    expected.source.as_ref().is_none_or(|name| *source.name == *name.value.as_str())
        && expected.reason.as_ref().is_none_or(|reason| letter.reason == reason.value)
        && expected.detail.as_ref().is_none_or(|detail| letter.detail.contains(detail))
        && expected.key.as_ref().is_none_or(|wanted| contains(&letter_key(letter, topology), &wanted.value))
        && expected.value.as_ref().is_none_or(|wanted| contains(&letter_value(letter), &wanted.value))
        && headers
}

fn letter_text(letter: &DeadLetter, topology: &Topology) -> String {
    let (key, value) = (letter_key(letter, topology), letter_value(letter).to_string());
    let name = &topology.sources[letter.source.0].name;
    let short: String = value.chars().take(DEAD_LETTER_VALUE_SHOWN_MAX).collect();
    let more = if short.len() < value.len() { "…" } else { "" };
    format!("{name} {}: {} (key {key}, value {short}{more})", letter.reason, letter.detail)
}

/// The key as the source reads it; a key that it cannot read as text.
fn letter_key(letter: &DeadLetter, topology: &Topology) -> Tree {
    let Some(bytes) = letter.key.as_deref() else { return Tree::Null };
    let read = topology.sources[letter.source.0].key.decode(bytes);
    read.map_or_else(|_| Tree::String(String::from_utf8_lossy(bytes).into_owned()), |(_, key)| to_json(&key))
}

/// The value as JSON, or else as text.
fn letter_value(letter: &DeadLetter) -> Tree {
    letter.value.as_deref().map_or(Tree::Null, |bytes| {
        serde_json::from_slice(bytes).unwrap_or_else(|_| Tree::String(String::from_utf8_lossy(bytes).into_owned()))
    })
}

fn has_header(headers: &Headers, name: &str, value: &str) -> bool {
    headers.iter().any(|(known, bytes)| known == name && bytes.as_deref() == Some(value.as_bytes()))
}

fn unlike(what: &str, expected: &Tree, actual: &Tree) -> String {
    format!("{what}\n  expected: {expected}\n  actual:   {actual}")
}

/// Whether the named fields are equal; lists are compared whole, numbers by value (`12` is `12.0`), a text and a number by text.
fn contains(actual: &Tree, expected: &Tree) -> bool {
    match (actual, expected) {
        (Tree::Object(actual), Tree::Object(expected)) => {
            expected.iter().all(|(name, expected)| contains(actual.get(name).unwrap_or(&Tree::Null), expected))
        }
        (Tree::Array(actual), Tree::Array(expected)) => {
            actual.len() == expected.len() && actual.iter().zip(expected).all(|(a, e)| contains(a, e))
        }
        (Tree::Number(a), Tree::Number(e)) => a == e || a.as_f64() == e.as_f64(),
        // A decimal is a text with its scale; written without quotes it means the same.
        (Tree::String(a), Tree::Number(e)) => *a == e.to_string(),
        _ => actual == expected,
    }
}

/// Redis knows texts only: a number or a boolean that is expected is its text.
fn texts(expected: &Tree) -> Tree {
    match expected {
        Tree::Object(fields) => Tree::Object(
            fields
                .iter()
                .map(|(name, value)| {
                    let text = match value {
                        Tree::Null | Tree::String(_) => value.clone(),
                        other => Tree::String(other.to_string()),
                    };
                    (name.clone(), text)
                })
                .collect(),
        ),
        other => other.clone(),
    }
}

fn held_json(held: &Held) -> Tree {
    let mut text = Vec::new();
    held.write_json(&mut text);
    serde_json::from_slice(&text).unwrap_or(Tree::Null)
}

/// Members and messages that are JSON are compared as JSON.
fn unpacked(tree: Tree) -> Tree {
    match tree {
        Tree::Array(items) => Tree::Array(items.into_iter().map(unpacked).collect()),
        Tree::Object(fields) => Tree::Object(fields.into_iter().map(|(name, value)| (name, unpacked(value))).collect()),
        Tree::String(text) => match serde_json::from_str::<Tree>(&text) {
            Ok(tree @ (Tree::Object(_) | Tree::Array(_))) => tree,
            _ => Tree::String(text),
        },
        other => other,
    }
}

fn same_list(actual: &Tree, expected: &Tree) -> bool {
    contains(actual, expected)
}

fn output_json(record: &CommittedOutput, with_headers: bool) -> Tree {
    let mut shown = serde_json::json!({ "key": to_json(&record.key), "value": record.value.as_ref().map_or(Tree::Null, to_json) });
    if with_headers {
        let text =
            |bytes: &Option<Bytes>| bytes.as_deref().map_or(Tree::Null, |bytes| Tree::String(String::from_utf8_lossy(bytes).into_owned()));
        shown["headers"] = record.headers.iter().map(|(name, bytes)| (name.to_string(), text(bytes))).collect();
    }
    shown
}

fn wanted_json(record: &crate::config::spec::ExpectedRecord) -> Tree {
    let mut wanted = serde_json::Map::new();
    if let Some(key) = &record.key {
        wanted.insert("key".into(), key.value.clone());
    }
    match &record.value {
        ExpectedValue::NotCompared => {}
        ExpectedValue::Tombstone => {
            wanted.insert("value".into(), Tree::Null);
        }
        ExpectedValue::Value(data) => {
            wanted.insert("value".into(), data.value.clone());
        }
    }
    if !record.headers.is_empty() {
        wanted
            .insert("headers".into(), record.headers.iter().map(|(name, value)| (name.to_string(), Tree::String(value.clone()))).collect());
    }
    Tree::Object(wanted)
}
