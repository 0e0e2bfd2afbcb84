//! Stored values read back as they were written, and bytes that are no stored value are refused without harm.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use rust_decimal::Decimal;
use smol_str::SmolStr;

use super::*;
use crate::model::{Field, MapKey, Object, Shape, Span, Time, Timestamp, Type, Value};
use crate::state::row::{Accumulator, Deleted, RawRecord, SourceState, Version};

fn time() -> impl Strategy<Value = Time> {
    prop_oneof![Just(Time::MIN), Just(Time::MAX), (-5..5i64).prop_map(Time), any::<i64>().prop_map(Time)]
}

fn decimal() -> impl Strategy<Value = Decimal> {
    (any::<i128>(), 0..=28u32, any::<bool>()).prop_map(|(mantissa, scale, is_negative)| {
        let mut decimal = Decimal::from_i128_with_scale(mantissa >> 32, scale);
        decimal.set_sign_negative(is_negative);
        decimal
    })
}

fn map_key() -> impl Strategy<Value = MapKey> {
    prop_oneof![
        any::<bool>().prop_map(MapKey::Bool),
        any::<i64>().prop_map(MapKey::Int),
        any::<u64>().prop_map(MapKey::Uint),
        ".{0,30}".prop_map(|text| MapKey::String(text.into())),
    ]
}

fn ty() -> impl Strategy<Value = Type> {
    let plain = vec![
        Type::Any,
        Type::Null,
        Type::Bool,
        Type::Int,
        Type::Uint,
        Type::Double,
        Type::String,
        Type::Bytes,
        Type::Decimal,
        Type::Timestamp,
        Type::Duration,
        Type::Type,
    ];
    proptest::sample::select(plain).prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(Type::list),
            (inner.clone(), inner.clone()).prop_map(|(key, value)| Type::map(key, value)),
            inner.clone().prop_map(|of| Type::Nullable(Arc::new(of))),
            inner.clone().prop_map(|of| Type::Optional(Arc::new(of))),
            proptest::collection::vec(inner, 0..3).prop_map(|types| Type::Object(shape(types))),
        ]
    })
}

fn shape(types: Vec<Type>) -> Arc<Shape> {
    let fields = types.into_iter().enumerate().map(|(index, ty)| Field { name: SmolStr::new(format!("f{index}")), ty });
    Arc::new(Shape { fields: fields.collect() })
}

fn value() -> impl Strategy<Value = Value> {
    let plain = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(Value::Uint),
        any::<f64>().prop_map(Value::Double),
        Just(Value::Double(f64::NAN)),
        ".{0,40}".prop_map(Value::string),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Value::Bytes(Bytes::from(bytes))),
        decimal().prop_map(Value::Decimal),
        (Timestamp::SECONDS_MIN..=Timestamp::SECONDS_MAX, 0..1_000_000_000u32)
            .prop_map(|(seconds, nanos)| Value::Timestamp(Timestamp::new(seconds, nanos).unwrap())),
        any::<i64>().prop_map(|nanos| Value::Duration(Span { nanos })),
        ty().prop_map(Value::Type),
    ];
    plain.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|values| Value::List(values.into())),
            proptest::collection::btree_map(map_key(), inner.clone(), 0..4).prop_map(|entries| Value::Map(Arc::new(entries))),
            proptest::option::of(inner.clone()).prop_map(|value| Value::Optional(value.map(Arc::new))),
            proptest::collection::vec(inner, 0..4).prop_map(|values| {
                let shape = shape(values.iter().map(Value::type_of).collect());
                let object = Value::Object(Object { shape: shape.clone(), slots: values.into() });
                // Twice, so that the second names the shape of the first.
                Value::List(vec![object.clone(), object].into())
            }),
        ]
    })
}

fn version() -> impl Strategy<Value = Version> {
    (proptest::collection::vec(value(), 0..3), time(), any::<i64>()).prop_map(|(order, time, offset)| Version { order, time, offset })
}

fn bytes() -> impl Strategy<Value = Option<Bytes>> {
    proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from))
}

