//! The topologies that are simulated. A seed runs one of them; each table has a view and an output that show all of it.

use std::fmt::Write;

/// A topology and what its records are like.
pub struct Job {
    pub name: &'static str,
    /// The `tables:` block.
    tables: &'static str,
    pub shown: &'static [Shown],
    /// One record in so many is of the owner's topic.
    pub owners_one_in: u64,
    /// How far event time moves in a step of the run.
    pub drift_ms: i64,
    /// Records of a step lie within so many seconds.
    pub disorder_s: u64,
}

/// How a table is shown.
pub struct Shown {
    pub table: &'static str,
    /// Has windows: their start stands in the keys.
    pub is_windowed: bool,
    /// `when` of its view and its output.
    pub when: Option<&'static str>,
}

const fn shown(table: &'static str) -> Shown {
    Shown { table, is_windowed: false, when: None }
}

const fn windowed(table: &'static str) -> Shown {
    Shown { table, is_windowed: true, when: None }
}

/// Length and grace of `strict` and `idle`, and how long `strict` is kept, in milliseconds.
pub const STRICT: (i64, i64, i64) = (5_000, 2_000, 20_000);
pub const GROUPED_MS: i64 = 10_000;
/// `keep` and `grave` of `kept`, and `for` of `brief`, in milliseconds.
pub const KEEP_MS: i64 = 10_000;
pub const GRAVE_MS: i64 = 5_000;
pub const BRIEF_MS: i64 = 8_000;

pub const JOBS: &[Job] = &[
    Job {
        name: "rows",
        tables: r#"
  product:
    from:
      created: { role: owner, set: { name: event.name } }
      priced: { role: contributor, set: { price: event.price }, when_owner_missing: { do: placeholder } }
  sums:
    from:
      priced: { set: { total: { sum: event.price }, n: { count: {} } }, on_tombstone: ignore }
  once:
    dedupe: { by: id, for: 1h }
    from:
      priced: { set: { total: { sum: event.price }, n: { count: {} } }, on_tombstone: ignore }
"#,
        shown: &[Shown { table: "product", is_windowed: false, when: Some("row.complete") }, shown("sums"), shown("once")],
        owners_one_in: 3,
        drift_ms: 0,
        disorder_s: 50,
    },
    Job {
        name: "waits",
        tables: r#"
  patient:
    from:
      created: { role: owner, set: { name: event.name } }
      priced: { role: contributor, set: { price: event.price }, when_owner_missing: { do: buffer } }
  waiting:
    from:
      created: { role: owner, set: { name: event.name }, on_tombstone: ignore }
      priced:
        role: contributor
        set: { total: { sum: event.price }, n: { count: {} } }
        on_tombstone: ignore
        when_owner_missing: { do: buffer, max_wait: 4s, on_timeout: dead_letter }
  limited:
    from:
      created: { role: owner, set: { name: event.name }, on_tombstone: ignore }
      priced:
        role: contributor
        set: { price: event.price }
        on_tombstone: ignore
        when_owner_missing: { do: placeholder, max_wait: 4s, on_timeout: dead_letter }
"#,
        shown: &[shown("patient"), shown("waiting"), shown("limited")],
        owners_one_in: 8,
        drift_ms: 0,
        disorder_s: 50,
    },
    Job {
        name: "windows",
        tables: r#"
  grouped:
    window: { tumbling: 10s, grace: 1h, keep: 2h }
    from:
      priced:
        set:
          opened: { first: event.price }
          closed: event.price
          high: { max: event.price }
          total: { sum: event.price }
          n: { count: {} }
  strict:
    window: { tumbling: 5s, grace: 2s, keep: 20s }
    emit: closed
    from:
      priced: { set: { total: { sum: event.price }, n: { count: {} } } }
  idle:
    window: { tumbling: 5s, grace: 2s, keep: 2h, idle_close: 3s }
    emit: closed
    from:
      priced: { set: { total: { sum: event.price }, n: { count: {} } } }
"#,
        shown: &[windowed("grouped"), windowed("strict"), windowed("idle")],
        owners_one_in: u64::MAX,
        drift_ms: 1_000,
        disorder_s: 10,
    },
    Job {
        name: "timers",
        tables: r#"
  kept:
    keep: 10s
    grave: 5s
    from:
      created: { set: { name: event.name } }
  brief:
    dedupe: { by: id, for: 8s }
    from:
      priced: { set: { total: { sum: event.price }, n: { count: {} } }, on_tombstone: ignore }
"#,
        shown: &[shown("kept"), shown("brief")],
        owners_one_in: 2,
        drift_ms: 1_000,
        disorder_s: 10,
    },
];

const SOURCES: &str = r#"
version: 1
app: simulated
sources:
  created:
    topic: created
    fields: { id: string, event: string, name: string, at: timestamp }
    keyed_by: event.id
    time: event.at
    id: event.event
  priced:
    topic: priced
    fields: { id: string, event: string, price: decimal, at: timestamp }
    keyed_by: event.id
    time: event.at
    id: event.event
tables:"#;

impl Job {
    /// The topology file.
    pub fn text(&self) -> String {
        let mut text = format!("{SOURCES}{}views:\n", self.tables);
        for Shown { table, is_windowed, when } in self.shown {
            let window = if *is_windowed { ":{unix_ms(window.start)}" } else { "" };
            let when = when.map_or(String::new(), |when| format!("when: {when}, "));
            _ = writeln!(text, r#"  {table}_view: {{ from: {table}, {when}redis: {{ as: hash, key: "{table}:{{key}}{window}" }} }}"#);
        }
        text.push_str("outputs:\n");
        for Shown { table, when, .. } in self.shown {
            let when = when.map_or(String::new(), |when| format!(", when: {when}"));
            _ = writeln!(text, "  {table}_out: {{ from: {table}, topic: out.{table}{when} }}");
        }
        text
    }
}
