//! Compares what is there with what must be there, and counts what is lost, doubled, wrong, reordered or was seen too early.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Value as Json, json};

use crate::changelog::Changelogs;
use crate::events::Topic;
use crate::fold::{Expected, History, Row};
use crate::kafka::Found;
use crate::readers::Seen;

/// Findings that are told in full.
const TOLD_MAX: usize = 30;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    Lost,
    Doubled,
    Wrong,
    Reordered,
    Uncommitted,
}

/// What was found wrong, and how much was looked at.
#[derive(Default)]
pub struct Verdict {
    findings: Vec<(Kind, String)>,
    looked_at: Vec<(&'static str, usize)>,
}

impl Verdict {
    pub fn find(&mut self, kind: Kind, what: impl Into<String>) {
        self.findings.push((kind, what.into()));
    }

    fn looked(&mut self, what: &'static str, count: usize) {
        assert!(count > 0, "nothing to compare: {what}");
        self.looked_at.push((what, count));
    }

    pub fn is_good(&self) -> bool {
        self.findings.is_empty()
    }

    /// Rows of one place, each of which must be there once, as expected.
    pub fn rows<K: Ord + fmt::Debug>(&mut self, place: &'static str, found: Vec<(K, Row)>, expected: &BTreeMap<K, Row>) {
        self.looked(place, found.len());
        let mut rows = BTreeMap::new();
        for (key, row) in found {
            if let Some(other) = rows.get(&key) {
                self.find(Kind::Doubled, format!("{place}: {key:?} is there twice: {row:?} and {other:?}"));
            }
            rows.insert(key, row);
        }
        for (key, expected) in expected {
            let Some(row) = rows.remove(key) else {
                self.find(Kind::Lost, format!("{place}: {key:?} is missing: {expected:?}"));
                continue;
            };
            if row != *expected {
                let ticks = |row: &Row| row.get("ticks").or(row.get("n")).and_then(Json::as_i64).unwrap_or(0);
                let kind = match ticks(&row).cmp(&ticks(expected)) {
                    std::cmp::Ordering::Less => Kind::Lost,
                    std::cmp::Ordering::Greater => Kind::Doubled,
                    std::cmp::Ordering::Equal => Kind::Wrong,
                };
                self.find(kind, format!("{place}: {key:?} is {row:?}, it must be {expected:?}"));
            }
        }
        for (key, row) in rows {
            self.find(Kind::Wrong, format!("{place}: {key:?} must not be there: {row:?}"));
        }
    }

    /// The output topic: its last records are the complete rows, and all of them tell a story that the inputs can have told.
    pub fn outputs(&mut self, records: &[Found], expected: &Expected) {
        let mut stories: BTreeMap<String, Vec<Option<Row>>> = BTreeMap::new();
        for record in records {
            let key = String::from_utf8(record.key.clone().unwrap()).unwrap();
            let row = record.value.as_deref().map(|value| serde_json::from_slice(value).unwrap());
            stories.entry(key).or_default().push(row);
        }
        let last = stories.iter().filter_map(|(key, story)| Some((key.clone(), story.last()?.clone()?))).collect();
        self.rows("output topic", last, &expected.complete());
        self.looked("output records", records.len());
        for (key, story) in &stories {
            for pair in story.windows(2).filter(|pair| pair[0] == pair[1]) {
                self.find(Kind::Doubled, format!("output topic: {key} left twice as {:?}", pair[0]));
            }
            let none = History::default();
            if let Err(at) = can_have_been(expected.histories.get(key).unwrap_or(&none), story) {
                self.find(Kind::Reordered, format!("output topic: record {at} of {key} cannot follow the one before it: {:?}", story[at]));
            }
        }
    }

    pub fn dead_letters(&mut self, records: &[Found], topics: &BTreeMap<String, Topic>, expected: &Expected) {
        self.looked("dead letters", records.len());
        let mut seen = BTreeSet::new();
        for record in records {
            let header = |name: &str| record.headers.get(name).cloned().unwrap_or_default();
            let number = |name: &str| header(name).parse::<i64>().unwrap_or(-1);
            let place = (topics[&header("millstream-topic")], number("millstream-partition") as i32, number("millstream-offset"));
            if !seen.insert(place) {
                self.find(Kind::Doubled, format!("dead letters: {place:?} is there twice"));
            }
            match expected.letters.get(&place) {
                None => self.find(Kind::Wrong, format!("dead letters: {place:?} was good: {:?}", record.headers)),
                Some((reason, value)) if *reason != header("millstream-reason") || *value != record.value => {
                    self.find(Kind::Wrong, format!("dead letters: {place:?} must be {reason}: {:?}", record.headers));
                }
                Some(_) => {}
            }
        }
        for (place, (reason, _)) in expected.letters.iter().filter(|(place, _)| !seen.contains(place)) {
            self.find(Kind::Lost, format!("dead letters: {place:?} is missing, {reason}"));
        }
    }

