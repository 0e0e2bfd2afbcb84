//! The JSON codec as its users see it: what is read, what is written, what is refused in which words.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use rust_decimal::Decimal;

use super::*;
use crate::model::{Field, MapKey, Object, Shape, Span, Timestamp};

fn object(fields: &[(&str, Type)]) -> Type {
    Type::Object(Arc::new(Shape { fields: fields.iter().map(|(name, ty)| Field { name: (*name).into(), ty: ty.clone() }).collect() }))
}

fn price_event() -> Type {
    object(&[
        ("eventId", Type::String),
        ("productId", Type::String),
        ("price", Type::Decimal),
        ("currency", Type::nullable(Type::String)),
        ("occurredAt", Type::Timestamp),
    ])
}

fn read(ty: &Type, text: &str) -> Result<Value, BadValue> {
    JsonDecoder::new(ty, Limits::default()).decode(text.as_bytes())
}

fn written(value: &Value) -> String {
    let mut text = Vec::new();
    write_value(value, &mut text);
    String::from_utf8(text).unwrap()
}

/// Reads as the type and writes again.
fn check(ty: &Type, text: &str, expected: &str) {
    assert_eq!(read(ty, text).map(|value| written(&value)).as_deref(), Ok(expected), "{ty}: {text}");
}

fn refuse(ty: &Type, text: &str, reason: &str, detail: &str) {
    let bad = read(ty, text).expect_err(text);
    assert_eq!((bad.reason, bad.detail.as_str()), (reason, detail), "{ty}: {text}");
}

