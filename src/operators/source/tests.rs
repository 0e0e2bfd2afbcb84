//! One message in, one record or one reason out.

use super::*;
use crate::codec::codec;
use crate::codec::json::to_json;
use crate::expression::{Scope, compile};
use crate::log::memory::StoredRecord;
use crate::model::Headers;
use crate::operators::REASONS;
use bytes::Bytes;
use serde_json::json;
use smol_str::SmolStr;

const NOW: Time = Time(1_767_225_600_000);

#[derive(Default)]
struct Written<'a> {
    key: Option<KeyCodec>,
    any: bool,
    keyed_by: &'a str,
    time: &'a str,
    id: &'a str,
    when: &'a str,
    future_ms: Option<i64>,
}

fn event_type() -> Type {
    let field = |name: &str, ty: Type| Field { name: name.into(), ty };
    Type::Object(Arc::new(Shape {
        fields: vec![
            field("type", Type::nullable(Type::String)),
            field("productId", Type::String),
            field("price", Type::Decimal),
            field("occurredAt", Type::nullable(Type::Timestamp)),
            field("eventId", Type::nullable(Type::String)),
        ],
    }))
}

fn source(written: Written<'_>) -> SourceDecoder {
    let event = if written.any { Type::Any } else { event_type() };
    let key = written.key.unwrap_or(KeyCodec::String);
    let headers = Type::map(Type::String, Type::String);
    let types = [event.clone(), key.ty(), Type::Timestamp, headers, Type::String, Type::Int, Type::Int];
    let scope = Scope::new(EVENT_SCOPE.into_iter().zip(types));
    let program = |text: &str| (!text.is_empty()).then(|| compile(text, &scope).unwrap_or_else(|problems| panic!("{text}: {problems:?}")));
    let spec = SourceSpec {
        name: Name::parse("prices").unwrap(),
        topic: Name::parse("product.price").unwrap(),
        key,
        value: codec("json").unwrap(),
        keyed_by: program(written.keyed_by),
        time: program(written.time),
        id: program(written.id),
        when: program(written.when),
        event,
        on_error: OnError::default(),
        future_ms: written.future_ms,
    };
    SourceDecoder::new(SourceId(3), &spec, Limits::default())
}

fn message(key: Option<&[u8]>, value: Option<&str>, time: i64, headers: &[(&str, Option<&[u8]>)]) -> Message {
    let headers = headers.iter().map(|(name, value)| (SmolStr::new(name), value.map(Bytes::copy_from_slice))).collect();
    let record = StoredRecord {
        offset: 7,
        time: Time(time),
        key: key.map(Bytes::copy_from_slice),
        value: value.map(|text| Bytes::copy_from_slice(text.as_bytes())),
        headers: Headers::new(headers),
    };
    Message::Memory { slot: 0, partition: 2, record: Arc::new(record) }
}

