//! The script that applies a piece of work only where Redis stands exactly where the piece starts.
//!
//! Redis keeps a watermark per view and partition, a hash: which changelog (`topic`, its UUID), what the view writes (`view`, a
//! fingerprint), who writes (`gen`), whether it is whole (`phase`), how far it is (`off`, `sub`) and how new its newest row may be
//! (`reach`: a writer that has not come so far must not write older rows over it). Every write of a view, be it
//! of a commit, a refill or a rebuild, is a [`Piece`]: *from this watermark, these commands, to that watermark*, in one script
//! that compares all of it, runs the commands and moves the watermark last. Hence:
//! - a reply that was lost: the same piece is sent again, and the script answers with the piece's own end: it was applied;
//! - a writer that was paused and woke up, or a packet that was delayed: `gen` or the position is another one, nothing is done;
//! - FLUSHALL, an older copy, a new server: the stored watermark says so, whatever we believe.
//!
//! A commit of more than [`PIECE_ROWS_MAX`] rows is cut: pieces move `sub`, the number of rows done after `off`; the last one
//! moves `off` and sets `sub` to 0, so the next commit starts where this one ends. `sub` has a meaning for its generation only:
//! whoever takes over makes a new one and starts at `off`.
//!
//! Stored format, version 1: fields `v topic view gen phase off sub reach` compared, `ts` (ms of the last write or heartbeat, for
//! readers) and `keys` (the key pattern, for clean-up after the file has changed) not compared.

use std::fmt;

use crate::model::{Offset, Time};
use crate::views::commands::Commands;

/// Rows in one script: about 1 ms of server time, so that other clients still get their turn.
pub const PIECE_ROWS_MAX: usize = 500;
/// Bytes of arguments in one script, unless a single row is larger.
pub const PIECE_BYTES_MAX: usize = 1 << 20;
/// Arguments in one script, unless a single row has more; Redis refuses more than 1,048,576.
pub const PIECE_ARGS_MAX: usize = 1 << 16;

/// Format of the watermark.
pub const FORMAT: &str = "1";

/// Compared fields of the watermark, in the order of the script's arguments.
pub const FIELDS: [&str; 8] = ["v", "topic", "view", "gen", "phase", "off", "sub", "reach"];
/// The field with the key pattern.
pub const FIELD_KEYS: &str = "keys";

/// The watermark as stored, field by field; all empty: there is none.
pub type Stored = [String; FIELDS.len()];

/// Constant text; all that varies comes as `KEYS` and `ARGV`. Redis 6 and later, Valkey.
///
/// `KEYS[1]` is the watermark, the others are the keys of the commands in their order. `ARGV`: 8 fields expected, 8 fields new,
/// the time, then per command its word, the number of arguments after the key, and these.
pub const SCRIPT: &str = r#"
local stored = redis.call('HMGET', KEYS[1], 'v', 'topic', 'view', 'gen', 'phase', 'off', 'sub', 'reach')
for i = 1, 8 do
  stored[i] = stored[i] or ''
end
for i = 1, 8 do
  if stored[i] ~= ARGV[i] then
    return stored
  end
end
-- The first write: a server that is out of memory or a replica refuses it, and with it the whole script.
redis.call('HSET', KEYS[1], 'ts', ARGV[17])

local replaced = 0
local failure = nil
local generation = ARGV[12]

-- A key of another type stands in the way of a view that owns the name: it is replaced, and the writer is told.
local function run(command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) == 'table' and reply.err then
    if string.find(reply.err, 'WRONGTYPE', 1, true) and command ~= 'PUBLISH' then
      redis.call('UNLINK', key)
      replaced = replaced + 1
      reply = redis.pcall(command, key, ...)
    end
    if type(reply) == 'table' and reply.err then
      failure = failure or reply
    end
  end
  return reply
end

local function expire(key, ms)
  local left = redis.call('PTTL', key)
  if left == -1 or left > tonumber(ms) then
    redis.call('PEXPIRE', key, ms)
  end
end

