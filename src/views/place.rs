//! What Redis is for the views, in process: keys of five types, expiry by a clock that is given, published messages, and the
//! script of `fence`. It promises nothing that Redis does not do; one suite of tests runs against both.

use std::collections::{BTreeMap, BTreeSet};

use crate::codec::json;
use crate::model::{Time, Value};
use crate::views::ViewShape;
use crate::views::commands::{Command, Verb};
use crate::views::fence::{FIELD_KEYS, FIELDS, Piece, Reply, Stored};
use crate::views::placement::{Location, Pattern};

/// Keys and values, and what was published.
#[derive(Clone, Default)]
pub struct MemoryPlace {
    keys: BTreeMap<Vec<u8>, Entry>,
    /// Messages in the order of publishing, until taken.
    published: Vec<(Vec<u8>, Vec<u8>)>,
    /// Last millisecond and sequence number of a stream entry.
    last_entry: (i64, u64),
    /// No key expires before it; `None`: none does. So that a script need not look at all keys.
    first_expiry: Option<Time>,
}

#[derive(Clone)]
struct Entry {
    held: Held,
    expires: Option<Time>,
}

/// What a key holds.
#[derive(Clone, PartialEq, Debug)]
pub enum Held {
    String(Vec<u8>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    Zset(Zset),
    Set(BTreeSet<Vec<u8>>),
    Stream(Vec<StreamEntry>),
}

/// Id and fields.
pub type StreamEntry = (String, Vec<(Vec<u8>, Vec<u8>)>);

/// Members with their scores, ordered by score and then by member.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Zset {
    scores: BTreeMap<Vec<u8>, f64>,
    order: BTreeSet<(Score, Vec<u8>)>,
}

/// A score in the order of Redis; never NaN.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Score(f64);

impl Eq for Score {}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Score) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Score) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Zset {
    /// Members and scores in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], f64)> {
        self.order.iter().map(|(score, member)| (member.as_slice(), score.0))
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Adds a member, or moves it to another score.
    pub fn add(&mut self, score: f64, member: &[u8]) {
        let score = score + 0.0; // -0 becomes 0
        self.remove(member);
        self.scores.insert(member.to_vec(), score);
        self.order.insert((Score(score), member.to_vec()));
    }

    fn remove(&mut self, member: &[u8]) -> bool {
        let score = self.scores.remove(member);
        score.is_some_and(|score| self.order.remove(&(Score(score), member.to_vec())))
    }

    fn remove_scores(&mut self, min: f64, max: f64) -> bool {
        let from = (Score(min + 0.0), Vec::new());
        let gone: Vec<Vec<u8>> =
            self.order.range(from..).take_while(|(score, _)| score.0 <= max).map(|(_, member)| member.clone()).collect();
        gone.iter().filter(|member| self.remove(member)).count() > 0
    }

    /// Ranks from 0; negative ones count from the end.
    fn remove_ranks(&mut self, first: i64, last: i64) -> bool {
        let len = self.len() as i64;
        let absolute = |rank: i64| if rank < 0 { rank + len } else { rank };
        let (first, last) = (absolute(first).max(0), absolute(last).min(len - 1));
        let count = usize::try_from(last - first + 1).unwrap_or(0);
        let gone: Vec<Vec<u8>> = self.order.iter().skip(first as usize).take(count).map(|(_, member)| member.clone()).collect();
        gone.iter().filter(|member| self.remove(member)).count() > 0
    }
}

/// A change of a key, as `replay` shows it.
#[derive(Clone, PartialEq, Debug)]
pub struct Effect {
    /// `set`, `del`, `expire`, `publish`, `append`.
    pub op: &'static str,
    /// The Redis key, or the channel.
    pub key: Vec<u8>,
    /// What the key holds then: for `append` the entry alone, for `publish` the message; `None` after `del`.
    pub value: Option<Held>,
}

/// A command met a key of another type.
struct WrongType;

impl MemoryPlace {
    /// What a key holds; `None`: absent.
    pub fn get(&self, key: &[u8], now: Time) -> Option<&Held> {
        self.keys.get(key).filter(|entry| entry.expires.is_none_or(|at| at > now)).map(|entry| &entry.held)
    }

