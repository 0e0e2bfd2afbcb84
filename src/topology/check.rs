//! What must hold between the parts of a file: names, references, roles, windows, topics, tests.
//!
//! Each check is named for what it checks; it pushes and returns. What concerns one expression or one field is said in `build`.

mod tables;
mod tests;

use crate::config::codes;
use crate::config::diagnostic::Diagnostics;
use crate::config::diagnostic::Place;
use crate::config::diagnostic::Placed;
use crate::config::spec::OutputBlock;
use crate::config::spec::Spec;
use crate::config::suggest;
use crate::model::Name;
use crate::topology::names;

/// Checks a file. What is wrong is pushed.
pub fn check(spec: &Spec, diagnostics: &mut Diagnostics) {
    let mut checker = Checker { spec, diagnostics };
    checker.names_are_unique();
    checker.views_show_tables();
    checker.outputs_take_tables();
    checker.topics_are_not_internal();
    checker.outputs_do_not_loop();
    checker.redis_keys_are_of_one_view();
    checker.sources_are_used();
    checker.stale_records_go_somewhere();
    checker.tables();
    checker.tests();
}

struct Checker<'a> {
    spec: &'a Spec,
    diagnostics: &'a mut Diagnostics,
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Source,
    Table,
    View,
    Output,
    Stream,
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Kind::Source => "a source",
            Kind::Table => "a table",
            Kind::View => "a view",
            Kind::Output => "an output",
            Kind::Stream => "a stream",
        }
    }
}

impl<'a> Checker<'a> {
    fn kind_of(&self, name: &str) -> Option<Kind> {
        let is = |known: &Placed<Name>| &*known.value == name;
        if self.spec.sources.iter().any(|source| is(&source.name)) {
            Some(Kind::Source)
        } else if self.spec.tables.iter().any(|table| is(&table.name)) {
            Some(Kind::Table)
        } else if self.spec.streams.iter().any(|stream| stream == name) {
            Some(Kind::Stream)
        } else if self.spec.views.iter().any(|view| is(&view.name)) {
            Some(Kind::View)
        } else if self.spec.outputs.iter().any(|output| is(&output.name)) {
            Some(Kind::Output)
        } else {
            None
        }
    }

