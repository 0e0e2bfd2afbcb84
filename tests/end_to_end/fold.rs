//! What must have become of the events: a naive fold of the input topics, written apart from the engine.
//!
//! Shares no code with it: bytes are read by `serde_json`, all records of a key are looked at together, and what they make is said in
//! the words of docs/semantics.md. It reads the topics as they lie in Kafka, so that offsets and partitions are the real ones.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use crate::events::{DAY, Topic, text_of};

const WINDOW_MS: i64 = 60_000;
const GRACE_MS: i64 = 120_000;

/// A row as JSON has it, by the names of its fields.
pub type Row = BTreeMap<String, Json>;

/// A record of an input topic.
pub struct Input {
    pub topic: Topic,
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub time: i64,
}

/// What one topic said about a key, once.
#[derive(Debug)]
struct Spoken {
    time: i64,
    offset: i64,
    /// `None`: a tombstone.
    fields: Option<Row>,
}

/// All that was said about a product, by topic, in the order of offsets.
#[derive(Default, Debug)]
pub struct History {
    created: Vec<Spoken>,
    priced: Vec<Spoken>,
}

/// Everything that must be there in the end.
#[derive(Default)]
pub struct Expected {
    pub histories: BTreeMap<String, History>,
    /// Candles by product and start.
    pub candles: BTreeMap<(String, i64), Row>,
    /// Reason and value by topic, partition and offset of the record.
    pub letters: BTreeMap<(Topic, i32, i64), (&'static str, Option<Vec<u8>>)>,
    /// Records that were said before.
    pub doubles: usize,
}

impl Expected {
    /// `inputs` are whole topics; the records of a partition in the order of offsets.
    pub fn of(inputs: &[Input]) -> Expected {
        let mut expected = Expected::default();
        let mut seen = BTreeSet::new();
        let mut ticks: BTreeMap<(String, i64), Vec<(i64, i64, i64, String)>> = BTreeMap::new();
        let mut stream_times = BTreeMap::new();
        for input in inputs {
            match understood(input) {
                Err(reason) => {
                    expected.letters.insert((input.topic, input.partition, input.offset), (reason, input.value.clone()));
                }
                Ok((key, None)) => expected.hear(input, key, input.time, None),
                Ok((key, Some(event))) => {
                    let time = time_of(&event);
                    if input.topic == Topic::Priced {
                        let stream_time: &mut i64 = stream_times.entry(input.partition).or_insert(i64::MIN);
                        *stream_time = time.max(*stream_time);
                        let start = time.div_euclid(WINDOW_MS) * WINDOW_MS;
                        if start + WINDOW_MS + GRACE_MS <= *stream_time {
                            expected.letters.insert((input.topic, input.partition, input.offset), ("late", input.value.clone()));
                        } else {
                            let price = text(&event, "price");
                            ticks.entry((key.clone(), start)).or_default().push((time, input.offset, cents(&price), price));
                        }
                        if cents(&text(&event, "price")) <= 0 {
                            continue;
                        }
                    }
                    if !seen.insert((input.topic, text(&event, "eventId"))) {
                        expected.doubles += 1;
                        continue;
                    }
                    let fields = match input.topic {
                        Topic::Created => ["name", "category"].map(|field| (field.to_owned(), event[field].clone())).into(),
                        Topic::Priced => Row::from([
                            ("price".to_owned(), event["price"].clone()),
                            ("currency".to_owned(), event["currency"].clone()),
                            ("price_at".to_owned(), json!(text_of(time))),
                        ]),
                    };
                    expected.hear(input, key, time, Some(fields));
                }
            }
        }
        expected.candles = ticks.into_iter().map(|(name, ticks)| (name, candle(&ticks))).collect();
        expected
    }

    fn hear(&mut self, input: &Input, key: String, time: i64, fields: Option<Row>) {
        let history = self.histories.entry(key).or_default();
        let spoken = Spoken { time, offset: input.offset, fields };
        match input.topic {
            Topic::Created => history.created.push(spoken),
            Topic::Priced => history.priced.push(spoken),
        }
    }

    /// The rows of all products, placeholders too.
    pub fn products(&self) -> BTreeMap<String, Row> {
        self.histories.iter().filter_map(|(key, history)| Some((key.clone(), history.row(history.all())?))).collect()
    }

