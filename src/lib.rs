//! Millstream: several topics speak about the same thing, in no agreed order; it keeps one right row of it.
//!
//! The code map, by layers; a module imports only from smaller numbers (`tests/tidy.rs` checks it):
//! 8 `main.rs` · 7 `cli` · 6 `http`, `testkit` · 5 `runtime` · 4 `topology` · 3 `operators`, `views` ·
//! 2 `expression`, `codec`, `state` · 1 `config`, `log` · 0 `model`, `metrics`.

pub mod cli;
pub mod codec;
pub mod config;
pub mod expression;
pub mod http;
pub mod log;
pub mod metrics;
pub mod model;
pub mod operators;
pub mod runtime;
pub mod state;
pub mod testkit;
pub mod topology;
pub mod views;
