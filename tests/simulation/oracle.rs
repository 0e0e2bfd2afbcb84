//! What a run must have left behind. Shares no code with the engine: it looks at all records at once.
//!
//! Most rows follow from the records alone. Where it matters when a timer fired (which is free within bounds: after it was due,
//! before the end) the oracle says which rows are possible; where wall clock and crashes decide what was applied, each record
//! must have been applied or refused, and exactly once.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Tree, json};

use crate::events::{KEYS, Sent};
use crate::found::{Found, Labelled, PARTITIONS};
use crate::jobs::{BRIEF_MS, GRAVE_MS, GROUPED_MS, Job, KEEP_MS, STRICT};

/// Compares everything with what was sent.
pub fn check(job: &Job, found: &Found, sent: &[Sent]) {
    let all: BTreeSet<_> = found.letters.iter().collect();
    assert_eq!(all.len(), found.letters.len(), "a record is in the dead letters twice: {:#?}", found.letters);
    match job.name {
        "rows" => {
            assert!(found.letters.is_empty(), "{:#?}", found.letters);
            equal("product", found, &per_key(sent, product));
            equal("sums", found, &per_key(sent, |records| sum_row(records.iter().filter(|record| record.price().is_some()))));
            equal("once", found, &per_key(sent, |records| sum_row(firsts(records).into_iter())));
        }
        "waits" => {
            let is_complete = |row: &Tree| row["complete"] == true;
            equal("patient", found, &per_key(sent, |records| product(records).filter(is_complete)));
            for key in keys() {
                let records: Vec<&Sent> = sent.iter().filter(|record| record.key == key && record.value.is_some()).collect();
                check_waiting(found, &key, &records);
                check_limited(found, &key, &records);
            }
        }
        "windows" => {
            equal("grouped", found, &grouped(sent));
            check_strict(found, sent);
            check_idle(found, sent);
        }
        "timers" => {
            assert!(found.letters.is_empty(), "{:#?}", found.letters);
            check_kept(found, sent);
            check_brief(found, sent);
        }
        other => panic!("no oracle for {other}"),
    }
    check_outputs(job, found);
    check_views(job, found);
}

/// The last record of an output is the row; a table that tells of its windows when they close tells of each once.
fn check_outputs(job: &Job, found: &Found) {
    for shown in job.shown {
        let rows = shown_rows(job, found, shown.table);
        let told = &found.outputs[shown.table];
        if matches!(shown.table, "strict" | "idle") {
            continue; // in their own checks
        }
        let last = |list: &Vec<Option<Tree>>| list.last().cloned().flatten();
        let told: Labelled<Tree> = told.iter().filter_map(|(label, list)| Some((label.clone(), last(list)?))).collect();
        assert_eq!(told, rows, "the last records of the output of `{}`", shown.table);
    }
}

/// Redis shows the rows.
pub fn check_views(job: &Job, found: &Found) {
    for shown in job.shown {
        let mut rows = shown_rows(job, found, shown.table);
        let mut views = found.views[shown.table].clone();
        if matches!(shown.table, "strict" | "idle") {
            rows.retain(|label, _| found.outputs[shown.table].contains_key(label));
        }
        if shown.table == "strict" {
            // Windows that the table does not keep any more stay in Redis until something writes the view anew.
            views.retain(|label, _| found.stored.get("strict").is_some_and(|stored| stored.contains(label)));
        }
        assert_eq!(views, rows.iter().map(|(label, row)| (label.clone(), hash(row))).collect(), "the view of `{}`", shown.table);
    }
}

/// At any moment: what Redis shows of a row has been committed and has left its table, so that it stands in the output.
pub fn check_seen(job: &Job, found: &Found) {
    for shown in job.shown {
        for (label, fields) in &found.views[shown.table] {
            let told = found.outputs[shown.table].get(label);
            let is_told = told.is_some_and(|told| told.iter().flatten().any(|row| hash(row) == *fields));
            assert!(is_told, "the view of `{}` shows of {label} what was never committed: {fields:?}, not one of {told:#?}", shown.table);
        }
    }
}

/// Rows for which the `when` of view and output holds.
fn shown_rows(job: &Job, found: &Found, table: &str) -> Labelled<Tree> {
    let mut rows = found.rows(table);
    if job.name == "rows" {
        rows.retain(|_, row| table != "product" || row["complete"] == true);
    }
    rows
}

