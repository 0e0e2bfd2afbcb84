//! Nodes to a `Spec`, collecting every problem. One file per part of the language; this one has what they share.
//!
//! Each reader returns `None` after it has reported why; a broken node was reported before, so it is passed over silently.

mod file;
mod output;
mod source;
mod table;
mod test;
mod view;

use crate::config::codes;
use crate::config::diagnostic::Diagnostics;
use crate::config::diagnostic::Place;
use crate::config::diagnostic::Placed;
use crate::config::duration;
use crate::config::keys::Block;
use crate::config::keys::Choice;
use crate::config::keys::NameKind;
use crate::config::keys::Need;
use crate::config::keys::THING_LENGTH_MAX;
use crate::config::spec::Chosen;
use crate::config::spec::Expression;
use crate::config::spec::FieldDeclaration;
use crate::config::spec::Mapped;
use crate::config::spec::NamedExpressions;
use crate::config::suggest;
use crate::config::traps::quoted;
use crate::config::types;
use crate::config::yaml::Entry;
use crate::config::yaml::Node;
use crate::config::yaml::Scalar;
use crate::config::yaml::Style;
use crate::config::yaml::Yaml;
use crate::model::Field;
use crate::model::Name;
use crate::model::Shape;
use crate::model::Timestamp;
use crate::model::Type;

pub use file::read;

/// Reads parts of a file and collects what is wrong with them.
pub struct Reader<'a> {
    pub diagnostics: &'a mut Diagnostics,
}

/// The entries of a block, known to be keys of it, each once and with a value.
pub struct Fields<'n> {
    block: &'static Block,
    entries: Vec<&'n Entry>,
    /// Something of the block's own shape was reported.
    pub broken: bool,
}

impl<'n> Fields<'n> {
    /// The value of a key; `None` if it is left out or was reported.
    pub fn get(&self, key: &'static str) -> Option<&'n Node> {
        debug_assert!(self.block.key(key).is_some(), "`{key}` is not a key of {}", self.block.name);
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The keys that are there, with their places.
    pub fn keys(&self) -> impl Iterator<Item = (&'n str, Place)> + '_ {
        self.entries.iter().map(|entry| (entry.key.as_str(), entry.key_at))
    }
}

impl Reader<'_> {
    /// A map with fixed keys: reports unknown, planned, empty and missing ones.
    pub fn block<'n>(&mut self, node: &'n Node, block: &'static Block) -> Option<Fields<'n>> {
        let entries = self.entries(node, block.name)?;
        let mut fields = Fields { block, entries: Vec::new(), broken: false };
        let mut unknown: Vec<&str> = Vec::new();
        let mut is_planned = false;
        for entry in entries {
            let Some(key) = block.key(&entry.key) else {
                fields.broken = true;
                unknown.push(&entry.key);
                self.unknown_key(entry, block);
                continue;
            };
            if let Need::Later(with) = key.need {
                fields.broken = true;
                is_planned = true;
                let message = format!("`{}` of {} comes with {with}", key.name, block.name);
                self.diagnostics.push(codes::NOT_YET, entry.key_at, message).help("leave it out until a version of Millstream has it");
            } else if entry.value.is_empty() {
                fields.broken = true;
                let help = format!("give it a value, or remove it: {}", lower_first(key.summary));
                self.diagnostics.push(codes::EMPTY_VALUE, entry.key_at, format!("`{}` has no value", key.name)).help(help);
            } else {
                fields.broken |= entry.value.is_broken();
                fields.entries.push(entry);
            }
        }
        let there: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
        for key in block.keys.iter().filter(|key| key.need == Need::Required && !there.contains(&key.name)) {
            fields.broken = true;
            // `topc: x` is one mistake: it was reported as an unknown key that is nearest to the missing one. And what is
            // planned may do without keys that must be there today.
            if is_planned || unknown.iter().any(|wrong| suggest::nearest(wrong, [key.name]).is_some()) {
                continue;
            }
            let at = self.head(node);
            let summary = key.summary.split(". ").next().unwrap_or_default();
            let help = format!("add `{}:`, {}", key.name, lower_first(summary));
            self.diagnostics.push(codes::MISSING_KEY, at, format!("{} has no `{}`", block.name, key.name)).help(help);
        }
        Some(fields)
    }

    fn unknown_key(&mut self, entry: &Entry, block: &'static Block) {
        let known = block.keys.iter().filter(|key| !matches!(key.need, Need::Later(_))).map(|key| key.name);
        let help = match block.keys.is_empty() {
            true => Some("leave it out".to_owned()),
            false => suggest::did_you_mean(&entry.key, known, "keys"),
        };
        let message = format!("{} has no key `{}`", block.name, entry.key);
        self.diagnostics.push(codes::UNKNOWN_KEY, entry.key_at, message).help_if(help);
    }

    /// Where to point at when something is missing in a map: its first line.
    fn head(&self, node: &Node) -> Place {
        match &node.value {
            Yaml::Mapping(entries) => match entries.first() {
                Some(first) if first.key_at.start == node.at.start => first.key_at,
                _ => Place { start: node.at.start, end: (node.at.start + 1).min(node.at.end) },
            },
            _ => node.at,
        }
    }

    /// The entries of a map, whatever its keys.
    pub fn entries<'n>(&mut self, node: &'n Node, noun: &str) -> Option<&'n [Entry]> {
        match &node.value {
            Yaml::Mapping(entries) => Some(entries),
            Yaml::Broken => None,
            Yaml::Scalar(_) | Yaml::Sequence(_) => {
                self.wrong_shape(node, &format!("{noun} is a map"));
                None
            }
        }
    }