fn raw() -> impl Strategy<Value = RawRecord> {
    let headers = proptest::collection::vec((".{0,8}".prop_map(SmolStr::from), bytes()), 0..3);
    (bytes(), bytes(), headers, any::<i64>(), time()).prop_map(|(key, value, headers, offset, time)| RawRecord {
        key,
        value,
        headers,
        offset,
        time,
    })
}

fn accumulator() -> impl Strategy<Value = Accumulator> {
    prop_oneof![
        Just(Accumulator::Empty),
        value().prop_map(Accumulator::Last),
        (version(), value()).prop_map(|(version, value)| Accumulator::First(version, value)),
        value().prop_map(Accumulator::Extreme),
        value().prop_map(Accumulator::Sum),
        any::<i64>().prop_map(Accumulator::Count),
        (decimal(), any::<i64>()).prop_map(|(sum, count)| Accumulator::Avg { sum, count }),
        proptest::collection::vec(value(), 0..4).prop_map(Accumulator::List),
        proptest::collection::vec((value(), value()), 0..3).prop_map(Accumulator::Top),
        proptest::collection::btree_map(map_key(), (version(), proptest::option::of(value())), 0..3).prop_map(Accumulator::Entries),
    ]
}

fn source() -> impl Strategy<Value = SourceState> {
    let deleted = (time(), any::<i64>()).prop_map(|(time, offset)| Deleted { time, offset });
    let fields = proptest::collection::vec(accumulator(), 0..4);
    (proptest::option::of(version()), proptest::option::of(deleted), fields, proptest::option::of(raw()), proptest::option::of(time()))
        .prop_map(|(version, deleted, fields, raw, wait_until)| SourceState { version, deleted, fields, raw, wait_until })
}

fn row() -> impl Strategy<Value = RowState> {
    (proptest::collection::vec(source(), 0..3), time(), proptest::option::of(time()))
        .prop_map(|(sources, changed_at, expiry_at)| RowState { sources, changed_at, expiry_at })
}

fn buffered() -> impl Strategy<Value = BufferedRecord> {
    let operands = proptest::collection::vec((value(), value()), 0..3);
    (raw(), version(), operands, proptest::option::of(time())).prop_map(|(raw, version, operands, wait_until)| BufferedRecord {
        raw,
        version,
        operands,
        wait_until,
    })
}

/// A part of a row as bincode's derive has it, variants by their place.
#[derive(bincode::Encode, Clone, Debug)]
struct MirrorRow {
    sources: Vec<MirrorSource>,
    changed_at: i64,
    expiry_at: Option<i64>,
}

#[derive(bincode::Encode, Clone, Debug)]
struct MirrorSource {
    version: Option<(Vec<MirrorValue>, i64, i64)>,
    deleted: Option<(i64, i64)>,
    fields: Vec<MirrorField>,
    raw: Option<u8>,
    wait_until: Option<i64>,
}

#[derive(bincode::Encode, Clone, Debug)]
enum MirrorField {
    Empty,
    Last(MirrorValue),
}

#[derive(bincode::Encode, Clone, Debug)]
enum MirrorValue {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
    /// Digits and scale.
    Decimal(u128, u8),
}

fn mirror_value() -> impl Strategy<Value = (MirrorValue, Value)> {
    // Numbers of every length.
    let number = (any::<u64>(), 0..64u32).prop_map(|(number, shift)| number >> shift);
    prop_oneof![
        Just((MirrorValue::Null, Value::Null)),
        any::<bool>().prop_map(|value| (MirrorValue::Bool(value), Value::Bool(value))),
        number.clone().prop_map(|value| (MirrorValue::Int(value as i64), Value::Int(value as i64))),
        number.clone().prop_map(|value| (MirrorValue::Int(-(value as i64 >> 1)), Value::Int(-(value as i64 >> 1)))),
        number.prop_map(|value| (MirrorValue::Uint(value), Value::Uint(value))),
        any::<f64>().prop_map(|value| (MirrorValue::Double(value), Value::Double(value))),
        ".{0,40}".prop_map(|text| (MirrorValue::String(text.clone()), Value::string(text))),
        proptest::collection::vec(any::<u8>(), 0..300)
            .prop_map(|bytes| (MirrorValue::Bytes(bytes.clone()), Value::Bytes(Bytes::from(bytes)))),
        (any::<u128>(), 32..128u32, 0..=28u32).prop_map(|(mantissa, shift, scale)| {
            let mantissa = mantissa >> shift;
            (MirrorValue::Decimal(mantissa, scale as u8), Value::Decimal(Decimal::from_i128_with_scale(mantissa as i128, scale)))
        }),
    ]
}

