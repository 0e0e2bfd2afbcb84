//! Plain data that every layer shares: values, their types, records, event time and the clock, names.
//!
//! Layer 0. Knows no file, no topic and no store; imports nothing of this crate.

mod ids;
mod name;
mod record;
mod time;
mod types;
mod value;

pub use ids::*;
pub use name::*;
pub use record::*;
pub use time::*;
pub use types::*;
pub use value::*;
