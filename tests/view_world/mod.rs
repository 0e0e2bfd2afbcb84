//! A table and views of every shape, for tests of views: the table's changelog and rows, and what each view must hold, worked out
//! apart from the code under test.

#![allow(dead_code, reason = "each test binary uses its part")]

#[path = "../random/mod.rs"]
mod random;
pub mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::ready;
use rust_decimal::Decimal;
use smol_str::SmolStr;

use millstream::expression::{Program, Scope, compile};
use millstream::model::{Field, Headers, Key, Name, Object, Offset, Shape, TableId, Time, Type, Value};
use millstream::views::place::Held;
use millstream::views::rows::{Asked, CurrentRow, NoRows, Page, RowSource, Rows};
use millstream::views::{CommittedBatch, Member, Notify, OnViewDelete, RowChange, Template, TemplatePart, ViewShape, ViewSpec};

use random::Random;

/// The table of products.
pub const PRODUCT: TableId = TableId(0);
/// The table of candles, with windows of a minute.
pub const CANDLE: TableId = TableId(1);

pub const TOPIC: &str = "Zk9sU2pQTmGZ0y1hAAAAAA";

/// A product as tests speak of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Product {
    pub name: Option<String>,
    pub category: Option<String>,
    /// In hundredths.
    pub price: Option<i64>,
    pub slug: String,
    /// Rises with each change.
    pub version: i64,
    pub complete: bool,
}

impl Product {
    pub fn new(name: &str, version: i64) -> Product {
        Product {
            name: Some(name.to_owned()),
            category: Some("tea".to_owned()),
            price: Some(990),
            slug: format!("s-{name}"),
            version,
            complete: true,
        }
    }
}

static PRODUCT_SHAPE: LazyLock<Arc<Shape>> = LazyLock::new(|| {
    let nullable = |of: Type| Type::nullable(of);
    let fields = [
        ("name", nullable(Type::String)),
        ("category", nullable(Type::String)),
        ("price", nullable(Type::Decimal)),
        ("slug", Type::String),
        ("version", Type::Int),
        ("complete", Type::Bool),
    ];
    Arc::new(Shape { fields: fields.map(|(name, ty)| Field { name: SmolStr::new_static(name), ty }).to_vec() })
});

static CANDLE_SHAPE: LazyLock<Arc<Shape>> = LazyLock::new(|| {
    let fields = [("open", Type::Int), ("close", Type::Int)];
    Arc::new(Shape { fields: fields.map(|(name, ty)| Field { name: SmolStr::new_static(name), ty }).to_vec() })
});

pub fn product_row(product: &Product) -> Value {
    let text = |text: &Option<String>| text.as_ref().map_or(Value::Null, Value::string);
    let slots = [
        text(&product.name),
        text(&product.category),
        product.price.map_or(Value::Null, |price| Value::Decimal(Decimal::new(price, 2))),
        Value::string(&product.slug),
        Value::Int(product.version),
        Value::Bool(product.complete),
    ];
    Value::Object(Object { shape: PRODUCT_SHAPE.clone(), slots: Arc::new(slots) })
}

pub fn candle_row(open: i64, close: i64) -> Value {
    Value::Object(Object { shape: CANDLE_SHAPE.clone(), slots: Arc::new([Value::Int(open), Value::Int(close)]) })
}

/// Rows of one partition, by store key, and its changelog.
#[derive(Clone, Default)]
pub struct Partition {
    pub products: BTreeMap<String, Product>,
    pub candles: BTreeMap<(String, i64), (i64, i64)>,
    /// `(offset, table, store key)` of every record.
    log: Vec<(i64, TableId, Key)>,
    pub log_start: i64,
    pub sealed: i64,
}

/// A change to commit: of a product, or of a candle at a window start.
#[derive(Clone, Debug)]
pub enum Change {
    Product(String, Option<Product>),
    Candle(String, i64, Option<(i64, i64)>),
}

/// Both tables, all partitions. Also the owner of the rows.
pub struct Tables {
    partitions: Mutex<Vec<Partition>>,
    /// How many source calls fail before one is answered.
    pub refusals: Mutex<u32>,
}

impl Tables {
    pub fn new(partitions: usize) -> Arc<Tables> {
        Arc::new(Tables { partitions: Mutex::new((0..partitions).map(|_| Partition::default()).collect()), refusals: Mutex::new(0) })
    }

