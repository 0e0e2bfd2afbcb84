//! The examples in `topologies/` and in the manual pass `check`, and what is made of them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::path::Path;

use millstream::codec::KeyCodec;
use millstream::config::render::Look;
use millstream::config::render::render;
use millstream::config::spec::StepKind;
use millstream::operators::fold::Emit;
use millstream::operators::fold::OnTimeout;
use millstream::operators::fold::OnTombstone;
use millstream::operators::fold::Role;
use millstream::operators::fold::WhenOwnerMissing;
use millstream::topology;
use millstream::topology::Loaded;
use millstream::topology::explain;
use millstream::topology::plan::StoreKind;

fn load(text: &str, name: &str) -> Loaded {
    let (loaded, diagnostics) = topology::load(text, name);
    assert!(diagnostics.is_empty(), "{}", render(&diagnostics, Look::Plain));
    loaded.unwrap()
}

fn product() -> Loaded {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("topologies/product.yaml");
    load(&fs::read_to_string(path).unwrap(), "product.yaml")
}

#[test]
fn explains_the_product_topology() {
    let plan = topology::plan(product().topology);
    insta::assert_snapshot!("product_text", explain::text(&plan));
    insta::assert_snapshot!("product_mermaid", explain::mermaid(&plan));
    insta::assert_snapshot!("product_dot", explain::dot(&plan));
    insta::assert_snapshot!("product_json", serde_json::to_string_pretty(&explain::json(&plan)).unwrap());
}

fn table(set: &str) -> String {
    format!(
        "version: 1\napp: t\nsources:\n  order:\n    topic: orders\n    fields: {{ id: string, n: int, price: decimal, weight: double, at: timestamp, tag: optional string, city: string }}\n    keyed_by: event.id\ntables:\n  orders:\n    from:\n      order:\n        set: {set}\n"
    )
}

/// The type of the only field of a table with one source.
fn field_type(rule: &str) -> String {
    let loaded = load(&table(&format!("{{ x: {rule} }}")), rule);
    loaded.topology.tables[0].shape.fields[0].ty.to_string()
}

#[test]
fn fields_have_the_types_of_their_rules() {
    let cases = [
        ("event.n + 1", "int"),
        ("event.tag", "optional string"),
        ("{ first: event.price }", "decimal"),
        ("{ min: event.at }", "timestamp"),
        ("{ max: event.tag }", "optional string"),
        ("{ sum: event.price }", "decimal"),
        ("{ sum: event.n }", "int"),
        ("{ count: {} }", "int"),
        ("{ avg: event.n }", "double"),
        ("{ avg: event.price }", "decimal"),
        ("{ collect: event.tag, limit: 10 }", "list<optional string>"),
        ("{ collect: { value: { tag: event.tag, n: event.n }, limit: 10 } }", "list<map<string, any>>"),
        ("{ distinct: event.city }", "list<string>"),
        ("{ top: { by: event.n, limit: 3, value: event.city } }", "list<string>"),
        ("{ put: { at: event.city, value: event.price } }", "map<string, decimal>"),
        ("{ remove: { at: event.n } }", "map<int, any>"),
        ("event.?tag", "optional string"),
    ];
    for (rule, expected) in cases {
        assert_eq!(field_type(rule), expected, "{rule}");
    }
}

#[test]
fn fields_of_several_sources_may_be_unset() {
    let shape = &product().topology.tables[0].shape;
    let types: Vec<String> = shape.fields.iter().map(|field| format!("{}: {}", field.name, field.ty)).collect();
    assert_eq!(
        types,
        [
            "name: optional string",
            "category: optional string",
            "price: optional decimal",
            "currency: optional string",
            "price_at: optional timestamp",
            "complete: bool"
        ]
    );
}

