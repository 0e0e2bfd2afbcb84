//! Every stored format that was ever released still reads, and is still written byte for byte.
//!
//! A fixture, `tests/formats/<name>/v<version>.hex`, is never changed. A new version of a format gets a new fixture, and both are read.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::ops::Bound;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use millstream::model::{Field, MapKey, Name, Object, Offset, Shape, Span, StoreId, TaskId, Time, Timestamp, Type, Value};
use millstream::state::backend::Backend;
use millstream::state::directory::Directory;
use millstream::state::format::RowCodec;
use millstream::state::layout::{self, TimerClock};
use millstream::state::row::{Accumulator, BufferedRecord, Deleted, Progress, RawRecord, RowState, SourceState, Version};
use millstream::state::{CacheBudget, MemoryStorage, Sealed, StoreSpec, TaskState};
use smol_str::SmolStr;

const SCHEMA: u32 = 0x1122_3344;

/// Compares what is written today with a fixture: lines of a name and hex.
fn check(fixture: &str, written: &[(&str, &[u8])]) {
    let mut lines = String::new();
    for (name, bytes) in written {
        let _ = write!(lines, "{name} ");
        bytes.iter().for_each(|byte| {
            let _ = write!(lines, "{byte:02x}");
        });
        lines.push('\n');
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(fixture);
    let stored = fs::read_to_string(&path).unwrap_or_default();
    assert!(stored == lines, "{} differs from what is written today:\n{lines}", path.display());
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn shape() -> Arc<Shape> {
    let field = |name: &str, ty| Field { name: SmolStr::new(name), ty };
    let inner = Arc::new(Shape { fields: vec![field("x", Type::Int)] });
    let types = [
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
        Type::list(Type::Int),
        Type::map(Type::String, Type::Any),
        Type::Object(inner),
        Type::nullable(Type::Int),
        Type::Optional(Arc::new(Type::Int)),
    ];
    Arc::new(Shape { fields: types.into_iter().enumerate().map(|(index, ty)| field(&format!("f{index}"), ty)).collect() })
}

/// One of each kind, and numbers of each length.
fn values() -> Vec<Value> {
    let decimal = |text: &str| Value::Decimal(text.parse().unwrap());
    let shape = shape();
    let slots: Arc<[Value]> = (0..shape.fields.len() as i64).map(Value::Int).collect();
    let object = Value::Object(Object { shape, slots });
    let keys = [MapKey::Bool(true), MapKey::Int(-1), MapKey::Uint(1), MapKey::String("k".into())];
    let mut values = vec![
        Value::Null,
        Value::Bool(false),
        Value::Bool(true),
        Value::Double(1.5),
        Value::string(""),
        Value::string("Grüße"),
        Value::Bytes(Bytes::from_static(&[0, 255])),
        decimal("0"),
        decimal("-9.90"),
        decimal("79228162514264337593543950335"),
        Value::Timestamp(Timestamp::new(1_767_225_602, 500_000_000).unwrap()),
        Value::Timestamp(Timestamp::new(-1, 0).unwrap()),
        Value::Duration(Span { nanos: -1_500_000_000 }),
        Value::List(vec![Value::Int(1), Value::Null].into()),
        Value::Map(Arc::new(keys.into_iter().map(|key| (key, Value::Null)).collect())),
        object.clone(),
        object,
        Value::Optional(None),
        Value::Optional(Some(Arc::new(Value::Int(1)))),
        Value::Type(Type::list(Type::String)),
    ];
    let numbers = [0, 1, -1, 125, 126, -126, 32_767, 32_768, 2_147_483_647, 2_147_483_648, i64::MAX, i64::MIN];
    values.extend(numbers.into_iter().map(Value::Int));
    values.extend([0, 250, 251, 65_535, 65_536, u64::from(u32::MAX), 1 << 32, u64::MAX].into_iter().map(Value::Uint));
    values
}

fn version(order: Vec<Value>) -> Version {
    Version { order, time: Time(1_767_225_600_123), offset: 42 }
}

fn raw() -> RawRecord {
    RawRecord {
        key: Some(Bytes::from_static(b"p1")),
        value: None,
        headers: vec![("h".into(), Some(Bytes::from_static(b"v"))), ("g".into(), None)],
        offset: 7,
        time: Time(5),
    }
}

fn row() -> RowState {
    let accumulators = vec![
        Accumulator::Empty,
        Accumulator::Last(Value::Int(1)),
        Accumulator::First(version(Vec::new()), Value::Int(2)),
        Accumulator::Extreme(Value::Int(3)),
        Accumulator::Sum(Value::Int(4)),
        Accumulator::Count(5),
        Accumulator::Avg { sum: "6.00".parse().unwrap(), count: 3 },
        Accumulator::List(values()),
        Accumulator::Top(vec![(Value::Int(8), Value::Int(9))]),
        Accumulator::Entries(BTreeMap::from([
            (MapKey::Int(1), (version(Vec::new()), None)),
            (MapKey::Int(2), (version(Vec::new()), Some(Value::Int(10)))),
        ])),
    ];
    let full = SourceState {
        version: Some(version(vec![Value::Int(1), Value::string("b")])),
        deleted: Some(Deleted { time: Time(3), offset: 4 }),
        fields: accumulators,
        raw: Some(raw()),
        wait_until: Some(Time::MAX),
    };
    RowState { sources: vec![SourceState::default(), full], changed_at: Time(-1), expiry_at: Some(Time(1_800_000_000_000)) }
}

#[test]
fn rows() {
    let codec = RowCodec::new(SCHEMA);
    let (mut empty, mut full) = (Vec::new(), Vec::new());
    codec.encode_row(&RowState::default(), &mut empty);
    codec.encode_row(&row(), &mut full);
    check("row/v1.hex", &[("empty", &empty), ("full", &full)]);
    assert_eq!(codec.decode_row(&empty).unwrap(), RowState::default());
    assert_eq!(codec.decode_row(&full).unwrap(), row());
}

#[test]
fn buffered_records() {
    let codec = RowCodec::new(SCHEMA);
    let record = BufferedRecord {
        raw: raw(),
        version: version(vec![Value::Int(1)]),
        operands: vec![(Value::string("a"), Value::Null), (Value::Int(1), Value::Int(2))],
        wait_until: Some(Time(9)),
    };
    let mut bytes = Vec::new();
    codec.encode_buffered(&record, &mut bytes);
    check("buffered/v1.hex", &[("full", &bytes)]);
    assert_eq!(codec.decode_buffered(&bytes).unwrap(), record);
}

#[test]
fn progress() {
    let codec = RowCodec::new(SCHEMA);
    let progress = [
        ("start", Progress { stream_time: Time::MIN, closed_through: Time::MIN }),
        ("later", Progress { stream_time: Time(1_767_225_600_123), closed_through: Time(7) }),
    ];
    let written: Vec<(&str, Vec<u8>)> = progress
        .iter()
        .map(|(name, progress)| {
            let mut bytes = Vec::new();
            codec.encode_progress(progress, &mut bytes);
            assert_eq!(codec.decode_progress(&bytes).unwrap(), *progress);
            (*name, bytes)
        })
        .collect();
    check("progress/v1.hex", &written.iter().map(|(name, bytes)| (*name, &bytes[..])).collect::<Vec<_>>());
}

#[test]
fn keys() {
    let record_key = [layout::ROW_TAG, b'a', 0, b'b'];
    let window = layout::windowed_key(&record_key, Time(1_767_225_600_000));
    let before = layout::windowed_key(&record_key, Time(-1));
    let buffer = layout::buffer_key(&record_key, "prices", 258);
    let dedupe = layout::dedupe_key("prices", b"id");
    let stream = layout::timer_key(TimerClock::Stream, Time(1), &record_key);
    let wall = layout::timer_key(TimerClock::Wall, Time(1), &record_key);
    let identity = layout::timer_key(TimerClock::Identity, Time(1), &record_key);
    let progress = layout::progress_key("product");
    let written: &[(&str, &[u8])] = &[
        ("window", &window),
        ("window-before-1970", &before),
        ("buffer", &buffer),
        ("dedupe", &dedupe),
        ("timer-stream", &stream),
        ("timer-wall", &wall),
        ("timer-identity", &identity),
        ("progress", &progress),
    ];
    check("keys/v1.hex", written);
}

/// All columns of a task as they lie on disk: names, offsets, rows.
#[test]
fn storage() {
    let storage = MemoryStorage::new();
    let specs =
        || vec![StoreSpec { name: name("product"), segment_ms: None }, StoreSpec { name: name("minutes"), segment_ms: Some(60_000) }];
    let mut state = TaskState::open(Box::new(storage.open().unwrap()), specs(), CacheBudget::default()).unwrap();
    state.put(StoreId(0), b"\x01p1", b"row").unwrap();
    state.put(StoreId(1), &layout::windowed_key(b"\x01p1", Time(120_000)), b"window").unwrap();
    state.put(StoreId(1), &layout::progress_key("minutes"), b"progress").unwrap();
    state.meta_put("topology", b"hash").unwrap();
    let changelogs = vec![(StoreId(0), Offset(258)), (StoreId(1), Offset(3))];
    state.seal(&Sealed { changelogs, inputs: vec![(name("orders"), Offset(1 << 40))], as_of: Some(Time(1_767_225_600_000)) }).unwrap();
    state.close().unwrap();

    let mut backend = storage.open().unwrap();
    let mut written: Vec<(String, Vec<u8>)> = Vec::new();
    for column in backend.columns() {
        let id = backend.open_column(&column).unwrap();
        backend
            .scan(&[id], Bound::Unbounded, Bound::Unbounded, &mut |key, value| {
                let key: String = key.iter().flat_map(|byte| std::ascii::escape_default(*byte)).map(char::from).collect();
                written.push((format!("{column} {key}"), value.to_vec()));
                ControlFlow::Continue(())
            })
            .unwrap();
    }
    check("storage/v1.hex", &written.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect::<Vec<_>>());
}

#[test]
fn header_of_a_folder() {
    let folder = std::env::temp_dir().join(format!("millstream-formats-{}", std::process::id()));
    let mut directory = Directory::open(&folder, &name("shop"), TaskId { subtopology: 0, partition: 3 }).unwrap();
    directory.check_topics([(&name("orders"), "dEfGhIjKlMnOpQrStUvWxY"), (&name("prices"), "id-2")]).unwrap();
    let header = fs::read(directory.path().join("header")).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    check("header/v1.hex", &[("header", &header)]);
}