    /// The rows that outputs and cards show.
    pub fn complete(&self) -> BTreeMap<String, Row> {
        self.products().into_iter().filter(|(_, row)| row["complete"] == true).collect()
    }
}

impl History {
    /// How many records of each topic there are.
    pub fn all(&self) -> (usize, usize) {
        (self.created.len(), self.priced.len())
    }

    /// The living records that make the row when the first so many records of each topic had been seen.
    fn living(&self, (created, priced): (usize, usize)) -> (Option<&Spoken>, Option<&Spoken>) {
        let (created, priced) = (&self.created[..created], &self.priced[..priced]);
        let owner = newest(created).filter(|record| !covers_own(created, record));
        let is_gone = |record: &Spoken| created.iter().any(|delete| delete.fields.is_none() && record.time <= delete.time);
        let price = newest(priced).filter(|record| !covers_own(priced, record) && !is_gone(record));
        (owner, price)
    }

    /// Offsets of those records: rows with the same speakers are the same.
    pub fn speakers(&self, seen: (usize, usize)) -> (Option<i64>, Option<i64>) {
        let (owner, price) = self.living(seen);
        (owner.map(|record| record.offset), price.map(|record| record.offset))
    }

    /// The row when the first so many records of each topic had been seen.
    pub fn row(&self, seen: (usize, usize)) -> Option<Row> {
        let (owner, price) = self.living(seen);
        if owner.is_none() && price.is_none() {
            return None;
        }
        let mut row: Row = ["name", "category", "price", "currency", "price_at"].map(|field| (field.to_owned(), Json::Null)).into();
        for speaker in [owner, price].into_iter().flatten() {
            row.extend(speaker.fields.iter().flatten().map(|(name, value)| (name.clone(), value.clone())));
        }
        row.insert("complete".to_owned(), json!(owner.is_some()));
        Some(row)
    }
}

fn newest(records: &[Spoken]) -> Option<&Spoken> {
    records.iter().filter(|record| record.fields.is_some()).max_by_key(|record| (record.time, record.offset))
}

/// Whether a tombstone of the same topic covers a record.
fn covers_own(records: &[Spoken], record: &Spoken) -> bool {
    records.iter().any(|delete| delete.fields.is_none() && (record.time, record.offset) <= (delete.time, delete.offset))
}

fn candle(ticks: &[(i64, i64, i64, String)]) -> Row {
    let price = |tick: Option<&(i64, i64, i64, String)>| json!(tick.map(|tick| tick.3.clone()));
    let by_time = |tick: &&(i64, i64, i64, String)| (tick.0, tick.1);
    Row::from([
        ("open".to_owned(), price(ticks.iter().min_by_key(by_time))),
        ("high".to_owned(), price(ticks.iter().max_by_key(|tick| tick.2))),
        ("low".to_owned(), price(ticks.iter().min_by_key(|tick| tick.2))),
        ("close".to_owned(), price(ticks.iter().max_by_key(by_time))),
        ("ticks".to_owned(), json!(ticks.len())),
    ])
}

/// Key and event (none: a tombstone) of a record, or why it is bad.
fn understood(input: &Input) -> Result<(String, Option<Json>), &'static str> {
    let Some(value) = &input.value else {
        let key = input.key.clone().ok_or("missing_key")?;
        return Ok((String::from_utf8(key).unwrap(), None));
    };
    let event: Json = serde_json::from_slice(value).map_err(|_| "not_json")?;
    let needed = if input.topic == Topic::Created { ["eventId", "productId", "name"] } else { ["eventId", "price", "currency"] };
    for field in needed {
        match &event[field] {
            Json::Null => return Err("missing_field"),
            Json::String(_) => {}
            _ => return Err("wrong_type"),
        }
    }
    let key = String::from_utf8(input.key.clone().ok_or("missing_key")?).unwrap();
    if event["productId"] != key.as_str() {
        return Err("key_mismatch");
    }
    Ok((key, Some(event)))
}

fn text(event: &Json, field: &str) -> String {
    event[field].as_str().unwrap().to_owned()
}

/// All prices have two digits after the point.
fn cents(price: &str) -> i64 {
    price.replace('.', "").parse().unwrap()
}

/// Milliseconds, or RFC 3339 of the one day that there is.
fn time_of(event: &Json) -> i64 {
    let at = &event["occurredAt"];
    at.as_i64().unwrap_or_else(|| {
        let text = at.as_str().unwrap();
        let part = |range: std::ops::Range<usize>| text[range].parse::<i64>().unwrap();
        DAY + ((part(11..13) * 60 + part(14..16)) * 60 + part(17..19)) * 1000
    })
}
