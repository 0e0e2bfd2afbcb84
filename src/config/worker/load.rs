//! Four layers to one checked configuration, with every problem at its place.
//!
//! What is shown of a problem never holds a secret: in the text of the file a plainly written one is blotted out before
//! anything is reported, and of variables and `--set` only the names are kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::codes;
use crate::config::diagnostic::{Diagnostics, Place, SourceText};
use crate::config::env::Environment;
use crate::config::secret::{Secret, resolve};
use crate::config::suggest;
use crate::config::worker::WorkerConfig;
use crate::config::worker::check::{self, Checked, Refused, plain_password, secret_part};
use crate::config::worker::codes as worker_codes;
use crate::config::worker::settings::{Kind, SETTINGS, Setting, VARIABLE_PREFIX, find};
use crate::config::yaml::{self, Entry, Node, Style, Yaml};

/// Where settings come from, beside their defaults.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// Name and text of the worker file.
    pub file: Option<(&'a str, &'a str)>,
    /// `name=value`, as given with `--set`.
    pub set: &'a [String],
    pub environment: &'a Environment,
}

/// A configuration, or why there is none.
pub struct Loaded {
    /// `None` if anything is wrong; warnings are not wrong.
    pub config: Option<WorkerConfig>,
    /// The problems of the file, of the variables, of the command line; those that have any.
    pub problems: Vec<Diagnostics>,
    /// Every setting as it holds, for [`super::show`].
    pub effective: Vec<Effective>,
}

/// A setting as it holds.
pub struct Effective {
    pub setting: &'static Setting,
    /// As it was written; `None`: the default.
    pub written: Option<Written>,
}

/// A value as it was written.
#[derive(Clone)]
pub struct Written {
    pub raw: Raw,
    pub layer: Layer,
    pub at: Place,
}

/// Which layer a value comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Layer {
    File,
    Variable,
    Set,
}

#[derive(Clone)]
pub enum Raw {
    One(String),
    /// A list of texts with their places.
    Many(Vec<(String, Place)>),
    /// A map of texts: name, place of the name, value.
    Named(Vec<(String, Place, String)>),
}

/// Reads and checks all layers.
pub fn load(sources: Sources<'_>) -> Loaded {
    let mut loading = Loading::new(sources);
    loading.read_file();
    loading.read_variables();
    loading.read_set();
    let mut values = BTreeMap::new();
    for setting in SETTINGS {
        if let Some(value) = loading.value(setting) {
            values.insert(setting.path, value);
        }
    }
    let config = check::build(&values, &mut loading);
    let effective = SETTINGS.iter().map(|setting| Effective { setting, written: loading.written.remove(setting.path) }).collect();
    let has_errors = loading.problems.iter().any(Diagnostics::has_errors);
    let problems = loading.problems.into_iter().filter(|problems| !problems.is_empty()).collect();
    Loaded { config: config.filter(|_| !has_errors), problems, effective }
}

/// What has been read so far.
pub struct Loading<'a> {
    sources: Sources<'a>,
    /// One for each [`Layer`].
    problems: [Diagnostics; 3],
    written: BTreeMap<&'static str, Written>,
}

impl<'a> Loading<'a> {
    fn new(sources: Sources<'a>) -> Loading<'a> {
        let (name, text) = sources.file.unwrap_or(("worker file", ""));
        let variables: Vec<String> = variables(sources.environment).map(|(name, _)| format!("{name}\n")).collect();
        let set: Vec<String> = sources.set.iter().map(|set| format!("--set {}\n", set.split('=').next().unwrap_or_default())).collect();
        let list = |name: &str, text: String| Diagnostics::new(SourceText::new(name, text));
        let problems = [list(name, text.to_owned()), list("environment", variables.concat()), list("command line", set.concat())];
        Loading { sources, problems, written: BTreeMap::new() }
    }

    pub fn environment(&self) -> &'a Environment {
        self.sources.environment
    }

    /// Reports a problem of a setting where it is written; of one that is not, where another one is that has to do with it.
    pub fn report(&mut self, paths: &[&str], refused: Refused) {
        let written = paths.iter().find_map(|path| self.written.get(path));
        let (layer, at) = written.map_or((Layer::File, Place::default()), |written| (written.layer, written.at));
        self.push(layer, at, refused);
    }

    /// Reports a problem of one setting of librdkafka.
    pub fn report_client(&mut self, name: &str, refused: Refused) {
        let Some(Written { raw: Raw::Named(named), layer, at }) = self.written.get("kafka.client") else { return };
        let at = named.iter().find(|(known, ..)| known == name).map_or(*at, |(_, at, _)| *at);
        self.push(*layer, at, refused);
    }

