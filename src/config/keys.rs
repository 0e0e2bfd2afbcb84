//! The language as a table: every block, every key, what it takes, its default and what it is for.
//!
//! Reading (`read`), the JSON schema (`schema`) and the language reference are made from this table, so they cannot disagree. A key
//! that is planned stands here too, with what it comes with: then the answer is not "unknown".

/// A map with fixed keys.
#[derive(Debug)]
pub struct Block {
    /// With its article, for messages: `a source`.
    pub name: &'static str,
    pub summary: &'static str,
    /// In the order of the manual.
    pub keys: &'static [Key],
}

/// A key of a block.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub form: Form,
    pub need: Need,
    pub summary: &'static str,
}

/// Whether a key must be there, and what holds where it is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    Required,
    Optional,
    /// What holds where the key is left out, as one would write it.
    Default(&'static str),
    /// Planned: what it comes with.
    Later(&'static str),
}

/// What a key takes.
#[derive(Debug)]
pub enum Form {
    /// A CEL expression.
    Expression,
    /// Text with expressions in braces.
    Template,
    Text,
    /// A name that refers to something in the file.
    Reference,
    /// A name of a topic, or the app's.
    Topic,
    /// `500ms 30s 1m 2h 7d`, also `1h30m`.
    Duration,
    /// A point in time: RFC 3339, or milliseconds since 1970.
    Moment,
    /// A whole number and its bounds.
    Count(u64, u64),
    Flag,
    Choice(&'static [Choice]),
    /// The type of a field, or a nested map of fields.
    Type,
    /// Any value: data of a test.
    Data,
    Block(&'static Block),
    /// A map whose keys are the user's.
    Names(NameKind, &'static Form),
    List(&'static Form),
    Either(&'static [Form]),
}

/// Which keys a map with free keys takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameKind {
    /// `[a-z][a-z0-9_]*`, at most [`THING_LENGTH_MAX`] characters: sources, tables, views, outputs.
    Thing,
    /// `[A-Za-z_][A-Za-z0-9_]*`: fields of rows, so that an expression can name them.
    Field,
    /// Any text: fields of events, of Redis hashes, headers, labels.
    Free,
}

/// The longest name of a source, table, view or output. Names of internal topics are made of the app's and this one.
pub const THING_LENGTH_MAX: usize = 64;
/// The longest name of an app. With `-<table>-dedupe-changelog` it stays a name.
pub const APP_LENGTH_MAX: usize = 100;

/// One of the values that a key takes.
#[derive(Debug)]
pub struct Choice {
    pub name: &'static str,
    pub summary: &'static str,
    /// Planned: what it comes with.
    pub later: Option<&'static str>,
}

const fn choice(name: &'static str, summary: &'static str) -> Choice {
    Choice { name, summary, later: None }
}

const fn later(name: &'static str, summary: &'static str, with: &'static str) -> Choice {
    Choice { name, summary, later: Some(with) }
}

const fn required(name: &'static str, form: Form, summary: &'static str) -> Key {
    Key { name, form, need: Need::Required, summary }
}

const fn optional(name: &'static str, form: Form, summary: &'static str) -> Key {
    Key { name, form, need: Need::Optional, summary }
}

const fn default(name: &'static str, form: Form, value: &'static str, summary: &'static str) -> Key {
    Key { name, form, need: Need::Default(value), summary }
}

const fn planned(name: &'static str, with: &'static str, summary: &'static str) -> Key {
    Key { name, form: Form::Data, need: Need::Later(with), summary }
}

use Form::Choice as OneOf;
use Form::Count;
use Form::Data;
use Form::Duration;
use Form::Either;
use Form::Expression;
use Form::Flag;
use Form::List;
use Form::Moment;
use Form::Names;
use Form::Reference;
use Form::Template;
use Form::Text;
use Form::Topic;
use Form::Type;
use NameKind::Field;
use NameKind::Free;
use NameKind::Thing;

/// Types of `fields`, with what they hold.
pub const TYPES: &[Choice] = &[
    choice("bool", "true or false"),
    choice("int", "a whole number of 64 bits"),
    choice("uint", "a whole number from 0 of 64 bits"),
    choice("double", "a floating-point number of 64 bits"),
    choice("string", "text"),
    choice("bytes", "bytes; base64 in JSON"),
    choice("decimal", "an exact number of up to 28 digits, for money; text or a number in JSON"),
    choice("timestamp", "a point in time; RFC 3339 in JSON"),
    choice("duration", "a length of time"),
    choice("any", "not known until the record is there"),
];

pub static FILE: Block = Block {
    name: "a topology",
    summary: "One app: what comes in, the tables it keeps, what goes out.",
    keys: &[
        required("version", Count(1, 1), "Version of the language: 1."),
        required("app", Topic, "Name of the app: the consumer group, the prefix of internal topics, the namespace in Redis."),
        required("sources", Names(Thing, &Form::Block(&SOURCE)), "Topics in."),
        planned("streams", "derived streams", "Records derived from sources."),
        optional("tables", Names(Thing, &Form::Block(&TABLE)), "Keyed rows folded from sources, kept in RocksDB and a changelog topic."),
        optional("views", Names(Thing, &Form::Block(&VIEW)), "Redis materializations of tables."),
        optional("outputs", Names(Thing, &Form::Block(&OUTPUT)), "Topics out."),
        optional("tests", List(&Form::Block(&TEST)), "Steps and expectations, run by `millstream test`."),
    ],
};

pub const KEY_CODECS: &[Choice] = &[
    choice("string", "UTF-8 text"),
    choice("int", "a whole number: 8 bytes, big-endian, as Kafka's LongSerializer writes it"),
    choice("uuid", "a UUID as text"),
    choice("json", "any JSON value"),
    choice("bytes", "bytes as they are"),
];

pub const VALUE_CODECS: &[Choice] = &[
    choice("json", "a JSON value"),
    choice("string", "UTF-8 text"),
    choice("bytes", "bytes as they are"),
    later("avro", "Avro with a schema registry", "the avro codec"),
    later("protobuf", "Protobuf with a schema registry", "the protobuf codec"),
    later("debezium", "change events of Debezium", "the debezium codec"),
    later("outbox", "events of an outbox table", "the outbox codec"),
];

pub const ON_ERROR: &[Choice] = &[
    choice("dead_letter", "to the dead letters, with the reason"),
    choice("skip", "counted and left out"),
    choice("fail", "stops the task before this record"),
];

pub static SOURCE: Block = Block {
    name: "a source",
    summary: "A topic in.",
    keys: &[
        required("topic", Topic, "The topic. Several sources may read one topic: the order between them is the topic's."),
        default("key", OneOf(KEY_CODECS), "string", "Codec of the record key."),
        default("value", OneOf(VALUE_CODECS), "json", "Codec of the value."),
        optional(
            "fields",
            Names(Free, &Type),
            "Types of the value's fields. Declared fields are checked when the file is read, and only they are parsed.",
        ),
        optional("keyed_by", Expression, "What the record key equals; a record where it does not is a bad record."),
        default("time", Expression, "time", "Event time, a timestamp; default: the record's timestamp."),
        optional("id", Expression, "Identity of the record, for `dedupe`."),
        optional("when", Expression, "Only records for which this is true."),
        default("on_error", OneOf(ON_ERROR), "dead_letter", "What happens to bad bytes and failing expressions."),
        optional("future", Duration, "A record further than this ahead of the clock is a bad record; default: no bound."),
    ],
};

pub const ON_STALE: &[Choice] = &[
    choice("count", "counted by source"),
    choice("dead_letter", "counted, and to the dead letters"),
    choice("emit", "counted, and to the output that takes `<table>.stale`"),
];

pub const EMIT: &[Choice] = &[
    choice("changes", "once per key and commit, if a field differs from what left before"),
    choice("every", "each accepted record"),
    choice("closed", "each window once, after grace"),
];

pub const ON_LATE: &[Choice] = &[
    choice("dead_letter", "to the dead letters"),
    choice("count", "counted and left out"),
    choice("amend", "changes the window as long as it is kept"),
];

pub static TABLE: Block = Block {
    name: "a table",
    summary: "Keyed rows, folded from one or several sources.",
    keys: &[
        default("key", OneOf(KEY_CODECS), "the sources' codec", "Codec of the key: that of its sources."),
        optional("fields", Names(Field, &Type), "Types of the row's fields; default: those of the expressions."),
        required("from", Names(Thing, &Form::Block(&INPUT)), "The sources, and what each of them sets."),
        optional("window", Form::Block(&WINDOW), "Keeps one row per key and window."),
        optional("dedupe", Form::Block(&DEDUPE), "Leaves out records that have been there."),
        default("on_stale", OneOf(ON_STALE), "count", "What happens to a record that is older than its own source's version in the row."),
        default("on_late", OneOf(ON_LATE), "dead_letter", "What happens to a record later than the window's grace."),
        default("emit", OneOf(EMIT), "changes", "What leaves the table."),
        optional("keep", Duration, "How long a row is kept after its last change, by event time; default: for ever."),
        default("grave", Duration, "7d", "How long a deleted key is remembered, so that an older record does not bring it back."),
        default("query", Flag, "true", "Whether the table can be read over HTTP."),
        planned("join", "joins", "Joins with other tables."),
        planned("set", "joins", "Fields of the result of a join."),
        planned("of", "topics read as tables", "A topic as a table."),
        planned("global", "global tables", "A full copy on every worker."),
        planned("versions", "history", "Versions kept for as-of look-ups."),
    ],
};

pub const ROLES: &[Choice] = &[
    choice("owner", "its record makes the row exist, its tombstone deletes it"),
    choice("contributor", "fills fields of a row that an owner makes"),
];

pub const ON_TOMBSTONE: &[Choice] = &[
    choice("delete_row", "removes the row and leaves a grave"),
    choice("clear_fields", "removes what this source has set"),
    choice("ignore", "counted and left out"),
];

pub static INPUT: Block = Block {
    name: "a source of a table",
    summary: "How one source feeds a table.",
    keys: &[
        default("role", OneOf(ROLES), "owner if there is one source", "Whether its records make rows exist."),
        default("order_by", Either(&[Expression, List(&Expression)]), "[time]", "Newest wins, within this source; ties by offset."),
        optional("when", Expression, "Only records for which this is true."),
        optional(
            "set",
            Names(Field, &Either(&[Expression, Form::Block(&RULE)])),
            "The fields that it sets: an expression, or a field rule.",
        ),
        default(
            "on_tombstone",
            OneOf(ON_TOMBSTONE),
            "delete_row for owners, clear_fields for contributors, ignore in windows",
            "What a record without a value does.",
        ),
        default(
            "when_owner_missing",
            Either(&[OneOf(WHEN_OWNER_MISSING), Form::Block(&OWNER_MISSING)]),
            "placeholder",
            "What a contributor's record does where no owner has spoken.",
        ),
        planned("key", "re-keying", "Groups by another field."),
    ],
};

pub const WHEN_OWNER_MISSING: &[Choice] = &[
    choice("placeholder", "applied; the row exists, with `complete: false`"),
    choice("buffer", "kept aside until the owner speaks"),
    choice("drop", "counted and left out"),
    choice("dead_letter", "to the dead letters at once"),
];

pub const ON_TIMEOUT: &[Choice] = &[
    choice("keep", "the placeholder stays"),
    choice("delete", "the placeholder is deleted"),
    choice("dead_letter", "the placeholder is deleted, and its records' last state goes to the dead letters"),
];

pub static OWNER_MISSING: Block = Block {
    name: "`when_owner_missing`",
    summary: "What a contributor's record does where no owner has spoken.",
    keys: &[
        required("do", OneOf(WHEN_OWNER_MISSING), "What happens to the record and the row."),
        optional("max_wait", Duration, "How long to wait for the owner, by the wall clock; default: for ever."),
        default("on_timeout", OneOf(ON_TIMEOUT), "dead_letter", "What happens to a placeholder after `max_wait`."),
        default("max_per_key", Count(1, 100_000), "100", "Records buffered per key; the oldest overflow to the dead letters."),
    ],
};

/// The most entries that `collect`, `distinct` and `top` may keep: a row is one value and must stay one message.
pub const LIMIT_MAX: u64 = 100_000;
/// Entries of `collect` and `distinct` where no limit is given.
pub const LIMIT_DEFAULT: u64 = 1000;

const FIELDS_OR_EXPRESSION: Form = Either(&[Expression, Names(Free, &Expression)]);

pub static RULE: Block = Block {
    name: "a field rule",
    summary: "How the records of a key become the value of a field.",
    keys: &[
        optional("last", Expression, "The newest by `order_by`; `name: expr` is short for it."),
        optional("first", Expression, "The oldest by `order_by`."),
        optional("min", Expression, "The smallest."),
        optional("max", Expression, "The greatest."),
        optional("sum", Expression, "The sum."),
        optional("count", Form::Block(&COUNT), "The number of records: `count: {}`."),
        optional("avg", Expression, "The mean."),
        optional("collect", Either(&[Expression, Form::Block(&COLLECT)]), "A list, in the order of arrival."),
        optional("distinct", Either(&[Expression, Form::Block(&COLLECT)]), "The different values, in order."),
        optional("top", Form::Block(&TOP), "The `limit` greatest by `by`, the greatest first."),
        optional("put", Form::Block(&PUT), "An entry of a map inside the row; each entry has its own version."),
        optional("remove", Form::Block(&REMOVE), "Removes an entry that `put` made."),
        default("limit", Count(1, LIMIT_MAX), "1000", "For `collect` and `distinct`: entries kept."),
    ],
};

pub static COUNT: Block = Block { name: "`count`", summary: "Takes nothing.", keys: &[] };

pub static COLLECT: Block = Block {
    name: "`collect` or `distinct`",
    summary: "A list of values.",
    keys: &[
        required("value", FIELDS_OR_EXPRESSION, "What is kept."),
        default("limit", Count(1, LIMIT_MAX), "1000", "Entries kept; the oldest go first."),
    ],
};

pub static TOP: Block = Block {
    name: "`top`",
    summary: "The greatest.",
    keys: &[
        required("by", Expression, "What they are judged by."),
        required("limit", Count(1, LIMIT_MAX), "How many."),
        default("value", FIELDS_OR_EXPRESSION, "event", "What is kept of each."),
    ],
};

pub static PUT: Block = Block {
    name: "`put`",
    summary: "An entry of a map inside the row.",
    keys: &[
        required("at", Expression, "The key of the entry: text, a whole number or a bool."),
        required("value", FIELDS_OR_EXPRESSION, "The entry."),
    ],
};

pub static REMOVE: Block =
    Block { name: "`remove`", summary: "Removes an entry.", keys: &[required("at", Expression, "The key of the entry.")] };

pub static WINDOW: Block = Block {
    name: "a window",
    summary: "Cuts event time into windows.",
    keys: &[
        optional("tumbling", Duration, "Windows of this length, one after the other, aligned to 1970-01-01T00:00:00Z."),
        optional("grace", Duration, "How long after its end a window still takes records, by stream time."),
        default("keep", Duration, "24h", "How long a window is kept after its start; at least its length and grace."),
        optional("idle_close", Duration, "Closes windows by the wall clock when nothing arrives for so long; default: off."),
        planned("hopping", "hopping windows", "Windows that overlap."),
        planned("every", "hopping windows", "How far hopping windows are apart."),
        planned("sliding", "sliding windows", "Windows around each record."),
        planned("session", "session windows", "Windows that end with a pause."),
    ],
};

pub static DEDUPE: Block = Block {
    name: "`dedupe`",
    summary: "The first record of an identity wins.",
    keys: &[
        required("by", Expression, "`id` for the sources' `id`, or an expression."),
        required("for", Duration, "How long an identity is remembered, by stream time."),
    ],
};

pub static VIEW: Block = Block {
    name: "a view",
    summary: "The Redis materialization of a table.",
    keys: &[
        required("from", Reference, "The table."),
        optional("when", Expression, "Shows exactly the rows for which this is true."),
        required("redis", Form::Block(&REDIS), "How a row looks in Redis."),
        optional("notify", Form::Block(&NOTIFY), "A message after each write, in the same script."),
    ],
};

pub const SHAPES: &[Choice] = &[
    choice("hash", "a hash of fields"),
    choice("json", "a JSON text"),
    choice("string", "a text"),
    choice("zset", "a sorted set: a member with a score for each row"),
    choice("set", "a set: a member for each row"),
    choice("stream", "an entry for each change"),
    choice("pubsub", "a message for each change"),
];

pub const VIEW_ON_DELETE: &[Choice] = &[choice("del", "deletes what the row wrote"), choice("keep", "leaves it")];
pub const REPLACE_BY: &[Choice] = &[choice("score", "one member per score; an update replaces it")];

pub static REDIS: Block = Block {
    name: "`redis`",
    summary: "How a row looks in Redis.",
    keys: &[
        required("as", OneOf(SHAPES), "The shape."),
        required("key", Template, "The Redis key, or the channel of `pubsub`: text with expressions in braces."),
        optional("fields", Names(Free, &Expression), "`hash`, `json`, `stream`: the fields; default: all of the row."),
        optional("value", Expression, "`string`, `pubsub`: the value; default: the row as JSON."),
        optional("score", Expression, "`zset`: a number."),
        optional("member", FIELDS_OR_EXPRESSION, "`zset`, `set`: the member; a map is written as JSON."),
        optional("replace_by", OneOf(REPLACE_BY), "`zset`: an update replaces the member with the same score."),
        optional("keep_last", Count(1, 10_000_000), "`zset`, `stream`: only the newest so many."),
        optional("ttl", Duration, "When Redis forgets the key after its last write; default: never."),
        default(
            "on_delete",
            Either(&[OneOf(VIEW_ON_DELETE), Form::Block(&EXPIRE)]),
            "del",
            "What happens when the row is deleted or `when` turns false.",
        ),
    ],
};

pub static EXPIRE: Block =
    Block { name: "`on_delete`", summary: "Lets what the row wrote expire.", keys: &[required("expire", Duration, "How long it stays.")] };

pub static NOTIFY: Block = Block {
    name: "`notify`",
    summary: "A message after each write.",
    keys: &[
        required("channel", Template, "The channel: text with expressions in braces."),
        default("payload", Expression, "key", "The message."),
    ],
};

pub const OUTPUT_ON_DELETE: &[Choice] = &[choice("tombstone", "a record without a value"), choice("ignore", "nothing")];

pub static OUTPUT: Block = Block {
    name: "an output",
    summary: "A topic out: committed changes of a table.",
    keys: &[
        required("from", Reference, "The table, or `<table>.stale` for its stale records."),
        required("topic", Topic, "The topic."),
        default("key", Expression, "key", "The record key."),
        default("value", OneOf(VALUE_CODECS), "json", "Codec of the value."),
        optional("set", FIELDS_OR_EXPRESSION, "The value: a map of fields, or one expression; default: the whole row."),
        optional("when", Expression, "Only rows for which this is true."),
        default("on_delete", OneOf(OUTPUT_ON_DELETE), "tombstone", "What is written when the row is deleted or `when` turns false."),
        optional("headers", Names(Free, &Expression), "Headers beside those of the causing record."),
    ],
};

pub static TEST: Block = Block {
    name: "a test",
    summary: "Steps and expectations on the in-process log, with a clock that stands still.",
    keys: &[required("name", Text, "A claim."), required("steps", List(&Form::Block(&STEP)), "What happens, one after the other.")],
};

pub static STEP: Block = Block {
    name: "a step",
    summary: "One thing that happens or is expected.",
    keys: &[
        optional("send", Data, "A record: `{ source: value }`, or `{ to: source, value: …, key: … }`."),
        optional("expect", Data, "What a table, Redis, an output, the dead letters or a metric must hold now."),
        optional("crash", Flag, "`true`: lose everything uncommitted and all memory, and restart."),
        optional("rebalance", Form::Block(&REBALANCE), "Split the tasks over so many workers."),
        optional("advance", Duration, "Move the wall clock."),
        optional("commit", Flag, "`true`: commit now."),
    ],
};

pub static REBALANCE: Block =
    Block { name: "`rebalance`", summary: "Splits the tasks.", keys: &[required("workers", Count(1, 16), "Over how many workers.")] };

pub static SEND: Block = Block {
    name: "a record to send",
    summary: "The long form of `send`.",
    keys: &[
        required("to", Reference, "The source."),
        optional("value", Data, "The value."),
        optional("key", Data, "The key; default: computed by the source's `keyed_by`."),
        optional("headers", Names(Free, &Text), "Headers."),
        optional("time", Moment, "The record's timestamp; default: the wall clock."),
        optional("partition", Count(0, 9_999), "The partition; default: by the key."),
        optional("tombstone", Flag, "`true`: a record without a value."),
    ],
};

pub static EXPECT_TABLE: Block = Block {
    name: "an expectation of a table",
    summary: "A row matches if the named fields are equal.",
    keys: &[
        required("table", Reference, "The table."),
        required("key", Data, "The key."),
        optional("window", Moment, "In windowed tables: the start of the window."),
        optional("row", Data, "Fields that must be equal."),
        optional("absent", Flag, "`true`: there is no such row."),
    ],
};

pub static EXPECT_REDIS: Block = Block {
    name: "an expectation of Redis",
    summary: "What a Redis key holds.",
    keys: &[
        required("redis", Text, "The key, or the channel."),
        optional("absent", Flag, "`true`: there is no such key."),
        optional("hash", Data, "Fields that must be equal."),
        optional("json", Data, "The JSON value."),
        optional("string", Text, "The text."),
        optional("zset", Data, "All members by score: `[ { score: 1, member: a } ]`."),
        optional("set", Data, "All members, in any order."),
        optional("stream", Data, "The fields of all entries, the oldest first."),
        optional("published", Data, "Messages on this channel since the last such expectation."),
        optional("ttl", Duration, "The time after which Redis forgets it."),
    ],
};

pub static EXPECT_OUTPUT: Block = Block {
    name: "an expectation of an output",
    summary: "Exactly these records since the last expectation of this output.",
    keys: &[required("output", Reference, "The output."), required("records", List(&Form::Block(&RECORD)), "The records, in order.")],
};

pub static RECORD: Block = Block {
    name: "an expected record",
    summary: "What is not named is not compared.",
    keys: &[
        optional("key", Data, "The key."),
        optional("value", Data, "The value; fields that are not named are not compared."),
        optional("headers", Names(Free, &Text), "Headers that must be there."),
        optional("tombstone", Flag, "`true`: the record has no value."),
    ],
};

pub static EXPECT_DEAD_LETTER: Block = Block {
    name: "an expectation of a dead letter",
    summary: "A dead letter like this; those that are found are taken, and later expectations do not find them again.",
    keys: &[required("dead_letter", Form::Block(&DEAD_LETTER), "What is compared.")],
};

pub static DEAD_LETTER: Block = Block {
    name: "an expected dead letter",
    summary: "What is not named is not compared.",
    keys: &[
        optional("source", Reference, "The source that it came from."),
        optional("reason", Text, "Why."),
        optional("detail", Text, "Text that its detail contains."),
        optional("key", Data, "Its key."),
        optional("value", Data, "Its value."),
        optional("headers", Names(Free, &Text), "Headers that must be there."),
        optional("count", Count(0, 1_000_000), "How many there are; default: at least one."),
    ],
};

pub static EXPECT_METRIC: Block = Block {
    name: "an expectation of a metric",
    summary: "A metric summed over the labels that are not named.",
    keys: &[
        required("metric", Text, "Its name."),
        optional("labels", Names(Free, &Text), "Labels that must be equal."),
        optional("is", Count(0, u64::MAX), "Its value."),
        optional("at_least", Count(0, u64::MAX), "Its value or more."),
    ],
};

/// All kinds of expectations, told apart by their first key.
pub static EXPECTATIONS: &[&Block] = &[&EXPECT_TABLE, &EXPECT_REDIS, &EXPECT_OUTPUT, &EXPECT_DEAD_LETTER, &EXPECT_METRIC];

impl Block {
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}
