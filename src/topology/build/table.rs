//! Tables: roles, fields and their types, windows, and the defaults of all that is left out.

use std::sync::Arc;

use smol_str::SmolStr;

use crate::codec::KeyCodec;
use crate::config::codes;
use crate::config::diagnostic::Place;
use crate::config::spec::FieldBlock;
use crate::config::spec::InputBlock;
use crate::config::spec::OwnerMissingBlock;
use crate::config::spec::TableBlock;
use crate::config::suggest;
use crate::expression::Scope;
use crate::model::Field;
use crate::model::Name;
use crate::model::Shape;
use crate::model::Type;
use crate::operators::fold::Dedupe;
use crate::operators::fold::Emit;
use crate::operators::fold::FieldRule;
use crate::operators::fold::OnLate;
use crate::operators::fold::OnStale;
use crate::operators::fold::OnTimeout;
use crate::operators::fold::OnTombstone;
use crate::operators::fold::OwnerMissing;
use crate::operators::fold::Role;
use crate::operators::fold::Rule;
use crate::operators::fold::TableInput;
use crate::operators::fold::TableSpec;
use crate::operators::fold::WhenOwnerMissing;
use crate::operators::fold::WindowSpec;
use crate::topology::build::Builder;
use crate::topology::build::BuiltTable;
use crate::topology::build::chosen;
use crate::topology::build::rule;
use crate::topology::compile::Nulls;
use crate::topology::compile::Want;
use crate::topology::compile::assignable;
use crate::topology::scope;

pub(super) const ROLES: [(&str, Role); 2] = [("owner", Role::Owner), ("contributor", Role::Contributor)];
pub(super) const ON_TOMBSTONE: [(&str, OnTombstone); 3] =
    [("delete_row", OnTombstone::DeleteRow), ("clear_fields", OnTombstone::ClearFields), ("ignore", OnTombstone::Ignore)];
pub(super) const WHEN_OWNER_MISSING: [(&str, WhenOwnerMissing); 4] = [
    ("placeholder", WhenOwnerMissing::Placeholder),
    ("buffer", WhenOwnerMissing::Buffer),
    ("drop", WhenOwnerMissing::Drop),
    ("dead_letter", WhenOwnerMissing::DeadLetter),
];
pub(super) const ON_TIMEOUT: [(&str, OnTimeout); 3] =
    [("keep", OnTimeout::Keep), ("delete", OnTimeout::Delete), ("dead_letter", OnTimeout::DeadLetter)];
pub(super) const ON_STALE: [(&str, OnStale); 3] =
    [("count", OnStale::Count), ("dead_letter", OnStale::DeadLetter), ("emit", OnStale::Emit)];
pub(super) const EMIT: [(&str, Emit); 3] = [("changes", Emit::Changes), ("every", Emit::Every), ("closed", Emit::Closed)];
pub(super) const ON_LATE: [(&str, OnLate); 3] = [("dead_letter", OnLate::DeadLetter), ("count", OnLate::Count), ("amend", OnLate::Amend)];

const DAY_MS: i64 = 86_400_000;
/// How long a deleted key is remembered: as long as Kafka's consumers may be away before their offsets are gone.
const GRAVE_DEFAULT_MS: i64 = 7 * DAY_MS;
/// How long a window is kept where nothing is said, as in Kafka Streams; never shorter than its length and grace.
const WINDOW_KEEP_DEFAULT_MS: i64 = DAY_MS;
/// Records buffered per key where nothing is said.
const MAX_PER_KEY_DEFAULT: usize = 100;

/// A field of the row while it is put together.
struct RowField {
    name: String,
    ty: Type,
    setters: Vec<Setter>,
}

/// Who sets it.
struct Setter {
    /// Index in the block's inputs.
    input: usize,
    /// Index in the input's `set`.
    line: usize,
}

/// An input's compiled lines: the field's name and its rule, `None` where it was reported.
type CompiledLines = Vec<(String, Option<Rule>)>;