/// A row as a hash.
fn hash(row: &Tree) -> BTreeMap<String, String> {
    let text = |value: &Tree| match value {
        Tree::Null => None,
        Tree::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    row.as_object().unwrap().iter().filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect()
}

fn keys() -> impl Iterator<Item = String> {
    (0..KEYS).map(|number| format!("k{number}"))
}

/// The rows that a fold over all records of each key makes.
fn per_key(sent: &[Sent], fold: impl Fn(&[&Sent]) -> Option<Tree>) -> Labelled<Tree> {
    let row = |key: String| {
        let records: Vec<&Sent> = sent.iter().filter(|record| record.key == key).collect();
        fold(&records).map(|row| (key, row))
    };
    keys().filter_map(row).collect()
}

fn equal(table: &str, found: &Found, wanted: &Labelled<Tree>) {
    assert_eq!(&found.rows(table), wanted, "the rows of `{table}`");
}

// rows -------------------------------------------------------------------------------------------------------------

/// An owner, and a contributor whose record makes a placeholder.
fn product(records: &[&Sent]) -> Option<Tree> {
    let deletes = |is_owner: bool| records.iter().filter(move |record| record.is_owner == is_owner && record.value.is_none());
    let is_dead = |record: &Sent| {
        deletes(record.is_owner).any(|delete| record.version() <= delete.version())
            || (!record.is_owner && deletes(true).any(|delete| record.time <= delete.time))
    };
    let newest = |is_owner: bool| {
        let upserts = records.iter().filter(|record| record.is_owner == is_owner && record.value.is_some());
        upserts.max_by_key(|record| record.version()).filter(|record| !is_dead(record))
    };
    let (owner, price) = (newest(true), newest(false));
    (owner.is_some() || price.is_some()).then(|| {
        json!({
            "name": owner.map(|record| record.value.clone()),
            "price": price.map(|record| record.value.clone()),
            "complete": owner.is_some(),
        })
    })
}

fn sum_row<'s>(records: impl Iterator<Item = &'s &'s Sent>) -> Option<Tree> {
    let prices: Vec<i64> = records.filter_map(|record| record.price()).collect();
    (!prices.is_empty()).then(|| sums(prices.len(), prices.iter().sum()))
}

fn sums(n: usize, total: i64) -> Tree {
    json!({ "total": total.to_string(), "n": n })
}

/// The first record of each identity.
fn firsts<'s, 'r>(records: &'r [&'s Sent]) -> Vec<&'r &'s Sent> {
    let mut seen = BTreeSet::new();
    records.iter().filter(|record| record.price().is_some() && seen.insert(record.event.clone())).collect()
}

// waits ------------------------------------------------------------------------------------------------------------

fn newest<'s>(records: impl Iterator<Item = &'s Sent>) -> Option<&'s Sent> {
    records.max_by_key(|record| record.version())
}

/// Records that wait for an owner are applied when it comes, or time out: each exactly once. `records` has no tombstones.
fn check_waiting(found: &Found, key: &str, records: &[&Sent]) {
    let prices = || records.iter().filter(|record| !record.is_owner);
    let refused: BTreeSet<(i32, i64)> = found.letters_of("waiting").collect();
    let is_refused = |record: &Sent| refused.contains(&(record.partition, record.offset));
    let Some(owner) = newest(records.iter().filter(|record| record.is_owner).copied()) else {
        assert!(prices().all(|record| is_refused(record)), "`waiting`: records of {key} wait for ever, and nobody was told: {refused:?}");
        assert_eq!(found.rows("waiting").get(key), None, "`waiting`: {key} has no owner");
        return;
    };
    let applied: Vec<i64> = prices().filter(|record| !is_refused(record)).filter_map(|record| record.price()).collect();
    let row = json!({ "name": owner.value, "total": applied.iter().sum::<i64>().to_string(), "n": applied.len(), "complete": true });
    assert_eq!(found.rows("waiting").get(key), Some(&row), "`waiting`: {key}, of which {refused:?} timed out");
}

/// What a placeholder shows is forgotten when its wait is over, with one dead letter: of the newest record that it had. Records
/// that come later begin a new wait. So the price is the newest of the last records, from somewhere after the last letter on.
fn check_limited(found: &Found, key: &str, records: &[&Sent]) {
    let prices = || records.iter().copied().filter(|record| !record.is_owner);
    let refused: BTreeSet<(i32, i64)> = found.letters_of("limited").collect();
    let letters: Vec<&Sent> = prices().filter(|record| refused.contains(&(record.partition, record.offset))).collect();
    let last_letter = letters.iter().map(|record| record.offset).max();
    let after: Vec<&Sent> = prices().filter(|record| last_letter.is_none_or(|last| record.offset > last)).collect();
    let row = found.rows("limited").get(key).cloned();
    let Some(owner) = newest(records.iter().copied().filter(|record| record.is_owner)) else {
        assert_eq!(row, None, "`limited`: the wait of {key} is over");
        assert!(prices().next().is_none() || !letters.is_empty(), "`limited`: the wait of {key} is over, and nobody was told");
        // They were stale beside the last letter.
        let is_told = |record: &&Sent| letters.iter().any(|letter| letter.version() > record.version());
        assert!(after.iter().all(is_told), "`limited`: of {after:#?} nobody was told");
        return;
    };
    let ends = if last_letter.is_none() { 1 } else { after.len() + 1 };
    let possible: Vec<Option<Tree>> = (0..ends)
        .map(|from| {
            let price = newest(after[from..].iter().copied());
            Some(json!({ "name": owner.value, "price": price.map(|record| record.value.clone()), "complete": true }))
        })
        .collect();
    assert!(possible.contains(&row), "`limited`: {key} is {row:?}, not one of {possible:#?}");
}

