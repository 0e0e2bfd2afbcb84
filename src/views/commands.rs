//! Redis commands as flat bytes: what a view writes, before anybody knows where.
//!
//! One buffer holds the arguments of all commands, so that a row costs no allocation of its own. Both places read it: `redis`
//! sends it as arguments of the script, `memory` runs it. Commands of one row stand together ([`Commands::rows`]).

use std::fmt;

/// A command of Redis, or one of the few words that only our script knows (the last three).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    Unlink,
    Hset,
    Hdel,
    Set,
    Pexpire,
    Persist,
    Zadd,
    Zrem,
    ZremrangeByScore,
    ZremrangeByRank,
    Sadd,
    Srem,
    Xadd,
    /// Channel and payload; the only one without a key.
    Publish,
    /// `key, ms`: like `PEXPIRE`, but never later than it expires already. How a row that left its key lets it expire.
    Expire,
    /// `ledger, owners, row, location, leave`: notes where a row stands now, and takes it from where it stood. See `placement`.
    Place,
    /// `ledger, owners, row, leave`: takes a row from where it stands.
    Forget,
}

impl Verb {
    /// The word in the script's arguments: for commands of Redis their own name.
    pub fn word(self) -> &'static str {
        match self {
            Verb::Unlink => "UNLINK",
            Verb::Hset => "HSET",
            Verb::Hdel => "HDEL",
            Verb::Set => "SET",
            Verb::Pexpire => "PEXPIRE",
            Verb::Persist => "PERSIST",
            Verb::Zadd => "ZADD",
            Verb::Zrem => "ZREM",
            Verb::ZremrangeByScore => "ZREMRANGEBYSCORE",
            Verb::ZremrangeByRank => "ZREMRANGEBYRANK",
            Verb::Sadd => "SADD",
            Verb::Srem => "SREM",
            Verb::Xadd => "XADD",
            Verb::Publish => "PUBLISH",
            Verb::Expire => "*EXPIRE",
            Verb::Place => "*PLACE",
            Verb::Forget => "*FORGET",
        }
    }

    /// Whether the first argument is a key.
    pub fn has_key(self) -> bool {
        self != Verb::Publish
    }
}

/// Commands in the order in which they run.
#[derive(Clone, Default)]
pub struct Commands {
    bytes: Vec<u8>,
    /// End of each argument in `bytes`.
    ends: Vec<usize>,
    /// Each command with the index of its first argument.
    heads: Vec<(Verb, usize)>,
    /// Number of commands up to the end of each row.
    rows: Vec<usize>,
}

/// A place in [`Commands`] to come back to.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    bytes: usize,
    ends: usize,
    heads: usize,
}

impl Mark {
    /// Whether commands were added since the other mark.
    pub fn is_after(self, other: Mark) -> bool {
        self.heads > other.heads
    }
}

impl Commands {
    /// Begins a command; its arguments follow.
    pub fn start(&mut self, verb: Verb) -> &mut Commands {
        self.heads.push((verb, self.ends.len()));
        self
    }

    /// Adds an argument to the command begun last.
    pub fn arg(&mut self, bytes: &[u8]) -> &mut Commands {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
        self
    }

    /// Adds an argument that is written in place.
    pub fn arg_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> &mut Commands {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
        self
    }

    /// Ends a row, also one without commands.
    pub fn end_row(&mut self) {
        self.rows.push(self.heads.len());
    }

    pub fn mark(&self) -> Mark {
        Mark { bytes: self.bytes.len(), ends: self.ends.len(), heads: self.heads.len() }
    }

    /// Forgets what was added since the mark; rows that ended since must not be among it.
    pub fn truncate(&mut self, mark: Mark) {
        self.bytes.truncate(mark.bytes);
        self.ends.truncate(mark.ends);
        self.heads.truncate(mark.heads);
    }

    /// Whether no row is open.
    pub fn has_ended(&self) -> bool {
        self.rows.last().copied().unwrap_or(0) == self.heads.len()
    }

    /// Number of rows that have ended.
    pub fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// Number of commands.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Bytes of all arguments.
    pub fn byte_count(&self) -> usize {
        self.bytes.len()
    }

    /// Number of all arguments.
    pub fn arg_count(&self) -> usize {
        self.ends.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = Command<'_>> {
        (0..self.heads.len()).map(|index| self.command(index))
    }

    /// The commands of each row.
    pub fn rows(&self) -> impl Iterator<Item = impl Iterator<Item = Command<'_>>> {
        (0..self.rows.len()).map(|row| {
            let first = if row == 0 { 0 } else { self.rows[row - 1] };
            (first..self.rows[row]).map(|index| self.command(index))
        })
    }

    fn command(&self, index: usize) -> Command<'_> {
        let (verb, first) = self.heads[index];
        let end = self.heads.get(index + 1).map_or(self.ends.len(), |&(_, next)| next);
        Command { verb, commands: self, first, end }
    }
}

/// One command in [`Commands`].
#[derive(Clone, Copy)]
pub struct Command<'a> {
    pub verb: Verb,
    commands: &'a Commands,
    first: usize,
    end: usize,
}

impl<'a> Command<'a> {
    /// Number of arguments, the key among them.
    pub fn arg_count(&self) -> usize {
        self.end - self.first
    }

    /// An argument; the key is number 0. Empty where there is none.
    pub fn arg(&self, number: usize) -> &'a [u8] {
        let index = self.first + number;
        if index >= self.end {
            return &[];
        }
        let start = if index == 0 { 0 } else { self.commands.ends[index - 1] };
        &self.commands.bytes[start..self.commands.ends[index]]
    }

    /// The arguments from `first` on.
    pub fn args(&self, first: usize) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let command = *self;
        (first..self.arg_count()).map(move |number| command.arg(number))
    }
}

impl fmt::Debug for Command<'_> {
    /// As one would type it: `HSET product:p1 name Tea`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb.word())?;
        for arg in self.args(0) {
            write!(f, " {}", arg.escape_ascii())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_read_back_by_row() {
        let mut commands = Commands::default();
        commands.start(Verb::Hset).arg(b"k").arg(b"").arg(b"v");
        commands.start(Verb::Persist).arg(b"k");
        commands.end_row();
        commands.end_row();
        let mark = commands.mark();
        commands.start(Verb::Set).arg(b"gone");
        commands.truncate(mark);
        commands.start(Verb::Unlink).arg(b"l");
        commands.end_row();
        let rows: Vec<String> = commands.rows().map(|row| format!("{:?}", row.collect::<Vec<_>>())).collect();
        assert_eq!(rows, ["[HSET k  v, PERSIST k]", "[]", "[UNLINK l]"]);
        assert_eq!((commands.len(), commands.arg_count(), commands.byte_count(), commands.row_count()), (3, 5, 4, 3));
    }
}