    pub fn lock(&self) -> MutexGuard<'_, Vec<Partition>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn sealed(&self, partition: i32) -> Offset {
        Offset(self.lock()[partition as usize].sealed)
    }

    /// Changes rows and gives what the commit hands to the views, one batch per table. Both tables share a changelog here, so
    /// that offsets of one have gaps.
    pub fn commit(&self, partition: i32, changes: &[Change]) -> Vec<CommittedBatch> {
        let mut all = self.lock();
        let rows = &mut all[partition as usize];
        let prev = Offset(rows.sealed);
        let mut batches: BTreeMap<usize, Vec<RowChange>> = BTreeMap::new();
        for change in changes {
            let (table, row) = match change {
                Change::Product(key, new) => {
                    let old = match new {
                        Some(new) => rows.products.insert(key.clone(), new.clone()),
                        None => rows.products.remove(key),
                    };
                    let change = row_change(key, None, old.as_ref().map(product_row), new.as_ref().map(product_row), rows.sealed);
                    (PRODUCT, change)
                }
                Change::Candle(key, start, new) => {
                    let at = (key.clone(), *start);
                    let old = match new {
                        Some(new) => rows.candles.insert(at, *new),
                        None => rows.candles.remove(&at),
                    };
                    let row = |candle: &(i64, i64)| candle_row(candle.0, candle.1);
                    (CANDLE, row_change(key, Some(*start), old.as_ref().map(row), new.as_ref().map(row), rows.sealed))
                }
            };
            rows.log.push((rows.sealed, table, store_key(&row)));
            rows.sealed += 1;
            batches.entry(table.0).or_default().push(row);
        }
        rows.sealed += 1; // the commit marker
        let next = Offset(rows.sealed);
        [PRODUCT, CANDLE]
            .map(|table| {
                let changes = batches.remove(&table.0).unwrap_or_default();
                CommittedBatch { table, partition, topic_id: TOPIC.to_owned(), prev, next, changes }
            })
            .to_vec()
    }
}

fn row_change(key: &str, start: Option<i64>, old: Option<Value>, new: Option<Value>, time: i64) -> RowChange {
    let window = start.map(|start| (Time(start), Time(start + 60_000)));
    RowChange {
        key: Value::string(key),
        key_bytes: Key::from_slice(key.as_bytes()),
        window,
        old,
        new,
        time: Time(time),
        headers: Headers::default(),
    }
}

fn store_key(row: &RowChange) -> Key {
    let mut key = row.key_bytes.clone();
    if let Some((start, _)) = row.window {
        key.push(0);
        key.extend_from_slice(&start.0.to_be_bytes());
    }
    key
}

impl Partition {
    fn current(&self, table: TableId, key: &[u8]) -> CurrentRow {
        let (text, start) = if table == PRODUCT {
            (String::from_utf8(key.to_vec()).expect("keys are text"), None)
        } else {
            let (text, start) = key.split_at(key.len() - 9);
            let start = i64::from_be_bytes(start[1..].try_into().expect("8 bytes"));
            (String::from_utf8(text.to_vec()).expect("keys are text"), Some(start))
        };
        let row = match start {
            None => self.products.get(&text).map(product_row),
            Some(start) => self.candles.get(&(text.clone(), start)).map(|&(open, close)| candle_row(open, close)),
        };
        let window = start.map(|start| (Time(start), Time(start + 60_000)));
        CurrentRow { key: Value::string(&text), key_bytes: Key::from_slice(text.as_bytes()), window, row, time: Time(self.sealed) }
    }

    fn store_keys(&self, table: TableId) -> Vec<Key> {
        if table == PRODUCT {
            return self.products.keys().map(|key| Key::from_slice(key.as_bytes())).collect();
        }
        let key = |(key, start): &(String, i64)| store_key(&row_change(key, Some(*start), None, None, 0));
        self.candles.keys().map(key).collect()
    }
}

/// The partition that a key belongs to.
pub fn partition_of(key: &str, count: usize) -> i32 {
    (key.bytes().map(u32::from).sum::<u32>() as usize % count) as i32
}

impl Tables {
    fn is_refusing(&self) -> bool {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let is_refusing = *refusals > 0;
        *refusals = refusals.saturating_sub(1);
        is_refusing
    }

    fn answer<T: Send + 'static>(&self, value: T) -> Asked<T> {
        ready(if self.is_refusing() { Err(NoRows::Later("the owner is busy".to_owned())) } else { Ok(value) }).boxed()
    }
}