    /// The fields of a hash; `None` if the key is absent or holds something else.
    pub fn hash(&self, key: &[u8], now: Time) -> Option<&BTreeMap<Vec<u8>, Vec<u8>>> {
        match self.get(key, now)? {
            Held::Hash(fields) => Some(fields),
            _ => None,
        }
    }

    /// Milliseconds until the key expires; `None` if it does not, or is absent.
    pub fn ttl_ms(&self, key: &[u8], now: Time) -> Option<i64> {
        self.get(key, now)?;
        self.keys.get(key)?.expires.map(|at| at.0 - now.0)
    }

    /// All keys that are there, in order.
    pub fn keys(&self, now: Time) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().filter(move |(_, entry)| entry.expires.is_none_or(|at| at > now)).map(|(key, _)| key.as_slice())
    }

    /// Messages published since the last call, with their channels.
    pub fn take_published(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        std::mem::take(&mut self.published)
    }

    /// FLUSHALL.
    pub fn flush(&mut self) {
        self.keys.clear();
    }

    /// A write of somebody else, for tests.
    pub fn put(&mut self, key: &[u8], held: Held) {
        self.keys.insert(key.to_vec(), Entry { held, expires: None });
    }

    /// The watermark under a key, and the pattern noted with it.
    pub fn watermark(&self, key: &str, now: Time) -> (Stored, Option<String>) {
        let text = |field: &str| -> String {
            let value = self.hash(key.as_bytes(), now).and_then(|fields| fields.get(field.as_bytes()));
            value.map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
        };
        (FIELDS.map(text), Some(text(FIELD_KEYS)).filter(|keys| !keys.is_empty()))
    }

    /// Keys that fit a pattern, in order; of one shape, if given. `SCAN`, all at once.
    pub fn find(&self, pattern: &Pattern, of: Option<ViewShape>, now: Time) -> Vec<Vec<u8>> {
        let is_of = |held: &Held| match of {
            None => true,
            Some(ViewShape::Hash) => matches!(held, Held::Hash(_)),
            Some(ViewShape::Json | ViewShape::String) => matches!(held, Held::String(_)),
            Some(ViewShape::Zset) => matches!(held, Held::Zset(_)),
            Some(ViewShape::Set) => matches!(held, Held::Set(_)),
            Some(ViewShape::Stream) => matches!(held, Held::Stream(_)),
            Some(ViewShape::Pubsub) => false,
        };
        let keys = self.keys(now).filter(|key| pattern.fits(key) && self.get(key, now).is_some_and(is_of));
        keys.map(<[u8]>::to_vec).collect()
    }

    /// Runs the script of `fence`. `effects`: where to note what each row did.
    pub fn run(&mut self, piece: &Piece, now: Time, mut effects: Option<&mut Vec<Vec<Effect>>>) -> Reply {
        if self.first_expiry.is_some_and(|at| at <= now) {
            self.keys.retain(|_, entry| entry.expires.is_none_or(|at| at > now));
            self.first_expiry = self.keys.values().filter_map(|entry| entry.expires).min();
        }
        if self.hash(piece.watermark.as_bytes(), now).is_none() {
            self.keys.remove(piece.watermark.as_bytes()); // a watermark that is no hash is none
        }
        let (stored, _) = self.watermark(&piece.watermark, now);
        if stored != piece.from {
            return Reply::Refused(stored);
        }
        let mut run = Run { place: self, generation: piece.to.generation.to_string(), now, replaced: 0, noted: Vec::new() };
        for row in piece.commands.rows() {
            row.for_each(|command| run.command(&command));
            let noted = std::mem::take(&mut run.noted);
            if let Some(effects) = &mut effects {
                effects.push(run.effects(noted));
            }
        }
        let replaced = run.replaced;
        self.set_watermark(piece);
        Reply::Applied { replaced }
    }

    fn note_expiry(&mut self, at: Option<Time>) {
        self.first_expiry = [self.first_expiry, at].into_iter().flatten().min();
    }

    fn set_watermark(&mut self, piece: &Piece) {
        let time = ("ts", piece.time.0.to_string());
        if let Ok(stored) = hash_of(self, piece.watermark.as_bytes()) {
            for (name, value) in FIELDS.into_iter().zip(piece.to.stored()).chain([time]) {
                stored.insert(name.as_bytes().to_vec(), value.into_bytes());
            }
        }
    }
}

