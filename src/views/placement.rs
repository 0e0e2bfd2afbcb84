//! Where the rows of a view stand in Redis, and how that is found again without the row.
//!
//! A writer that has missed changes knows which rows changed, but not what they were before. Three cases:
//! - *derived*: key and window of a row say where it stands (`product:{key}`), and the key of Redis says whose it is. Nothing
//!   need be noted; a rebuild finds rows that are gone by scanning for the pattern.
//! - *ledger*: the place depends on the row (`category:{row.category}`) or is shared by rows of several partitions
//!   (`ranking`). A hash per view and partition, written in the same script, notes where each row stands; a hash per view notes
//!   whose each key is, so that a row that leaves `email:{row.email}` does not take the key from the row that has it by now.
//! - *log*: entries are only ever added (`pubsub`, a `stream` for many rows). There is nothing to find again.

use std::collections::HashSet;
use std::fmt::Write;
use std::hash::BuildHasher;

use foldhash::quality::FixedState;

use crate::expression::Program;
use crate::views::render::{Changed, slot};
use crate::views::{Member, OnViewDelete, Template, TemplatePart, ViewShape, ViewSpec, kind};

/// How a view finds its rows again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Placement {
    Derived(Pattern),
    Ledger(Ledger),
    Log,
}

/// Redis keys of a ledger.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ledger {
    /// Hash of one view and partition: row to generation and [`Location`].
    pub rows: String,
    /// Hash of one view: Redis key to the row that wrote it last.
    pub owners: String,
}

