//! `millstream inspect`: what lies in the state folder of a task, without a worker and without changing anything.

use std::ops::{Bound, ControlFlow};
use std::path::Path;

use clap::{Arg, ArgMatches, value_parser};
use serde_json::{Map, Value as Json, json};

use crate::cli::{Command, Exit, Io, load, one_topology};
use crate::codec::json::{scalar_text, write_value};
use crate::metrics::Metrics;
use crate::model::{Key, StoreId, Value};
use crate::operators::fold::table::Table;
use crate::runtime::task::{make_tables, store_specs};
use crate::state::directory::{Header, look_into};
use crate::state::layout::ROW_TAG;
use crate::state::rocks::{RocksBackend, RocksMemory, RocksShared};
use crate::state::{CacheBudget, StateError, TaskState};
use crate::topology::plan::Subtopology;
use crate::topology::{Plan, plan};

pub const COMMAND: Command = Command {
    name: "inspect",
    summary: "Shows what lies in the state folder of a task",
    about: "Opens the folder for reading: a worker may be running, but what it has not flushed yet (up to a minute) is not seen. Without --table \
            prints one JSON object: whose state it is, the offsets at which it stands, the number of rows of each store. With --table prints \
            the rows as JSON lines, sorted by key.",
    examples: [
        "millstream inspect topologies/product.yaml state/product-views/0_0",
        "millstream inspect topologies/product.yaml state/product-views/0_0 --table product --limit 10",
    ],
    arguments: |clap| {
        clap.arg(one_topology())
            .arg(Arg::new("folder").value_name("FOLDER").help("<state_dir>/<app>/<task>").required(true))
            .arg(Arg::new("table").long("table").value_name("NAME").help("Print the rows of this table"))
            .arg(
                Arg::new("limit")
                    .long("limit")
                    .value_name("ROWS")
                    .help("At most so many rows")
                    .default_value("100")
                    .value_parser(value_parser!(usize)),
            )
    },
    run,
};

/// Memory of the database while it is read; the folder of one task.
const BLOCK_CACHE_BYTES: usize = 16 << 20;

fn run(matches: &ArgMatches, io: &mut Io<'_>) -> Exit {
    let argument = |name: &str| matches.get_one::<String>(name).map_or("", String::as_str);
    let loaded = match load(argument("topology"), io) {
        Ok(loaded) => loaded,
        Err(_) => return Exit::Unusable,
    };
    let plan = plan(loaded.topology);
    let folder = Path::new(argument("folder"));
    let mut opened = match Opened::open(&plan, folder) {
        Ok(opened) => opened,
        Err(problem) => {
            io.say(problem);
            return Exit::Unusable;
        }
    };
    let limit = matches.get_one::<usize>("limit").copied().unwrap_or_default();
    let written = match matches.get_one::<String>("table") {
        None => opened.summary().map(|summary| io.data(format!("{summary}\n"))),
        Some(name) => match opened.tables.iter().find(|table| &*table.spec().name == name.as_str()) {
            Some(table) => rows(&mut opened.state, table, limit, io),
            None => {
                io.say(format_args!("task {} has no table `{name}`", opened.header.task));
                return Exit::Unusable;
            }
        },
    };
    match written {
        Ok(()) => Exit::Good,
        Err(error) => {
            io.say(error);
            Exit::Unusable
        }
    }
}

/// The state of one task, open for reading.
struct Opened<'p> {
    header: Header,
    subtopology: &'p Subtopology,
    tables: Vec<Table>,
    state: TaskState,
}

impl<'p> Opened<'p> {
    /// The error is for the person who asked.
    fn open(plan: &'p Plan, folder: &Path) -> Result<Opened<'p>, String> {
        let text = |error: StateError| error.to_string();
        let (header, database) = look_into(folder).map_err(text)?;
        if header.app != plan.topology.app.as_str() {
            return Err(format!("{} is state of the app `{}`, the topology is of `{}`", folder.display(), header.app, plan.topology.app));
        }
        let number = header.task.split('_').next().and_then(|number| number.parse::<usize>().ok());
        let subtopology = number.and_then(|number| plan.subtopologies.get(number));
        let subtopology =
            subtopology.ok_or_else(|| format!("the topology has no task `{}`: it is not the one that wrote this state", header.task))?;
        let shared = RocksShared::new(RocksMemory { block_cache: BLOCK_CACHE_BYTES, ..RocksMemory::default() });
        let backend = RocksBackend::open_read_only(&database, &shared).map_err(text)?;
        let state = TaskState::open(Box::new(backend), store_specs(plan, subtopology), CacheBudget::default()).map_err(text)?;
        let tables = make_tables(plan, subtopology, &Metrics::new());
        Ok(Opened { header, subtopology, tables, state })
    }

    fn summary(&mut self) -> Result<Json, StateError> {
        let mut stores = Map::new();
        let mut changelogs = Map::new();
        for (index, store) in self.subtopology.stores.iter().enumerate() {
            let mut count = 0u64;
            self.state.scan_committed(StoreId(index), Bound::Unbounded, Bound::Unbounded, |key, _| {
                count += u64::from(key.first() == Some(&ROW_TAG) || store.changelog.is_none());
                ControlFlow::Continue(())
            })?;
            stores.insert(store.name.to_string(), count.into());
            if let Some(offset) = self.state.offsets().changelog(StoreId(index)) {
                changelogs.insert(store.name.to_string(), offset.0.into());
            }
        }
        let inputs: Map<String, Json> =
            self.state.offsets().inputs.iter().map(|(topic, offset)| (topic.to_string(), offset.0.into())).collect();
        Ok(json!({
            "app": self.header.app,
            "task": self.header.task,
            "format": self.header.format,
            "topics": self.header.topics,
            "inputs": inputs,
            "changelogs": changelogs,
            "rows": stores,
        }))
    }
}

/// Prints the rows of a table.
fn rows(state: &mut TaskState, table: &Table, limit: usize, io: &mut Io<'_>) -> Result<(), StateError> {
    let (mut left, mut failed) = (limit, None);
    state.scan_committed(table.rows(), Bound::Unbounded, Bound::Unbounded, |key, bytes| {
        if left == 0 {
            return ControlFlow::Break(());
        }
        // The operator's own progress lies beside the rows; graves are stored and not shown.
        if key.first() != Some(&ROW_TAG) {
            return ControlFlow::Continue(());
        }
        match table.show_stored(bytes) {
            Ok(Some(row)) => {
                left -= 1;
                io.data(line(table, key, Value::Object(row)));
                ControlFlow::Continue(())
            }
            Ok(None) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some((Key::from_slice(key), error));
                ControlFlow::Break(())
            }
        }
    })?;
    match failed {
        None => Ok(()),
        Some((key, error)) => {
            io.say(format_args!("the row of key `{}` cannot be read", scalar_text(&table.name_of(&key).0)));
            Err(error)
        }
    }
}

fn line(table: &Table, key: &[u8], row: Value) -> Vec<u8> {
    let (key, window) = table.name_of(&Key::from_slice(key));
    let mut line = b"{\"key\":".to_vec();
    write_value(&key, &mut line);
    if let Some((start, end)) = window {
        line.extend_from_slice(format!(",\"start\":{},\"end\":{}", start.0, end.0).as_bytes());
    }
    line.extend_from_slice(b",\"row\":");
    write_value(&row, &mut line);
    line.extend_from_slice(b"}\n");
    line
}
