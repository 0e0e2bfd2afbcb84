//! From a committed change to the commands that make a view show it. Pure: the same change gives the same bytes.
//!
//! The rule: after the commands of a row, Redis shows the row exactly if `when` holds for it. A row whose expressions fail, or
//! whose key or value is null, is not shown; failures are counted, because what cannot be shown must not stay as it was.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::LazyLock;

use crate::codec::json;
use crate::expression::Program;
use crate::model::{Field, Headers, Key, MapKey, Object, Shape, Time, Timestamp, Type, Value};
use crate::views::commands::{Commands, Verb};
use crate::views::placement::{self, Ledger, Location, Placement, Touched};
use crate::views::{Member, OnViewDelete, RowChange, Template, TemplatePart, ViewShape, ViewSpec, kind};

/// Slots of the scope in which a view's expressions run; the scope of rows in this order.
pub mod slot {
    pub const ROW: usize = 0;
    pub const OLD: usize = 1;
    pub const KEY: usize = 2;
    pub const TIME: usize = 3;
    pub const HEADERS: usize = 4;
    pub const WINDOW: usize = 5;
    pub const COUNT: usize = 6;
}

/// Arguments of one `HSET` or `HDEL`: Lua's `unpack` gives up at some thousands.
const ARGS_PER_COMMAND_MAX: usize = 1000;

static NULL: Value = Value::Null;

static WINDOW_SHAPE: LazyLock<Arc<Shape>> = LazyLock::new(|| {
    let field = |name| Field { name: smol_str::SmolStr::new_static(name), ty: Type::Timestamp };
    Arc::new(Shape { fields: vec![field("start"), field("end")] })
});

/// A row that may have changed, in whatever way that became known.
#[derive(Clone, Copy)]
pub struct Changed<'a> {
    pub key: &'a Value,
    pub key_bytes: &'a Key,
    pub window: Option<(Time, Time)>,
    pub before: Before<'a>,
    pub new: Option<&'a Value>,
    pub time: Time,
    pub headers: &'a Headers,
}

/// What Redis shows for the row before the write.
#[derive(Clone, Copy)]
pub enum Before<'a> {
    /// This row, if `when` held for it.
    Known(Option<&'a Value>),
    /// This row, or one of those that it was on its way to the new one.
    Since(Option<&'a Value>),
    /// Anything that this view may have written.
    Unknown,
}

impl<'a> Changed<'a> {
    /// A change of the chain: Redis stands exactly before it.
    pub fn next(change: &'a RowChange) -> Changed<'a> {
        Changed {
            key: &change.key,
            key_bytes: &change.key_bytes,
            window: change.window,
            before: Before::Known(change.old.as_ref()),
            new: change.new.as_ref(),
            time: change.time,
            headers: &change.headers,
        }
    }

    /// The first and the last of several changes of one row, as one.
    pub fn merged(first: &'a RowChange, last: &'a RowChange) -> Changed<'a> {
        Changed { before: Before::Since(first.old.as_ref()), ..Changed::next(last) }
    }
}

/// Why the row is written now.
pub enum Occasion<'a> {
    /// It changed.
    Change,
    /// The view is written anew from the table: what stood under a key before is wiped when the key is first met.
    Rebuild(&'a mut Touched),
}

/// What the commands of a row do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rendered {
    /// The row was not shown and is not.
    Nothing,
    Shown,
    Removed,
}

/// Why a row cannot be shown.
#[derive(Clone, PartialEq, Debug)]
pub struct Unshowable {
    /// Label of the metric: `expression`, `null_key`, `not_a_number`, `not_an_object`.
    pub reason: &'static str,
    pub detail: String,
}