/// What a key holds, of one type; made if absent.
macro_rules! held_as {
    ($name:ident, $variant:ident, $of:ty) => {
        fn $name<'p>(place: &'p mut MemoryPlace, key: &[u8]) -> Result<&'p mut $of, WrongType> {
            let make = || Entry { held: Held::$variant(Default::default()), expires: None };
            match &mut place.keys.entry(key.to_vec()).or_insert_with(make).held {
                Held::$variant(held) => Ok(held),
                _ => Err(WrongType),
            }
        }
    };
}
held_as!(hash_of, Hash, BTreeMap<Vec<u8>, Vec<u8>>);
held_as!(zset_of, Zset, Zset);
held_as!(set_of, Set, BTreeSet<Vec<u8>>);
held_as!(stream_of, Stream, Vec<StreamEntry>);

/// One run of the script.
struct Run<'p> {
    place: &'p mut MemoryPlace,
    generation: String,
    now: Time,
    replaced: u64,
    /// What the commands of a row did, in their order.
    noted: Vec<Effect>,
}

impl Run<'_> {
    /// Runs a command; a key of another type gives way, as in the script.
    fn command(&mut self, command: &Command<'_>) {
        match command.verb {
            Verb::Place => return self.place(command.arg(0), command.arg(1), command.arg(2), command.arg(3), command.arg(4)),
            Verb::Forget => return self.forget(command.arg(0), command.arg(1), command.arg(2), command.arg(3)),
            _ => {}
        }
        let args: Vec<&[u8]> = command.args(0).collect();
        self.call(command.verb, &args);
    }

    fn call(&mut self, verb: Verb, args: &[&[u8]]) {
        if self.try_call(verb, args).is_err() {
            self.place.keys.remove(args[0]);
            self.replaced += 1;
            let again = self.try_call(verb, args);
            debug_assert!(again.is_ok(), "an absent key has no type");
        }
        let is_empty = match self.place.keys.get(args[0]).map(|entry| &entry.held) {
            Some(Held::Hash(fields)) => fields.is_empty(),
            Some(Held::Zset(members)) => members.is_empty(),
            Some(Held::Set(members)) => members.is_empty(),
            _ => false,
        };
        if is_empty {
            self.place.keys.remove(args[0]);
        }
    }

    fn try_call(&mut self, verb: Verb, args: &[&[u8]]) -> Result<(), WrongType> {
        let (key, rest) = (args[0], &args[1..]);
        let did = match verb {
            Verb::Unlink => self.place.keys.remove(key).is_some().then_some("del"),
            Verb::Hset => {
                let fields = hash_of(self.place, key)?;
                rest.chunks_exact(2).for_each(|pair| _ = fields.insert(pair[0].to_vec(), pair[1].to_vec()));
                Some("set")
            }
            Verb::Hdel => {
                let fields = hash_of(self.place, key)?;
                (rest.iter().filter(|name| fields.remove(**name).is_some()).count() > 0).then_some("set")
            }
            Verb::Set => {
                let expires = rest.get(2).map(|ms| self.now.plus_ms(int(ms)));
                self.place.note_expiry(expires);
                self.place.keys.insert(key.to_vec(), Entry { held: Held::String(rest[0].to_vec()), expires });
                Some("set")
            }
            Verb::Pexpire => {
                self.set_expiry(key, Some(int(rest[0])));
                None
            }
            Verb::Persist => {
                self.set_expiry(key, None);
                None
            }
            Verb::Expire => self.expire(key, int(rest[0])),
            Verb::Zadd => {
                zset_of(self.place, key)?.add(float(rest[0]), rest[1]);
                Some("set")
            }
            Verb::Zrem => zset_of(self.place, key)?.remove(rest[0]).then_some("set"),
            Verb::ZremrangeByScore => zset_of(self.place, key)?.remove_scores(float(rest[0]), float(rest[1])).then_some("set"),
            Verb::ZremrangeByRank => zset_of(self.place, key)?.remove_ranks(int(rest[0]), int(rest[1])).then_some("set"),
            Verb::Sadd => {
                set_of(self.place, key)?.insert(rest[0].to_vec());
                Some("set")
            }
            Verb::Srem => set_of(self.place, key)?.remove(rest[0]).then_some("set"),
            Verb::Xadd => return self.add_entry(key, rest),
            Verb::Publish => {
                self.place.published.push((key.to_vec(), rest[0].to_vec()));
                self.noted.push(Effect { op: "publish", key: key.to_vec(), value: Some(Held::String(rest[0].to_vec())) });
                None
            }
            Verb::Place | Verb::Forget => None,
        };
        if let Some(op) = did {
            self.noted.push(Effect { op, key: key.to_vec(), value: None });
        }
        Ok(())
    }

    fn set_expiry(&mut self, key: &[u8], ms: Option<i64>) {
        if let Some(entry) = self.place.keys.get_mut(key) {
            entry.expires = ms.map(|ms| self.now.plus_ms(ms));
            let expires = entry.expires;
            self.place.note_expiry(expires);
        }
    }

    /// Expires the key, never later than it would anyway.
    fn expire(&mut self, key: &[u8], ms: i64) -> Option<&'static str> {
        let entry = self.place.keys.get_mut(key)?;
        let at = self.now.plus_ms(ms);
        entry.expires = Some(entry.expires.map_or(at, |already| already.min(at)));
        self.place.note_expiry(Some(at));
        Some("expire")
    }

    /// `XADD key [MAXLEN n] * field value …`, with ids by the clock.
    fn add_entry(&mut self, key: &[u8], args: &[&[u8]]) -> Result<(), WrongType> {
        let now = self.now.0.max(0);
        let (keep, fields) = if args[0] == b"MAXLEN" { (Some(int(args[1])), &args[3..]) } else { (None, &args[1..]) };
        let last = self.place.last_entry;
        let id = if now > last.0 { (now, 0) } else { (last.0, last.1 + 1) };
        let entries = stream_of(self.place, key)?;
        let fields: Vec<_> = fields.chunks_exact(2).map(|pair| (pair[0].to_vec(), pair[1].to_vec())).collect();
        let entry = (format!("{}-{}", id.0, id.1), fields);
        entries.push(entry.clone());
        if let Some(keep) = keep {
            let surplus = entries.len().saturating_sub(usize::try_from(keep).unwrap_or(0));
            entries.drain(..surplus);
        }
        self.place.last_entry = id;
        self.noted.push(Effect { op: "append", key: key.to_vec(), value: Some(Held::Stream(vec![entry])) });
        Ok(())
    }

    fn place(&mut self, ledger: &[u8], owners: &[u8], row: &[u8], location: &[u8], leave: &[u8]) {
        if let Some(old) = self.stands(ledger, row).filter(|old| old != location) {
            self.depart(owners, row, &old, leave);
        }
        let entry = [self.generation.as_bytes(), b" ", location].concat();
        self.put_field(ledger, row, entry);
        if let Some((key, Location::Key)) = Location::read(location) {
            self.put_field(owners, key, row.to_vec());
        }
    }

    fn forget(&mut self, ledger: &[u8], owners: &[u8], row: &[u8], leave: &[u8]) {
        if let Some(old) = self.stands(ledger, row) {
            self.depart(owners, row, &old, leave);
            self.drop_field(ledger, row);
        }
    }

    fn stands(&self, ledger: &[u8], row: &[u8]) -> Option<Vec<u8>> {
        let entry = self.place.hash(ledger, self.now)?.get(row)?;
        let space = entry.iter().position(|&byte| byte == b' ')?;
        Some(entry[space + 1..].to_vec())
    }

    fn depart(&mut self, owners: &[u8], row: &[u8], location: &[u8], leave: &[u8]) {
        let Some((key, location)) = Location::read(location) else { return };
        match location {
            Location::Key => {
                let is_owner = self.place.hash(owners, self.now).and_then(|owners| owners.get(key)).is_some_and(|owner| owner == row);
                if !is_owner {
                    return;
                }
                self.drop_field(owners, key);
                match leave {
                    b"del" => self.call(Verb::Unlink, &[key]),
                    b"keep" => {}
                    ms => self.call(Verb::Expire, &[key, ms]),
                }
            }
            _ if leave == b"keep" => {}
            Location::SortedMember(member) => self.call(Verb::Zrem, &[key, member]),
            Location::Score(score) => self.call(Verb::ZremrangeByScore, &[key, score, score]),
            Location::SetMember(member) => self.call(Verb::Srem, &[key, member]),
        }
    }

    fn put_field(&mut self, hash: &[u8], field: &[u8], value: Vec<u8>) {
        if let Ok(fields) = hash_of(self.place, hash) {
            fields.insert(field.to_vec(), value);
        }
    }

    fn drop_field(&mut self, hash: &[u8], field: &[u8]) {
        if let Ok(fields) = hash_of(self.place, hash) {
            fields.remove(field);
            if fields.is_empty() {
                self.place.keys.remove(hash);
            }
        }
    }

    /// What the commands of a row came to: one effect per key, in the order of their last command, and every message and entry.
    fn effects(&self, noted: Vec<Effect>) -> Vec<Effect> {
        let mut effects: Vec<Effect> = Vec::new();
        for effect in noted {
            let is_of_a_key = matches!(effect.op, "set" | "del" | "expire");
            if is_of_a_key {
                effects.retain(|earlier| earlier.key != effect.key || !matches!(earlier.op, "set" | "del" | "expire"));
            }
            effects.push(effect);
        }
        for effect in &mut effects {
            if matches!(effect.op, "set" | "expire") {
                effect.value = self.place.get(&effect.key, self.now).cloned();
                if effect.value.is_none() {
                    effect.op = "del";
                }
            }
        }
        effects
    }
}