#[test]
fn what_is_left_out_has_its_default() {
    let loaded = product();
    let product = &loaded.topology.tables[0];
    let [price, created] = &product.inputs[..] else { panic!("two inputs, sorted by name") };
    assert_eq!((&*price.source_name, &*created.source_name), ("price_updated", "product_created"));
    assert_eq!((price.on_tombstone, created.on_tombstone), (OnTombstone::ClearFields, OnTombstone::DeleteRow));
    assert!(created.owner_missing.is_none() && price.order_by.is_empty());
    assert_eq!(price.owner_missing.map(|missing| missing.max_per_key), Some(100));
    assert_eq!((product.keep_ms, product.grave_ms, product.query, product.emit), (None, 7 * 86_400_000, true, Emit::Changes));
    let candles = &loaded.topology.tables[1];
    assert_eq!(candles.inputs[0].on_tombstone, OnTombstone::Ignore);
    assert_eq!(candles.inputs[0].role, Role::Owner);
    let source = &loaded.topology.sources[0];
    assert_eq!((source.value.name, source.key, source.future_ms), ("json", KeyCodec::String, None));
}

#[test]
fn an_owner_is_waited_for_for_ever_unless_said_otherwise() {
    let text = |missing: &str| {
        format!(
            "version: 1\napp: t\nsources:\n  a: {{ topic: a, fields: {{ x: int }} }}\n  b: {{ topic: b, fields: {{ y: int }} }}\ntables:\n  t:\n    from:\n      a: {{ role: owner, set: {{ x: event.x }} }}\n      b:\n        role: contributor\n        set: {{ y: event.y }}\n{missing}"
        )
    };
    let missing = |line: &str| load(&text(line), line).topology.tables[0].inputs[1].owner_missing.unwrap();
    let default = missing("");
    assert_eq!((default.what, default.max_wait_ms, default.on_timeout), (WhenOwnerMissing::Placeholder, None, OnTimeout::Keep));
    let bounded = missing("        when_owner_missing: { do: placeholder, max_wait: 1h }\n");
    assert_eq!((bounded.max_wait_ms, bounded.on_timeout), (Some(3_600_000), OnTimeout::DeadLetter));
    assert_eq!(missing("        when_owner_missing: drop\n").what, WhenOwnerMissing::Drop);
}

/// Names, never positions: a file with its blocks in another order has the same sub-topologies, stores and topics.
#[test]
fn moving_lines_does_not_move_state() {
    let text = |one: &str, two: &str| {
        format!(
            "version: 1\napp: t\nsources:\n  a: {{ topic: a, fields: {{ x: int }} }}\n  b: {{ topic: b, fields: {{ x: int }} }}\ntables:\n{one}{two}"
        )
    };
    let (one, two) = ("  zebra:\n    from:\n      a: { set: { x: event.x } }\n", "  ant:\n    from:\n      b: { set: { x: event.x } }\n");
    let names = |text: String| -> Vec<Vec<String>> {
        let plan = topology::plan(load(&text, "x.yaml").topology);
        plan.subtopologies
            .iter()
            .map(|sub| sub.stores.iter().map(|store| format!("{} {:?}", store.name, store.changelog)).collect())
            .collect()
    };
    assert_eq!(names(text(one, two)), names(text(two, one)));
    assert!(names(text(one, two))[0][0].starts_with("ant"), "ordered by name");
}

#[test]
fn tables_that_share_a_topic_are_one_sub_topology() {
    let text = "version: 1\napp: t\nsources:\n  a: { topic: one, fields: { x: int } }\n  b: { topic: one, fields: { x: int } }\n  c: { topic: two, fields: { x: int } }\n  d: { topic: three, fields: { x: int } }\ntables:\n  p:\n    from:\n      a: { set: { x: event.x } }\n  q:\n    from:\n      c: { set: { x: event.x } }\n  r:\n    from:\n      d: { role: owner, set: { x: event.x } }\n      b: { role: contributor, set: { y: event.x } }\n";
    let plan = topology::plan(load(text, "x.yaml").topology);
    let tables: Vec<Vec<&str>> =
        plan.subtopologies.iter().map(|sub| sub.tables.iter().map(|table| plan.topology.tables[table.0].name.as_str()).collect()).collect();
    assert_eq!(tables, [vec!["p", "r"], vec!["q"]]);
    let topics: Vec<&str> = plan.subtopologies[0].topics.iter().map(|topic| topic.as_str()).collect();
    assert_eq!(topics, ["one", "three"]);
}

