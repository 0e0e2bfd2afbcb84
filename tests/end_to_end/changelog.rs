//! The changelogs, decoded by the engine's reader of its own format: what was committed, in the order of commits.

use std::collections::BTreeMap;

use millstream::codec::json::to_json;
use millstream::metrics::Metrics;
use millstream::model::{Key, Value};
use millstream::operators::fold::table::Table;
use millstream::runtime::task::make_tables;
use millstream::state::layout::ROW_TAG;
use millstream::topology;
use serde_json::Value as Json;

use crate::fold::Row;
use crate::kafka::{Found, Kafka, See};

/// A change of a row, as committed.
pub struct Change {
    pub offset: i64,
    pub row: Option<Row>,
}

/// The committed changes of both tables.
pub struct Changelogs {
    /// By partition and key, in the order of offsets.
    pub products: BTreeMap<(i32, String), Vec<Change>>,
    /// The last state of each window.
    pub candles: BTreeMap<(String, i64), Option<Row>>,
    /// Records of changelogs that a reader of committed records never sees.
    pub aborted: BTreeMap<i32, Vec<i64>>,
}

impl Changelogs {
    pub fn read(kafka: &Kafka, app: &str, topology: &str) -> Changelogs {
        let (loaded, _) = topology::load(topology, "end_to_end.yaml");
        let plan = topology::plan(loaded.unwrap().topology);
        let tables: Vec<Table> = plan.subtopologies.iter().flat_map(|part| make_tables(&plan, part, &Metrics::new())).collect();
        let table = |name: &str| tables.iter().find(|table| &*table.spec().name == name).unwrap();
        let mut changelogs = Changelogs { products: BTreeMap::new(), candles: BTreeMap::new(), aborted: BTreeMap::new() };
        let product = format!("{app}-product-changelog");
        let found = kafka.read(&product, See::Committed);
        let committed: std::collections::BTreeSet<(i32, i64)> = found.iter().map(|found| (found.partition, found.offset)).collect();
        for found in kafka.read(&product, See::Everything) {
            if !committed.contains(&(found.partition, found.offset)) {
                changelogs.aborted.entry(found.partition).or_default().push(found.offset);
            }
        }
        for found in &found {
            let Some((key, _, row)) = decoded(table("product"), found) else { continue };
            changelogs.products.entry((found.partition, key)).or_default().push(Change { offset: found.offset, row });
        }
        for found in kafka.read(&format!("{app}-price_ohlc_1m-changelog"), See::Committed) {
            let Some((key, start, row)) = decoded(table("price_ohlc_1m"), &found) else { continue };
            changelogs.candles.insert((key, start.unwrap()), row);
        }
        changelogs
    }

    /// The row of a key with everything up to an offset, that one excluded.
    pub fn row_at(&self, partition: i32, key: &str, position: i64) -> Option<&Row> {
        let changes = self.products.get(&(partition, key.to_owned()))?;
        changes.iter().rfind(|change| change.offset < position)?.row.as_ref()
    }

    /// All states of a key.
    pub fn states(&self, key: &str) -> Vec<Option<&Row>> {
        let of_key = self.products.iter().filter(|((_, found), _)| found == key);
        let mut states = vec![None];
        states.extend(of_key.flat_map(|(_, changes)| changes).map(|change| change.row.as_ref()));
        states
    }
}

/// Key, start of the window, and the row as it is shown (graves and what a hidden row keeps are no row); none for what is not a row's.
fn decoded(table: &Table, found: &Found) -> Option<(String, Option<i64>, Option<Row>)> {
    let key = found.key.as_deref().filter(|key| key.first() == Some(&ROW_TAG))?;
    let (name, window) = table.name_of(&Key::from_slice(key));
    let Json::String(name) = to_json(&name) else { panic!("a key that is no text: {name:?}") };
    let shown = found.value.as_deref().and_then(|value| table.show_stored(value).unwrap());
    let row = shown.map(|row| serde_json::from_value(to_json(&Value::Object(row))).unwrap());
    Some((name, window.map(|(start, _)| start.0), row))
}