/// Where a row stands under its key, as the ledger notes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Location<'a> {
    /// The whole key is the row's.
    Key,
    SortedMember(&'a [u8]),
    Score(&'a [u8]),
    SetMember(&'a [u8]),
}

impl Placement {
    /// `ledger`: what to use where a ledger is needed.
    pub fn of(spec: &ViewSpec, ledger: Ledger) -> Placement {
        let pattern = Pattern::of(&spec.key);
        let is_found_by_key = match spec.shape {
            ViewShape::Pubsub => return Placement::Log,
            ViewShape::Stream if pattern.is_none() => return Placement::Log,
            ViewShape::Zset if spec.replace_by_score => spec.score.iter().all(is_of_the_key),
            ViewShape::Zset | ViewShape::Set => match &spec.member {
                Some(Member::Whole(program)) => is_of_the_key(program),
                Some(Member::Fields(fields)) => fields.iter().all(|(_, program)| is_of_the_key(program)),
                None => false,
            },
            ViewShape::Hash | ViewShape::Json | ViewShape::String | ViewShape::Stream => true,
        };
        match pattern {
            Some(pattern) if is_found_by_key => Placement::Derived(pattern),
            _ => Placement::Ledger(ledger),
        }
    }

    pub fn ledger(&self) -> Option<&Ledger> {
        match self {
            Placement::Ledger(ledger) => Some(ledger),
            _ => None,
        }
    }

    pub fn pattern(&self) -> Option<&Pattern> {
        match self {
            Placement::Derived(pattern) => Some(pattern),
            _ => None,
        }
    }
}

impl Location<'_> {
    /// The form in the ledger: a letter, the length of the key, the key, and the member or score.
    pub fn write(&self, key: &[u8], out: &mut Vec<u8>) {
        let (letter, rest): (u8, &[u8]) = match *self {
            Location::Key => (b'U', b""),
            Location::SortedMember(member) => (b'Z', member),
            Location::Score(score) => (b'R', score),
            Location::SetMember(member) => (b'S', member),
        };
        out.push(letter);
        out.extend_from_slice(key.len().to_string().as_bytes());
        out.push(b':');
        out.extend_from_slice(key);
        out.extend_from_slice(rest);
    }

    /// Reads what [`Location::write`] wrote: the key and the location.
    pub fn read(bytes: &[u8]) -> Option<(&[u8], Location<'_>)> {
        let (&letter, rest) = bytes.split_first()?;
        let colon = rest.iter().position(|&byte| byte == b':')?;
        let length: usize = std::str::from_utf8(&rest[..colon]).ok()?.parse().ok()?;
        let (key, rest) = rest[colon + 1..].split_at_checked(length)?;
        let location = match letter {
            b'U' => Location::Key,
            b'Z' => Location::SortedMember(rest),
            b'R' => Location::Score(rest),
            b'S' => Location::SetMember(rest),
            _ => return None,
        };
        Some((key, location))
    }
}

/// What names a row within its partition: key and, in windowed tables, the window.
pub fn row_id(changed: &Changed<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(changed.key_bytes);
    if let Some((start, end)) = changed.window {
        out.extend_from_slice(&start.0.to_be_bytes());
        out.extend_from_slice(&end.0.to_be_bytes());
    }
}

/// All expressions of a view.
pub fn programs(spec: &ViewSpec) -> Vec<&Program> {
    let mut all: Vec<&Program> = spec.when.iter().chain(&spec.value).chain(&spec.score).collect();
    all.extend(spec.key.parts.iter().filter_map(TemplatePart::program));
    all.extend(spec.fields.iter().flatten().map(|(_, program)| program));
    match &spec.member {
        Some(Member::Whole(program)) => all.push(program),
        Some(Member::Fields(fields)) => all.extend(fields.iter().map(|(_, program)| program)),
        None => {}
    }
    if let Some(notify) = &spec.notify {
        all.extend(notify.channel.parts.iter().filter_map(TemplatePart::program));
        all.push(&notify.payload);
    }
    all
}

/// Whether key and window alone decide the value.
fn is_of_the_key(program: &Program) -> bool {
    ![slot::ROW, slot::OLD, slot::TIME, slot::HEADERS].iter().any(|&slot| program.uses(slot))
}

/// A template whose text gives the record key back: `product:{key}`, `chart:{key}:{unix_ms(window.start)}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern {
    parts: Vec<PatternPart>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum PatternPart {
    Text(String),
    Key,
    /// A number or timestamp that depends on the window only.
    Window,
    /// Any text.
    Any,
}

/// Longest Redis key that is taken apart.
const KEY_LENGTH_MAX: usize = 4096;

impl Pattern {
    /// `None` if the template does not hold the key as it is, exactly once, beside nothing but text and the window.
    pub fn of(template: &Template) -> Option<Pattern> {
        let mut parts = Vec::new();
        for part in &template.parts {
            parts.push(match part {
                TemplatePart::Text(text) => PatternPart::Text(text.clone()),
                TemplatePart::Value(program) if matches!(program.source().trim(), "key" | "string(key)") => PatternPart::Key,
                TemplatePart::Value(program) if is_of_the_key(program) && !program.uses(slot::KEY) => PatternPart::Window,
                TemplatePart::Value(_) => return None,
            });
        }
        let is_slot = |part: &PatternPart| !matches!(part, PatternPart::Text(_));
        let is_split = !parts.windows(2).any(|pair| is_slot(&pair[0]) && is_slot(&pair[1]));
        let keys = parts.iter().filter(|part| **part == PatternPart::Key).count();
        (keys == 1 && is_split).then_some(Pattern { parts })
    }

    /// A pattern that fits whatever the template can give, and gives no key back.
    pub fn loose(template: &Template) -> Pattern {
        let part = |part: &TemplatePart| match part {
            TemplatePart::Text(text) => PatternPart::Text(text.clone()),
            TemplatePart::Value(_) => PatternPart::Any,
        };
        Pattern { parts: template.parts.iter().map(part).collect() }
    }

    /// For `SCAN MATCH`: matches at least all keys of the pattern.
    pub fn glob(&self) -> String {
        let mut glob = String::new();
        for part in &self.parts {
            match part {
                PatternPart::Text(text) => {
                    for c in text.chars() {
                        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
                            glob.push('\\');
                        }
                        glob.push(c);
                    }
                }
                _ => glob.push('*'),
            }
        }
        glob
    }

    /// The text of the record key in a Redis key; `None` if it does not fit, or fits in more than one way.
    pub fn invert<'k>(&self, redis_key: &'k [u8]) -> Option<&'k str> {
        if redis_key.len() > KEY_LENGTH_MAX {
            return None;
        }
        let mut found = Vec::new();
        find(&self.parts, redis_key, None, &mut found);
        match found[..] {
            [only] => std::str::from_utf8(only).ok(),
            _ => None,
        }
    }

    /// Whether a Redis key could be of this pattern, in whatever way.
    pub fn fits(&self, redis_key: &[u8]) -> bool {
        let mut found = Vec::new();
        find(&self.parts, redis_key, Some(&[]), &mut found);
        !found.is_empty()
    }
}