    /// Whether a setting is there, good or not.
    pub fn is_written(&self, path: &str) -> bool {
        self.written.contains_key(path)
    }

    fn push(&mut self, layer: Layer, at: Place, refused: Refused) {
        self.problems[layer as usize].push(refused.code, at, refused.message).help_if(refused.help);
    }

    fn read_file(&mut self) {
        // A file without any text is a file that sets nothing.
        if self.sources.file.is_none_or(|(_, text)| text.trim().is_empty()) {
            return;
        }
        let Some(mut root) = yaml::parse(&mut self.problems[0]) else { return };
        if let Some(blotted) = blot(&self.problems[0].file, &root) {
            self.problems[0] = Diagnostics::new(blotted);
            let Some(again) = yaml::parse(&mut self.problems[0]) else { return };
            root = again;
        }
        match &root.value {
            Yaml::Mapping(entries) => self.read_entries("", entries),
            Yaml::Scalar(_) if is_null(&root) => {}
            Yaml::Broken => {}
            _ => {
                let message = format!("a worker file is a map of settings, this is {}", root.describe());
                self.problems[0].push(codes::WRONG_SHAPE, root.at, message);
            }
        }
    }

    fn read_entries(&mut self, prefix: &str, entries: &[Entry]) {
        for entry in entries {
            let path = format!("{prefix}{}", entry.key);
            let is_section = SETTINGS.iter().any(|setting| setting.path.starts_with(&format!("{path}.")));
            match find(&path) {
                Some(setting) => self.read_entry(setting, entry),
                None if is_section => match &entry.value.value {
                    Yaml::Mapping(entries) => self.read_entries(&format!("{path}."), entries),
                    Yaml::Broken => {}
                    _ if is_null(&entry.value) => {}
                    _ => {
                        let message = format!("`{path}` is a map of settings, this is {}", entry.value.describe());
                        self.problems[0].push(codes::WRONG_SHAPE, entry.value.at, message);
                    }
                },
                None => {
                    let refused = unknown(&path);
                    self.push(Layer::File, entry.key_at, refused);
                }
            }
        }
    }

    fn read_entry(&mut self, setting: &'static Setting, entry: &Entry) {
        let node = &entry.value;
        if node.is_broken() {
            return;
        }
        // The parser writes `~` for nothing; what stands in the file is wider.
        if node.is_empty() || node.at.start == node.at.end {
            let help = format!("leave it out for its default, or give it a value: {}", setting.summary);
            self.problems[0].push(codes::EMPTY_VALUE, entry.key_at, format!("`{}` has no value", setting.path)).help(help);
            return;
        }
        if is_null(node) {
            return;
        }
        match raw(setting, node) {
            Some(raw) => {
                self.written.insert(setting.path, Written { raw, layer: Layer::File, at: node.at });
            }
            None => {
                let message = format!("`{}` does not take {}", setting.path, node.describe());
                self.problems[0].push(codes::WRONG_SHAPE, node.at, message).help(setting.summary);
            }
        }
    }

    fn read_variables(&mut self) {
        let mut at = 0;
        for (name, value) in variables(self.sources.environment) {
            let place = Place { start: at, end: at + name.len() };
            at = place.end + 1;
            match SETTINGS.iter().find(|setting| setting.variable() == name && setting.kind != Kind::Client) {
                Some(setting) => self.override_with(setting, value, Layer::Variable, place),
                // One that a reference names is somebody's, whatever it is called.
                None if self.is_referenced(name) => {}
                None => {
                    let all: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
                    let help = suggest::nearest(name, all.iter().map(String::as_str)).map(|near| format!("did you mean `{near}`?"));
                    let message = format!("`{name}` is not a setting");
                    self.push(Layer::Variable, place, Refused { code: worker_codes::UNKNOWN_VARIABLE, message, help });
                }
            }
        }
    }

    fn is_referenced(&self, variable: &str) -> bool {
        let reference = format!("${{env:{variable}}}");
        let file = self.sources.file.map(|(_, text)| text);
        file.into_iter().chain(self.sources.set.iter().map(String::as_str)).any(|text| text.contains(&reference))
    }