impl RowSource for Tables {
    fn scan(&self, table: TableId, partition: i32, after: Option<Key>, limit: usize) -> Asked<Page> {
        let all = self.lock();
        let rows = &all[partition as usize];
        let keys: Vec<Key> = rows.store_keys(table).into_iter().filter(|key| after.as_ref().is_none_or(|after| key > after)).collect();
        let next = (keys.len() > limit).then(|| keys[limit - 1].clone());
        let found = keys.iter().take(limit).map(|key| rows.current(table, key)).collect();
        self.answer(Page { rows: found, next, sealed: Offset(rows.sealed) })
    }

    fn changed_keys(&self, table: TableId, partition: i32, from: Offset, to: Offset, limit: usize) -> Asked<Option<Vec<Key>>> {
        let all = self.lock();
        let rows = &all[partition as usize];
        let changed = rows.log.iter().filter(|(offset, of, _)| *of == table && (from.0..to.0).contains(offset));
        let keys: BTreeSet<Key> = changed.map(|(_, _, key)| key.clone()).collect();
        let is_known = from.0 >= rows.log_start && keys.len() <= limit;
        self.answer(is_known.then(|| keys.into_iter().collect()))
    }

    fn rows(&self, table: TableId, partition: i32, keys: Vec<Key>) -> Asked<Rows> {
        let all = self.lock();
        let rows = &all[partition as usize];
        let found = keys.iter().map(|key| rows.current(table, key)).collect();
        self.answer(Rows { rows: found, sealed: Offset(rows.sealed) })
    }

    fn log_end(&self, _table: TableId, partition: i32) -> Asked<Offset> {
        let end = self.sealed(partition);
        self.answer(end)
    }

    fn partition_count(&self, _table: TableId) -> i32 {
        self.lock().len() as i32
    }

    fn partition_of(&self, _table: TableId, key_text: &str) -> Option<i32> {
        Some(partition_of(key_text, self.lock().len()))
    }
}

/// The tables as one worker has them: as they are, until it is replaced, and as they were then ever after.
pub struct Replica {
    live: Arc<Tables>,
    frozen: Mutex<Option<Arc<Tables>>>,
}

impl Replica {
    pub fn of(live: &Arc<Tables>) -> Arc<Replica> {
        Arc::new(Replica { live: live.clone(), frozen: Mutex::default() })
    }

    /// The worker commits nothing any more.
    pub fn freeze(&self) {
        let copy = Tables { partitions: Mutex::new(self.live.lock().clone()), refusals: Mutex::default() };
        *self.frozen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(copy));
    }

    fn now(&self) -> Arc<Tables> {
        self.frozen.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_else(|| self.live.clone())
    }
}

impl RowSource for Replica {
    fn scan(&self, table: TableId, partition: i32, after: Option<Key>, limit: usize) -> Asked<Page> {
        self.now().scan(table, partition, after, limit)
    }

    fn changed_keys(&self, table: TableId, partition: i32, from: Offset, to: Offset, limit: usize) -> Asked<Option<Vec<Key>>> {
        self.now().changed_keys(table, partition, from, to, limit)
    }

    fn rows(&self, table: TableId, partition: i32, keys: Vec<Key>) -> Asked<Rows> {
        self.now().rows(table, partition, keys)
    }

    /// The end is asked of the cluster, not of the worker.
    fn log_end(&self, table: TableId, partition: i32) -> Asked<Offset> {
        self.live.log_end(table, partition)
    }

    fn partition_count(&self, table: TableId) -> i32 {
        self.live.partition_count(table)
    }

    fn partition_of(&self, table: TableId, key_text: &str) -> Option<i32> {
        self.live.partition_of(table, key_text)
    }
}

/// Compiles an expression over a row.
pub fn program(text: &str) -> Program {
    let scope = Scope::new(["row", "old", "key", "time", "headers", "window"].map(|name| (name, Type::Any)));
    compile(text, &scope).unwrap_or_else(|problems| panic!("{text}: {problems:?}"))
}

/// Reads `product:{key}`.
pub fn template(text: &str) -> Template {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((plain, after)) = rest.split_once('{') {
        let (expression, after) = after.split_once('}').expect("a closing brace");
        if !plain.is_empty() {
            parts.push(TemplatePart::Text(plain.to_owned()));
        }
        parts.push(TemplatePart::Value(program(expression)));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(TemplatePart::Text(rest.to_owned()));
    }
    Template { parts }
}

pub fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