// windows ----------------------------------------------------------------------------------------------------------

fn window(record: &Sent, size_ms: i64) -> String {
    format!("{}:{}", record.key, record.time - record.time.rem_euclid(size_ms))
}

fn by_window<'s>(records: impl Iterator<Item = &'s Sent>, size_ms: i64) -> Labelled<Vec<&'s Sent>> {
    let mut windows: Labelled<Vec<&Sent>> = BTreeMap::new();
    for record in records.filter(|record| record.price().is_some()) {
        windows.entry(window(record, size_ms)).or_default().push(record);
    }
    windows
}

fn grouped(sent: &[Sent]) -> Labelled<Tree> {
    let row = |records: Vec<&Sent>| {
        let opened = records.iter().min_by_key(|record| record.version()).unwrap();
        let closed = records.iter().max_by_key(|record| record.version()).unwrap();
        let prices = || records.iter().filter_map(|record| record.price());
        json!({
            "opened": opened.value,
            "closed": closed.value,
            "high": prices().max().unwrap().to_string(),
            "total": prices().sum::<i64>().to_string(),
            "n": records.len(),
        })
    };
    by_window(sent.iter(), GROUPED_MS).into_iter().map(|(label, records)| (label, row(records))).collect()
}

/// Records of a partition in order: a record is late where stream time has passed the end of its window by `grace`.
fn check_strict(found: &Found, sent: &[Sent]) {
    let (size, grace, keep) = STRICT;
    let end = |record: &Sent| record.time - record.time.rem_euclid(size) + size;
    let (mut late, mut kept, mut closed, mut gone) = (BTreeSet::new(), Vec::new(), BTreeSet::new(), BTreeSet::new());
    for partition in 0..PARTITIONS {
        let mut stream_time = i64::MIN;
        let records = || sent.iter().filter(move |record| record.partition == partition && record.price().is_some());
        for record in records() {
            stream_time = stream_time.max(record.time);
            if end(record) + grace <= stream_time {
                late.insert((partition, record.offset));
            } else {
                kept.push(record);
            }
        }
        let labels = |ms: i64| records().filter(move |record| end(record) + ms <= stream_time).map(|record| window(record, size));
        closed.extend(labels(grace));
        gone.extend(labels(keep - size));
    }
    assert_eq!(found.letters_of("strict").collect::<BTreeSet<_>>(), late, "late records of `strict`");
    let windows = by_window(kept.into_iter(), size);
    let wanted: Labelled<Tree> = windows.iter().map(|(label, records)| (label.clone(), sum_row(records.iter()).unwrap())).collect();
    // How much longer than `keep` a window stays is free.
    let rows = found.rows("strict");
    for (label, row) in &wanted {
        let known = rows.get(label);
        assert!(known.map_or(gone.contains(label), |known| known == row), "`strict`: {label} is {known:?}, not {row}");
    }
    assert!(rows.keys().all(|label| wanted.contains_key(label)), "`strict` has a window of late records");
    let told: Labelled<Vec<Option<Tree>>> =
        wanted.into_iter().filter(|(label, _)| closed.contains(label)).map(|(label, row)| (label, vec![Some(row)])).collect();
    assert_eq!(found.outputs["strict"], told, "each window of `strict` that has closed leaves once");
}

/// When windows close for want of input depends on the clock: each record is in its window or late, and each window leaves once.
fn check_idle(found: &Found, sent: &[Sent]) {
    let late: BTreeSet<(i32, i64)> = found.letters_of("idle").collect();
    let kept = sent.iter().filter(|record| !late.contains(&(record.partition, record.offset)));
    let windows = by_window(kept, STRICT.0);
    let wanted: Labelled<Tree> = windows.into_iter().map(|(label, records)| (label, sum_row(records.iter()).unwrap())).collect();
    equal("idle", found, &wanted);
    let told: Labelled<Vec<Option<Tree>>> = wanted.into_iter().map(|(label, row)| (label, vec![Some(row)])).collect();
    assert_eq!(found.outputs["idle"], told, "each window of `idle` leaves once");
}

// timers -----------------------------------------------------------------------------------------------------------

/// What is known of a key of `kept`: its newest record, its newest tombstone, the newest time at which something was said.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Known {
    upsert: Option<((i64, i64), String)>,
    deleted: Option<(i64, i64)>,
    changed: i64,
}

