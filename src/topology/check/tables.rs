//! Tables: where they take from, who owns the rows, and settings that fit windows or not.

use crate::config::codes;
use crate::config::diagnostic::Place;
use crate::config::duration;
use crate::config::spec::InputBlock;
use crate::config::spec::TableBlock;
use crate::config::spec::WindowBlock;
use crate::topology::check::Checker;
use crate::topology::check::Kind;

impl Checker<'_> {
    pub(super) fn tables(&mut self) {
        let spec = self.spec;
        for table in &spec.tables {
            self.inputs_are_sources(table);
            self.roles_are_clear(table);
            self.tombstones_fit_roles(table);
            self.settings_fit_windows(table);
            if let Some(window) = &table.window {
                self.window_times_fit(table, window);
            }
        }
    }

    fn inputs_are_sources(&mut self, table: &TableBlock) {
        for input in &table.inputs {
            match self.kind_of(&input.source.value) {
                Some(Kind::Table) => match self.circle(table, &input.source.value) {
                    Some(path) if !self.is_first_of(table, &path) => {}
                    Some(path) => {
                        let message = format!("tables feed each other in a circle: {}", path.join(" → "));
                        self.diagnostics
                            .push(codes::CYCLE, input.source.at, message)
                            .help("break the circle: feed one of them from a source only");
                    }
                    None => {
                        let message = format!(
                            "`from` of a table takes sources: grouping the rows of `{}` comes with tables from tables",
                            input.source.value
                        );
                        self.diagnostics.push(codes::NOT_YET, input.source.at, message).help("feed the table from the sources themselves");
                    }
                },
                _ => {
                    self.source_reference(&input.source, "a table is fed by sources");
                }
            }
        }
    }

    /// The way from this table over `next` back to itself, by names, if there is one.
    fn circle(&self, table: &TableBlock, next: &str) -> Option<Vec<String>> {
        let start = table.name.value.as_str();
        let mut ways = vec![vec![next.to_owned()]];
        let mut seen = vec![next.to_owned()];
        while let Some(way) = ways.pop() {
            let here = way.last()?;
            if here == start {
                let mut circle = vec![start.to_owned()];
                circle.extend(way);
                return Some(circle);
            }
            let Some(block) = self.spec.tables.iter().find(|table| table.name.value.as_str() == here.as_str()) else { continue };
            for input in &block.inputs {
                let name = &input.source.value;
                if !seen.contains(name) || name == start {
                    seen.push(name.clone());
                    let mut longer = way.clone();
                    longer.push(name.clone());
                    ways.push(longer);
                }
            }
        }
        None
    }

    /// A circle is reported once, at the table of it that comes first in the file.
    fn is_first_of(&self, table: &TableBlock, circle: &[String]) -> bool {
        let first = self.spec.tables.iter().find(|table| circle.iter().any(|name| name == table.name.value.as_str()));
        first.is_some_and(|first| first.name.value == table.name.value)
    }

    fn roles_are_clear(&mut self, table: &TableBlock) {
        if table.broken && table.inputs.is_empty() {
            return;
        }
        let role = |input: &InputBlock| input.role.as_ref().map(|role| role.value);
        if let [only] = &table.inputs[..] {
            if let Some(role) = only.role.as_ref().filter(|role| role.value == "contributor") {
                let message =
                    format!("`{}` is the only source of `{}`, so no row would ever be complete", only.source.value, table.name.value);
                self.diagnostics.push(codes::NO_OWNER, role.at, message).help("write `role: owner`, or leave it out");
            }
        } else if !table.broken {
            for input in table.inputs.iter().filter(|input| input.role.is_none()) {
                let message = format!("`{}` has several sources, so `{}` needs a `role`", table.name.value, input.source.value);
                let help = "write `role: owner` if its records make rows exist, else `role: contributor`";
                self.diagnostics.push(codes::MISSING_ROLE, input.source.at, message).help(help);
            }
            if table.inputs.len() > 1 && table.inputs.iter().all(|input| role(input) == Some("contributor")) {
                let message = format!("all sources of `{}` are contributors, so no row would ever be complete", table.name.value);
                self.diagnostics
                    .push(codes::NO_OWNER, table.name.at, message)
                    .help("write `role: owner` for the source whose records make rows exist");
            }
        }
        self.owners_read_one_topic(table);
        for input in table.inputs.iter().filter(|input| role(input) != Some("contributor")) {
            // Where the role is missing, that was said.
            let is_owner = role(input) == Some("owner") || table.inputs.len() == 1;
            if let Some(missing) = input.owner_missing.as_ref().filter(|_| is_owner) {
                let message = format!("`{}` is an owner, so it never misses one", input.source.value);
                self.diagnostics
                    .push(codes::ONLY_FOR_CONTRIBUTORS, missing.at, message)
                    .help("move `when_owner_missing` to a contributor, or leave it out");
            }
        }
    }

    /// Between two topics there is no order, so two owners could not agree whether a row exists.
    fn owners_read_one_topic(&mut self, table: &TableBlock) {
        let mut first: Option<(&InputBlock, Place, &str)> = None;
        for input in &table.inputs {
            let Some(role) = input.role.as_ref().filter(|role| role.value == "owner") else { continue };
            let Some(source) = self.spec.sources.iter().find(|source| *source.name.value == *input.source.value) else { continue };
            let Some(topic) = &source.topic else { continue };
            match first {
                None => first = Some((input, role.at, topic.value.as_str())),
                Some((other, other_at, other_topic)) if other_topic != topic.value.as_str() => {
                    let message = format!(
                        "`{}` has two owners that read different topics: `{}` reads `{other_topic}`, `{}` reads `{}`",
                        table.name.value, other.source.value, input.source.value, topic.value
                    );
                    let diagnostic = self.diagnostics.push(codes::TWO_OWNERS, role.at, message);
                    diagnostic.help("make one of them a contributor").also(other_at, "the other owner");
                }
                Some(_) => {}
            }
        }
    }

    fn tombstones_fit_roles(&mut self, table: &TableBlock) {
        for input in &table.inputs {
            let Some(on_tombstone) = &input.on_tombstone else { continue };
            if table.window.is_some() && on_tombstone.value != "ignore" {
                let message = "a tombstone does nothing to windows";
                self.diagnostics.push(codes::NOT_IN_WINDOW, on_tombstone.at, message).help("write `on_tombstone: ignore`, or leave it out");
            } else if let (Some(role), "delete_row") = (input.role.as_ref().filter(|role| role.value == "contributor"), on_tombstone.value)
            {
                let message = "only an owner deletes the row";
                let diagnostic = self.diagnostics.push(codes::NOT_WITH_THIS, on_tombstone.at, message);
                diagnostic.help("write `on_tombstone: clear_fields`, or leave it out").also(role.at, "because of this");
            }
        }
    }

    fn settings_fit_windows(&mut self, table: &TableBlock) {
        if table.window.is_none() {
            // A window that was reported is there.
            if table.broken {
                return;
            }
            if let Some(on_late) = &table.on_late {
                let message = format!("`on_late` is for windows, and `{}` has none", table.name.value);
                self.diagnostics
                    .push(codes::NEEDS_WINDOW, on_late.at, message)
                    .help("add `window: { tumbling: 1m, grace: 5m }`, or leave `on_late` out");
            }
            if let Some(emit) = table.emit.as_ref().filter(|emit| emit.value == "closed") {
                let message = format!("`emit: closed` is for windows, and `{}` has none", table.name.value);
                self.diagnostics.push(codes::NEEDS_WINDOW, emit.at, message).help("write `emit: changes`, or leave it out");
            }
            return;
        }
        if let Some(keep) = &table.keep {
            let message = "in a table with windows, `keep` is said in `window`";
            self.diagnostics.push(codes::NOT_IN_WINDOW, keep.at, message).help("write `window: { …, keep: 24h }`");
        }
        if let Some(grave) = &table.grave {
            let message = "windows are not deleted, so they leave no graves";
            self.diagnostics.push(codes::NOT_IN_WINDOW, grave.at, message).help("leave `grave` out");
        }
        for missing in table.inputs.iter().filter_map(|input| input.owner_missing.as_ref()) {
            let message = "a window does not wait for an owner: it closes after its grace";
            self.diagnostics.push(codes::NOT_IN_WINDOW, missing.at, message).help("leave `when_owner_missing` out");
        }
    }

    fn window_times_fit(&mut self, table: &TableBlock, window: &WindowBlock) {
        if window.broken {
            return;
        }
        let amends = table.on_late.as_ref().is_some_and(|on_late| on_late.value == "amend");
        if window.grace.is_none() && !amends {
            let message = format!("the windows of `{}` have no `grace`, and records can come late", table.name.value);
            let help = "add how long a window waits for late records: `grace: 5m`; `grace: 0s` if it does not wait, or `on_late: amend`";
            self.diagnostics.push(codes::WINDOW_WITHOUT_GRACE, window.at, message).help(help);
        }
        let (Some(size), Some(keep)) = (&window.tumbling, &window.keep) else { return };
        let needed = size.value + window.grace.as_ref().map_or(0, |grace| grace.value);
        if keep.value < needed {
            let message = format!("`keep` is shorter than length and grace, which are {}", duration::show(needed));
            self.diagnostics.push(codes::WINDOW_TIMES, keep.at, message).help(format!("write at least `keep: {}`", duration::show(needed)));
        }
    }
}