/// One view, ready to turn changes into commands. Used by one thread; holds buffers.
pub struct Renderer {
    spec: Arc<ViewSpec>,
    placement: Placement,
    uses: [bool; slot::COUNT],
    /// `when` depends on row, key and window alone: then what was shown before can be computed from the old row.
    when_is_repeatable: bool,
    key: Vec<u8>,
    row_id: Vec<u8>,
    /// What could not be shown since the last [`Renderer::take_failures`].
    failures: Vec<(&'static str, u64)>,
    last_failure: Option<String>,
}

impl Renderer {
    /// `ledger` says where is noted where rows stand, for views that need it.
    pub fn new(spec: Arc<ViewSpec>, ledger: Ledger) -> Renderer {
        let mut uses = [false; slot::COUNT];
        for program in placement::programs(&spec) {
            for (slot, used) in uses.iter_mut().enumerate() {
                *used |= program.uses(slot);
            }
        }
        let fickle = [slot::OLD, slot::TIME, slot::HEADERS];
        let when_is_repeatable = spec.when.as_ref().is_none_or(|when| !fickle.iter().any(|&slot| when.uses(slot)));
        let placement = Placement::of(&spec, ledger);
        Renderer {
            spec,
            placement,
            uses,
            when_is_repeatable,
            key: Vec::new(),
            row_id: Vec::new(),
            failures: Vec::new(),
            last_failure: None,
        }
    }

    pub fn spec(&self) -> &ViewSpec {
        &self.spec
    }

    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Writes the commands of one row and ends the row in `out`.
    pub fn render(&mut self, changed: &Changed<'_>, occasion: Occasion<'_>, out: &mut Commands) -> Rendered {
        let rendered = self.render_row(changed, occasion, out);
        out.end_row();
        rendered
    }

