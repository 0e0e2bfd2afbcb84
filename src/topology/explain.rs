//! A plan for people and tools: text, Mermaid, Graphviz, JSON. The same plan gives the same bytes.

use std::fmt::Write;

use serde_json::Value;
use serde_json::json;

use crate::codec::KeyCodec;
use crate::config::duration;
use crate::model::Name;
use crate::model::TableId;
use crate::operators::fold::Role;
use crate::operators::fold::TableInput;
use crate::operators::fold::TableSpec;
use crate::operators::fold::WhenOwnerMissing;
use crate::operators::output::OutputFrom;
use crate::topology::Plan;
use crate::topology::names;
use crate::topology::plan::StoreKind;
use crate::topology::plan::Subtopology;
use crate::views::TemplatePart;
use crate::views::ViewShape;
use crate::views::ViewSpec;
use crate::views::kind;

/// Sub-topologies with their topics, tables, stores, views and outputs, and the internal topics.
pub fn text(plan: &Plan) -> String {
    let mut out = String::new();
    // Writing to a string does not fail; the results of `writeln` are dropped for that.
    let _ = write_text(plan, &mut out);
    out
}

fn write_text(plan: &Plan, out: &mut String) -> std::fmt::Result {
    let topology = &plan.topology;
    let app = &topology.app;
    writeln!(out, "app {app}")?;
    for (number, sub) in plan.subtopologies.iter().enumerate() {
        writeln!(out, "\nsub-topology {number}")?;
        writeln!(out, "  topics in    {}", joined(sub.topics.iter().map(Name::to_string)))?;
        if sub.topics.len() > 1 {
            writeln!(out, "               these must have equal partition counts: their records meet in one row by key")?;
        }
        for table in &sub.tables {
            write_table(plan, &topology.tables[table.0], *table, out)?;
        }
        for output in &sub.outputs {
            let output = &topology.outputs[output.0];
            writeln!(out, "  output {} ← {}", output.name, from_name(plan, output.from))?;
            writeln!(out, "    topic      {} ({}, keys {})", output.topic, output.value.name, key_name(output.key_codec))?;
        }
        writeln!(out, "  stores")?;
        for store in &sub.stores {
            let changelog =
                store.changelog.as_ref().map_or("local, rebuilt from the rows".to_owned(), |topic| format!("changelog {topic}"));
            writeln!(out, "    {:<24} {:<8} {changelog}", store.name.as_str(), kind_name(store.kind))?;
        }
    }
    writeln!(out, "\nrepartition topics: none, because every table is keyed by the keys of its sources")?;
    writeln!(out, "\ninternal topics")?;
    for (topic, what) in internal_topics(plan) {
        writeln!(out, "  {:<44} {what}", topic.as_str())?;
    }
    Ok(())
}

fn write_table(plan: &Plan, table: &TableSpec, id: TableId, out: &mut String) -> std::fmt::Result {
    let topology = &plan.topology;
    let window = table.window.map_or(String::new(), |window| {
        format!(
            ", windows of {} with grace {}, kept {}",
            duration::show(window.size_ms),
            duration::show(window.grace_ms),
            duration::show(window.keep_ms)
        )
    });
    writeln!(out, "  table {} (keys {}{window})", table.name, key_name(table.key))?;
    for input in &table.inputs {
        let source = &topology.sources[input.source.0];
        writeln!(out, "    {} {} ← {}{}", role_name(input.role), input.source_name, source.topic, missing(input))?;
    }
    for field in &table.shape.fields {
        writeln!(out, "    {:<24} {}", field.name, field.ty)?;
    }
    for view in topology.views.iter().filter(|view| view.table == id) {
        writeln!(out, "    view {} → redis {} {}", view.name, shape_name(view.shape), template_text(view))?;
    }
    Ok(())
}

fn missing(input: &TableInput) -> String {
    let Some(missing) = input.owner_missing else { return String::new() };
    let what = match missing.what {
        WhenOwnerMissing::Placeholder => "placeholder",
        WhenOwnerMissing::Buffer => "buffer",
        WhenOwnerMissing::Drop => "drop",
        WhenOwnerMissing::DeadLetter => "dead_letter",
    };
    let wait = missing.max_wait_ms.map_or(String::new(), |ms| format!(", at most {}", duration::show(ms)));
    format!(" (owner missing: {what}{wait})")
}