    /// The last state of every row in the changelogs.
    pub fn changelogs(&mut self, changelogs: &Changelogs, expected: &Expected) {
        let last = |(key, changes): (&(i32, String), &Vec<crate::changelog::Change>)| Some((key.1.clone(), changes.last()?.row.clone()?));
        self.rows("changelog of products", changelogs.products.iter().filter_map(last).collect(), &expected.products());
        let candles = changelogs.candles.iter().filter_map(|(name, row)| Some((name.clone(), row.clone()?)));
        self.rows("changelog of candles", candles.collect(), &expected.candles);
    }

    /// What readers saw while it happened: committed rows only, and in Redis none that went back.
    pub fn seen(&mut self, seen: &Seen, changelogs: &Changelogs) {
        self.looked("rows seen over HTTP", seen.rows.len());
        for look in &seen.rows {
            let committed = changelogs.row_at(look.partition, &look.key, look.position);
            if committed != look.row.as_ref() {
                let what = format!(
                    "HTTP: {} at offset {} of partition {} was {:?}, committed was {committed:?}",
                    look.key, look.position, look.partition, look.row
                );
                self.find(Kind::Uncommitted, what);
            }
        }
        self.looked("cards seen in Redis", seen.cards.len());
        let mut stories: BTreeMap<String, Vec<Option<BTreeMap<String, String>>>> = BTreeMap::new();
        for look in &seen.cards {
            stories.entry(look.key.clone()).or_insert_with(|| cards_of(&changelogs.states(&look.key)));
        }
        let mut reached: BTreeMap<&str, usize> = BTreeMap::new();
        for look in &seen.cards {
            let (story, at) = (&stories[&look.key], reached.entry(&look.key).or_default());
            match story[*at..].iter().position(|card| *card == look.card) {
                Some(further) => *at += further,
                None if story.contains(&look.card) => {
                    self.find(Kind::Reordered, format!("Redis: the card of {} went back to {:?}", look.key, look.card));
                }
                None => self.find(Kind::Uncommitted, format!("Redis: the card of {} was never committed: {:?}", look.key, look.card)),
            }
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |kind| self.findings.iter().filter(|(found, _)| *found == kind).count();
        writeln!(
            f,
            "lost {}, doubled {}, wrong {}, reordered {}, uncommitted seen {}",
            count(Kind::Lost),
            count(Kind::Doubled),
            count(Kind::Wrong),
            count(Kind::Reordered),
            count(Kind::Uncommitted)
        )?;
        let looked: Vec<String> = self.looked_at.iter().map(|(what, count)| format!("{count} {what}")).collect();
        writeln!(f, "looked at: {}", looked.join(", "))?;
        let mut told = BTreeMap::new();
        for (kind, what) in &self.findings {
            let told: &mut usize = told.entry(*kind).or_default();
            *told += 1;
            if *told <= TOLD_MAX {
                writeln!(f, "{kind:?}: {what}")?;
            }
        }
        Ok(())
    }
}

/// The card of a row; only complete rows have one.
pub fn card_of(row: &Row) -> Option<BTreeMap<String, String>> {
    let field = |name: &str| Some((name.to_owned(), row[name].as_str()?.to_owned()));
    (row["complete"] == true).then(|| ["name", "price", "currency"].into_iter().filter_map(field).collect())
}

fn cards_of(states: &[Option<&Row>]) -> Vec<Option<BTreeMap<String, String>>> {
    states.iter().map(|row| row.and_then(card_of)).collect()
}

/// Candles as the chart has them.
pub fn chart_of(start: i64, candle: &Row) -> Row {
    let mut member = Row::from([("t".to_owned(), json!(start))]);
    for (name, field) in [("o", "open"), ("h", "high"), ("l", "low"), ("c", "close"), ("n", "ticks")] {
        member.insert(name.to_owned(), candle[field].clone());
    }
    member
}

/// Whether a row can have left the table so: each record is the row after some number of records of each topic, and those numbers
/// only grow. The error is the index of the first that cannot.
///
/// `reach[i]` is the least number of prices with which the record so far can have been, with `i` records of products seen.
fn can_have_been(history: &History, story: &[Option<Row>]) -> Result<(), usize> {
    let (created, priced) = history.all();
    // Equal rows have one number, whoever spoke.
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    let mut number = |row: Option<Row>| {
        let next = numbers.len();
        *numbers.entry(row.map_or(String::new(), |row| format!("{row:?}"))).or_insert(next)
    };
    let mut known = BTreeMap::new();
    let mut states = vec![vec![0; priced + 1]; created + 1];
    for (i, line) in states.iter_mut().enumerate() {
        for (j, state) in line.iter_mut().enumerate() {
            let shown = || history.row((i, j)).filter(|row| row["complete"] == true);
            *state = *known.entry(history.speakers((i, j))).or_insert_with(|| number(shown()));
        }
    }
    let mut reach = vec![None; created + 1];
    reach[0] = Some(0);
    for (at, row) in story.iter().enumerate() {
        let wanted = number(row.clone());
        let (mut least, mut next) = (None, vec![None; created + 1]);
        for i in 0..=created {
            least = [least, reach[i]].into_iter().flatten().min();
            let Some(least) = least else { continue };
            next[i] = (least..=priced).find(|&j| states[i][j] == wanted);
        }
        if next.iter().all(Option::is_none) {
            return Err(at);
        }
        reach = next;
    }
    Ok(())
}
