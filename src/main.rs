//! A result becomes an exit code; no logic.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(millstream::cli::main())
}