fn int(text: &[u8]) -> i64 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn float(text: &[u8]) -> f64 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or_default()
}

impl Held {
    /// What the key holds, as JSON: a hash is an object of texts; a sorted set a list of `{"member":…,"score":…}`; a set a list;
    /// a stream a list of objects of fields. Bytes that are no UTF-8 are base64.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Held::String(text) => write_text(text, out),
            Held::Hash(fields) => write_object(fields.iter(), out),
            Held::Set(members) => write_list(members.iter(), out, |member, out| write_text(member, out)),
            Held::Zset(members) => write_list(members.iter(), out, |(member, score), out| {
                out.extend_from_slice(b"{\"member\":");
                write_text(member, out);
                out.extend_from_slice(b",\"score\":");
                let whole = score as i64;
                let is_whole = whole as f64 == score && whole.unsigned_abs() <= 1 << 53;
                json::write_value(&if is_whole { Value::Int(whole) } else { Value::Double(score) }, out);
                out.push(b'}');
            }),
            Held::Stream(entries) => {
                write_list(entries.iter(), out, |(_, fields), out| write_object(fields.iter().map(|(n, v)| (n, v)), out))
            }
        }
    }
}

fn write_text(bytes: &[u8], out: &mut Vec<u8>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => json::write_value(&Value::string(text), out),
        Err(_) => json::write_value(&Value::Bytes(bytes::Bytes::copy_from_slice(bytes)), out),
    }
}

fn write_list<T>(items: impl Iterator<Item = T>, out: &mut Vec<u8>, write: impl Fn(T, &mut Vec<u8>)) {
    out.push(b'[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(b']');
}

fn write_object<'a>(fields: impl Iterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (index, (name, value)) in fields.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_text(name, out);
        out.push(b':');
        write_text(value, out);
    }
    out.push(b'}');
}