impl Known {
    fn name(&self) -> Option<&String> {
        self.upsert.as_ref().filter(|(version, _)| self.deleted.is_none_or(|deleted| *version > deleted)).map(|(_, name)| name)
    }

    fn expiry(&self) -> i64 {
        if self.name().is_some() { self.changed + KEEP_MS } else { self.deleted.map_or(i64::MAX, |(time, _)| time + GRAVE_MS) }
    }
}

/// A row goes some time after stream time has passed its last change by `keep`, a grave after `grave`: what comes in between
/// finds it, or does not. In the end nothing is left that is due.
fn check_kept(found: &Found, sent: &[Sent]) {
    for partition in 0..PARTITIONS {
        let mut possible: BTreeMap<String, BTreeSet<Option<Known>>> = keys().map(|key| (key, [None].into())).collect();
        let mut stream_time = i64::MIN;
        for record in sent.iter().filter(|record| record.is_owner && record.partition == partition) {
            stream_time = stream_time.max(record.time);
            let states = possible.get_mut(&record.key).unwrap();
            *states = states.iter().map(|known| Some(after(known.clone(), record))).collect();
            for states in possible.values_mut() {
                if states.iter().flatten().any(|known| known.expiry() <= stream_time) {
                    states.insert(None);
                }
            }
        }
        for (key, mut states) in possible {
            if !sent.iter().any(|record| record.key == key && record.partition == partition) {
                continue;
            }
            states.retain(|known| known.as_ref().is_none_or(|known| known.expiry() > stream_time));
            let row = found.rows("kept").get(&key).cloned();
            let is_stored = found.stored.get("kept").is_some_and(|stored| stored.contains(&key));
            let fits = |known: &Option<Known>| match known {
                None => !is_stored && row.is_none(),
                Some(known) => is_stored && row == known.name().map(|name| json!({ "name": name })),
            };
            assert!(states.iter().any(fits), "`kept`: {key} is {row:?}, stored: {is_stored}; possible is {states:#?}");
        }
    }
}

fn after(known: Option<Known>, record: &Sent) -> Known {
    let mut known = known.unwrap_or(Known { upsert: None, deleted: None, changed: i64::MIN });
    known.changed = known.changed.max(record.time);
    match &record.value {
        Some(name) => known.upsert = known.upsert.max(Some((record.version(), name.clone()))),
        None => known.deleted = known.deleted.max(Some(record.version())),
    }
    known
}

/// What may be known of an identity of `brief`: when it was there, how often it counted, and with what sum.
type Identity = (Option<i64>, usize, i64);

/// An identity is forgotten some time after stream time has passed it by `for`: what comes then counts, or does not.
fn check_brief(found: &Found, sent: &[Sent]) {
    let mut remembered_max = 0;
    for partition in 0..PARTITIONS {
        let mut possible: BTreeMap<(String, String), BTreeSet<Identity>> = BTreeMap::new();
        let mut stream_time = i64::MIN;
        for record in sent.iter().filter(|record| record.partition == partition) {
            let Some(price) = record.price() else { continue };
            stream_time = stream_time.max(record.time);
            let states = possible.entry((record.key.clone(), record.event.clone())).or_insert_with(|| [(None, 0, 0)].into());
            let next = |&(seen, n, total): &Identity| match seen {
                Some(time) if record.time - time < BRIEF_MS => (seen, n, total),
                _ => (Some(record.time), n + 1, total + price),
            };
            *states = states.iter().map(next).collect();
            for states in possible.values_mut() {
                let due = states.iter().filter(|(seen, _, _)| seen.is_some_and(|time| time + BRIEF_MS <= stream_time));
                let forgotten: Vec<Identity> = due.map(|&(_, n, total)| (None, n, total)).collect();
                states.extend(forgotten);
            }
        }
        let is_fresh = |(seen, _, _): &Identity| seen.is_some_and(|time| time + BRIEF_MS > stream_time);
        remembered_max += possible.values().filter(|states| states.iter().any(is_fresh)).count();
        for key in keys().filter(|key| possible.keys().any(|(known, _)| known == key)) {
            let mut rows: BTreeSet<(usize, i64)> = [(0, 0)].into();
            for states in possible.iter().filter(|((known, _), _)| *known == key).map(|(_, states)| states) {
                rows = rows.iter().flat_map(|(n, total)| states.iter().map(move |(_, m, more)| (n + m, total + more))).collect();
            }
            let row = found.rows("brief").get(&key).cloned();
            let fits = |(n, total): &(usize, i64)| row == Some(sums(*n, *total));
            assert!(rows.iter().any(fits), "`brief`: {key} is {row:?}; possible is {rows:?}");
        }
    }
    assert!(found.identities <= remembered_max, "`brief` remembers {} identities, at most {remembered_max} are due", found.identities);
}