#[test]
fn stores_are_made_for_what_is_asked() {
    let text = "version: 1\napp: t\nsources:\n  a: { topic: a, fields: { x: int } }\n  b: { topic: b, fields: { x: int } }\ntables:\n  t:\n    from:\n      a: { role: owner, set: { x: event.x } }\n      b: { role: contributor, set: { y: event.x }, when_owner_missing: buffer }\n    dedupe: { by: event.x, for: 1h }\n";
    let plan = topology::plan(load(text, "x.yaml").topology);
    let stores: Vec<(&str, StoreKind, Option<&str>)> = plan.subtopologies[0]
        .stores
        .iter()
        .map(|store| (store.name.as_str(), store.kind, store.changelog.as_ref().map(|topic| topic.as_str())))
        .collect();
    assert_eq!(
        stores,
        [
            ("t", StoreKind::Rows, Some("t-t-changelog")),
            ("t-buffer", StoreKind::Buffer, Some("t-t-buffer-changelog")),
            ("t-dedupe", StoreKind::Dedupe, Some("t-t-dedupe-changelog")),
            ("t-timers", StoreKind::Timers, None),
        ]
    );
}

/// YAML would make a time of `2026-01-01T00:00:02Z`, a boolean of `no` and 1.1 of `1.10`; a test sends what is written.
#[test]
fn tests_send_what_is_written() {
    let text = format!(
        "{}tests:\n  - name: t\n    steps:\n      - send: {{ order: {{ id: o1, at: 2026-01-01T00:00:02Z, price: 1.10, n: 12345678901234567890, tag: no, city: \"7\", weight: null }} }}\n      - send: {{ order: null }}\n",
        table("{ x: event.n }")
    );
    let (_, diagnostics) = topology::load(&text, "x.yaml");
    assert_eq!(diagnostics.sorted()[0].code.id, "send_without_key", "null is a tombstone, which has no value to compute its key from");
    let loaded = load(&text.replace("      - send: { order: null }\n", ""), "x.yaml");
    let StepKind::Send(send) = &loaded.spec.tests[0].steps[0].what else { panic!("a send") };
    assert_eq!(
        send.value.as_ref().unwrap().text,
        r#"{"id":"o1","at":"2026-01-01T00:00:02Z","price":1.10,"n":12345678901234567890,"tag":"no","city":"7","weight":null}"#
    );
}

#[test]
fn windows_line_breaks_and_unicode_do_not_move_places() {
    let text = "# Überschrift\r\nversion: 1\r\napp: t\r\nsources:\r\n  a:\r\n    topic: tö\r\n";
    let (_, diagnostics) = topology::load(text, "x.yaml");
    let places: Vec<(&str, usize, usize)> =
        diagnostics.sorted().iter().map(|found| (found.code.id, found.line(), found.column())).collect();
    assert_eq!(places, [("unused_source", 5, 3), ("bad_topic", 6, 12)]);
}

#[test]
fn anchors_are_followed_and_a_mistake_in_one_is_said_once() {
    let text = "version: 1\napp: t\nsources:\n  a: { topic: a, fields: &fields { x: int, y: strng } }\n  b: { topic: b, fields: *fields }\ntables:\n  t:\n    from:\n      a: { role: owner, set: { x: event.x } }\n      b: { role: contributor, set: { z: event.x } }\n";
    let (_, diagnostics) = topology::load(text, "x.yaml");
    assert_eq!(diagnostics.sorted().len(), 1, "{}", render(&diagnostics, Look::Plain));
    load(&text.replace("strng", "string"), "x.yaml");
}
