//! Headers of our own in answers.

use axum::http::HeaderName;

/// `false` for a placeholder; not there for a whole row.
pub const COMPLETE: HeaderName = HeaderName::from_static("x-complete");
/// The partition that answered.
pub const PARTITION: HeaderName = HeaderName::from_static("x-partition");
/// The changelog offset up to which everything is in the answer.
pub const POSITION: HeaderName = HeaderName::from_static("x-position");
/// How many windows are in the answer.
pub const WINDOWS: HeaderName = HeaderName::from_static("x-windows");
