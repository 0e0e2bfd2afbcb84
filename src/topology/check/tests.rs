//! Tests: whether what they name is there.

use crate::config::codes;
use crate::config::diagnostic::Place;
use crate::config::diagnostic::Placed;
use crate::config::spec::ExpectMetric;
use crate::config::spec::ExpectTable;
use crate::config::spec::Expectation;
use crate::config::spec::Send;
use crate::config::spec::StepKind;
use crate::config::spec::TableBlock;
use crate::config::suggest;
use crate::metrics::METRICS;
use crate::operators::REASONS;
use crate::topology::check::Checker;
use crate::topology::check::Kind;

impl Checker<'_> {
    pub(super) fn tests(&mut self) {
        let spec = self.spec;
        let mut seen: Vec<(&str, Place)> = Vec::new();
        for test in &spec.tests {
            match seen.iter().find(|(name, _)| *name == test.name.value) {
                Some((_, first)) => {
                    let message = format!("another test is named `{}`", test.name.value);
                    self.diagnostics
                        .push(codes::DUPLICATE_TEST, test.name.at, message)
                        .help("give it a name of its own")
                        .also(*first, "the other test");
                }
                None => seen.push((&test.name.value, test.name.at)),
            }
            for step in &test.steps {
                match &step.what {
                    StepKind::Send(send) => self.send(send),
                    StepKind::Expect(expectation) => self.expectation(expectation),
                    StepKind::Crash | StepKind::Rebalance { .. } | StepKind::Advance(_) | StepKind::Commit => {}
                }
            }
        }
    }

    fn send(&mut self, send: &Send) {
        if !self.source_reference(&send.to, "`send` sends to a source") {
            return;
        }
        let Some(source) = self.spec.sources.iter().find(|source| *source.name.value == *send.to.value) else { return };
        if send.key.is_some() || source.broken {
            return;
        }
        let (message, also) = if source.keyed_by.is_none() {
            (format!("the record has no key, and `{}` has no `keyed_by` to compute it", source.name.value), Some(source.name.at))
        } else if send.value.is_none() {
            ("a tombstone has no value from which `keyed_by` could compute the key".to_owned(), None)
        } else {
            return;
        };
        let help = format!("write `send: {{ to: {}, key: …, … }}`", send.to.value);
        let diagnostic = self.diagnostics.push(codes::SEND_WITHOUT_KEY, send.to.at, message);
        diagnostic.help(help);
        if let Some(at) = also {
            diagnostic.also(at, "this source");
        }
    }

    fn expectation(&mut self, expectation: &Expectation) {
        match expectation {
            Expectation::Table(expected) => {
                if self.table_reference(&expected.table, "`table` is a table") {
                    self.expected_row(expected);
                }
            }
            Expectation::Redis(_) => {}
            Expectation::Output(expected) => match self.kind_of(&expected.output.value) {
                Some(Kind::Output) => {}
                Some(kind) if !self.spec.outputs.iter().any(|output| *output.name.value == *expected.output.value) => {
                    let message = format!("`output` is an output, but `{}` is {}", expected.output.value, kind.words());
                    let help = self.outputs_help(&expected.output.value);
                    self.diagnostics.push(codes::WRONG_KIND, expected.output.at, message).help_if(help);
                }
                Some(_) => {}
                None if self.spec.incomplete => {}
                None => {
                    let help = self.outputs_help(&expected.output.value);
                    self.diagnostics
                        .push(codes::UNKNOWN_OUTPUT, expected.output.at, format!("no output `{}`", expected.output.value))
                        .help_if(help);
                }
            },
            Expectation::DeadLetter(expected) => {
                if let Some(source) = &expected.source {
                    self.source_reference(source, "dead letters come from sources");
                }
                if let Some(reason) = &expected.reason {
                    self.expected_reason(reason);
                }
            }
            Expectation::Metric(expected) => self.expected_metric(expected),
        }
    }

    fn outputs_help(&self, name: &str) -> Option<String> {
        suggest::did_you_mean(name, self.spec.outputs.iter().map(|output| output.name.value.as_str()), "outputs")
    }

    fn expected_row(&mut self, expected: &ExpectTable) {
        let Some(table) = self.spec.tables.iter().find(|table| *table.name.value == *expected.table.value) else { return };
        match (&table.window, expected.window) {
            (Some(window), None) => {
                let message = format!("rows of `{}` are windows: which one is not said", table.name.value);
                let diagnostic = self.diagnostics.push(codes::BAD_STEP, expected.table.at, message);
                diagnostic.help("add the start of the window: `window: 2026-01-01T00:00:00Z`").also(window.at, "this window");
            }
            (None, Some(_)) if !table.broken => {
                let message = format!("`{}` has no windows", table.name.value);
                self.diagnostics.push(codes::BAD_STEP, expected.table.at, message).help("leave `window` out");
            }
            _ => {}
        }
        let Some(row) = &expected.row else { return };
        if table.broken {
            return;
        }
        let known = field_names(table);
        for (name, at) in row.keys.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
            let help = suggest::did_you_mean(name, known.iter().copied(), "fields");
            self.diagnostics
                .push(codes::UNKNOWN_FIELD, *at, format!("rows of `{}` have no field `{name}`", table.name.value))
                .help_if(help);
        }
    }

    fn expected_reason(&mut self, reason: &Placed<String>) {
        if REASONS.iter().any(|(known, _)| *known == reason.value) {
            return;
        }
        let help = suggest::did_you_mean(&reason.value, REASONS.iter().map(|(known, _)| *known), "reasons");
        let message = format!("no dead letter has the reason `{}`", reason.value);
        self.diagnostics.push(codes::UNKNOWN_REASON, reason.at, message).help_if(help);
    }

    fn expected_metric(&mut self, expected: &ExpectMetric) {
        let Some(metric) = METRICS.iter().find(|metric| metric.name == expected.metric.value) else {
            let help = suggest::did_you_mean(&expected.metric.value, METRICS.iter().map(|metric| metric.name), "metrics");
            self.diagnostics
                .push(codes::UNKNOWN_METRIC, expected.metric.at, format!("no metric `{}`", expected.metric.value))
                .help_if(help);
            return;
        };
        for (label, _) in expected.labels.iter().filter(|(label, _)| !metric.labels.contains(&label.value.as_str())) {
            let help = match metric.labels {
                [] => Some("it has no labels".to_owned()),
                labels => suggest::did_you_mean(&label.value, labels.iter().copied(), "its labels"),
            };
            let message = format!("`{}` has no label `{}`", metric.name, label.value);
            self.diagnostics.push(codes::UNKNOWN_METRIC, label.at, message).help_if(help);
        }
    }
}

/// The names of the fields that rows of a table have.
fn field_names(table: &TableBlock) -> Vec<&str> {
    let declared = table.fields.iter().flat_map(|fields| fields.value.iter()).map(|field| field.name.value.as_str());
    let set = table.inputs.iter().flat_map(|input| input.set.iter()).map(|field| field.name.value.as_str());
    let mut names: Vec<&str> = Vec::new();
    for name in declared.chain(set).chain(["complete"]) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
