//! `millstream inspect`: what lies in a state folder, without locking or changing it.

use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches};

use crate::cli::{Command, Exit, Io};
use crate::state::backend::Backend;
use crate::state::directory::look_into;
use crate::state::rocks::{RocksBackend, RocksMemory, RocksShared};

pub const COMMAND: Command = Command {
    name: "inspect",
    summary: "Shows what lies in a state folder",
    about: "Names the app, the tasks, their stores and how many rows each has. Reads only what is on disk; a worker that runs has newer rows in memory.",
    examples: ["millstream inspect state", "millstream inspect state/product-views/0_1"],
    arguments: |clap| clap.arg(Arg::new("folder").value_name("FOLDER").help("A state folder, an app's or a task's").required(true)),
    run,
};

fn run(matches: &ArgMatches, io: &mut Io<'_>) -> Exit {
    let folder = Path::new(matches.get_one::<String>("folder").map_or("", String::as_str));
    let tasks = match tasks_below(folder) {
        Ok(tasks) => tasks,
        Err(error) => {
            io.say(format_args!("cannot read {}: {error}", folder.display()));
            return Exit::Unusable;
        }
    };
    if tasks.is_empty() {
        io.say(format_args!("{} holds no task's state", folder.display()));
        return Exit::Unusable;
    }
    let shared = RocksShared::new(RocksMemory { block_cache: 8 << 20, write_buffers: 1 << 20, background_jobs: 1 });
    let mut exit = Exit::Good;
    for task in tasks {
        match describe(&task, &shared) {
            Ok(text) => io.data(text),
            Err(error) => {
                io.say(error);
                exit = Exit::Problems;
            }
        }
    }
    exit
}

/// The folder itself, or the folders one or two levels below that are tasks'.
fn tasks_below(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut level = vec![folder.to_owned()];
    for _ in 0..3 {
        let mut below = Vec::new();
        for path in level {
            if path.join("header").is_file() {
                found.push(path);
                continue;
            }
            for entry in std::fs::read_dir(&path)? {
                let path = entry?.path();
                if path.is_dir() {
                    below.push(path);
                }
            }
        }
        level = below;
    }
    found.sort();
    Ok(found)
}

fn describe(path: &Path, shared: &RocksShared) -> Result<String, crate::state::StateError> {
    let (header, database) = look_into(path)?;
    let mut text = format!("{}: app {}, task {}, format {}\n", path.display(), header.app, header.task, header.format);
    let mut backend = RocksBackend::open_read_only(&database, shared)?;
    for name in backend.columns() {
        let column = backend.open_column(&name)?;
        let (mut rows, mut bytes) = (0u64, 0u64);
        backend.scan(&[column], Bound::Unbounded, Bound::Unbounded, &mut |key, value| {
            rows += 1;
            bytes += (key.len() + value.len()) as u64;
            ControlFlow::Continue(())
        })?;
        text.push_str(&format!("  {name}: {rows} rows, {bytes} bytes\n"));
    }
    Ok(text)
}