local function depart(owners, row, location, leave)
  local kind, length, at = string.match(location, '^(%a)(%d+):()')
  local key = string.sub(location, at, at + length - 1)
  local rest = string.sub(location, at + length)
  if kind == 'U' then
    if redis.call('HGET', owners, key) == row then
      redis.call('HDEL', owners, key)
      if leave == 'del' then
        redis.call('UNLINK', key)
      elseif leave ~= 'keep' then
        expire(key, leave)
      end
    end
  elseif leave ~= 'keep' then
    if kind == 'Z' then
      run('ZREM', key, rest)
    elseif kind == 'R' then
      run('ZREMRANGEBYSCORE', key, rest, rest)
    elseif kind == 'S' then
      run('SREM', key, rest)
    end
  end
end

local function stands(ledger, row)
  local entry = redis.call('HGET', ledger, row)
  return entry and string.sub(entry, string.find(entry, ' ', 1, true) + 1)
end

local key = 2
local at = 18
local last = #ARGV
while at <= last do
  local command = ARGV[at]
  local count = tonumber(ARGV[at + 1])
  local first = at + 2
  at = first + count
  if command == 'PUBLISH' then
    run(command, ARGV[first], ARGV[first + 1])
  else
    local name = KEYS[key]
    key = key + 1
    if command == '*EXPIRE' then
      expire(name, ARGV[first])
    elseif command == '*PLACE' then
      local owners, row, location, leave = ARGV[first], ARGV[first + 1], ARGV[first + 2], ARGV[first + 3]
      local old = stands(name, row)
      if old and old ~= location then
        depart(owners, row, old, leave)
      end
      redis.call('HSET', name, row, generation .. ' ' .. location)
      if string.sub(location, 1, 1) == 'U' then
        redis.call('HSET', owners, string.sub(location, string.find(location, ':', 1, true) + 1), row)
      end
    elseif command == '*FORGET' then
      local owners, row, leave = ARGV[first], ARGV[first + 1], ARGV[first + 2]
      local old = stands(name, row)
      if old then
        depart(owners, row, old, leave)
        redis.call('HDEL', name, row)
      end
    else
      run(command, name, unpack(ARGV, first, at - 1))
    end
  end
  if failure then
    return failure
  end
end

redis.call('HSET', KEYS[1], 'v', ARGV[9], 'topic', ARGV[10], 'view', ARGV[11], 'gen', ARGV[12],
  'phase', ARGV[13], 'off', ARGV[14], 'sub', ARGV[15], 'reach', ARGV[16])
return replaced
"#;

/// Whether a view shows all of the table as of the offset, or is being written anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Live,
    Rebuild,
}

/// One writer's time with a watermark. The number grows with each take-over that sees the one before; number and writer
/// together never come twice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Generation {
    pub number: i64,
    pub writer: String,
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.number, self.writer)
    }
}

/// A watermark that this version can read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Watermark {
    pub topic: String,
    pub view: String,
    pub generation: Generation,
    pub phase: Phase,
    /// The view shows all changes before this offset of the changelog.
    pub offset: Offset,
    /// And this many rows of the work that this generation does now.
    pub sub: u64,
    /// No row is shown as it was after this offset, nor later.
    pub reach: Offset,
}

/// What is stored in place of a watermark.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reading {
    Absent,
    Watermark(Watermark),
    /// Fields are missing or no numbers: written over.
    Garbled,
    /// Another format: left alone. Holds the version found.
    Unknown(String),
}

impl Watermark {
    /// The fields as they are stored.
    pub fn stored(&self) -> Stored {
        let phase = match self.phase {
            Phase::Live => "live",
            Phase::Rebuild => "rebuild",
        };
        [
            FORMAT.to_owned(),
            self.topic.clone(),
            self.view.clone(),
            self.generation.to_string(),
            phase.to_owned(),
            self.offset.to_string(),
            self.sub.to_string(),
            self.reach.to_string(),
        ]
    }

