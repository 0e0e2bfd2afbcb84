//! Expressions judged by data: our own cases, and the specification's conformance data where it is at hand.
//!
//! `tests/cel/*.json` holds cases by section of the specification; `tests/cel/README.md` says how they are written. The
//! specification's own data is not part of this repository: with `CEL_SPEC` set to a checkout of `google/cel-spec`, the last
//! test reads its `tests/simple/testdata`, and every case must pass that needs no protobuf.

#![expect(clippy::expect_used, reason = "data that cannot be read fails the test")]

#[path = "cel/case.rs"]
mod case;
#[path = "cel/own.rs"]
mod own;
#[path = "cel/spec.rs"]
mod spec;
#[path = "cel/textproto.rs"]
mod textproto;

use std::path::{Path, PathBuf};

#[test]
fn our_cases_hold() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cel");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        cases.extend(own::read(&file));
    }
    // A folder that is not found, or a reader that stops early, must not look like success.
    assert!(cases.len() > 900, "only {} cases were read", cases.len());
    let failed: Vec<String> = cases.iter().filter_map(|case| case.run().err()).collect();
    println!("{} passed, {} failed", cases.len() - failed.len(), failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn the_conformance_data_of_the_specification_holds() {
    let Some(checkout) = std::env::var_os("CEL_SPEC") else {
        println!("not run: CEL_SPEC does not name a checkout of google/cel-spec");
        return;
    };
    let folder = Path::new(&checkout).join("tests/simple/testdata");
    let outcome = spec::run(&folder);
    println!("{outcome}");
    assert!(outcome.passed > 1_300, "only {} cases passed", outcome.passed);
    assert!(outcome.failed.is_empty(), "{}", outcome.failed.join("\n"));
}