    fn source_names(&self) -> Vec<&'a str> {
        self.spec.sources.iter().map(|source| source.name.value.as_str()).collect()
    }

    fn table_names(&self) -> Vec<&'a str> {
        self.spec.tables.iter().map(|table| table.name.value.as_str()).collect()
    }

    /// `from` names sources and tables alike.
    fn names_are_unique(&mut self) {
        for table in &self.spec.tables {
            if let Some(source) = self.spec.sources.iter().find(|source| source.name.value == table.name.value) {
                let message = format!("`{}` is a source and a table", table.name.value);
                self.diagnostics
                    .push(codes::DUPLICATE_NAME, table.name.at, message)
                    .help("give the table another name")
                    .also(source.name.at, "the source");
            }
        }
    }

    fn views_show_tables(&mut self) {
        let spec = self.spec;
        for view in &spec.views {
            if let Some(from) = &view.from {
                self.table_reference(from, "a view shows a table");
            }
        }
    }

    /// Reports a name that is no table. Returns whether it is one.
    fn table_reference(&mut self, name: &Placed<String>, what: &str) -> bool {
        match self.kind_of(&name.value) {
            Some(Kind::Table) => return true,
            // `streams` was reported.
            Some(Kind::Stream) => {}
            Some(kind) => {
                let message = format!("{what}, but `{}` is {}", name.value, kind.words());
                let tables = self.table_names();
                let help = if tables.is_empty() { "there are no tables".to_owned() } else { format!("tables: {}", suggest::list(&tables)) };
                self.diagnostics.push(codes::WRONG_KIND, name.at, message).help(help);
            }
            None if self.spec.incomplete => {}
            None => {
                let help = suggest::did_you_mean(&name.value, self.table_names(), "tables");
                self.diagnostics.push(codes::UNKNOWN_TABLE, name.at, format!("no table `{}`", name.value)).help_if(help);
            }
        }
        false
    }

    fn source_reference(&mut self, name: &Placed<String>, what: &str) -> bool {
        match self.kind_of(&name.value) {
            Some(Kind::Source) => return true,
            Some(Kind::Stream) => {}
            Some(kind) => {
                let message = format!("{what}, but `{}` is {}", name.value, kind.words());
                let help = format!("sources: {}", suggest::list(&self.source_names()));
                self.diagnostics.push(codes::WRONG_KIND, name.at, message).help(help);
            }
            None if self.spec.incomplete => {}
            None => {
                let help = suggest::did_you_mean(&name.value, self.source_names(), "sources");
                self.diagnostics.push(codes::UNKNOWN_SOURCE, name.at, format!("no source `{}`", name.value)).help_if(help);
            }
        }
        false
    }

    fn outputs_take_tables(&mut self) {
        let spec = self.spec;
        for output in &spec.outputs {
            let Some(from) = &output.from else { continue };
            let Some((name, part)) = from.value.rsplit_once('.') else {
                self.table_reference(from, "an output takes the changes of a table");
                continue;
            };
            match part {
                "stale" => {
                    let reference = Placed::new(name.to_owned(), from.at);
                    if self.table_reference(&reference, "`.stale` belongs to a table") {
                        self.stale_is_emitted(&reference);
                        self.stale_is_written_as_it_came(output, from.at);
                    }
                }
                "rejected" => {
                    let message = format!("`{}` comes with guards", from.value);
                    self.diagnostics
                        .push(codes::NOT_YET, from.at, message)
                        .help("leave the output out until a version of Millstream has them");
                }
                _ => {
                    let help = format!("write `{name}`, or `{name}.stale` for its stale records");
                    self.diagnostics.push(codes::UNKNOWN_TABLE, from.at, format!("no table `{}`", from.value)).help(help);
                }
            }
        }
    }

    fn stale_is_emitted(&mut self, reference: &Placed<String>) {
        let Some(table) = self.spec.tables.iter().find(|table| *table.name.value == *reference.value) else { return };
        if table.on_stale.as_ref().is_none_or(|choice| choice.value != "emit") && !table.broken {
            let message = format!("`{}` does not emit its stale records", reference.value);
            let diagnostic = self.diagnostics.push(codes::STALE_NOT_EMITTED, reference.at, message);
            diagnostic.help("add `on_stale: emit` to the table").also(table.name.at, "this table");
        }
    }

    fn stale_is_written_as_it_came(&mut self, output: &OutputBlock, from: Place) {
        for (key, at) in output.keys.iter().filter(|(key, _)| !matches!(key.as_str(), "from" | "topic")) {
            let message = format!("stale records are written as they came, so their output has no `{key}`");
            self.diagnostics.push(codes::NOT_WITH_THIS, *at, message).help("leave it out").also(from, "because of this");
        }
    }

    fn stale_records_go_somewhere(&mut self) {
        for table in &self.spec.tables {
            let Some(choice) = table.on_stale.as_ref().filter(|choice| choice.value == "emit") else { continue };
            let wanted = format!("{}.stale", table.name.value);
            let is_taken = self.spec.outputs.iter().any(|output| output.from.as_ref().is_some_and(|from| from.value == wanted));
            if !is_taken && !self.spec.incomplete {
                let help = format!("add an output with `from: {wanted}`, or write `on_stale: count`");
                self.diagnostics.push(codes::STALE_GOES_NOWHERE, choice.at, format!("no output takes `{wanted}`")).help(help);
            }
        }
    }

    fn topics_are_not_internal(&mut self) {
        let Some(app) = &self.spec.app else { return };
        let topics = self.spec.sources.iter().filter_map(|source| source.topic.as_ref());
        for topic in topics.chain(self.spec.outputs.iter().filter_map(|output| output.topic.as_ref())) {
            if names::is_internal(&app.value, &topic.value) {
                let message = format!("`{}` is a topic that `{}` uses for itself", topic.value, app.value);
                self.diagnostics.push(codes::INTERNAL_TOPIC, topic.at, message).help("choose another topic").also(app.at, "the app");
            }
        }
    }

    fn outputs_do_not_loop(&mut self) {
        for output in &self.spec.outputs {
            let Some(topic) = &output.topic else { continue };
            let reads = self.spec.sources.iter().filter_map(|source| source.topic.as_ref()).find(|read| read.value == topic.value);
            if let Some(read) = reads {
                let message = format!("`{}` is a topic that the app reads", topic.value);
                self.diagnostics.push(codes::TOPIC_LOOP, topic.at, message).help("write to another topic").also(read.at, "read here");
            }
        }
    }

    /// Two views with the same template of keys would write over each other. Messages on one channel are fine.
    fn redis_keys_are_of_one_view(&mut self) {
        let mut seen: Vec<(&str, Place)> = Vec::new();
        for view in &self.spec.views {
            let Some(redis) = &view.redis else { continue };
            let Some(key) = &redis.key else { continue };
            if redis.shape.as_ref().is_some_and(|shape| shape.value == "pubsub") {
                continue;
            }
            let text = key.text.trim();
            if let Some((_, first)) = seen.iter().find(|(known, _)| *known == text) {
                let message = format!("another view writes `{text}` too");
                self.diagnostics
                    .push(codes::SAME_REDIS_KEY, key.at, message)
                    .help("give each view its own prefix: `card:{key}`, `price:{key}`")
                    .also(*first, "the other view");
                continue;
            }
            seen.push((text, key.at));
        }
    }

    fn sources_are_used(&mut self) {
        for source in &self.spec.sources {
            let used = self
                .spec
                .tables
                .iter()
                .any(|table| table.broken || table.inputs.iter().any(|input| input.source.value == *source.name.value));
            // What could not be read may be what it is for.
            if !used && !self.spec.incomplete {
                let message = format!("no table takes `{}`", source.name.value);
                self.diagnostics.push(codes::UNUSED_SOURCE, source.name.at, message).help("add it under `from` of a table, or remove it");
            }
        }
    }
}