/// A flow chart for Mermaid.
pub fn mermaid(plan: &Plan) -> String {
    let mut out = String::from("flowchart LR\n");
    for (number, sub) in plan.subtopologies.iter().enumerate() {
        let _ = writeln!(out, "  subgraph sub{number} [\"sub-topology {number}\"]");
        for node in nodes(plan, sub).iter().filter(|node| matches!(node.kind, "source" | "table")) {
            let (open, close) = if node.kind == "table" { ("[(", ")]") } else { ("[", "]") };
            let _ = writeln!(out, "    {}{open}\"{}\"{close}", node.id, node.label);
        }
        out.push_str("  end\n");
        for node in nodes(plan, sub).iter().filter(|node| !matches!(node.kind, "source" | "table")) {
            let (open, close) = if node.kind == "view" { ("[/", "/]") } else { ("([", "])") };
            let _ = writeln!(out, "  {}{open}\"{}\"{close}", node.id, node.label);
        }
        for (from, to, label) in edges(plan, sub) {
            let label = if label.is_empty() { String::new() } else { format!("|{label}|") };
            let _ = writeln!(out, "  {from} -->{label} {to}");
        }
    }
    out
}

/// A graph for Graphviz.
pub fn dot(plan: &Plan) -> String {
    let mut out = format!("digraph \"{}\" {{\n  rankdir=LR;\n  node [shape=box];\n", plan.topology.app);
    for (number, sub) in plan.subtopologies.iter().enumerate() {
        let _ = writeln!(out, "  subgraph cluster_{number} {{\n    label=\"sub-topology {number}\";");
        let nodes = nodes(plan, sub);
        for node in nodes.iter().filter(|node| matches!(node.kind, "source" | "table")) {
            let shape = if node.kind == "table" { "cylinder" } else { "box" };
            let _ = writeln!(out, "    {} [label=\"{}\", shape={shape}];", node.id, node.label);
        }
        out.push_str("  }\n");
        for node in nodes.iter().filter(|node| !matches!(node.kind, "source" | "table")) {
            let shape = if node.kind == "topic" { "ellipse" } else { "parallelogram" };
            let _ = writeln!(out, "  {} [label=\"{}\", shape={shape}];", node.id, node.label);
        }
        for (from, to, label) in edges(plan, sub) {
            let label = if label.is_empty() { String::new() } else { format!(" [label=\"{label}\"]") };
            let _ = writeln!(out, "  {from} -> {to}{label};");
        }
    }
    out.push_str("}\n");
    out
}

/// A node of a picture. Its id is made of its kind and name, so pictures of two versions can be compared.
struct Node {
    id: String,
    kind: &'static str,
    label: String,
}

fn nodes(plan: &Plan, sub: &Subtopology) -> Vec<Node> {
    let topology = &plan.topology;
    let mut nodes: Vec<Node> =
        sub.topics.iter().map(|topic| Node { id: id("in", topic), kind: "topic", label: topic.to_string() }).collect();
    for source in &sub.sources {
        let source = &topology.sources[source.0];
        nodes.push(Node { id: id("source", &source.name), kind: "source", label: source.name.to_string() });
    }
    for table in &sub.tables {
        let table = &topology.tables[table.0];
        nodes.push(Node { id: id("table", &table.name), kind: "table", label: table.name.to_string() });
    }
    for view in plan.views_of(sub) {
        let view = &topology.views[view.0];
        nodes.push(Node { id: id("view", &view.name), kind: "view", label: format!("{} (redis {})", view.name, shape_name(view.shape)) });
    }
    for output in &sub.outputs {
        let output = &topology.outputs[output.0];
        nodes.push(Node { id: id("out", &output.name), kind: "topic", label: output.topic.to_string() });
    }
    nodes
}

fn edges(plan: &Plan, sub: &Subtopology) -> Vec<(String, String, String)> {
    let topology = &plan.topology;
    let mut edges = Vec::new();
    for source in &sub.sources {
        let source = &topology.sources[source.0];
        edges.push((id("in", &source.topic), id("source", &source.name), String::new()));
    }
    for table in &sub.tables {
        let table = &topology.tables[table.0];
        for input in &table.inputs {
            edges.push((id("source", &input.source_name), id("table", &table.name), role_name(input.role).to_owned()));
        }
    }
    for view in plan.views_of(sub) {
        let view = &topology.views[view.0];
        edges.push((id("table", &topology.tables[view.table.0].name), id("view", &view.name), String::new()));
    }
    for output in &sub.outputs {
        let output = &topology.outputs[output.0];
        let (table, label) = match output.from {
            OutputFrom::Table(table) => (table, ""),
            OutputFrom::Stale(table) => (table, "stale"),
        };
        edges.push((id("table", &topology.tables[table.0].name), id("out", &output.name), label.to_owned()));
    }
    edges
}

fn id(kind: &str, name: &str) -> String {
    format!("{kind}_{}", name.replace(['.', '-'], "_"))
}