    /// Rows that could not be shown since the last call, by reason, and the last detail.
    pub fn take_failures(&mut self) -> (Vec<(&'static str, u64)>, Option<String>) {
        (std::mem::take(&mut self.failures), self.last_failure.take())
    }

    fn render_row(&mut self, changed: &Changed<'_>, mut occasion: Occasion<'_>, out: &mut Commands) -> Rendered {
        if matches!(occasion, Occasion::Rebuild(_)) && self.placement == Placement::Log {
            return Rendered::Nothing; // nothing has happened that a log should tell
        }
        let held = ScopeValues::new(changed, &self.uses);
        let old = match changed.before {
            Before::Known(old) | Before::Since(old) => old,
            Before::Unknown => None,
        };
        let scope = held.scope(changed.new, old, changed.key);
        self.row_id.clear();
        placement::row_id(changed, &mut self.row_id);

        let start = out.mark();
        if changed.new.is_some() && self.holds(&scope) {
            match self.show(&scope, changed, &mut occasion, out) {
                Ok(true) => {
                    self.notify(&scope, out);
                    return Rendered::Shown;
                }
                Ok(false) => {}
                Err(cause) => self.fail(cause),
            }
            out.truncate(start);
        }
        let was_shown = match changed.before {
            Before::Known(old) | Before::Since(old) => {
                old.is_some() && (!self.when_is_repeatable || self.held(&held.scope(old, None, changed.key)))
            }
            Before::Unknown => true,
        };
        if !was_shown && matches!(changed.before, Before::Known(_)) {
            return Rendered::Nothing;
        }
        let gone = held.scope(None, old, changed.key);
        if self.remove(&gone, out).is_err() {
            out.truncate(start); // where it stands cannot be computed, so it was never written there
        }
        if !out.mark().is_after(start) {
            return Rendered::Nothing;
        }
        if was_shown && matches!(occasion, Occasion::Change) {
            // Of a row that is gone one can only tell what it was.
            self.notify(&held.scope(old, None, changed.key), out);
        }
        Rendered::Removed
    }

    fn holds(&mut self, scope: &Scope<'_>) -> bool {
        match self.spec.when.as_ref().map_or(Ok(Value::Bool(true)), |when| when.evaluate(scope)) {
            Ok(Value::Bool(holds)) => holds,
            Ok(_) => false,
            Err(error) => {
                self.fail(Unshowable { reason: "expression", detail: format!("`when`: {}", error.message) });
                false
            }
        }
    }

    /// As [`Renderer::holds`] for the old row, whose failure was counted when it was new.
    fn held(&self, scope: &Scope<'_>) -> bool {
        self.spec.when.as_ref().is_none_or(|when| matches!(when.evaluate(scope), Ok(Value::Bool(true))))
    }

    fn show(
        &mut self,
        scope: &Scope<'_>,
        changed: &Changed<'_>,
        occasion: &mut Occasion<'_>,
        out: &mut Commands,
    ) -> Result<bool, Unshowable> {
        self.key.clear();
        write_template(&self.spec.key, scope, &mut self.key)?;
        let is_exclusive = matches!(self.placement, Placement::Derived(_));
        if let Occasion::Rebuild(touched) = occasion
            && is_exclusive
            && !touched.contains(&self.key)
        {
            out.start(Verb::Unlink).arg(&self.key);
        }
        let leaves_traces = self.spec.on_delete != OnViewDelete::Del;
        let is_fresh = matches!(changed.before, Before::Known(None)) && !leaves_traces;
        let view = Rendering { spec: &self.spec, scope, key: &self.key, row_id: &self.row_id, ledger: self.placement.ledger(), is_fresh };
        if !(kind(self.spec.shape).show)(&view, out)? {
            return Ok(false);
        }
        if let Occasion::Rebuild(touched) = occasion {
            touched.first(&self.key);
        }
        if !matches!(self.spec.shape, ViewShape::Pubsub | ViewShape::String | ViewShape::Json) {
            match (self.spec.ttl_ms, self.spec.on_delete) {
                (Some(ttl), _) => _ = out.start(Verb::Pexpire).arg(&self.key).arg_with(|into| write_int(ttl, into)),
                // The row left before and its key was to expire: now it stays.
                (None, OnViewDelete::Expire(_)) if !is_collection(self.spec.shape) => _ = out.start(Verb::Persist).arg(&self.key),
                (None, _) => {}
            }
        }
        Ok(true)
    }

    fn remove(&mut self, scope: &Scope<'_>, out: &mut Commands) -> Result<(), Unshowable> {
        if let Some(ledger) = self.placement.ledger() {
            out.start(Verb::Forget).arg(ledger.rows.as_bytes()).arg(ledger.owners.as_bytes());
            out.arg(&self.row_id).arg_with(|into| write_leave(&self.spec, into));
            return Ok(());
        }
        if self.spec.on_delete == OnViewDelete::Keep {
            return Ok(());
        }
        self.key.clear();
        write_template(&self.spec.key, scope, &mut self.key)?;
        let view = Rendering { spec: &self.spec, scope, key: &self.key, row_id: &self.row_id, ledger: None, is_fresh: false };
        match (self.placement == Placement::Log, kind(self.spec.shape).remove) {
            (true, _) => view.tell_removed(out),
            (false, Some(remove)) => remove(&view, out)?,
            (false, None) => view.remove_key(out),
        }
        Ok(())
    }

    fn notify(&mut self, scope: &Scope<'_>, out: &mut Commands) {
        let Some(notify) = &self.spec.notify else { return };
        let mut channel = Vec::new();
        let mut payload = Vec::new();
        let written = write_template(&notify.channel, scope, &mut channel).and_then(|()| {
            let value = evaluate(&notify.payload, scope, "notify.payload")?;
            write_text(&value, &mut payload);
            Ok(())
        });
        match written {
            Ok(()) => _ = out.start(Verb::Publish).arg(&channel).arg(&payload),
            Err(cause) => self.fail(cause),
        }
    }

    fn fail(&mut self, cause: Unshowable) {
        match self.failures.iter_mut().find(|(reason, _)| *reason == cause.reason) {
            Some((_, count)) => *count += 1,
            None => self.failures.push((cause.reason, 1)),
        }
        self.last_failure = Some(cause.detail);
    }
}

/// Values of the scope's variables, in their order.
pub type Scope<'a> = [&'a Value; slot::COUNT];

/// Values of the scope that must be made for a change; only those that some expression uses.
struct ScopeValues {
    time: Value,
    headers: Value,
    window: Value,
}

impl ScopeValues {
    fn new(changed: &Changed<'_>, uses: &[bool; slot::COUNT]) -> ScopeValues {
        let only_if = |used: bool, make: &dyn Fn() -> Value| if used { make() } else { Value::Null };
        ScopeValues {
            time: only_if(uses[slot::TIME], &|| timestamp(changed.time)),
            headers: only_if(uses[slot::HEADERS], &|| headers_value(changed.headers)),
            window: only_if(uses[slot::WINDOW], &|| changed.window.map_or(Value::Null, window_value)),
        }
    }

