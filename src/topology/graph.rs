//! The checked graph: every edge typed, every name resolved to an index. After this nobody checks again.

use crate::model::Name;
use crate::operators::fold::TableSpec;
use crate::operators::output::OutputSpec;
use crate::operators::source::SourceSpec;
use crate::views::ViewSpec;

/// A topology without problems. Made by `build` only.
#[derive(Clone, Debug)]
pub struct Topology {
    pub app: Name,
    pub sources: Vec<SourceSpec>,
    pub tables: Vec<TableSpec>,
    pub views: Vec<ViewSpec>,
    pub outputs: Vec<OutputSpec>,
}
