//! `millstream replay` as others drive it: each kind of line, in and out, to the byte.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

use millstream::testkit::DriverSettings;
use millstream::testkit::replay::replay;
use millstream::topology;

/// A table fed by two topics, windows, a view of each kind of effect, an output, a counter of deaths.
const TOPOLOGY: &str = r#"
version: 1
app: replayed
sources:
  created: { topic: created, fields: { id: string, name: string }, keyed_by: event.id }
  priced: { topic: priced, fields: { id: string, price: decimal }, keyed_by: event.id }
tables:
  product:
    key: string
    from:
      created: { role: owner, set: { name: event.name } }
      priced:
        role: contributor
        set: { price: event.price }
        when_owner_missing: { do: placeholder, max_wait: 1d, on_timeout: dead_letter }
  minute:
    key: string
    window: { tumbling: 1m, grace: 1m, keep: 1h }
    from: { priced: { set: { sum: { sum: event.price } } } }
views:
  card:
    from: product
    when: row.complete
    redis: { as: hash, key: "card:{key}", fields: { name: row.name } }
    notify: { channel: changed, payload: key }
outputs:
  cards: { from: product, topic: cards, when: row.complete, on_delete: tombstone }
"#;

fn out(input: &str, commit_every: usize) -> Result<String, String> {
    let (loaded, diagnostics) = topology::load(TOPOLOGY, "replayed.yaml");
    let loaded = loaded.unwrap_or_else(|| panic!("{:?}", diagnostics.sorted()));
    let mut output = Vec::new();
    let result = replay(topology::plan(loaded.topology), DriverSettings::default(), commit_every, input.as_bytes(), &mut output);
    let output = String::from_utf8(output).unwrap();
    result.map(|()| output.clone()).map_err(|error| format!("{output}{error}"))
}

#[track_caller]
fn check(input: &str, expected: &str) {
    assert_eq!(out(input, 1).unwrap().trim(), expected.trim());
}

#[test]
fn what_comes_out_names_the_line_that_caused_it() {
    check(
        r#"
{"source":"priced","key":"p1","value":{"id":"p1","price":"9.90"},"time":"2026-01-01T00:00:01Z","headers":{"trace":"t1"}}
{"source":"created","key":"p1","value":{"id":"p1","name":"Tea"},"time":1767225600000}
"#,
        r#"
{"input":2,"table":"product","key":"p1","value":{"name":null,"price":"9.90","complete":false},"old":null,"time":1767225601000,"headers":{"trace":"t1"}}
{"input":2,"table":"minute","key":{"end":1767225660000,"key":"p1","start":1767225600000},"value":{"sum":"9.90"},"old":null,"time":1767225601000,"headers":{"trace":"t1"}}
{"input":3,"table":"product","key":"p1","value":{"name":"Tea","price":"9.90","complete":true},"old":{"name":null,"price":"9.90","complete":false},"time":1767225601000,"headers":{}}
{"input":3,"output":"cards","key":"p1","value":{"name":"Tea","price":"9.90","complete":true},"time":1767225601000,"headers":{}}
{"input":3,"view":"card","op":"set","key":"card:p1","value":{"name":"Tea"}}
{"input":3,"view":"card","op":"publish","key":"changed","value":"p1"}
"#,
    );
}