/// A view of products without anything optional.
pub fn view(view: &str, shape: ViewShape, key: &str) -> ViewSpec {
    ViewSpec {
        name: name(view),
        table: PRODUCT,
        when: None,
        shape,
        key: template(key),
        fields: None,
        value: None,
        score: None,
        member: None,
        ttl_ms: None,
        on_delete: OnViewDelete::Del,
        notify: None,
        keep_last: None,
        replace_by_score: false,
    }
}

pub fn fields(list: &[(&str, &str)]) -> Option<Vec<(SmolStr, Program)>> {
    Some(list.iter().map(|(name, text)| (SmolStr::new(name), program(text))).collect())
}

/// Views that hold a state which [`expected`] can tell: hash, json, string, set, zset; by key and by row.
pub fn state_views() -> Vec<ViewSpec> {
    let complete = || Some(program("row.complete"));
    vec![
        ViewSpec {
            when: complete(),
            fields: fields(&[("name", "row.name"), ("price", "row.price"), ("version", "row.version")]),
            ..view("card", ViewShape::Hash, "product:{key}")
        },
        view("all", ViewShape::Hash, "all:{key}:end"),
        ViewSpec { when: complete(), ..view("document", ViewShape::Json, "json:{key}") },
        ViewSpec { value: Some(program("row.price")), ..view("price", ViewShape::String, "price:{key}") },
        ViewSpec { value: Some(program("key")), ..view("slug", ViewShape::String, "slug:{row.slug}") },
        ViewSpec { member: Some(Member::Whole(program("key"))), ..view("category", ViewShape::Set, "category:{row.category}") },
        ViewSpec {
            score: Some(program("row.price")),
            member: Some(Member::Whole(program("key"))),
            ..view("ranking", ViewShape::Zset, "ranking")
        },
        ViewSpec {
            table: CANDLE,
            score: Some(program("unix_ms(window.start)")),
            member: Some(Member::Fields(fields(&[("t", "unix_ms(window.start)"), ("o", "row.open"), ("c", "row.close")]).expect("fields"))),
            replace_by_score: true,
            ..view("chart", ViewShape::Zset, "chart:{key}:1m")
        },
        ViewSpec { table: CANDLE, ..view("candle", ViewShape::Hash, "candle:{key}:{unix_ms(window.start)}") },
    ]
}

/// Views that add and never change: what they hold depends on how often they were told.
pub fn log_views() -> Vec<ViewSpec> {
    vec![
        ViewSpec { fields: fields(&[("v", "row.version")]), keep_last: Some(3), ..view("history", ViewShape::Stream, "history:{key}") },
        ViewSpec { fields: fields(&[("key", "key"), ("v", "row.version")]), ..view("changes", ViewShape::Stream, "changes") },
        ViewSpec { value: Some(program("row.version")), ..view("news", ViewShape::Pubsub, "news:{key}") },
    ]
}

pub fn with_notify(spec: ViewSpec, channel: &str) -> ViewSpec {
    ViewSpec { notify: Some(Notify { channel: template(channel), payload: program("key") }), ..spec }
}