impl Builder<'_> {
    pub(super) fn table(&mut self, block: &TableBlock) -> BuiltTable {
        let key = self.table_key(block);
        let key_type = key.map_or(Type::Any, scope::key_type);
        let scopes: Vec<Scope> = block.inputs.iter().map(|input| self.input_scope(input, &key_type)).collect();
        let mut fields: Vec<RowField> = Vec::new();
        let mut compiled: Vec<CompiledLines> = Vec::new();
        for (input, (input_block, scope)) in block.inputs.iter().zip(&scopes).enumerate() {
            let mut lines = CompiledLines::new();
            for (line, field) in input_block.set.iter().enumerate() {
                let built = field.rule.as_ref().and_then(|rule| self.compiler.rule(rule, scope));
                let (rule, ty) = built.map_or((None, Type::Any), |(rule, ty)| (Some(rule), ty));
                self.set_field(block, &mut fields, Setter { input, line }, field, ty);
                lines.push((field.name.value.clone(), rule));
            }
            compiled.push(lines);
        }
        let roles = roles(block);
        let has_complete = roles.contains(&Role::Contributor);
        let shape = self.shape(block, fields, has_complete);
        let inputs: Vec<Option<TableInput>> = (0..block.inputs.len())
            .map(|index| {
                self.input(block, &block.inputs[index], roles[index], &scopes[index], std::mem::take(&mut compiled[index]), &shape)
            })
            .collect();
        let dedupe = block.dedupe.as_ref().map(|_| self.dedupe(block, &scopes, &key_type));
        let row = if block.broken { Type::Any } else { Type::Object(shape.clone()) };
        let spec = || {
            let mut inputs = inputs.into_iter().collect::<Option<Vec<_>>>()?;
            inputs.sort_by(|a, b| a.source_name.cmp(&b.source_name));
            Some(TableSpec {
                name: block.name.value.clone(),
                key: key?,
                shape,
                has_complete,
                inputs,
                dedupe: dedupe.map_or(Some(None), |dedupe| dedupe.map(Some))?,
                on_stale: chosen(&block.on_stale, OnStale::default(), &ON_STALE),
                emit: chosen(&block.emit, Emit::default(), &EMIT),
                keep_ms: block.keep.as_ref().map(|keep| keep.value),
                grave_ms: block.grave.as_ref().map_or(GRAVE_DEFAULT_MS, |grave| grave.value),
                query: block.query.as_ref().is_none_or(|query| query.value),
                window: window(block),
            })
        };
        BuiltTable { row, key, windowed: block.window.is_some(), spec: spec() }
    }

    /// The codec of the sources, which must be one; a codec that is given must be the same.
    fn table_key(&mut self, block: &TableBlock) -> Option<KeyCodec> {
        let mut known: Option<(KeyCodec, &InputBlock)> = None;
        for input in &block.inputs {
            let Some(id) = self.source_id(&input.source.value) else { continue };
            let Some(codec) = self.sources[id.0].key else { continue };
            match known {
                None => known = Some((codec, input)),
                Some((first, first_input)) if first != codec => {
                    let message = format!(
                        "keys of `{}` are {}, keys of `{}` are {}",
                        input.source.value,
                        codec.name(),
                        first_input.source.value,
                        first.name()
                    );
                    let help = "all sources of a table have one codec of keys: set `key:` of the sources";
                    self.compiler
                        .diagnostics
                        .push(codes::KEY_MISMATCH, input.source.at, message)
                        .help(help)
                        .also(first_input.source.at, "the other source");
                    return None;
                }
                Some(_) => {}
            }
        }
        let of_sources = known.map(|(codec, _)| codec);
        if let (Some(given), Some(codec)) = (&block.key, of_sources)
            && given.value != codec.name()
        {
            let message = format!("the key is {}, but keys of the sources are {}", given.value, codec.name());
            self.compiler
                .diagnostics
                .push(codes::KEY_MISMATCH, given.at, message)
                .help(format!("write `key: {}`, or leave it out", codec.name()));
            return None;
        }
        of_sources
    }

    /// An unknown source was reported; its expressions are read with `any`, so that their own mistakes show too.
    fn input_scope(&self, input: &InputBlock, key_type: &Type) -> Scope {
        let event = self.source_id(&input.source.value).map_or(&Type::Any, |id| &self.sources[id.0].event);
        scope::event_scope(event, key_type)
    }

    fn set_field(&mut self, block: &TableBlock, fields: &mut Vec<RowField>, setter: Setter, line: &FieldBlock, ty: Type) {
        let name = &line.name;
        let Some(field) = fields.iter_mut().find(|field| field.name == name.value) else {
            fields.push(RowField { name: name.value.clone(), ty, setters: vec![setter] });
            return;
        };
        let first = &field.setters[0];
        let other = &block.inputs[first.input].set[first.line];
        if let (Some(rule), Some(other_rule)) = (&line.rule, &other.rule)
            && !rule::combine(rule, other_rule)
        {
            let (one, two) = (&block.inputs[first.input].source.value, &block.inputs[setter.input].source.value);
            let message = format!("`{}` is set by `{one}` with `{}` and by `{two}` with `{}`", name.value, other_rule.name(), rule.name());
            let diagnostic = self.compiler.diagnostics.push(codes::FIELD_SET_TWICE, name.at, message);
            diagnostic.help("let one source set it, or give each its own field and choose in the view: `coalesce(row.a, row.b)`");
            diagnostic.also(other.name.at, "first here");
        }
        field.ty = join(&field.ty, &ty);
        field.setters.push(setter);
    }

    /// The fields of the row in the order of the file: declared ones as declared, all others as their expressions are.
    fn shape(&mut self, block: &TableBlock, fields: Vec<RowField>, has_complete: bool) -> Arc<Shape> {
        let mut shape: Vec<Field> = Vec::new();
        let inferred: Vec<(RowField, Type)> =
            fields.into_iter().map(|field| (unset_type(block, &field), field)).map(|(ty, field)| (field, ty)).collect();
        match &block.fields {
            None => shape.extend(inferred.iter().map(|(field, ty)| Field { name: SmolStr::new(&field.name), ty: ty.clone() })),
            Some(declared) => {
                for declaration in &declared.value {
                    let ty = match inferred.iter().find(|(field, _)| field.name == declaration.name.value) {
                        Some((field, ty)) => self.declared_type(block, declaration.ty.at, &declaration.ty.value, field, ty),
                        None => {
                            if !block.broken {
                                let message = format!("`{}` is declared, but no source sets it", declaration.name.value);
                                self.compiler
                                    .diagnostics
                                    .push(codes::FIELD_NEVER_SET, declaration.name.at, message)
                                    .help("set it, or remove it from `fields`");
                            }
                            Type::nullable(declaration.ty.value.clone())
                        }
                    };
                    shape.push(Field { name: SmolStr::new(&declaration.name.value), ty });
                }
                let known: Vec<&str> = declared.value.iter().map(|declaration| declaration.name.value.as_str()).collect();
                for (field, ty) in inferred.iter().filter(|(field, _)| !known.contains(&field.name.as_str())) {
                    let at = place_of(block, &field.setters[0]);
                    let help = suggest::did_you_mean(&field.name, known.iter().copied(), "declared fields");
                    self.compiler
                        .diagnostics
                        .push(codes::UNDECLARED_FIELD, at, format!("`fields` does not declare `{}`", field.name))
                        .help_if(help);
                    shape.push(Field { name: SmolStr::new(&field.name), ty: ty.clone() });
                }
            }
        }
        if has_complete {
            for (field, _) in inferred.iter().filter(|(field, _)| field.name == "complete") {
                let message = "`complete` is what rows themselves call whether an owner has spoken";
                self.compiler
                    .diagnostics
                    .push(codes::RESERVED_FIELD, place_of(block, &field.setters[0]), message)
                    .help("give the field another name");
            }
            shape.push(Field { name: SmolStr::new_static("complete"), ty: Type::Bool });
        }
        if shape.is_empty() && !block.broken {
            let message = format!("no source of `{}` sets a field", block.name.value);
            self.compiler.diagnostics.push(codes::EMPTY_TABLE, block.name.at, message).help("add `set: { name: event.name }` to a source");
        }
        Arc::new(Shape { fields: shape })
    }

    fn declared_type(&mut self, block: &TableBlock, at: Place, declared: &Type, field: &RowField, inferred: &Type) -> Type {
        let set_at = place_of(block, &field.setters[0]);
        if !assignable(inferred.strip_nullable(), declared.strip_nullable()) {
            let message =
                format!("`{}` is declared as {}, but set as {}", field.name, declared.strip_nullable(), inferred.strip_nullable());
            let help = format!("declare `{inferred}`, or convert the expression");
            self.compiler.diagnostics.push(codes::FIELD_TYPE, at, message).help(help).also(set_at, "set here");
        } else if matches!(inferred, Type::Nullable(_)) && !matches!(declared, Type::Nullable(_) | Type::Any) {
            let message = format!("`{}` may be null: its source may not have spoken, or said nothing about it", field.name);
            self.compiler
                .diagnostics
                .push(codes::MAY_BE_NULL, at, message)
                .help(format!("declare `optional {declared}`"))
                .also(set_at, "set here");
        }
        declared.clone()
    }

    fn input(
        &mut self,
        table: &TableBlock,
        block: &InputBlock,
        role: Role,
        scope: &Scope,
        lines: CompiledLines,
        shape: &Shape,
    ) -> Option<TableInput> {
        let default_order = |text: &str| text.trim() == "time";
        let order_by: Vec<_> = match &block.order_by[..] {
            // What is the default anyway is kept out of every stored version.
            [only] if default_order(&only.text) => Vec::new(),
            several => {
                several.iter().map(|order| self.compiler.wanted(order, scope, Want::Ordered, Nulls::Refused, "`order_by`")).collect()
            }
        };
        let when = block.when.as_ref().map(|when| self.compiler.when(when, scope));
        let owner_missing = self.owner_missing(block, role);
        let source = self.source_id(&block.source.value);
        let mut rules: Vec<(String, Option<FieldRule>)> = Vec::new();
        for (name, rule) in lines {
            let field = shape.slot(&name);
            rules.push((name, rule.zip(field).map(|(rule, field)| FieldRule { field, rule })));
        }
        rules.sort_by(|a, b| a.0.cmp(&b.0));
        let on_tombstone = match (table.window.is_some(), role) {
            (true, _) => OnTombstone::Ignore,
            (false, Role::Owner) => OnTombstone::DeleteRow,
            (false, Role::Contributor) => OnTombstone::ClearFields,
        };
        Some(TableInput {
            source: source?,
            source_name: Name::parse(&block.source.value).ok()?,
            role,
            order_by: order_by.into_iter().collect::<Option<Vec<_>>>()?,
            when: when.map_or(Some(None), |program| program.map(Some))?,
            rules: rules.into_iter().map(|(_, rule)| rule).collect::<Option<Vec<_>>>()?,
            on_tombstone: chosen(&block.on_tombstone, on_tombstone, &ON_TOMBSTONE),
            owner_missing,
        })
    }

    fn owner_missing(&mut self, block: &InputBlock, role: Role) -> Option<OwnerMissing> {
        if role == Role::Owner {
            return None;
        }
        let default = OwnerMissing {
            what: WhenOwnerMissing::Placeholder,
            max_wait_ms: None,
            on_timeout: OnTimeout::Keep,
            max_per_key: MAX_PER_KEY_DEFAULT,
        };
        let Some(missing) = &block.owner_missing else { return Some(default) };
        let what = chosen(&missing.what, WhenOwnerMissing::Placeholder, &WHEN_OWNER_MISSING);
        self.check_owner_missing(missing, what);
        let max_wait_ms = missing.max_wait.as_ref().map(|wait| wait.value);
        // Whoever bounds the wait wants to hear of what was given up.
        let on_timeout = if max_wait_ms.is_some() { OnTimeout::DeadLetter } else { OnTimeout::Keep };
        Some(OwnerMissing {
            what,
            max_wait_ms,
            on_timeout: chosen(&missing.on_timeout, on_timeout, &ON_TIMEOUT),
            max_per_key: missing.max_per_key.as_ref().map_or(MAX_PER_KEY_DEFAULT, |max| max.value as usize),
        })
    }

    /// Settings that would do nothing.
    fn check_owner_missing(&mut self, block: &OwnerMissingBlock, what: WhenOwnerMissing) {
        let Some(chosen_what) = &block.what else { return };
        let waits = matches!(what, WhenOwnerMissing::Placeholder | WhenOwnerMissing::Buffer);
        let mut refuse = |at: Place, message: String, help: &str| {
            self.compiler.diagnostics.push(codes::NOT_WITH_THIS, at, message).help(help).also(chosen_what.at, "because of this");
        };
        if let (Some(wait), false) = (&block.max_wait, waits) {
            refuse(
                wait.at,
                format!("`{}` does not wait, so it has no `max_wait`", chosen_what.value),
                "leave it out, or write `do: buffer`",
            );
        }
        if let Some(max) = block.max_per_key.as_ref().filter(|_| what != WhenOwnerMissing::Buffer) {
            refuse(
                max.at,
                format!("`{}` buffers nothing, so it has no `max_per_key`", chosen_what.value),
                "leave it out, or write `do: buffer`",
            );
        }
        let Some(timeout) = &block.on_timeout else { return };
        if !waits {
            refuse(
                timeout.at,
                format!("`{}` does not wait, so it has no `on_timeout`", chosen_what.value),
                "leave it out, or write `do: buffer`",
            );
        } else if what == WhenOwnerMissing::Buffer && timeout.value != "dead_letter" {
            refuse(timeout.at, "buffered records go to the dead letters after `max_wait`".to_owned(), "leave `on_timeout` out");
        } else if block.max_wait.is_none() {
            refuse(
                timeout.at,
                "`on_timeout` without `max_wait`: the wait never ends".to_owned(),
                "add `max_wait: 30d`, or leave `on_timeout` out",
            );
        }
    }

    /// `None` if it was reported. With several sources the expression is checked for each of them, and then runs on `any`,
    /// because their events have different shapes.
    fn dedupe(&mut self, block: &TableBlock, scopes: &[Scope], key_type: &Type) -> Option<Dedupe> {
        let dedupe = block.dedupe.as_ref()?;
        let (by, duration) = (dedupe.by.as_ref()?, dedupe.duration.as_ref()?);
        if by.text.trim() == "id" {
            let mut all_have_one = true;
            for input in &block.inputs {
                let Some(source) = self.source_id(&input.source.value).map(|id| &self.spec.sources[id.0]) else { continue };
                if source.id.is_none() && !source.broken {
                    all_have_one = false;
                    let message = format!("`dedupe: {{ by: id }}`, but source `{}` has no `id`", source.name.value);
                    let diagnostic = self.compiler.diagnostics.push(codes::DEDUPE_WITHOUT_ID, by.at, message);
                    diagnostic
                        .help("add `id: event.eventId` to the source, or dedupe by an expression")
                        .also(source.name.at, "has no `id`");
                }
            }
            return all_have_one.then_some(Dedupe { by: None, for_ms: duration.value });
        }
        let checked: Vec<_> =
            scopes.iter().map(|scope| self.compiler.wanted(by, scope, Want::Scalar, Nulls::Refused, "`dedupe`")).collect();
        let mut programs = checked.into_iter().collect::<Option<Vec<_>>>()?;
        let by = match programs.len() {
            1 => programs.pop()?,
            _ => self.compiler.any(by, &scope::event_scope(&Type::Any, key_type))?,
        };
        Some(Dedupe { by: Some(by), for_ms: duration.value })
    }
}