fn mirror_row() -> impl Strategy<Value = (MirrorRow, RowState)> {
    let field = proptest::option::of(mirror_value());
    let version = proptest::option::of((proptest::collection::vec(mirror_value(), 0..2), any::<i64>(), any::<i64>()));
    let source =
        (version, proptest::option::of(any::<(i64, i64)>()), proptest::collection::vec(field, 0..4), proptest::option::of(any::<i64>()));
    let source = source.prop_map(|(version, deleted, fields, wait_until)| {
        let mirror = MirrorSource {
            version: version.clone().map(|(order, time, offset)| (order.into_iter().map(|(mirror, _)| mirror).collect(), time, offset)),
            deleted,
            fields: fields.iter().cloned().map(|field| field.map_or(MirrorField::Empty, |(mirror, _)| MirrorField::Last(mirror))).collect(),
            raw: None,
            wait_until,
        };
        let ours = SourceState {
            version: version.map(|(order, time, offset)| {
                let order = order.into_iter().map(|(_, value)| value).collect();
                Version { order, time: Time(time), offset }
            }),
            deleted: deleted.map(|(time, offset)| Deleted { time: Time(time), offset }),
            fields: fields.into_iter().map(|field| field.map_or(Accumulator::Empty, |(_, value)| Accumulator::Last(value))).collect(),
            raw: None,
            wait_until: wait_until.map(Time),
        };
        (mirror, ours)
    });
    (proptest::collection::vec(source, 0..3), any::<i64>(), proptest::option::of(any::<i64>())).prop_map(
        |(sources, changed_at, expiry_at)| {
            let (mirrors, ours) = sources.into_iter().unzip();
            let row = RowState { sources: ours, changed_at: Time(changed_at), expiry_at: expiry_at.map(Time) };
            (MirrorRow { sources: mirrors, changed_at, expiry_at }, row)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_read_back_as_written(row in row(), schema_id: u32) {
        let codec = RowCodec::new(schema_id);
        let mut bytes = vec![7];
        codec.encode_row(&row, &mut bytes);
        prop_assert_eq!(codec.decode_row(&bytes[1..]).unwrap(), row);
    }

    #[test]
    fn a_row_reads_back_over_another_row(row in row(), mut other in row()) {
        let codec = RowCodec::new(1);
        let mut bytes = Vec::new();
        codec.encode_row(&row, &mut bytes);
        codec.decode_row_into(&bytes, &mut other).unwrap();
        prop_assert_eq!(other, row);
    }

    #[test]
    fn a_row_is_written_as_bincode_would(rows in mirror_row()) {
        let (mirror, row) = rows;
        let mut bytes = vec![MAGIC, 1, 1];
        bincode::encode_into_std_write(&mirror, &mut bytes, CONFIG).unwrap();
        let mut ours = Vec::new();
        RowCodec::new(1).encode_row(&row, &mut ours);
        prop_assert_eq!(ours, bytes);
    }

    #[test]
    fn progress_reads_back_as_written(stream_time in time(), closed_through in time()) {
        let progress = Progress { stream_time, closed_through };
        let codec = RowCodec::new(1);
        let mut bytes = Vec::new();
        codec.encode_progress(&progress, &mut bytes);
        prop_assert_eq!(codec.decode_progress(&bytes).unwrap(), progress);
        bytes.push(0);
        prop_assert!(codec.decode_progress(&bytes).is_err());
        prop_assert!(codec.decode_progress(&bytes[..4]).is_err());
    }

    #[test]
    fn buffered_records_read_back_as_written(record in buffered()) {
        let codec = RowCodec::new(1);
        let mut bytes = Vec::new();
        codec.encode_buffered(&record, &mut bytes);
        prop_assert_eq!(codec.decode_buffered(&bytes).unwrap(), record);
    }

    #[test]
    fn a_part_of_a_row_or_more_than_a_row_is_refused(row in row(), at: proptest::sample::Index) {
        let codec = RowCodec::new(1);
        let mut bytes = Vec::new();
        codec.encode_row(&row, &mut bytes);
        let part = codec.decode_row(&bytes[..at.index(bytes.len())]);
        prop_assert!(matches!(part, Err(StateError::Corrupt { .. } | StateError::Refused { .. })), "{:?}", part);
        bytes.push(0);
        let more = codec.decode_row(&bytes).unwrap_err();
        prop_assert_eq!(more.to_string(), "cannot read a stored row: the bytes are damaged: more bytes than the value has");
    }

    #[test]
    fn damaged_bytes_never_panic(row in row(), at: proptest::sample::Index, byte: u8) {
        let codec = RowCodec::new(1);
        let mut bytes = Vec::new();
        codec.encode_row(&row, &mut bytes);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        // Either refused, or a row that reads back as itself: what is read can always be written.
        if let Ok(read) = codec.decode_row(&bytes) {
            let mut again = Vec::new();
            codec.encode_row(&read, &mut again);
            prop_assert_eq!(codec.decode_row(&again).unwrap(), read);
        }
    }

    #[test]
    fn any_bytes_are_refused_or_read(payload in proptest::collection::vec(any::<u8>(), 0..60), kind in 0..5u8) {
        let bytes = [&[MAGIC, kind, 1], &payload[..]].concat();
        let codec = RowCodec::new(1);
        let _ = (codec.decode_row(&bytes), codec.decode_buffered(&bytes), codec.decode_progress(&bytes), codec.decode_row(&payload));
    }
}

#[test]
fn a_refusal_names_what_was_found_and_what_is_known() {
    let mut bytes = Vec::new();
    RowCodec::new(0xAABB_CCDD).encode_row(&RowState::default(), &mut bytes);
    let refused = |bytes: &[u8]| RowCodec::new(0x1122_3344).decode_row(bytes).unwrap_err();
    let other_schema =
        "cannot read a stored row: the table's fields were other ones when it was written: schema found 0xaabbccdd, known 0x11223344";
    assert_eq!(refused(&bytes).to_string(), other_schema);
    assert!(matches!(refused(&bytes), StateError::Refused { .. }));
    bytes[1] = 9;
    let other_kind = "cannot read a stored row: it is of another kind or was written by a newer version: kind found 9, known 1";
    assert_eq!(refused(&bytes).to_string(), other_kind);
    bytes[0] = 0;
    assert_eq!(refused(&bytes).to_string(), "cannot read a stored row: expected an envelope, found a first byte of 0x00");
    assert_eq!(refused(&[]).to_string(), "cannot read a stored row: expected an envelope, found 0 bytes");
}

#[test]
fn a_length_beyond_the_end_allocates_nothing() {
    // A list of 2^60 sources.
    let bytes = [&[MAGIC, 1, 1, 253][..], &(1u64 << 60).to_le_bytes()].concat();
    let error = RowCodec::new(1).decode_row(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "cannot read a stored row: the bytes are damaged: a length beyond the end");
}

#[test]
fn nesting_is_bounded() {
    let nested = |lists: usize| {
        let value = (0..lists).fold(Value::Null, |value, _| Value::List(vec![value].into()));
        let source = SourceState { fields: vec![Accumulator::Last(value)], ..SourceState::default() };
        let mut bytes = Vec::new();
        RowCodec::new(1).encode_row(&RowState { sources: vec![source], ..RowState::default() }, &mut bytes);
        RowCodec::new(1).decode_row(&bytes)
    };
    assert!(nested(DEPTH_MAX).is_ok());
    assert_eq!(nested(DEPTH_MAX + 1).unwrap_err().to_string(), "cannot read a stored row: the bytes are damaged: nested too deeply");
}