    fn read_set(&mut self) {
        const PREFIX: usize = "--set ".len();
        let mut at = 0;
        for set in self.sources.set {
            let path = set.split('=').next().unwrap_or_default();
            let place = Place { start: at + PREFIX, end: at + PREFIX + path.len() };
            at = place.end + 1;
            let Some((path, value)) = set.split_once('=') else {
                let message = format!("`--set {path}` has no value");
                let help = Some("write `--set name=value`".to_owned());
                self.push(Layer::Set, place, Refused { code: worker_codes::BAD_OVERRIDE, message, help });
                continue;
            };
            match (find(path), path.strip_prefix("kafka.client.")) {
                (None, Some(name)) => self.add_client(name, value, place),
                (Some(setting), _) if setting.kind != Kind::Client => self.override_with(setting, value, Layer::Set, place),
                _ => self.push(Layer::Set, place, unknown(path)),
            }
        }
    }

    fn override_with(&mut self, setting: &'static Setting, value: &str, layer: Layer, at: Place) {
        let raw = match setting.kind {
            Kind::Tokens => Raw::Many(value.split(',').map(|token| (token.trim().to_owned(), at)).collect()),
            _ => Raw::One(value.to_owned()),
        };
        self.written.insert(setting.path, Written { raw, layer, at });
    }

    /// One more setting of librdkafka, in the place of one of the same name.
    fn add_client(&mut self, name: &str, value: &str, at: Place) {
        let empty = Written { raw: Raw::Named(Vec::new()), layer: Layer::Set, at };
        let written = self.written.entry("kafka.client").or_insert(empty);
        // Problems of the merged map are shown where it was touched last.
        (written.layer, written.at) = (Layer::Set, at);
        if let Raw::Named(named) = &mut written.raw {
            named.retain(|(known, ..)| known != name);
            named.push((name.to_owned(), at, value.to_owned()));
            for (_, place, _) in named {
                *place = at;
            }
        }
    }

    /// The checked value of a setting; `None` where there is none, or where it was reported.
    fn value(&mut self, setting: &'static Setting) -> Option<Checked> {
        let Some(written) = self.written.get(setting.path).cloned() else {
            return setting.default.and_then(|default| check::check(setting, default).ok());
        };
        match written.raw {
            Raw::One(text) => self.one(setting, &text, written.layer, written.at),
            Raw::Many(texts) => {
                let mut secrets = Vec::new();
                for (text, at) in texts {
                    if let Some(Checked::Secret(secret)) = self.one(setting, &text, written.layer, at) {
                        secrets.push(secret);
                    }
                }
                Some(Checked::Secrets(secrets))
            }
            Raw::Named(named) => {
                let mut pairs = Vec::new();
                for (name, at, text) in named {
                    if let Some(Checked::Text(value)) = self.one(setting, &text, written.layer, at) {
                        pairs.push((name, value));
                    }
                }
                pairs.sort();
                Some(Checked::Pairs(pairs))
            }
        }
    }

    fn one(&mut self, setting: &'static Setting, text: &str, layer: Layer, at: Place) -> Option<Checked> {
        let outcome = self.checked(setting, text, layer);
        outcome.map_err(|refused| self.push(layer, at, refused)).ok()
    }

    fn checked(&self, setting: &'static Setting, text: &str, layer: Layer) -> Result<Checked, Refused> {
        let resolved = resolve(text, self.sources.environment).map_err(|unresolved| Refused {
            code: worker_codes::UNRESOLVED_REFERENCE,
            message: format!("{}, for `{}`", unresolved.message, setting.path),
            help: Some(unresolved.help),
        })?;
        let is_plain = setting.is_secret() && !resolved.has_references || setting.kind == Kind::Url && plain_password(text).is_some();
        // A variable is where secrets come from; what it holds need not be said again.
        if is_plain && layer != Layer::Variable {
            let message = format!("`{}` holds a secret in plain text", setting.path);
            let help = "write `${env:NAME}` for a variable, `${file:/path}` for the content of a file; change the secret if others saw it";
            return Err(Refused { code: worker_codes::PLAIN_SECRET, message, help: Some(help.to_owned()) });
        }
        if setting.is_secret() {
            return check::secret(setting, Secret::new(resolved.text));
        }
        check::check(setting, &resolved.text).map_err(|refused| {
            // What came out of a reference may be a secret; say where it came from.
            if resolved.has_references && refused.message.contains(&resolved.text) {
                Refused { message: format!("`{}` cannot be what `{text}` holds", setting.path), ..refused }
            } else {
                refused
            }
        })
    }
}