fn price(price: &str) -> Message {
    let value = format!(r#"{{"type":"price","productId":"p1","price":{price},"occurredAt":"2025-12-31T23:00:00Z","eventId":"e1"}}"#);
    message(Some(b"p1"), Some(&value), NOW.0, &[])
}

fn record(source: &mut SourceDecoder, message: &Message) -> Record {
    source.decode(message, NOW).unwrap().expect("the message is of this source")
}

#[track_caller]
fn refused(source: &mut SourceDecoder, message: &Message, reason: &str, detail: &str) {
    let bad = source.decode(message, NOW).unwrap_err();
    assert_eq!((bad.reason, bad.detail.as_str()), (reason, detail));
    assert!(REASONS.iter().any(|(known, _)| *known == reason), "{reason} is not in the list");
}

#[test]
fn a_message_becomes_a_record() {
    let mut source = source(Written { keyed_by: "event.productId", time: "event.occurredAt", id: "event.eventId", ..Written::default() });
    let record = record(&mut source, &price("9.90"));
    assert_eq!((record.source, record.partition, record.offset, record.next_offset().0), (SourceId(3), 2, 7, 8));
    assert_eq!(record.key.as_slice(), b"\x01p1");
    assert_eq!(record.key_value, Value::string("p1"));
    assert_eq!(record.time, Time(NOW.0 - 3_600_000));
    assert_eq!(record.id, Some(Value::string("e1")));
    let expected = json!({ "type": "price", "productId": "p1", "price": "9.90", "occurredAt": "2025-12-31T23:00:00Z", "eventId": "e1" });
    assert_eq!(to_json(&record.value.unwrap()), expected);
}

#[test]
fn the_records_timestamp_is_the_event_time_by_default() {
    assert_eq!(record(&mut source(Written::default()), &price("1")).time, NOW);
    let mut by_number = source(Written { any: true, time: "event.ms", ..Written::default() });
    assert_eq!(record(&mut by_number, &message(Some(b"k"), Some(r#"{"ms":1500}"#), NOW.0, &[])).time, Time(1500));
}

#[test]
fn a_null_id_is_no_id() {
    let mut source = source(Written { id: "event.eventId", ..Written::default() });
    let message = message(Some(b"p1"), Some(r#"{"productId":"p1","price":1}"#), NOW.0, &[]);
    assert_eq!(record(&mut source, &message).id, None);
}

#[test]
fn a_bad_record_says_why() {
    let mut plain = source(Written { keyed_by: "event.productId", time: "event.occurredAt", ..Written::default() });
    refused(
        &mut plain,
        &message(None, Some("{}"), 0, &[]),
        "missing_field",
        "field `productId`: missing, and not declared `optional`, at byte 0",
    );
    let good = r#"{"productId":"p1","price":1,"occurredAt":0}"#;
    refused(&mut plain, &message(None, Some(good), 0, &[]), "missing_key", "the record has no key");
    refused(&mut plain, &message(None, None, 0, &[]), "missing_key", "the record has no key");
    refused(&mut plain, &message(Some(b"\xff"), Some(good), 0, &[]), "bad_key", "key: not UTF-8 at byte 0");
    refused(
        &mut plain,
        &message(Some(b"p2"), Some(good), 0, &[]),
        "key_mismatch",
        "the key is `p2`, but `keyed_by` (event.productId) is `p1`",
    );
    refused(
        &mut plain,
        &message(Some(b"p1"), Some("{"), 0, &[]),
        "not_json",
        "not JSON: expected a name in double quotes, found the end, at byte 1",
    );
    refused(&mut plain, &price("true"), "wrong_type", "field `price`: expected decimal, found true, at byte 41");
    let no_time = r#"{"productId":"p1","price":1}"#;
    refused(
        &mut plain,
        &message(Some(b"p1"), Some(no_time), 0, &[]),
        "bad_time",
        "`time` is null: expected a timestamp, or an int of milliseconds",
    );
    let before = r#"{"productId":"p1","price":1,"occurredAt":-1}"#;
    refused(&mut plain, &message(Some(b"p1"), Some(before), 0, &[]), "bad_time", "`time` is -1 ms: expected a time from 1970 to 9999");
    let mut untimed = source(Written::default());
    refused(
        &mut untimed,
        &message(Some(b"p1"), Some(good), -1, &[]),
        "bad_time",
        "the record's timestamp is -1 ms: expected a time from 1970 to 9999",
    );
    let mut failing = source(Written { any: true, id: "event.a / event.b", ..Written::default() });
    refused(
        &mut failing,
        &message(Some(b"k"), Some(r#"{"a":1,"b":0}"#), 0, &[]),
        "expression",
        "`id` (event.a / event.b): division by zero",
    );
}

#[test]
fn a_time_too_far_ahead_is_a_bad_record() {
    let mut bounded = source(Written { time: "event.occurredAt", future_ms: Some(3_600_000), ..Written::default() });
    let at = |ms: i64| message(Some(b"p1"), Some(&format!(r#"{{"productId":"p1","price":1,"occurredAt":{ms}}}"#)), 0, &[]);
    assert_eq!(record(&mut bounded, &at(NOW.0 + 3_600_000)).time, Time(NOW.0 + 3_600_000));
    let detail = "event time 2026-01-01T01:00:00.001Z is 3600001 ms ahead of the clock, `future` allows 3600000 ms";
    refused(&mut bounded, &at(NOW.0 + 3_600_001), "future", detail);
    let mut tombstone = source(Written { future_ms: Some(0), ..Written::default() });
    assert!(tombstone.decode(&message(Some(b"p1"), None, NOW.0 + 1, &[]), NOW).is_err());
    let mut unbounded = source(Written { time: "event.occurredAt", ..Written::default() });
    assert!(unbounded.decode(&at(NOW.0 * 2), NOW).unwrap().is_some());
}

#[test]
fn a_tombstone_passes_with_the_records_timestamp() {
    let mut source = source(Written {
        keyed_by: "event.productId",
        time: "event.occurredAt",
        id: "event.eventId",
        when: "event.type == \"price\"",
        ..Written::default()
    });
    for value in [None, Some("null")] {
        let record = record(&mut source, &message(Some(b"p1"), value, NOW.0, &[]));
        assert_eq!((record.value, record.time, record.id), (None, NOW, None));
    }
}

#[test]
fn expressions_that_do_not_look_at_the_event_apply_to_tombstones() {
    let mut source = source(Written { id: "string(headers.id)", when: "headers.kind == \"price\"", ..Written::default() });
    let tombstone = |kind: &[u8]| message(Some(b"p1"), None, NOW.0, &[("kind", Some(kind)), ("id", Some(b"e9"))]);
    assert_eq!(record(&mut source, &tombstone(b"price")).id, Some(Value::string("e9")));
    assert!(source.decode(&tombstone(b"name"), NOW).unwrap().is_none());
}

#[test]
fn what_another_source_of_the_topic_means_is_not_bad() {
    let mut source = source(Written { keyed_by: "event.productId", when: "event.type == \"price\"", ..Written::default() });
    let foreign = |value: &str| message(Some(b"p1"), Some(value), NOW.0, &[]);
    // In turns, so that both orders of asking are taken.
    for _ in 0..2 {
        assert!(source.decode(&foreign(r#"{"type":"product","name":"Tea"}"#), NOW).unwrap().is_none());
        assert!(source.decode(&foreign(r#"{"type":"product","productId":7,"price":{}}"#), NOW).unwrap().is_none());
        assert!(source.decode(&price("1"), NOW).unwrap().is_some());
        // Meant, as far as one can see: the error is this source's.
        let missing = "field `productId`: missing, and not declared `optional`, at byte 0";
        refused(&mut source, &foreign(r#"{"type":"price","price":1}"#), "missing_field", missing);
        refused(&mut source, &foreign(r#"{"type":7}"#), "wrong_type", "field `type`: expected string, found 7, at byte 8");
        refused(&mut source, &foreign("[]"), "wrong_type", "expected object, found a list, at byte 0");
    }
    // A missing key is a matter of the source that means the record.
    assert!(source.decode(&message(None, Some(r#"{"type":"product"}"#), NOW.0, &[]), NOW).unwrap().is_none());
}

#[test]
fn keys_are_compared_as_stores_compare_them() {
    let mut ints = source(Written { key: Some(KeyCodec::Int), any: true, keyed_by: "event.id", ..Written::default() });
    for key in [&42i64.to_be_bytes()[..], &42i32.to_be_bytes()[..]] {
        assert_eq!(record(&mut ints, &message(Some(key), Some(r#"{"id":42}"#), NOW.0, &[])).key_value, Value::Int(42));
    }
    refused(
        &mut ints,
        &message(Some(&[0; 4]), Some(r#"{"id":"0"}"#), NOW.0, &[]),
        "expression",
        "`keyed_by` (event.id): expected a key of type int, found string",
    );
}

#[test]
fn fields_are_found_in_expressions() {
    for (text, field, is_used) in [
        ("event.type == 'x'", "type", true),
        ("event.?type.orValue('') == 'x'", "type", true),
        ("event . type == 'x'", "type", true),
        ("has(event.type)", "type", true),
        ("event.typed == 'x'", "type", false),
        ("event.mytype == 'x'", "type", false),
        ("event.kind == 'type'", "type", false),
        ("event[\"weird-name\"] == 1", "weird-name", true),
        ("event[ ?'weird-name'] == 1", "weird-name", true),
        ("", "type", false),
    ] {
        assert_eq!(selects(text, field), is_used, "{text}");
    }
}