    fn scope<'a>(&'a self, row: Option<&'a Value>, old: Option<&'a Value>, key: &'a Value) -> Scope<'a> {
        [row.unwrap_or(&NULL), old.unwrap_or(&NULL), key, &self.time, &self.headers, &self.window]
    }
}

fn timestamp(time: Time) -> Value {
    Timestamp::from_ms(time).map_or(Value::Null, Value::Timestamp)
}

fn window_value((start, end): (Time, Time)) -> Value {
    Value::Object(Object { shape: WINDOW_SHAPE.clone(), slots: Arc::new([timestamp(start), timestamp(end)]) })
}

/// Headers as a map of texts, as outputs see them: bytes that are not UTF-8 are replaced; of several with one name the last.
fn headers_value(headers: &Headers) -> Value {
    let value = |bytes: &bytes::Bytes| Value::string(String::from_utf8_lossy(bytes).as_ref());
    let entries = headers.iter().map(|(name, bytes)| (MapKey::String(name.clone()), bytes.as_ref().map_or(Value::Null, value)));
    Value::Map(Arc::new(entries.collect::<BTreeMap<_, _>>()))
}

/// A row about to be written or removed, as a shape sees it.
pub struct Rendering<'a> {
    pub spec: &'a ViewSpec,
    pub scope: &'a Scope<'a>,
    /// The Redis key.
    pub key: &'a [u8],
    row_id: &'a [u8],
    ledger: Option<&'a Ledger>,
    /// Nothing of this view stands under the key.
    pub is_fresh: bool,
}