    pub fn read(stored: &Stored) -> Reading {
        let [format, topic, view, generation, phase, offset, sub, reach] = stored;
        if stored.iter().all(String::is_empty) {
            return Reading::Absent;
        }
        if !format.is_empty() && format != FORMAT {
            return Reading::Unknown(format.clone());
        }
        let read = || {
            let (number, writer) = generation.split_once('.')?;
            let phase = match phase.as_str() {
                "live" => Phase::Live,
                "rebuild" => Phase::Rebuild,
                _ => return None,
            };
            Some(Watermark {
                topic: topic.clone(),
                view: view.clone(),
                generation: Generation { number: number.parse().ok()?, writer: writer.to_owned() },
                phase,
                offset: Offset(offset.parse().ok()?),
                sub: sub.parse().ok()?,
                reach: Offset(reach.parse().ok()?),
            })
        };
        read().map_or(Reading::Garbled, Reading::Watermark)
    }

    fn position(&self) -> (Offset, u64) {
        (self.offset, self.sub)
    }
}

/// One step of one view on one partition: applied whole or not at all.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The Redis key of the watermark.
    pub watermark: String,
    /// What must be stored.
    pub from: Stored,
    pub to: Watermark,
    /// Wall clock, for readers of the watermark.
    pub time: Time,
    pub commands: Commands,
}

/// What the script answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Done; so many keys of another type were replaced.
    Applied { replaced: u64 },
    /// Another watermark is stored; nothing was done.
    Refused(Stored),
}

/// What a refusal means for the writer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Applied {
        replaced: u64,
    },
    /// The piece had been applied before: a reply was lost.
    AppliedBefore,
    /// FLUSHALL, a new server: nothing is stored.
    Absent,
    /// Redis went back to an older copy.
    Behind(Watermark),
    /// Our own generation, at a place that we did not expect.
    Elsewhere(Watermark),
    /// Another writer, another topic, or another version of the view.
    Foreign(Watermark),
    Garbled,
    /// A format of a newer version.
    Unknown(String),
}

/// Reads the script's reply to a piece.
pub fn judge(piece: &Piece, reply: &Reply) -> Outcome {
    let stored = match reply {
        Reply::Applied { replaced } => return Outcome::Applied { replaced: *replaced },
        Reply::Refused(stored) => stored,
    };
    match Watermark::read(stored) {
        Reading::Absent => Outcome::Absent,
        Reading::Garbled => Outcome::Garbled,
        Reading::Unknown(format) => Outcome::Unknown(format),
        Reading::Watermark(found) if found == piece.to => Outcome::AppliedBefore,
        Reading::Watermark(found)
            if found.topic != piece.to.topic || found.view != piece.to.view || found.generation != piece.to.generation =>
        {
            Outcome::Foreign(found)
        }
        Reading::Watermark(found) => match Watermark::read(&piece.from) {
            Reading::Watermark(from) if found.position() < from.position() => Outcome::Behind(found),
            _ => Outcome::Elsewhere(found),
        },
    }
}

impl Piece {
    /// `KEYS` of the script.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        let of_commands = self.commands.iter().filter(|command| command.verb.has_key()).map(|command| command.arg(0));
        std::iter::once(self.watermark.as_bytes()).chain(of_commands)
    }

    /// Number of `KEYS`.
    pub fn key_count(&self) -> usize {
        1 + self.commands.iter().filter(|command| command.verb.has_key()).count()
    }

    /// `ARGV` of the script, given one by one.
    pub fn each_argument(&self, mut give: impl FnMut(&[u8])) {
        self.from.iter().for_each(|field| give(field.as_bytes()));
        self.to.stored().iter().for_each(|field| give(field.as_bytes()));
        give(self.time.0.to_string().as_bytes());
        let mut number = Vec::with_capacity(20);
        for command in self.commands.iter() {
            let skipped = usize::from(command.verb.has_key());
            give(command.verb.word().as_bytes());
            number.clear();
            crate::views::render::write_uint((command.arg_count() - skipped) as u64, &mut number);
            give(&number);
            command.args(skipped).for_each(&mut give);
        }
    }
}