#[test]
fn a_tombstone_is_written_in_two_ways() {
    for tombstone in [r#""value":null"#, r#""tombstone":true"#, r#""value":null,"tombstone":true"#] {
        let input = format!(
            "{{\"source\":\"created\",\"key\":\"p1\",\"value\":{{\"id\":\"p1\",\"name\":\"Tea\"}},\"time\":1000}}\n{{\"source\":\"created\",\"key\":\"p1\",{tombstone},\"time\":2000}}\n"
        );
        let output = out(&input, 1).unwrap();
        assert!(output.contains(r#"{"input":2,"output":"cards","key":"p1","value":null,"time":2000,"headers":{}}"#), "{output}");
        assert!(output.contains(r#"{"input":2,"view":"card","op":"del","key":"card:p1","value":null}"#), "{output}");
    }
}

#[test]
fn a_bad_record_is_a_dead_letter_with_its_place() {
    check(
        r#"{"source":"created","key":"p1","value":{"id":"p2","name":"Tea"},"time":1000,"partition":2,"headers":{"a":"1","b":null}}"#,
        r#"{"input":1,"dead_letter":"created","reason":"key_mismatch","detail":"the key is `p1`, but `keyed_by` (event.id) is `p2`","key":"p1","value":{"id":"p2","name":"Tea"},"topic":"created","partition":2,"offset":0,"time":1000,"headers":{"a":"1","b":null}}"#,
    );
}

#[test]
fn timers_are_caused_by_the_line_that_moves_the_clock() {
    let output =
        out("{\"source\":\"priced\",\"value\":{\"id\":\"p1\",\"price\":\"1\"},\"time\":1000}\n\n{\"advance\":\"2d\"}\n", 1).unwrap();
    let letter = output.lines().find(|line| line.contains("dead_letter")).expect("a dead letter");
    assert!(letter.starts_with(r#"{"input":3,"dead_letter":"priced","reason":"owner_missing""#), "{letter}");
    let gone = output.lines().find(|line| line.contains(r#""table":"product""#) && line.contains(r#""value":null"#)).expect("a delete");
    assert!(gone.starts_with("{\"input\":3,"), "{gone}");
}

/// Crashes and rebalances between records change nothing of what comes out.
#[test]
fn control_lines_change_nothing_of_the_result() {
    let records: Vec<String> = (0..40)
        .map(|n| {
            let (key, source) = (n % 5, if n % 3 == 0 { "created" } else { "priced" });
            let value = if n % 3 == 0 {
                format!("{{\"id\":\"p{key}\",\"name\":\"n{n}\"}}")
            } else {
                format!("{{\"id\":\"p{key}\",\"price\":\"{n}\"}}")
            };
            format!("{{\"source\":\"{source}\",\"key\":\"p{key}\",\"value\":{value},\"time\":{}}}\n", n * 1000)
        })
        .collect();
    // Without the input numbers, which the control lines shift.
    let lines = |input: &str, every: usize| -> Vec<String> {
        out(input, every).unwrap().lines().map(|line| line.split_once(',').unwrap().1.to_owned()).collect()
    };
    let plain = lines(&records.concat(), 1);
    assert!(plain.len() > 40, "{plain:?}");
    for control in ["{\"commit\":true}\n", "{\"crash\":true}\n", "{\"rebalance\":{\"workers\":2}}\n{\"rebalance\":{\"workers\":1}}\n"] {
        let mixed: String =
            records.iter().enumerate().map(|(n, line)| if n % 4 == 3 { line.clone() + control } else { line.clone() }).collect();
        assert_eq!(lines(&mixed, 1), plain, "{control}");
    }
    assert_eq!(out(&records.concat(), 7).unwrap(), out(&records.concat(), 7).unwrap(), "same input, same bytes");
}

#[test]
fn commits_may_hold_several_records() {
    let line = |n: usize| format!("{{\"source\":\"created\",\"key\":\"p1\",\"value\":{{\"id\":\"p1\",\"name\":\"n{n}\"}},\"time\":{n}}}\n");
    let input: String = (1..=7).map(line).collect();
    let changes = |every: usize| {
        let output = out(&input, every).unwrap();
        output
            .lines()
            .filter(|line| line.contains("\"table\":\"product\""))
            .map(|line| line.split(',').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(changes(1).len(), 7);
    // One change per key and commit, caused by the last record of it; what is left is committed at the end.
    assert_eq!(changes(3), ["{\"input\":3", "{\"input\":6", "{\"input\":7"]);
    assert_eq!(changes(100), ["{\"input\":7"]);
}

#[test]
fn a_line_that_cannot_be_meant_is_refused_by_its_number() {
    let good = r#"{"source":"created","key":"p1","value":{"id":"p1","name":"Tea"},"time":1000}"#;
    let check = |line: &str, expected: &str| {
        let problem = out(&format!("{good}\n\n{line}\n"), 1).unwrap_err();
        let (before, problem) = problem.rsplit_once('\n').expect("what was committed before is there");
        assert!(before.contains("\"input\":1,\"output\":\"cards\""), "{before}");
        assert_eq!(problem, format!("line 3: {expected}"));
    };
    check("nonsense", "expected ident (column 2)");
    check("{}", "needs `source`, or `advance`, `commit`, `crash`, `rebalance`");
    check(r#"{"key":"a","value":1}"#, "a record needs `source`");
    check(r#"{"source":"created","key":"a"}"#, "needs `value` (null, or `\"tombstone\":true`, for a tombstone)");
    check(
        r#"{"source":"created","key":"a","value":{},"tombstone":true}"#,
        "has a `value` and says `\"tombstone\":true`: leave one of them out",
    );
    check(r#"{"source":"crated","key":"a","value":{}}"#, "there is no source `crated`; there are created, priced");
    check(r#"{"commit":true,"crash":true}"#, "`commit` and `crash` on one line: write a line for each");
    check(r#"{"commit":true,"source":"created"}"#, "`commit` and `source` on one line: write a line for each");
    check(r#"{"commit":false}"#, "`commit` is true, or left out");
    check(r#"{"advance":"31 days"}"#, "`advance`: `days` is no unit");
    check(r#"{"rebalance":{"workers":0}}"#, "`rebalance`: 1 to 64 workers, found 0");
    check(r#"{"source":"created","key":"a","value":{},"time":"yesterday"}"#, "`time` is milliseconds or RFC 3339, found \"yesterday\"");
    check(r#"{"source":"created","key":"a","value":{},"time":1.5}"#, "`time` is milliseconds or RFC 3339, found 1.5");
    check(
        r#"{"source":"created","tombstone":true}"#,
        "a record to `created` needs a `key`: there is no value from which `keyed_by` could compute it",
    );
    let problem = out("{\"source\":\"created\",\"key\":\"a\",\"value\":{},\"partition\":4}", 1).unwrap_err();
    assert!(problem.starts_with("line 1: ") && problem.contains('4'), "{problem}");
    let problem = out("{\"source\":\"created\",\"keys\":\"a\"}", 1).unwrap_err();
    assert!(problem.starts_with("line 1: unknown field `keys`, expected one of `source`, `key`"), "{problem}");
}

#[test]
fn lines_may_end_as_on_windows_and_the_file_begin_with_a_mark() {
    let good = r#"{"source":"created","key":"p1","value":{"id":"p1","name":"Tea"},"time":1000}"#;
    assert_eq!(out(&format!("\u{feff}{good}\r\n{good}\r\n"), 1).unwrap(), out(&format!("{good}\n{good}"), 1).unwrap());
}

#[test]
fn bytes_that_are_no_text_are_refused_by_their_line() {
    let (loaded, _) = topology::load(TOPOLOGY, "replayed.yaml");
    let input = b"{\"commit\":true}\n{\"source\":\"\xff\"}\n";
    let error = replay(topology::plan(loaded.unwrap().topology), DriverSettings::default(), 1, &input[..], Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "line 2: is not UTF-8 from byte 12 on");
}