impl<'a> Rendering<'a> {
    /// The new row.
    pub fn row(&self) -> &'a Value {
        self.scope[slot::ROW]
    }

    pub fn evaluate(&self, program: &Program, name: &str) -> Result<Value, Unshowable> {
        evaluate(program, self.scope, name)
    }

    /// Notes where the row will stand, in a view with a ledger. Comes before the commands that write it.
    pub fn place(&self, location: Location<'_>, out: &mut Commands) {
        if let Some(ledger) = self.ledger {
            out.start(Verb::Place).arg(ledger.rows.as_bytes()).arg(ledger.owners.as_bytes()).arg(self.row_id);
            out.arg_with(|into| location.write(self.key, into)).arg_with(|into| write_leave(self.spec, into));
        }
    }

    /// `json`, `stream` … without `fields`: the row; with them, an object of them.
    pub fn write_json(&self, out: &mut Vec<u8>) -> Result<(), Unshowable> {
        match &self.spec.fields {
            None => json::write_value(self.row(), out),
            Some(fields) => self.write_json_fields(fields, out)?,
        }
        Ok(())
    }

    /// `value:` or the row as JSON, as text. False if it is null.
    pub fn write_value(&self, out: &mut Vec<u8>) -> Result<bool, Unshowable> {
        match &self.spec.value {
            Some(program) => Ok(write_text(&self.evaluate(program, "value")?, out)),
            None => self.write_json(out).map(|()| true),
        }
    }

    /// The member of a `zset` or `set`. False if it is null.
    pub fn write_member(&self, out: &mut Vec<u8>) -> Result<bool, Unshowable> {
        match &self.spec.member {
            Some(Member::Whole(program)) => Ok(write_text(&self.evaluate(program, "member")?, out)),
            Some(Member::Fields(fields)) => self.write_json_fields(fields, out).map(|()| true),
            None => self.write_json(out).map(|()| true),
        }
    }

    fn write_json_fields(&self, fields: &[(smol_str::SmolStr, Program)], out: &mut Vec<u8>) -> Result<(), Unshowable> {
        out.push(b'{');
        for (index, (name, program)) in fields.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            json::write_value(&Value::String(name.clone()), out);
            out.push(b':');
            json::write_value(&self.evaluate(program, name)?, out);
        }
        out.push(b'}');
        Ok(())
    }

    /// The fields as texts: of `fields:`, or all of the row. Null fields are given as `None`.
    pub fn each_field(&self, mut each: impl FnMut(&str, Option<&Value>)) -> Result<(), Unshowable> {
        let mut give = |name: &str, value: &Value| each(name, Some(value).filter(|value| !is_absent(value)));
        if let Some(fields) = &self.spec.fields {
            for (name, program) in fields {
                give(name, &self.evaluate(program, name)?);
            }
            return Ok(());
        }
        match self.row() {
            Value::Object(object) => {
                for (field, value) in object.shape.fields.iter().zip(object.slots.iter()) {
                    give(&field.name, value);
                }
            }
            Value::Map(map) => {
                for (name, value) in map.iter() {
                    match name {
                        MapKey::String(name) => give(name, value),
                        MapKey::Int(number) => give(&number.to_string(), value),
                        MapKey::Uint(number) => give(&number.to_string(), value),
                        MapKey::Bool(claim) => give(if *claim { "true" } else { "false" }, value),
                    }
                }
            }
            other => {
                let detail = format!("the row is {}, not an object: name the fields in `fields`", other.type_of());
                return Err(Unshowable { reason: "not_an_object", detail });
            }
        }
        Ok(())
    }

    /// Whether the names of the fields are the same for every row.
    pub fn has_fixed_fields(&self) -> bool {
        self.spec.fields.is_some() || matches!(self.row(), Value::Object(_))
    }

    /// The row was all that stood under its key.
    pub fn remove_key(&self, out: &mut Commands) {
        match self.spec.on_delete {
            OnViewDelete::Del => _ = out.start(Verb::Unlink).arg(self.key),
            OnViewDelete::Expire(ms) => _ = out.start(Verb::Expire).arg(self.key).arg_with(|into| write_int(ms, into)),
            OnViewDelete::Keep => {}
        }
    }

    /// A log that many rows share tells that one is gone.
    fn tell_removed(&self, out: &mut Commands) {
        if self.spec.shape == ViewShape::Pubsub {
            out.start(Verb::Publish).arg(self.key).arg(b"null");
            return;
        }
        write_xadd_head(self.spec, self.key, out);
        out.arg(b"key").arg_with(|into| _ = write_text(self.scope[slot::KEY], into)).arg(b"deleted").arg(b"true");
    }
}

/// `XADD key [MAXLEN n] *`; the fields follow.
pub fn write_xadd_head(spec: &ViewSpec, key: &[u8], out: &mut Commands) {
    out.start(Verb::Xadd).arg(key);
    if let Some(keep) = spec.keep_last {
        out.arg(b"MAXLEN").arg_with(|into| write_uint(keep, into));
    }
    out.arg(b"*");
}

/// Commands of one verb on one key, as many as the arguments need.
pub struct Chunks<'a> {
    verb: Verb,
    key: &'a [u8],
    in_chunk: usize,
}

