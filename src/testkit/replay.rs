//! `millstream replay`: records in, everything that comes out, one JSON object a line. Same input, same bytes.
//!
//! In: `{"source":"left","key":"a","value":{…},"time":1000,"headers":{},"partition":0}`, a tombstone with `"value":null` or
//! `"tombstone":true`, and the control lines `{"advance":"31d"}`, `{"commit":true}`, `{"crash":true}`, `{"rebalance":{"workers":2}}`.
//! Out: outputs, committed table changes, view writes and dead letters, in the order produced; `input` is the number of the
//! line that caused it, from 1.

use std::collections::BTreeMap;
use std::io::{BufRead, Read, Write};

use bytes::Bytes;
use serde_json::Value as Tree;
use serde_json::value::RawValue;
use smol_str::SmolStr;

use crate::codec::json::write_value;
use crate::config::duration;
use crate::model::{Headers, Key, Name, TableId, Time, Timestamp, Value};
use crate::operators::Origin;
use crate::runtime::emit::windowed_key;
use crate::runtime::observe::Committed;
use crate::testkit::driver::{Driver, DriverError, DriverSettings};
use crate::testkit::send::{ToSend, encode};
use crate::topology::Plan;

/// A line of input; unknown keys are refused.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    source: Option<String>,
    key: Option<Tree>,
    /// Absent and null are told apart by the outer option.
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<Option<&'a RawValue>>,
    time: Option<Tree>,
    headers: Option<BTreeMap<String, Option<String>>>,
    partition: Option<i32>,
    tombstone: Option<bool>,
    advance: Option<String>,
    commit: Option<bool>,
    crash: Option<bool>,
    rebalance: Option<Rebalance>,
}

impl Line<'_> {
    /// The keys of a record that the line has.
    fn record_keys(&self) -> Vec<&'static str> {
        let keys = [
            ("source", self.source.is_some()),
            ("key", self.key.is_some()),
            ("value", self.value.is_some()),
            ("time", self.time.is_some()),
            ("headers", self.headers.is_some()),
            ("partition", self.partition.is_some()),
            ("tombstone", self.tombstone.is_some()),
        ];
        keys.into_iter().filter_map(|(name, is_there)| is_there.then_some(name)).collect()
    }

    /// The controls that the line has.
    fn controls(&self) -> Vec<&'static str> {
        let controls = [
            ("advance", self.advance.is_some()),
            ("commit", self.commit.is_some()),
            ("crash", self.crash.is_some()),
            ("rebalance", self.rebalance.is_some()),
        ];
        controls.into_iter().filter_map(|(name, is_there)| is_there.then_some(name)).collect()
    }

    /// A line says one thing: one record, or one control.
    fn check(&self) -> Result<(), String> {
        let (controls, keys) = (self.controls(), self.record_keys());
        match (controls.as_slice(), keys.as_slice()) {
            ([], []) => Err("needs `source`, or `advance`, `commit`, `crash`, `rebalance`".to_owned()),
            ([], _) if self.source.is_none() => Err("a record needs `source`".to_owned()),
            ([], _) if self.tombstone == Some(true) && self.value.flatten().is_some_and(|value| value.get() != "null") => {
                Err("has a `value` and says `\"tombstone\":true`: leave one of them out".to_owned())
            }
            ([], _) if self.value.is_none() && self.tombstone != Some(true) => {
                Err("needs `value` (null, or `\"tombstone\":true`, for a tombstone)".to_owned())
            }
            ([], _) => Ok(()),
            ([first, second, ..], _) => Err(format!("`{first}` and `{second}` on one line: write a line for each")),
            ([control], [key, ..]) => Err(format!("`{control}` and `{key}` on one line: write a line for each")),
            (["commit"], []) if self.commit == Some(false) => Err("`commit` is true, or left out".to_owned()),
            (["crash"], []) if self.crash == Some(false) => Err("`crash` is true, or left out".to_owned()),
            ([_], []) => Ok(()),
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Rebalance {
    workers: usize,
}

fn present<'de: 'a, 'a, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<&'a RawValue>>, D::Error> {
    serde::Deserialize::deserialize(deserializer).map(Some)
}

/// Why a replay ended early.
#[derive(Debug)]
pub enum ReplayError {
    /// A line of the input, from 1, and what is wrong with it.
    Line(usize, String),
    /// The engine stopped.
    Engine(DriverError),
    Io(std::io::Error),
}

impl std::fmt::Display for ReplayError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReplayError::Line(number, problem) => write!(f, "line {number}: {problem}"),
            ReplayError::Engine(error) => write!(f, "{error}"),
            ReplayError::Io(error) => write!(f, "{error}"),
        }
    }
}

impl From<DriverError> for ReplayError {
    fn from(error: DriverError) -> ReplayError {
        ReplayError::Engine(error)
    }
}

impl From<std::io::Error> for ReplayError {
    fn from(error: std::io::Error) -> ReplayError {
        ReplayError::Io(error)
    }
}

