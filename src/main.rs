//! A result becomes an exit code.
fn main() {}