impl<'a> Chunks<'a> {
    pub fn new(verb: Verb, key: &'a [u8]) -> Chunks<'a> {
        Chunks { verb, key, in_chunk: 0 }
    }

    /// Makes room for `count` arguments that belong together.
    pub fn room<'o>(&mut self, count: usize, out: &'o mut Commands) -> &'o mut Commands {
        if self.in_chunk == 0 || self.in_chunk + count > ARGS_PER_COMMAND_MAX {
            out.start(self.verb).arg(self.key);
            self.in_chunk = 0;
        }
        self.in_chunk += count;
        out
    }

    pub fn is_empty(&self) -> bool {
        self.in_chunk == 0
    }
}

fn evaluate(program: &Program, scope: &Scope<'_>, name: &str) -> Result<Value, Unshowable> {
    program.evaluate(scope).map_err(|error| Unshowable { reason: "expression", detail: format!("`{name}`: {}", error.message) })
}

/// Writes a template. A null in it is a reason not to show the row.
pub fn write_template(template: &Template, scope: &Scope<'_>, out: &mut Vec<u8>) -> Result<(), Unshowable> {
    for part in &template.parts {
        match part {
            TemplatePart::Text(text) => out.extend_from_slice(text.as_bytes()),
            TemplatePart::Value(program) => {
                if !write_text(&evaluate(program, scope, "key")?, out) {
                    return Err(Unshowable { reason: "null_key", detail: format!("`{}` in the key is null", program.source()) });
                }
            }
        }
    }
    Ok(())
}

/// A value as plain text: strings and bytes as they are, other scalars as in JSON without quotes, the rest as JSON.
/// False and nothing written for null and an absent optional.
pub fn write_text(value: &Value, out: &mut Vec<u8>) -> bool {
    match value {
        Value::Null | Value::Optional(None) => return false,
        Value::Optional(Some(inner)) => return write_text(inner, out),
        Value::String(text) => out.extend_from_slice(text.as_bytes()),
        Value::Bytes(bytes) => out.extend_from_slice(bytes),
        Value::Int(number) => write_int(*number, out),
        Value::Uint(number) => write_uint(*number, out),
        Value::Decimal(_) | Value::Timestamp(_) | Value::Duration(_) | Value::Double(_) => {
            let start = out.len();
            json::write_value(value, out);
            if out.len() >= start + 2 && out[start] == b'"' {
                out.pop();
                out.remove(start);
            }
        }
        other => json::write_value(other, out),
    }
    true
}

/// A number as Redis reads scores.
pub fn write_score(value: &Value, out: &mut Vec<u8>) -> Result<bool, Unshowable> {
    match value {
        Value::Null | Value::Optional(None) => return Ok(false),
        Value::Optional(Some(inner)) => return write_score(inner, out),
        Value::Int(number) => write_int(*number, out),
        Value::Uint(number) => write_uint(*number, out),
        Value::Decimal(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Value::Double(number) if number.is_finite() => out.extend_from_slice(number.to_string().as_bytes()),
        other => {
            let mut found = Vec::new();
            write_text(other, &mut found);
            let detail = format!("`score` is no number: {}", String::from_utf8_lossy(&found));
            return Err(Unshowable { reason: "not_a_number", detail });
        }
    }
    Ok(true)
}

fn is_absent(value: &Value) -> bool {
    matches!(value, Value::Null | Value::Optional(None))
}

/// Members of many rows may stand under one key.
fn is_collection(shape: ViewShape) -> bool {
    matches!(shape, ViewShape::Zset | ViewShape::Set)
}

fn write_leave(spec: &ViewSpec, out: &mut Vec<u8>) {
    match spec.on_delete {
        OnViewDelete::Keep => out.extend_from_slice(b"keep"),
        OnViewDelete::Expire(ms) if !is_collection(spec.shape) => write_int(ms, out),
        _ => out.extend_from_slice(b"del"),
    }
}

pub fn write_int(number: i64, out: &mut Vec<u8>) {
    if number < 0 {
        out.push(b'-');
    }
    write_uint(number.unsigned_abs(), out);
}

pub fn write_uint(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