/// Replays all lines of `input` into `output`, with a commit after every `commit_every` records (at least 1).
///
/// # Errors
/// [`ReplayError`]; what was committed before is in `output`.
pub fn replay(
    plan: Plan,
    settings: DriverSettings,
    commit_every: usize,
    input: impl BufRead,
    mut output: impl Write,
) -> Result<(), ReplayError> {
    let mut input = input;
    let mut replay =
        Replay { driver: Driver::new(plan, settings, Vec::new())?, lines: BTreeMap::new(), line: 0, lines_of_rows: BTreeMap::new() };
    let mut since_commit = 0;
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        if (&mut input).take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        replay.line = number;
        let bad = |problem: String| ReplayError::Line(number, problem);
        if bytes.len() as u64 > LINE_BYTES_MAX {
            return Err(bad(format!("has more than {} MiB", LINE_BYTES_MAX >> 20)));
        }
        let text = match str::from_utf8(&bytes) {
            // Editors of some systems begin a file with a mark.
            Ok(text) if number == 1 => text.trim_start_matches('\u{feff}'),
            Ok(text) => text,
            Err(error) => return Err(bad(format!("is not UTF-8 from byte {} on", error.valid_up_to() + 1))),
        };
        if text.trim().is_empty() {
            continue;
        }
        let line: Line<'_> = serde_json::from_str(text).map_err(|error| bad(json_problem(&error)))?;
        line.check().map_err(bad)?;
        if replay.act(&line)? {
            since_commit += 1;
        } else {
            since_commit = commit_every;
        }
        if since_commit >= commit_every.max(1) {
            replay.driver.commit()?;
            replay.driver.process()?;
            since_commit = 0;
        }
        replay.write(&mut output)?;
    }
    replay.driver.settle()?;
    replay.write(&mut output)?;
    output.flush()?;
    Ok(())
}

/// The longest line; a record of Kafka is far shorter.
const LINE_BYTES_MAX: u64 = 64 << 20;

fn json_problem(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    format!("{} (column {})", text.strip_suffix(&place).unwrap_or(&text), error.column())
}

struct Replay {
    driver: Driver,
    /// Which line a record came from.
    lines: BTreeMap<(Name, i32, i64), usize>,
    line: usize,
    /// Which line changed a row last, for its view writes.
    lines_of_rows: BTreeMap<(TableId, Key, Option<(Time, Time)>), usize>,
}

impl Replay {
    /// Does what a line says. Returns true for a record, false for a control line, after which a commit follows in any case.
    fn act(&mut self, line: &Line<'_>) -> Result<bool, ReplayError> {
        let number = self.line;
        let bad = move |problem: String| ReplayError::Line(number, problem);
        if let Some(text) = &line.advance {
            let ms = duration::parse(text).map_err(|problem| bad(format!("`advance`: {problem}")))?;
            self.driver.advance(ms)?;
        } else if line.commit == Some(true) {
            self.driver.commit()?;
        } else if line.crash == Some(true) {
            self.driver.crash()?;
        } else if let Some(rebalance) = &line.rebalance {
            if !(1..=64).contains(&rebalance.workers) {
                return Err(bad(format!("`rebalance`: 1 to 64 workers, found {}", rebalance.workers)));
            }
            self.driver.rebalance(rebalance.workers)?;
        } else {
            let source = line.source.as_deref().unwrap_or_default();
            let value = line.value.flatten().map(RawValue::get).filter(|text| *text != "null");
            let time = line.time.as_ref().map(read_time).transpose().map_err(bad)?;
            let headers = line.headers.iter().flatten();
            let headers = headers
                .map(|(name, value)| (SmolStr::new(name), value.as_ref().map(|text| Bytes::copy_from_slice(text.as_bytes()))))
                .collect();
            let to_send = ToSend { to: source, value, key: line.key.as_ref(), headers, time, partition: line.partition };
            let encoded = encode(&self.driver.plan().topology, to_send).map_err(|error| bad(error.0))?;
            let now = crate::model::Clock::now(&self.driver.clock);
            let topic = encoded.topic.clone();
            let sent =
                self.driver.send(&topic, encoded.partition, encoded.key, encoded.value, encoded.time.unwrap_or(now), encoded.headers);
            let (partition, offset) = sent.map_err(|error| bad(error.0))?;
            self.lines.insert((topic, partition, offset), number);
            self.driver.process()?;
            return Ok(true);
        }
        Ok(false)
    }

    fn line_of(&self, origin: Option<Origin>, partition: i32) -> usize {
        let Some(origin) = origin else { return self.line };
        let topic = &self.driver.plan().topology.sources[origin.source.0].topic;
        self.lines.get(&(topic.clone(), partition, origin.offset)).copied().unwrap_or(self.line)
    }