/// What [`state_views`] must hold for these rows: a fold written without a look at `render`.
pub fn expected(partitions: &[Partition]) -> BTreeMap<String, Held> {
    let mut place: BTreeMap<String, Held> = BTreeMap::new();
    let bytes = |text: String| text.into_bytes();
    let decimal = |hundredths: i64| format!("{}.{:02}", hundredths / 100, hundredths % 100);
    for (key, product) in partitions.iter().flat_map(|partition| &partition.products) {
        let quoted = |text: &Option<String>| text.as_ref().map_or("null".to_owned(), |text| format!("\"{text}\""));
        let price = product.price.map(decimal);
        let mut all = BTreeMap::new();
        let mut put =
            |name: &str, value: &Option<String>| _ = value.as_ref().map(|value| all.insert(bytes(name.to_owned()), bytes(value.clone())));
        put("name", &product.name);
        put("category", &product.category);
        put("price", &price);
        put("slug", &Some(product.slug.clone()));
        put("version", &Some(product.version.to_string()));
        put("complete", &Some(product.complete.to_string()));
        let card = all.iter().filter(|(name, _)| ["name", "price", "version"].iter().any(|known| known.as_bytes() == name.as_slice()));
        if product.complete {
            place.insert(format!("product:{key}"), Held::Hash(card.map(|(name, value)| (name.clone(), value.clone())).collect()));
            let json = format!(
                "{{\"name\":{},\"category\":{},\"price\":{},\"slug\":\"{}\",\"version\":{},\"complete\":true}}",
                quoted(&product.name),
                quoted(&product.category),
                quoted(&price),
                product.slug,
                product.version
            );
            place.insert(format!("json:{key}"), Held::String(bytes(json)));
        }
        place.insert(format!("all:{key}:end"), Held::Hash(all));
        if let Some(price) = price {
            place.insert(format!("price:{key}"), Held::String(bytes(price)));
        }
        place.insert(format!("slug:{}", product.slug), Held::String(bytes(key.clone())));
        if let Some(category) = &product.category {
            let set = place.entry(format!("category:{category}")).or_insert_with(|| Held::Set(BTreeSet::new()));
            if let Held::Set(members) = set {
                members.insert(bytes(key.clone()));
            }
        }
        if let Some(hundredths) = product.price {
            add_to_zset(&mut place, "ranking".to_owned(), hundredths as f64 / 100.0, key.as_bytes());
        }
    }
    for ((key, start), (open, close)) in partitions.iter().flat_map(|partition| &partition.candles) {
        let member = format!("{{\"t\":{start},\"o\":{open},\"c\":{close}}}");
        add_to_zset(&mut place, format!("chart:{key}:1m"), *start as f64, member.as_bytes());
        let fields = [("open", open), ("close", close)].map(|(name, value)| (bytes(name.to_owned()), bytes(value.to_string())));
        place.insert(format!("candle:{key}:{start}"), Held::Hash(fields.into()));
    }
    place
}

fn add_to_zset(place: &mut BTreeMap<String, Held>, key: String, score: f64, member: &[u8]) {
    let held = place.entry(key).or_insert_with(|| Held::Zset(Default::default()));
    if let Held::Zset(members) = held {
        members.add(score, member);
    }
}

/// The difference in words, or nothing.
pub fn difference(found: &BTreeMap<String, Held>, expected: &BTreeMap<String, Held>) -> Option<String> {
    let show = |held: Option<&Held>| {
        held.map_or("absent".to_owned(), |held| {
            let mut text = Vec::new();
            held.write_json(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let keys: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
    let mut lines = keys
        .into_iter()
        .filter(|key| found.get(*key) != expected.get(*key))
        .map(|key| format!("{key}: found {}, expected {}", show(found.get(key)), show(expected.get(key))));
    let first: Vec<String> = lines.by_ref().take(5).collect();
    let more = lines.count();
    (!first.is_empty()).then(|| format!("{}\n(and {more} more)", first.join("\n")))
}

/// Looks until there is an answer; fails after `deadline`, with what was missing.
#[track_caller]
pub fn wait_for<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(answer) = look() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {deadline:?} in vain for {what}");
        thread::park_timeout(Duration::from_millis(20));
    }
}

/// Numbers by a seed: the same seed gives the same run.
pub struct Chance(Random);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(Random(seed))
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Changes of one commit in a partition: creates, updates, hides, moves, deletes.
pub fn random_changes(chance: &mut Chance, tables: &Tables, partition: i32, count: usize, version: &mut i64) -> Vec<Change> {
    let partitions = tables.lock().len();
    let mut changes: BTreeMap<String, Change> = BTreeMap::new();
    for _ in 0..count {
        *version += 1;
        let key = loop {
            let key = format!("p{}", chance.below(40));
            if partition_of(&key, partitions) == partition {
                break key;
            }
        };
        if chance.one_in(4) {
            let start = chance.below(4) as i64 * 60_000;
            let candle = (!chance.one_in(5)).then_some((chance.below(9) as i64, *version));
            changes.insert(format!("{key}@{start}"), Change::Candle(key, start, candle));
            continue;
        }
        let product = Product {
            name: (!chance.one_in(4)).then(|| format!("n{}", chance.below(5))),
            category: (!chance.one_in(4)).then(|| format!("c{}", chance.below(3))),
            price: (!chance.one_in(4)).then(|| 100 + chance.below(900) as i64),
            slug: format!("{key}-{}", chance.below(3)),
            version: *version,
            complete: !chance.one_in(4),
        };
        // Some keys are never deleted, so that each partition always has rows.
        let is_lasting = key.len() == 2;
        changes.insert(key.clone(), Change::Product(key, (is_lasting || !chance.one_in(4)).then_some(product)));
    }
    changes.into_values().collect()
}