#[test]
fn reads_declared_fields_in_any_order_and_nothing_else() {
    let expected = r#"{"eventId":"u1","productId":"p1","price":"9.90","currency":"EUR","occurredAt":"2026-01-01T00:00:00Z"}"#;
    let ty = price_event();
    check(&ty, r#"{"eventId":"u1","productId":"p1","price":9.90,"currency":"EUR","occurredAt":1767225600000}"#, expected);
    check(
        &ty,
        r#" { "occurredAt" : "2026-01-01T00:00:00Z" , "x":{"price":[1,{}]}, "currency":"EUR","price":"9.90","productId":"p1","eventId":"u1" } "#,
        expected,
    );
    // A name written with an escape is the same name.
    check(&ty, r#"{"\u0065ventId":"u1","productId":"p1","price":9.90,"currency":"EUR","occurredAt":1767225600000}"#, expected);
}

#[test]
fn the_last_of_two_values_with_one_name_counts() {
    check(&object(&[("a", Type::Int)]), r#"{"a":1,"b":0,"a":2}"#, r#"{"a":2}"#);
    check(&Type::Any, r#"{"a":1,"a":2}"#, r#"{"a":2}"#);
}

#[test]
fn a_decoder_remembers_nothing_of_the_record_before() {
    let ty = object(&[("a", Type::nullable(Type::Int)), ("b", Type::nullable(Type::list(object(&[("c", Type::nullable(Type::Int))]))))]);
    let mut decoder = JsonDecoder::new(&ty, Limits::default());
    let mut text = |bytes: &[u8]| decoder.decode(bytes).map(|value| written(&value));
    assert_eq!(text(br#"{"a":1,"b":[{"c":1},{}]}"#).unwrap(), r#"{"a":1,"b":[{"c":1},{"c":null}]}"#);
    assert!(text(br#"{"b":[{"c":7},{"c":"x"}]}"#).is_err());
    assert_eq!(text(br#"{"b":[{}]}"#).unwrap(), r#"{"a":null,"b":[{"c":null}]}"#);
    assert_eq!(text(b"{}").unwrap(), r#"{"a":null,"b":null}"#);
}

#[test]
fn finds_fields_of_wide_objects() {
    let names: Vec<String> = (0..40).map(|n| format!("field{n}")).collect();
    let fields: Vec<(&str, Type)> = names.iter().map(|name| (name.as_str(), Type::Int)).collect();
    let members: Vec<String> = (0..40).rev().map(|n| format!(r#""field{n}":{n},"other{n}":[{n}]"#)).collect();
    let expected: Vec<String> = (0..40).map(|n| format!(r#""field{n}":{n}"#)).collect();
    check(&object(&fields), &format!("{{{}}}", members.join(",")), &format!("{{{}}}", expected.join(",")));
}

#[test]
fn reads_every_type_in_all_its_forms() {
    check(&Type::Int, "-5", "-5");
    check(&Type::Int, "5.0", "5");
    check(&Type::Int, "5e2", "500");
    check(&Type::Int, "\"9223372036854775807\"", "\"9223372036854775807\"");
    check(&Type::Int, "9223372036854775807", "\"9223372036854775807\"");
    check(&Type::Int, "9007199254740992", "9007199254740992");
    check(&Type::Int, "-9007199254740993", "\"-9007199254740993\"");
    check(&Type::Uint, "18446744073709551615", "\"18446744073709551615\"");
    check(&Type::Double, "1", "1.0");
    check(&Type::Double, "1e300", "1e+300");
    check(&Type::Double, "0.1", "0.1");
    check(&Type::Decimal, "9.90", "\"9.90\"");
    check(&Type::Decimal, "\"9.90\"", "\"9.90\"");
    check(&Type::Decimal, "0.1000000000000000000000000", "\"0.1000000000000000000000000\"");
    check(&Type::Timestamp, "1767225600500", "\"2026-01-01T00:00:00.500Z\"");
    check(&Type::Timestamp, "\"2026-01-01T01:00:00+01:00\"", "\"2026-01-01T00:00:00Z\"");
    check(&Type::Duration, "\"1h30m\"", "\"5400s\"");
    check(&Type::Duration, "\"1.5s\"", "\"1.5s\"");
    check(&Type::Bytes, "\"/w==\"", "\"/w==\"");
    check(&Type::Bytes, "\"/w\"", "\"/w==\"");
    check(&Type::String, r#""a\u00e9\ud83d\ude00\n\/""#, r#""aé😀\n/""#);
    check(&Type::nullable(Type::Int), "7", "7");
    check(&Type::list(Type::nullable(Type::Bool)), "[true,null,false]", "[true,null,false]");
    check(&Type::map(Type::Int, Type::String), r#"{"10":"b","9":"a"}"#, r#"{"9":"a","10":"b"}"#);
    check(&Type::map(Type::Bool, Type::Any), r#"{"true":{}}"#, r#"{"true":{}}"#);
    check(
        &Type::Any,
        r#"{"z":1,"a":[1.5,"x",null,true,{}],"u":18446744073709551615}"#,
        r#"{"a":[1.5,"x",null,true,{}],"u":"18446744073709551615","z":1}"#,
    );
}

#[test]
fn null_as_a_whole_is_null_whatever_is_declared() {
    check(&price_event(), " null ", "null");
    check(&Type::Int, "null", "null");
}

#[test]
fn says_what_was_expected_what_was_found_and_where() {
    let price = |price: &str| format!(r#"{{"eventId":"u","productId":"p","price":{price},"occurredAt":0}}"#);
    let ty = price_event();
    refuse(&ty, &price("true"), "wrong_type", "field `price`: expected decimal, found true, at byte 39");
    refuse(&ty, &price("\"cheap\""), "wrong_type", "field `price`: expected decimal, found \"cheap\", at byte 39");
    refuse(&ty, &price("[1]"), "wrong_type", "field `price`: expected decimal, found a list, at byte 39");
    refuse(&ty, &price("NaN"), "not_json", "field `price`: not JSON: expected a value, found `N`, at byte 39");
    refuse(&ty, &price("Infinity"), "not_json", "field `price`: not JSON: expected a value, found `I`, at byte 39");
    refuse(&ty, &price("1e400"), "number_out_of_range", "field `price`: out of the range of decimal: 1e400, at byte 39");
    refuse(
        &ty,
        r#"{"eventId":"u","productId":"p","price":1}"#,
        "missing_field",
        "field `occurredAt`: missing, and not declared `optional`, at byte 0",
    );
    refuse(&ty, r#"{"eventId":null}"#, "wrong_type", "field `eventId`: expected string, found null, at byte 11");
    refuse(&ty, "[]", "wrong_type", "expected object, found a list, at byte 0");
    refuse(&ty, "", "not_json", "not JSON: expected a value, found the end, at byte 0");
    refuse(&ty, "hello", "not_json", "not JSON: expected a value, found `h`, at byte 0");
    refuse(&ty, "{\"eventId\":\"u\"", "not_json", "not JSON: expected `,` or `}`, found the end, at byte 14");
    refuse(&Type::Int, "1 2", "not_json", "not JSON: expected the end of the value, found `2`, at byte 2");
    refuse(&Type::Int, "1.5", "wrong_type", "expected int, found 1.5, at byte 0");
    refuse(&Type::Int, "9223372036854775808", "number_out_of_range", "out of the range of int: 9223372036854775808, at byte 0");
    refuse(&Type::Int, "1e30", "number_out_of_range", "out of the range of int: 1e30, at byte 0");
    refuse(&Type::Uint, "-1", "number_out_of_range", "out of the range of uint: -1, at byte 0");
    refuse(&Type::Double, "1e400", "number_out_of_range", "out of the range of double: 1e400, at byte 0");
    refuse(&Type::Double, "\"NaN\"", "wrong_type", "expected double, found \"NaN\", at byte 0");
    refuse(
        &Type::Any,
        "123456789012345678901234567890",
        "number_out_of_range",
        "out of the range of int and uint: 123456789012345678901234567890, at byte 0",
    );
    refuse(
        &Type::Timestamp,
        "1767225600.5",
        "wrong_type",
        "expected timestamp (RFC 3339, or milliseconds since 1970), found 1767225600.5, at byte 0",
    );
    refuse(
        &Type::Timestamp,
        "\"yesterday\"",
        "wrong_type",
        "expected timestamp (RFC 3339, or milliseconds since 1970), found \"yesterday\", at byte 0",
    );
    refuse(
        &Type::Timestamp,
        "99999999999999999999",
        "number_out_of_range",
        "out of the range of timestamp: 99999999999999999999, at byte 0",
    );
    refuse(&Type::Duration, "5", "wrong_type", "expected duration such as \"1.5s\" or \"1h30m\", found 5, at byte 0");
    refuse(&Type::Bytes, "\"*\"", "wrong_type", "expected bytes in base64, found \"*\", at byte 0");
    refuse(&Type::map(Type::Int, Type::Any), r#"{"a":1}"#, "wrong_type", "expected a name that is int, found a, at byte 1");
    let nested = object(&[("items", Type::list(object(&[("price", Type::Decimal)])))]);
    refuse(
        &nested,
        r#"{"items":[{"price":1},{"price":{}}]}"#,
        "wrong_type",
        "field `items[1].price`: expected decimal, found an object, at byte 31",
    );
    let long = format!("\"{}\"", "é".repeat(100));
    refuse(&Type::Int, &long, "wrong_type", &format!("expected int, found \"{}…, at byte 0", "é".repeat(39)));
}

#[test]
fn refuses_texts_that_are_not_unicode() {
    let bad = JsonDecoder::new(&Type::Any, Limits::default()).decode(b"{\"a\":\"\xff\"}").unwrap_err();
    assert_eq!((bad.reason, bad.detail.as_str()), ("not_utf8", "not UTF-8 at byte 6"));
    for text in [r#""\ud800""#, r#""\udc00""#, r#""\ud800\u0041""#, r#""\ud800x""#] {
        let bad = read(&Type::String, text).unwrap_err();
        assert_eq!(bad.reason, "not_json", "{text}");
        assert!(bad.detail.starts_with("lone surrogate `\\ud"), "{}", bad.detail);
    }
    refuse(&Type::String, "\"a\u{1}\"", "not_json", "control character 0x01 in a string, at byte 2");
}

#[test]
fn refuses_what_is_too_large_or_too_deep_also_where_nobody_looks() {
    let ty = object(&[("a", Type::nullable(Type::Any))]);
    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(10 << 20));
    refuse(&ty, &large, "too_large", "the value has 10485768 bytes, the limit is 1048576");
    for name in ["a", "b"] {
        let deep = format!(r#"{{"{name}":{}{}}}"#, "[".repeat(200), "]".repeat(200));
        assert_eq!(read(&ty, &deep).unwrap_err().reason, "too_deep", "{name}");
        let deep = format!(r#"{{"{name}":{}{}}}"#, "[".repeat(127), "]".repeat(127));
        assert!(read(&ty, &deep).is_ok(), "{name}");
    }
}

#[test]
fn nan_and_infinity_are_written_as_null() {
    for double in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(written(&Value::Double(double)), "null");
        assert!(to_json(&Value::Double(double)).is_null());
    }
}

#[test]
fn a_tree_is_read_as_its_text_would_be() {
    let tree = serde_json::json!({ "eventId": "u", "productId": "p", "price": "9.90", "occurredAt": "2026-01-01T00:00:00Z" });
    let value = from_json(&tree, &price_event()).unwrap();
    assert_eq!(written(&value), r#"{"eventId":"u","productId":"p","price":"9.90","currency":null,"occurredAt":"2026-01-01T00:00:00Z"}"#);
    assert_eq!(from_json(&serde_json::json!({ "eventId": 1 }), &price_event()).unwrap_err().reason, "wrong_type");
}

/// A type and a value of it.
fn typed_value() -> impl Strategy<Value = (Type, Value)> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(|x| (Type::Bool, Value::Bool(x))),
        any::<i64>().prop_map(|x| (Type::Int, Value::Int(x))),
        any::<u64>().prop_map(|x| (Type::Uint, Value::Uint(x))),
        prop::num::f64::NORMAL.prop_map(|x| (Type::Double, Value::Double(x))),
        any::<String>().prop_map(|x| (Type::String, Value::string(x))),
        any::<Vec<u8>>().prop_map(|x| (Type::Bytes, Value::Bytes(Bytes::from(x)))),
        (any::<i64>(), 0u32..=28).prop_map(|(x, scale)| (Type::Decimal, Value::Decimal(Decimal::new(x, scale)))),
        (Timestamp::SECONDS_MIN..=Timestamp::SECONDS_MAX, 0u32..1_000_000_000)
            .prop_map(|(s, n)| (Type::Timestamp, Value::Timestamp(Timestamp::new(s, n).unwrap()))),
        any::<i64>().prop_map(|nanos| (Type::Duration, Value::Duration(Span { nanos }))),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|(ty, value)| (Type::list(ty), Value::List([value.clone(), value].into()))),
            inner.clone().prop_map(|(ty, _)| (Type::nullable(ty), Value::Null)),
            (any::<String>(), inner.clone()).prop_map(|(key, (ty, value))| {
                let entries = BTreeMap::from([(MapKey::String(key.into()), value)]);
                (Type::map(Type::String, ty), Value::Map(Arc::new(entries)))
            }),
            prop::collection::vec(("[a-z\"é]{0,6}", inner), 0..12).prop_map(|members| {
                let mut fields = Vec::new();
                let mut slots = Vec::new();
                for (position, (name, (ty, value))) in members.into_iter().enumerate() {
                    fields.push(Field { name: format!("{name}{position}").into(), ty });
                    slots.push(value);
                }
                let shape = Arc::new(Shape { fields });
                (Type::Object(Arc::clone(&shape)), Value::Object(Object { shape, slots: slots.into() }))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn decode_undoes_encode((ty, value) in typed_value()) {
        let text = written(&value);
        prop_assert_eq!(read(&ty, &text), Ok(value.clone()), "{}", text);
        prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok(), "{}", text);
        prop_assert_eq!(from_json(&to_json(&value), &ty), Ok(value));
    }

    /// Blanks, other order and other members change nothing.
    #[test]
    fn layout_does_not_matter((ty, value) in typed_value()) {
        let tree = to_json(&value);
        let pretty = serde_json::to_string_pretty(&tree).unwrap();
        prop_assert_eq!(read(&ty, &pretty), Ok(value));
    }

    #[test]
    fn damaged_texts_never_panic((ty, value) in typed_value(), cut in 0usize..200, byte: u8) {
        let mut text = written(&value).into_bytes();
        if let Some(place) = text.get_mut(cut) {
            *place = byte;
        }
        let mut decoder = JsonDecoder::new(&ty, Limits::default());
        let _ = decoder.decode(&text);
        text.truncate(cut);
        let _ = decoder.decode(&text);
    }
}