/// What `GET /topology` answers.
pub fn json(plan: &Plan) -> Value {
    let topology = &plan.topology;
    let sources: Vec<Value> = topology.sources.iter().map(|source| json!({ "name": &*source.name, "topic": &*source.topic, "key": key_name(source.key), "value": source.value.name, "type": source.event.to_string() })).collect();
    let tables: Vec<Value> = topology.tables.iter().map(table_json).collect();
    let views: Vec<Value> = topology
        .views
        .iter()
        .map(|view| json!({ "name": &*view.name, "table": &*topology.tables[view.table.0].name, "shape": shape_name(view.shape), "key": template_text(view), "ttl_ms": view.ttl_ms }))
        .collect();
    let outputs: Vec<Value> = topology
        .outputs
        .iter()
        .map(|output| json!({ "name": &*output.name, "from": from_name(plan, output.from), "topic": &*output.topic, "value": output.value.name }))
        .collect();
    let subtopologies: Vec<Value> = plan.subtopologies.iter().map(|sub| subtopology_json(plan, sub)).collect();
    let internal: Vec<Value> = internal_topics(plan).into_iter().map(|(topic, what)| json!({ "topic": &*topic, "what": what })).collect();
    json!({ "app": &*topology.app, "sources": sources, "tables": tables, "views": views, "outputs": outputs, "subtopologies": subtopologies, "internal_topics": internal })
}

fn table_json(table: &TableSpec) -> Value {
    let fields: Vec<Value> =
        table.shape.fields.iter().map(|field| json!({ "name": field.name.as_str(), "type": field.ty.to_string() })).collect();
    let inputs: Vec<Value> =
        table.inputs.iter().map(|input| json!({ "source": &*input.source_name, "role": role_name(input.role) })).collect();
    let window = table.window.map(|window| {
        json!({ "tumbling_ms": window.size_ms, "grace_ms": window.grace_ms, "keep_ms": window.keep_ms, "idle_close_ms": window.idle_close_ms })
    });
    json!({ "name": &*table.name, "key": key_name(table.key), "fields": fields, "from": inputs, "window": window, "query": table.query })
}

fn subtopology_json(plan: &Plan, sub: &Subtopology) -> Value {
    let topology = &plan.topology;
    let stores: Vec<Value> = sub
        .stores
        .iter()
        .map(|store| json!({ "name": &*store.name, "kind": kind_name(store.kind), "changelog": store.changelog.as_ref().map(|topic| topic.to_string()) }))
        .collect();
    json!({
        "topics": sub.topics.iter().map(|topic| topic.as_str()).collect::<Vec<_>>(),
        "sources": sub.sources.iter().map(|source| topology.sources[source.0].name.as_str()).collect::<Vec<_>>(),
        "tables": sub.tables.iter().map(|table| topology.tables[table.0].name.as_str()).collect::<Vec<_>>(),
        "outputs": sub.outputs.iter().map(|output| topology.outputs[output.0].name.as_str()).collect::<Vec<_>>(),
        "stores": stores,
    })
}

fn internal_topics(plan: &Plan) -> Vec<(Name, &'static str)> {
    let app = &plan.topology.app;
    let mut topics = vec![
        (names::tasks(app), "empty; its partitions are the tasks that the group assigns"),
        (names::workers(app), "who is there, with which tasks; compacted"),
        (names::dead_letters(app), "records that could not be used, with the reason"),
    ];
    let changelogs = plan.subtopologies.iter().flat_map(|sub| sub.stores.iter()).filter_map(|store| store.changelog.clone());
    topics.extend(changelogs.map(|topic| (topic, "changelog; compacted")));
    topics
}

fn joined(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

fn key_name(codec: KeyCodec) -> &'static str {
    codec.name()
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Owner => "owner",
        Role::Contributor => "contributor",
    }
}

fn kind_name(kind: StoreKind) -> &'static str {
    match kind {
        StoreKind::Rows => "rows",
        StoreKind::Buffer => "buffer",
        StoreKind::Dedupe => "dedupe",
        StoreKind::Timers => "timers",
    }
}

fn shape_name(shape: ViewShape) -> &'static str {
    kind(shape).name
}

/// The template of a view's Redis key, as it is written.
fn template_text(view: &ViewSpec) -> String {
    view.key.parts.iter().fold(String::new(), |text, part| match part {
        TemplatePart::Text(part) => text + &part.replace('{', "{{").replace('}', "}}"),
        TemplatePart::Value(program) => text + "{" + program.source() + "}",
    })
}

fn from_name(plan: &Plan, from: OutputFrom) -> String {
    let name = |table: TableId| plan.topology.tables[table.0].name.to_string();
    match from {
        OutputFrom::Table(table) => name(table),
        OutputFrom::Stale(table) => format!("{}.stale", name(table)),
    }
}