    /// The items of a list.
    pub fn items<'n>(&mut self, node: &'n Node, noun: &str) -> Option<&'n [Node]> {
        match &node.value {
            Yaml::Sequence(items) => Some(items),
            Yaml::Broken => None,
            Yaml::Scalar(_) | Yaml::Mapping(_) => {
                self.wrong_shape(node, &format!("{noun} is a list"));
                None
            }
        }
    }

    pub fn wrong_shape(&mut self, node: &Node, expected: &str) {
        if !node.is_broken() {
            let help = match (&node.value, expected.ends_with(" is a map"), expected.ends_with(" is a list")) {
                (Yaml::Sequence(_), true, _) => Some("write its entries as `name: …`, without `-`"),
                (Yaml::Mapping(_), _, true) => Some("begin each of its entries with `- `"),
                (Yaml::Scalar(_), true, _) => Some("write `{ name: … }`, or `name: …` below it, indented"),
                (Yaml::Scalar(_), _, true) => Some("write `[…]`, or its entries below it, each after `- `"),
                _ => None,
            };
            let message = format!("{expected}, not {}", node.describe());
            self.diagnostics.push(codes::WRONG_SHAPE, node.at, message).help_if(help.map(str::to_owned));
        }
    }

    /// A scalar, whatever it says.
    pub fn scalar<'n>(&mut self, node: &'n Node, noun: &str) -> Option<&'n Scalar> {
        if let Yaml::Scalar(scalar) = &node.value {
            return Some(scalar);
        }
        self.wrong_shape(node, &format!("{noun} is expected"));
        None
    }

    pub fn text(&mut self, node: &Node, noun: &str) -> Option<Placed<String>> {
        self.scalar(node, noun).map(|scalar| Placed::new(scalar.text.clone(), node.at))
    }

    /// An expression or a template: text that YAML has not taken apart.
    pub fn expression(&mut self, node: &Node) -> Option<Expression> {
        match &node.value {
            Yaml::Broken => None,
            Yaml::Scalar(scalar) if scalar.text.trim().is_empty() => {
                self.diagnostics.push(codes::EMPTY_VALUE, node.at, "an expression is expected, found nothing");
                None
            }
            Yaml::Scalar(scalar) => Some(Expression { text: scalar.text.clone(), at: node.at, style: scalar.style }),
            Yaml::Sequence(_) | Yaml::Mapping(_) => {
                let raw = self.diagnostics.file.slice(node.at).to_owned();
                let one_line = !raw.contains('\n');
                let message = format!("an expression is expected, but YAML reads {} here", node.describe());
                let help = if one_line {
                    format!("if this is an expression, quote it: `{}`", quoted(&raw))
                } else {
                    "write one expression, in quotes if it begins with a bracket".to_owned()
                };
                self.diagnostics.push(codes::EXPRESSION_IS_MAP, node.at, message).help(help);
                None
            }
        }
    }

    /// A map of named expressions.
    pub fn named_expressions(&mut self, node: &Node, noun: &str, kind: NameKind) -> Option<Placed<NamedExpressions>> {
        let entries = self.entries(node, noun)?;
        let mut named = Vec::with_capacity(entries.len());
        for entry in entries {
            let expression = self.value_of(entry).and_then(|node| self.expression(node));
            if let Some(name) = self.user_name(entry, kind) {
                named.push((name, expression));
            }
        }
        Some(Placed::new(named, node.at))
    }

    /// A map of fields, or one expression.
    pub fn mapped(&mut self, node: &Node, noun: &str) -> Option<Mapped> {
        match &node.value {
            Yaml::Mapping(_) => self.named_expressions(node, noun, NameKind::Free).map(Mapped::Fields),
            _ => self.expression(node).map(Mapped::Whole),
        }
    }

    /// The value of an entry with a user's key; reports an empty one.
    pub fn value_of<'n>(&mut self, entry: &'n Entry) -> Option<&'n Node> {
        if entry.value.is_empty() {
            self.diagnostics
                .push(codes::EMPTY_VALUE, entry.key_at, format!("`{}` has no value", entry.key))
                .help("give it a value, or remove it");
            return None;
        }
        (!entry.value.is_broken()).then_some(&entry.value)
    }

    /// A key that the user chose.
    pub fn user_name(&mut self, entry: &Entry, kind: NameKind) -> Option<Placed<String>> {
        let name = &entry.key;
        let (good, rule) = match kind {
            NameKind::Free => (!name.is_empty(), "at least one character"),
            NameKind::Field => (is_identifier(name), "letters, digits and `_`, not a digit first"),
            NameKind::Thing => (is_thing(name), "a to z, digits and `_`, a letter first, at most 64 characters"),
        };
        if good {
            return Some(Placed::new(name.clone(), entry.key_at));
        }
        let proposal = thing_like(name);
        let help = is_thing(&proposal).then(|| format!("write `{proposal}`"));
        self.diagnostics.push(codes::BAD_NAME, entry.key_at, format!("`{name}` is not a name here: {rule}")).help_if(help);
        None
    }

    /// The name of a source, table, view or output.
    pub fn thing(&mut self, entry: &Entry) -> Option<Placed<Name>> {
        let name = self.user_name(entry, NameKind::Thing)?;
        // What `is_thing` lets through is a name.
        Name::parse(&name.value).ok().map(|parsed| Placed::new(parsed, name.at))
    }

    /// A topic or an app.
    pub fn topic(&mut self, node: &Node, length_max: usize) -> Option<Placed<Name>> {
        let text = self.text(node, "a name")?;
        match Name::parse(&text.value) {
            Ok(name) if name.len() <= length_max => Some(Placed::new(name, text.at)),
            _ => {
                let message = format!("`{}` is not a name that Kafka takes", text.value);
                let help = format!("use 1 to {length_max} of the characters A-Z a-z 0-9 . _ -");
                self.diagnostics.push(codes::BAD_TOPIC, node.at, message).help(help);
                None
            }
        }
    }

    /// Milliseconds, at least `min_ms`.
    pub fn duration(&mut self, node: &Node, min_ms: i64) -> Option<Placed<i64>> {
        let text = self.text(node, "a duration such as `30s`")?;
        match duration::parse(&text.value) {
            Ok(ms) if ms >= min_ms => Some(Placed::new(ms, node.at)),
            Ok(_) => {
                let message = format!("`{}` is too short", text.value);
                self.diagnostics.push(codes::BAD_DURATION, node.at, message).help(format!("write at least `{}`", duration::show(min_ms)));
                None
            }
            Err(reason) => {
                let message = format!("`{}` is not a duration: {reason}", text.value);
                let help = "write a whole number and its unit: `500ms`, `30s`, `1m`, `2h`, `7d`, or several: `1h30m`";
                self.diagnostics.push(codes::BAD_DURATION, node.at, message).help(help);
                None
            }
        }
    }

    /// A point in time, in milliseconds since 1970.
    pub fn moment(&mut self, node: &Node) -> Option<i64> {
        let text = self.text(node, "a time such as `2026-01-01T00:00:00Z`")?;
        let ms = text.value.parse::<i64>().ok().or_else(|| Timestamp::parse(&text.value).map(|time| time.to_ms().0));
        if ms.is_none() {
            let message = format!("`{}` is not a time", text.value);
            self.diagnostics
                .push(codes::WRONG_SHAPE, node.at, message)
                .help("write RFC 3339, such as `2026-01-01T00:00:00Z`, or milliseconds since 1970");
        }
        ms
    }

    pub fn count(&mut self, node: &Node, min: u64, max: u64) -> Option<Placed<u64>> {
        let scalar = self.scalar(node, "a whole number")?;
        let number = scalar.text.replace('_', "").parse::<u64>().ok();
        match number {
            Some(number) if (min..=max).contains(&number) => Some(Placed::new(number, node.at)),
            Some(number) => {
                let message = if number < min {
                    format!("{number} is too small: at least {min}")
                } else {
                    format!("{number} is too large: at most {max}")
                };
                self.diagnostics.push(codes::BAD_NUMBER, node.at, message);
                None
            }
            None => {
                self.diagnostics
                    .push(codes::BAD_NUMBER, node.at, format!("`{}` is not a whole number", scalar.text))
                    .help("write digits only");
                None
            }
        }
    }

    pub fn flag(&mut self, node: &Node) -> Option<Placed<bool>> {
        let scalar = self.scalar(node, "`true` or `false`")?;
        match (scalar.style, scalar.text.as_str()) {
            (Style::Plain, "true") => Some(Placed::new(true, node.at)),
            (Style::Plain, "false") => Some(Placed::new(false, node.at)),
            (_, text) => {
                let message = format!("`{text}` is neither true nor false");
                let likely = match text.to_lowercase().as_str() {
                    "true" | "yes" | "on" | "1" | "y" => "write `true`, without quotes",
                    "false" | "no" | "off" | "0" | "n" => "write `false`, without quotes",
                    _ => "write `true` or `false`",
                };
                self.diagnostics.push(codes::BAD_BOOLEAN, node.at, message).help(likely);
                None
            }
        }
    }

    pub fn choice(&mut self, node: &Node, choices: &'static [Choice]) -> Option<Chosen> {
        let names: Vec<&str> = choices.iter().filter(|choice| choice.later.is_none()).map(|choice| choice.name).collect();
        let scalar = self.scalar(node, &format!("one of {}", suggest::list(&names)))?;
        let Some(choice) = choices.iter().find(|choice| choice.name == scalar.text) else {
            let help = suggest::did_you_mean(&scalar.text, names.iter().copied(), "choices");
            self.diagnostics.push(codes::UNKNOWN_CHOICE, node.at, format!("`{}` is not one of the choices", scalar.text)).help_if(help);
            return None;
        };
        if let Some(with) = choice.later {
            let help = format!("until then: {}", suggest::list(&names));
            self.diagnostics.push(codes::NOT_YET, node.at, format!("`{}` comes with {with}", choice.name)).help(help);
            return None;
        }
        Some(Placed::new(choice.name, node.at))
    }

    /// Declared fields, in the order of the file.
    pub fn field_declarations(&mut self, node: &Node, kind: NameKind) -> Option<Placed<Vec<FieldDeclaration>>> {
        let entries = self.entries(node, "`fields`")?;
        let mut fields = Vec::with_capacity(entries.len());
        for entry in entries {
            let ty = self.value_of(entry).map_or(Type::Any, |node| self.field_type(node));
            if let Some(name) = self.user_name(entry, kind) {
                fields.push(FieldDeclaration { name, ty: Placed::new(ty, entry.value.at) });
            }
        }
        Some(Placed::new(fields, node.at))
    }

    /// A type as text, or a nested map of fields; `any` where it was reported. Bounded by the depth of the file.
    fn field_type(&mut self, node: &Node) -> Type {
        match &node.value {
            Yaml::Broken => Type::Any,
            Yaml::Mapping(entries) => {
                let mut fields = Vec::with_capacity(entries.len());
                for entry in entries {
                    let ty = self.value_of(entry).map_or(Type::Any, |node| self.field_type(node));
                    fields.push(Field { name: entry.key.as_str().into(), ty });
                }
                Type::Object(Shape { fields }.into())
            }
            Yaml::Sequence(_) => {
                self.diagnostics.push(codes::BAD_TYPE, node.at, "a type is expected, not a list").help("write `list<string>`");
                Type::Any
            }
            Yaml::Scalar(scalar) => match types::parse(&scalar.text) {
                Ok(ty) => ty,
                Err(problem) => {
                    let at = Expression { text: scalar.text.clone(), at: node.at, style: scalar.style }
                        .place_of(&self.diagnostics.file, problem.at);
                    self.diagnostics.push(codes::BAD_TYPE, at, problem.message).help_if(problem.help);
                    Type::Any
                }
            },
        }
    }
}

fn lower_first(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|c| c.to_lowercase().to_string()).unwrap_or_default();
    (first + characters.as_str()).trim_end_matches('.').to_owned()
}

/// `[a-z][a-z0-9_]*`, not too long.
fn is_thing(name: &str) -> bool {
    let rest = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
    name.bytes().next().is_some_and(|c| c.is_ascii_lowercase()) && name.bytes().all(rest) && name.len() <= THING_LENGTH_MAX
}

fn is_identifier(name: &str) -> bool {
    name.bytes().next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_')
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

/// The nearest name of a thing: `Price-Updated` and `priceUpdated` become `price_updated`.
fn thing_like(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && out.ends_with(|before: char| before.is_ascii_lowercase() || before.is_ascii_digit()) {
            out.push('_');
        }
        out.push(if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' });
    }
    out.trim_matches('_').trim_start_matches(|c: char| c.is_ascii_digit()).to_owned()
}