/// The role of each input; where it is missing it was reported, and `owner` stands in.
fn roles(block: &TableBlock) -> Vec<Role> {
    block.inputs.iter().map(|input| chosen(&input.role, Role::Owner, &ROLES)).collect()
}

fn window(block: &TableBlock) -> Option<WindowSpec> {
    let window = block.window.as_ref()?;
    let size_ms = window.tumbling.as_ref()?.value;
    let grace_ms = window.grace.as_ref().map_or(0, |grace| grace.value);
    let keep_ms = window.keep.as_ref().map_or(WINDOW_KEEP_DEFAULT_MS.max(size_ms + grace_ms), |keep| keep.value);
    let idle_close_ms = window.idle_close.as_ref().map(|idle| idle.value);
    Some(WindowSpec { size_ms, grace_ms, keep_ms, idle_close_ms, on_late: chosen(&block.on_late, OnLate::default(), &ON_LATE) })
}

/// The type of a field in a row, where its source may not have spoken.
fn unset_type(block: &TableBlock, field: &RowField) -> Type {
    let neutral =
        field.setters.iter().any(|setter| block.inputs[setter.input].set[setter.line].rule.as_ref().is_some_and(rule::has_neutral_value));
    if neutral {
        return field.ty.clone();
    }
    // With one source a row is there because it has spoken; unless its tombstones clear the fields and leave the row.
    let clears = block.inputs[0].on_tombstone.as_ref().is_some_and(|choice| choice.value == "clear_fields");
    if block.inputs.len() == 1 && !clears { field.ty.clone() } else { Type::nullable(field.ty.clone()) }
}

/// The type that holds values of both.
fn join(one: &Type, other: &Type) -> Type {
    match (one, other) {
        (one, other) if one == other => one.clone(),
        (Type::Null, other) | (other, Type::Null) => Type::nullable(other.clone()),
        (Type::Nullable(one), Type::Nullable(other)) => Type::nullable(join(one, other)),
        (Type::Nullable(one), other) | (other, Type::Nullable(one)) => Type::nullable(join(one, other)),
        // `remove` knows nothing of the entries.
        (Type::Map(key, value), Type::Map(other_key, other)) if **other == Type::Any => Type::map(join(key, other_key), (**value).clone()),
        (Type::Map(key, value), Type::Map(other_key, other)) if **value == Type::Any => Type::map(join(key, other_key), (**other).clone()),
        (Type::Map(key, value), Type::Map(other_key, other)) => Type::map(join(key, other_key), join(value, other)),
        (Type::List(one), Type::List(other)) => Type::list(join(one, other)),
        _ => Type::Any,
    }
}

fn place_of(block: &TableBlock, setter: &Setter) -> Place {
    block.inputs[setter.input].set[setter.line].name.at
}
