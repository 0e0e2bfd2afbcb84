//! The values that expressions see, in the order of the slots of their scope.

use std::collections::BTreeMap;
use std::sync::Arc;

use smol_str::SmolStr;

use crate::model::{Headers, MapKey, Object, Record, Shape, Time, Timestamp, Type, Value};

/// Slot of `headers` in [`crate::operators::source::EVENT_SCOPE`].
pub const EVENT_HEADERS: usize = 3;
/// Slot of `headers` in [`crate::operators::fold::ROW_SCOPE`].
pub const ROW_HEADERS: usize = 4;
/// Slot of `window` in [`crate::operators::fold::ROW_SCOPE`].
pub const ROW_WINDOW: usize = 5;

static NULL: Value = Value::Null;

/// The values of [`crate::operators::source::EVENT_SCOPE`] for one record.
pub struct EventValues<'a> {
    event: &'a Value,
    key: &'a Value,
    topic: &'a Value,
    time: Value,
    headers: Value,
    partition: Value,
    offset: Value,
}

impl<'a> EventValues<'a> {
    /// `topic` is the topic's name as a value; headers are made into a map only if some program uses them.
    pub fn new(record: &'a Record, topic: &'a Value, with_headers: bool) -> EventValues<'a> {
        EventValues {
            event: record.value.as_ref().unwrap_or(&NULL),
            key: &record.key_value,
            topic,
            time: time_value(record.time),
            headers: if with_headers { headers_value(&record.headers) } else { Value::Null },
            partition: Value::Int(i64::from(record.partition)),
            offset: Value::Int(record.offset),
        }
    }

    pub fn slots(&self) -> [&Value; 7] {
        [self.event, self.key, &self.time, &self.headers, self.topic, &self.partition, &self.offset]
    }
}

/// An event time as a CEL timestamp; null outside the years 1 to 9999.
pub fn time_value(time: Time) -> Value {
    Timestamp::from_ms(time).map_or(Value::Null, Value::Timestamp)
}

/// Headers as `map<string, string>`; of equal names the last one counts, bytes that are not UTF-8 are replaced.
pub fn headers_value(headers: &Headers) -> Value {
    let entries: BTreeMap<MapKey, Value> = headers
        .iter()
        .map(|(name, value)| {
            let text = value.as_ref().map_or(Value::Null, |bytes| Value::string(String::from_utf8_lossy(bytes).as_ref()));
            (MapKey::String(name.clone()), text)
        })
        .collect();
    Value::Map(Arc::new(entries))
}

/// `window` as an object of `start` and `end`.
pub fn window_value(shape: &Arc<Shape>, window: Option<(Time, Time)>) -> Value {
    match window {
        Some((start, end)) => Value::Object(Object { shape: shape.clone(), slots: [time_value(start), time_value(end)].into() }),
        None => Value::Null,
    }
}

/// The shape of `window`.
pub fn window_shape() -> Arc<Shape> {
    let field = |name| crate::model::Field { name: SmolStr::new_static(name), ty: Type::Timestamp };
    Arc::new(Shape { fields: vec![field("start"), field("end")] })
}