    /// Writes what was committed since the last call.
    fn write(&mut self, output: &mut impl Write) -> Result<(), ReplayError> {
        let mut lines: Vec<Vec<u8>> = Vec::new();
        for committed in self.driver.tap.take() {
            self.write_committed(&committed, &mut lines);
        }
        for effect in self.driver.redis.take_effects() {
            let table = self.driver.plan().topology.views.iter().find(|view| view.name == effect.view).map(|view| view.table);
            let row = table.map(|table| (table, effect.row.0.clone(), effect.row.1));
            let line = row.and_then(|row| self.lines_of_rows.get(&row)).copied().unwrap_or(self.line);
            let mut object = Writer::new(line, "view", &effect.view);
            object.text("op", effect.effect.op);
            object.text("key", &String::from_utf8_lossy(&effect.effect.key));
            match &effect.effect.value {
                Some(held) => object.with("value", |out| held.write_json(out)),
                None => object.raw("value", b"null"),
            }
            lines.push(object.end());
        }
        for line in lines {
            output.write_all(&line)?;
        }
        Ok(())
    }

    fn write_committed(&mut self, committed: &Committed, lines: &mut Vec<Vec<u8>>) {
        let partition = committed.task.partition;
        let topology = self.driver.plan().topology.clone();
        for letter in &committed.dead_letters {
            let source = &topology.sources[letter.source.0];
            let mut object = Writer::new(self.line_of(letter.origin, partition), "dead_letter", &source.name);
            object.text("reason", letter.reason);
            object.text("detail", &letter.detail);
            match letter.key.as_deref().map(|key| source.key.decode(key)) {
                Some(Ok((_, key))) => object.value("key", &key),
                Some(Err(_)) => object.text("key", &String::from_utf8_lossy(letter.key.as_deref().unwrap_or_default())),
                None => object.raw("key", b"null"),
            }
            match letter.value.as_deref() {
                None => object.raw("value", b"null"),
                Some(bytes) if serde_json::from_slice::<&RawValue>(bytes).is_ok() => object.raw("value", bytes),
                Some(bytes) => object.text("value", &String::from_utf8_lossy(bytes)),
            }
            object.text("topic", &source.topic);
            object.value("partition", &Value::Int(partition.into()));
            object.value("offset", &Value::Int(letter.offset));
            object.value("time", &Value::Int(letter.time.0));
            object.headers(&letter.headers);
            lines.push(object.end());
        }
        for table in &committed.tables {
            for change in &table.changes {
                let line = self.line_of(change.origin, partition);
                self.lines_of_rows.insert((table.table, change.record_key.clone(), change.window), line);
                let mut object = Writer::new(line, "table", &topology.tables[table.table.0].name);
                object.key(&change.key, change.window);
                object.value("value", change.new.as_ref().unwrap_or(&Value::Null));
                object.value("old", change.old.as_ref().unwrap_or(&Value::Null));
                object.value("time", &Value::Int(change.time.0));
                object.headers(&change.headers);
                lines.push(object.end());
            }
        }
        for output in &committed.outputs {
            let line = self.line_of(output.origin, partition);
            let mut object = Writer::new(line, "output", &topology.outputs[output.output.0].name);
            object.key(&output.key, output.window);
            object.value("value", output.value.as_ref().unwrap_or(&Value::Null));
            object.value("time", &Value::Int(output.time.0));
            object.headers(&output.headers);
            lines.push(object.end());
        }
    }
}

/// Milliseconds, or RFC 3339.
fn read_time(time: &Tree) -> Result<Time, String> {
    match time {
        Tree::Number(number) => number.as_i64().map(Time),
        Tree::String(text) => Timestamp::parse(text).map(Timestamp::to_ms),
        _ => None,
    }
    .ok_or_else(|| format!("`time` is milliseconds or RFC 3339, found {time}"))
}

/// One object, key by key, in a fixed order.
struct Writer(Vec<u8>);

impl Writer {
    fn new(input: usize, kind: &str, name: &str) -> Writer {
        let mut writer = Writer(format!("{{\"input\":{input}").into_bytes());
        writer.text(kind, name);
        writer
    }

    fn raw(&mut self, key: &str, json: &[u8]) {
        self.with(key, |out| out.extend_from_slice(json));
    }

    fn with(&mut self, key: &str, write: impl FnOnce(&mut Vec<u8>)) {
        self.0.push(b',');
        write_value(&Value::string(key), &mut self.0);
        self.0.push(b':');
        write(&mut self.0);
    }

    fn value(&mut self, key: &str, value: &Value) {
        self.with(key, |out| write_value(value, out));
    }

    fn text(&mut self, key: &str, text: &str) {
        self.value(key, &Value::string(text));
    }

    fn key(&mut self, key: &Value, window: Option<(Time, Time)>) {
        match window {
            Some((start, end)) => self.value("key", &windowed_key(key, start, end)),
            None => self.value("key", key),
        }
    }

    fn headers(&mut self, headers: &Headers) {
        self.with("headers", |out| {
            out.push(b'{');
            for (index, (name, value)) in headers.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(&Value::String(name.clone()), out);
                out.push(b':');
                match value {
                    Some(bytes) => write_value(&Value::string(String::from_utf8_lossy(bytes).as_ref()), out),
                    None => out.extend_from_slice(b"null"),
                }
            }
            out.push(b'}');
        });
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(b"}\n");
        self.0
    }
}
