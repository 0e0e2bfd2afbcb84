//! A whole file.

use crate::config::codes;
use crate::config::diagnostic::Diagnostics;
use crate::config::diagnostic::Place;
use crate::config::keys::APP_LENGTH_MAX;
use crate::config::keys::FILE;
use crate::config::read::Reader;
use crate::config::spec::Spec;
use crate::config::yaml;
use crate::config::yaml::Entry;
use crate::config::yaml::Node;
use crate::config::yaml::Yaml;

/// The version of the language that this program reads.
const VERSION: u64 = 1;

/// Reads the file of `diagnostics`. `None` if there is nothing to read in it; the reason has been reported.
pub fn read(diagnostics: &mut Diagnostics) -> Option<Spec> {
    let root = yaml::parse(diagnostics);
    let Some(root) = root else {
        if diagnostics.is_empty() {
            let help = "a topology begins with `version: 1` and `app: <name>`";
            diagnostics.push(codes::WRONG_SHAPE, Place::default(), "the file is empty").help(help);
        }
        return None;
    };
    Reader { diagnostics }.file(&root)
}

impl Reader<'_> {
    fn file(&mut self, root: &Node) -> Option<Spec> {
        let streams = streams(root);
        let fields = self.block(root, &FILE)?;
        if let Some(node) = fields.get("version") {
            self.version(node);
        }
        let mut spec = Spec {
            file: self.diagnostics.file.clone(),
            app: fields.get("app").and_then(|node| self.topic(node, APP_LENGTH_MAX)),
            sources: Vec::new(),
            tables: Vec::new(),
            views: Vec::new(),
            outputs: Vec::new(),
            tests: Vec::new(),
            incomplete: fields.broken,
            streams,
        };
        if let Some(node) = fields.get("sources") {
            spec.sources = self.things(node, "`sources`", Reader::source, &mut spec.incomplete);
        }
        if let Some(node) = fields.get("tables") {
            spec.tables = self.things(node, "`tables`", Reader::table, &mut spec.incomplete);
        }
        if let Some(node) = fields.get("views") {
            spec.views = self.things(node, "`views`", Reader::view, &mut spec.incomplete);
        }
        if let Some(node) = fields.get("outputs") {
            spec.outputs = self.things(node, "`outputs`", Reader::output, &mut spec.incomplete);
        }
        if let Some(node) = fields.get("tests") {
            let items = self.items(node, "`tests`").unwrap_or_default();
            spec.tests = items.iter().filter_map(|item| self.test(item)).collect();
        }
        Some(spec)
    }

    fn version(&mut self, node: &Node) {
        let Some(scalar) = self.scalar(node, "`version: 1`") else { return };
        match scalar.text.parse::<u64>() {
            Ok(VERSION) => {}
            Ok(other) => {
                let message = format!("version {other} of the language is not known");
                self.diagnostics.push(codes::BAD_VERSION, node.at, message).help(format!("this program reads version {VERSION}"));
            }
            Err(_) => {
                let message = format!("`{}` is not a version", scalar.text);
                self.diagnostics.push(codes::BAD_VERSION, node.at, message).help("write `version: 1`");
            }
        }
    }

    /// A map from names to blocks of one kind, in the order of the file.
    fn things<T>(&mut self, node: &Node, noun: &str, read: fn(&mut Self, &Entry) -> Option<T>, incomplete: &mut bool) -> Vec<T> {
        let entries = self.entries(node, noun);
        *incomplete |= entries.is_none();
        let entries = entries.unwrap_or_default();
        let things: Vec<T> = entries.iter().filter_map(|entry| read(self, entry)).collect();
        *incomplete |= things.len() < entries.len();
        things
    }
}

/// The names under `streams`.
fn streams(root: &Node) -> Vec<String> {
    let Yaml::Mapping(entries) = &root.value else { return Vec::new() };
    let Some(Yaml::Mapping(streams)) = entries.iter().find(|entry| entry.key == "streams").map(|entry| &entry.value.value) else {
        return Vec::new();
    };
    streams.iter().map(|entry| entry.key.clone()).collect()
}