/// Pushes the key of each way in which the parts fit; stops at two. Depth is the number of parts.
fn find<'k>(parts: &[PatternPart], rest: &'k [u8], key: Option<&'k [u8]>, found: &mut Vec<&'k [u8]>) {
    if found.len() > 1 {
        return;
    }
    let Some((part, after)) = parts.split_first() else {
        if rest.is_empty() {
            found.extend(key);
        }
        return;
    };
    match part {
        PatternPart::Text(text) => {
            if let Some(rest) = rest.strip_prefix(text.as_bytes()) {
                find(after, rest, key, found);
            }
        }
        PatternPart::Key if after.is_empty() => found.push(rest),
        PatternPart::Any if after.is_empty() => found.extend(key),
        PatternPart::Window if after.is_empty() => {
            if is_window_text(rest) {
                found.extend(key);
            }
        }
        PatternPart::Key => (0..=rest.len()).for_each(|end| find(after, &rest[end..], Some(&rest[..end]), found)),
        PatternPart::Any => (0..=rest.len()).for_each(|end| find(after, &rest[end..], key, found)),
        PatternPart::Window => {
            let ends = (1..=rest.len()).take_while(|&end| is_window_text(&rest[..end]));
            ends.for_each(|end| find(after, &rest[end..], key, found));
        }
    }
}

fn is_window_text(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_digit() || b"-:.TZ".contains(byte))
}

impl std::fmt::Display for Pattern {
    /// The form in the watermark: `product:{key}`, with `\` before braces and backslashes of the text.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for part in &self.parts {
            match part {
                PatternPart::Text(text) => {
                    for c in text.chars() {
                        if matches!(c, '{' | '}' | '\\') {
                            f.write_char('\\')?;
                        }
                        f.write_char(c)?;
                    }
                }
                PatternPart::Key => f.write_str("{key}")?,
                PatternPart::Window => f.write_str("{window}")?,
                PatternPart::Any => f.write_str("{any}")?,
            }
        }
        Ok(())
    }
}

impl Pattern {
    /// Reads the form in the watermark, which an older version of the file may have written.
    pub fn read(text: &str) -> Option<Pattern> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            match c {
                '\\' => plain.push(rest.next()?),
                '{' => {
                    if !plain.is_empty() {
                        parts.push(PatternPart::Text(std::mem::take(&mut plain)));
                    }
                    let name: String = rest.by_ref().take_while(|&c| c != '}').collect();
                    parts.push(match name.as_str() {
                        "key" => PatternPart::Key,
                        "window" => PatternPart::Window,
                        _ => return None,
                    });
                }
                other => plain.push(other),
            }
        }
        if !plain.is_empty() {
            parts.push(PatternPart::Text(plain));
        }
        parts.contains(&PatternPart::Key).then_some(Pattern { parts })
    }
}

/// Redis keys that a rebuild has written, as 64-bit hashes: 1 million keys need 16 MB. Two keys with one hash would leave an
/// orphan behind, once in 10^13 rebuilds of a million rows.
#[derive(Default)]
pub struct Touched {
    hashes: HashSet<u64, FixedState>,
}

impl Touched {
    /// True the first time a key is seen.
    pub fn first(&mut self, key: &[u8]) -> bool {
        self.hashes.insert(FixedState::default().hash_one(key))
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        self.hashes.contains(&FixedState::default().hash_one(key))
    }
}

/// Names what a view writes: two views of one fingerprint write the same for the same rows. Another one in the watermark means
/// that the file has changed and the view must be written anew. FNV-1a, as it must be the same in every build.
pub fn fingerprint(spec: &ViewSpec) -> String {
    let mut text = format!("1|{}", kind(spec.shape).name);
    let mut add = |label: &str, value: &str| _ = write!(text, "|{label}={}:{value}", value.len());
    let template = |template: &Template| -> String {
        let part = |part: &TemplatePart| match part {
            TemplatePart::Text(text) => format!("{}:{text}", text.len()),
            TemplatePart::Value(program) => format!("{{{}}}", program.source()),
        };
        template.parts.iter().map(part).collect()
    };
    add("key", &template(&spec.key));
    for (label, program) in [("when", &spec.when), ("value", &spec.value), ("score", &spec.score)] {
        add(label, program.as_ref().map_or("", Program::source));
    }
    for (name, program) in spec.fields.iter().flatten() {
        add(name, program.source());
    }
    match &spec.member {
        Some(Member::Whole(program)) => add("member", program.source()),
        Some(Member::Fields(fields)) => fields.iter().for_each(|(name, program)| add(&format!("member.{name}"), program.source())),
        None => {}
    }
    let leave = match spec.on_delete {
        OnViewDelete::Del => "del".to_owned(),
        OnViewDelete::Expire(ms) => ms.to_string(),
        OnViewDelete::Keep => "keep".to_owned(),
    };
    add("on_delete", &leave);
    add("rest", &format!("{:?} {:?} {}", spec.ttl_ms, spec.keep_last, spec.replace_by_score));
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}