/// Variables with our prefix, in the order of their names. Kubernetes sets some of its own for every service in reach
/// (`MILLSTREAM_SERVICE_HOST`, `MILLSTREAM_PORT_8080_TCP`): those are nobody's mistake.
fn variables(environment: &Environment) -> impl Iterator<Item = (&str, &str)> {
    let is_kubernetes = |name: &str, value: &str| name.contains("_SERVICE_") || name.contains("_TCP") || value.starts_with("tcp://");
    let all = environment.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    all.filter(move |(name, value)| name.starts_with(VARIABLE_PREFIX) && !value.is_empty() && !is_kubernetes(name, value))
}

/// `null` and `~` stand for the default.
fn is_null(node: &Node) -> bool {
    let is_null = |text: &str| matches!(text, "null" | "~");
    node.scalar().is_some_and(|scalar| scalar.style == Style::Plain && is_null(&scalar.text))
}

fn raw(setting: &Setting, node: &Node) -> Option<Raw> {
    let text = |node: &Node| node.scalar().map(|scalar| scalar.text.clone());
    match (&node.value, setting.kind) {
        (Yaml::Sequence(items), Kind::Tokens) => {
            Some(Raw::Many(items.iter().map(|item| Some((text(item)?, item.at))).collect::<Option<_>>()?))
        }
        (Yaml::Scalar(scalar), Kind::Tokens) => Some(Raw::Many(vec![(scalar.text.clone(), node.at)])),
        (Yaml::Mapping(entries), Kind::Client) => {
            let named = entries.iter().map(|entry| Some((entry.key.clone(), entry.key_at, text(&entry.value)?)));
            Some(Raw::Named(named.collect::<Option<_>>()?))
        }
        (_, Kind::Client) => None,
        (Yaml::Scalar(scalar), _) => Some(Raw::One(scalar.text.clone())),
        _ => None,
    }
}

fn unknown(path: &str) -> Refused {
    let prefix = path.rfind('.').map_or("", |dot| &path[..=dot]);
    let near = suggest::nearest(path, SETTINGS.iter().map(|setting| setting.path));
    // `brokers` outside of its section is as likely as a slip of the finger.
    let elsewhere = SETTINGS.iter().map(|setting| setting.path).find(|known| known.rsplit('.').next() == path.rsplit('.').next());
    let sections =
        || SETTINGS.iter().filter_map(|setting| setting.path.strip_prefix(prefix)).map(|rest| rest.split('.').next().unwrap_or(rest));
    let help = match near.or(elsewhere) {
        Some(known) => format!("did you mean `{known}`?"),
        None => {
            let mut names: Vec<&str> = sections().collect();
            names.dedup();
            format!("settings: {}", suggest::list(&names))
        }
    };
    Refused { code: worker_codes::UNKNOWN_SETTING, message: format!("there is no setting `{path}`"), help: Some(help) }
}

/// The text of the file with every plainly written secret overwritten, if there is one.
fn blot(file: &Arc<SourceText>, root: &Node) -> Option<Arc<SourceText>> {
    let mut places = Vec::new();
    secrets("", root, &mut places);
    let mut text = file.text.clone();
    for at in &places {
        // Letters, so that the text stays the YAML that it was; as many bytes, so that no place moves.
        let blotted: String =
            file.slice(*at).chars().map(|c| if c.is_ascii_punctuation() { c.to_string() } else { "x".repeat(c.len_utf8()) }).collect();
        text.replace_range(at.start..at.end, &blotted);
    }
    (!places.is_empty()).then(|| SourceText::new(file.name.clone(), text))
}

/// Places of secrets that are not references. As deep as settings nest.
fn secrets(path: &str, node: &Node, places: &mut Vec<Place>) {
    match &node.value {
        Yaml::Mapping(entries) => {
            for entry in entries {
                let path = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
                secrets(&path, &entry.value, places);
            }
        }
        Yaml::Sequence(items) => items.iter().for_each(|item| secrets(path, item, places)),
        Yaml::Scalar(_) if is_null(node) => {}
        Yaml::Scalar(scalar) => {
            let is_secret = find(path).is_some_and(Setting::is_secret) && !scalar.text.contains("${");
            let is_url = find(path).is_some_and(|setting| setting.kind == Kind::Url) && secret_part(&scalar.text).is_some();
            // Other settings of the client may hold a password, too: `sasl.password` in the wrong place.
            let is_client = path.starts_with("kafka.client.") && path.contains("password");
            if is_secret || is_url || is_client {
                places.push(node.at);
            }
        }
        Yaml::Broken => {}
    }
}
