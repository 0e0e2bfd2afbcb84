//! The settings as text: what holds for one worker (`--print-config`), and all there is (`config/worker.yaml`).
//!
//! Neither holds a secret. What was written as a reference is shown as the reference, unless it is known to be harmless.

use crate::config::secret::MASK;
use crate::config::worker::check::secret_part;
use crate::config::worker::load::{Layer, Loaded, Raw, Written};
use crate::config::worker::settings::{Kind, SETTINGS, Setting};

/// Where the comments of a line begin.
const COMMENT_COLUMN: usize = 44;

/// The settings of a worker as YAML, each with where it comes from.
pub fn show(loaded: &Loaded) -> String {
    let mut text = String::new();
    let mut section = Vec::new();
    for effective in &loaded.effective {
        let setting = effective.setting;
        let (value, origin) = match &effective.written {
            Some(written) => (shown(setting, written), origin(setting, written.layer)),
            None => (setting.default.map_or_else(|| "null".to_owned(), quoted), default_words(setting)),
        };
        line(&mut text, &mut section, setting, &value, &origin);
    }
    text
}

/// Every setting with its default, and what it is for in a comment.
pub fn document() -> String {
    let mut text = String::from(HEAD);
    let mut section = Vec::new();
    for setting in SETTINGS {
        let value = setting.default.map_or_else(|| "null".to_owned(), quoted);
        let mut words = setting.summary.to_owned();
        if setting.default.is_none() {
            words.push_str(&format!(" Default: {}.", setting.otherwise));
        }
        if let Some(bounds) = bounds(setting.kind) {
            words.push_str(&format!(" {bounds}"));
        }
        line(&mut text, &mut section, setting, &value, &words);
    }
    text
}

const HEAD: &str = "\
# Where an app runs: every setting of a worker with its default. Delete what you do not change.
#
# Over this file go variables (MILLSTREAM_KAFKA_BROKERS=…) and then `--set kafka.brokers=…`; `null` is the default. Durations carry
# a unit (ms s m h d), sizes too (B KiB MiB GiB). Secrets are never written here: ${env:NAME} takes a variable, ${file:/path} the
# content of a file. `millstream run TOPOLOGY --config FILE --print-config` shows what holds, secrets masked.
# This file is written by `millstream describe settings`.
";

/// Adds a setting, and the headings that lead to it.
fn line(text: &mut String, section: &mut Vec<&'static str>, setting: &'static Setting, value: &str, comment: &str) {
    let mut parts: Vec<&str> = setting.path.split('.').collect();
    let name = parts.pop().unwrap_or_default();
    let common = section.iter().zip(&parts).take_while(|(a, b)| a == b).count();
    for (depth, part) in parts.iter().enumerate().skip(common) {
        if depth == 0 {
            text.push('\n');
        }
        text.push_str(&format!("{}{part}:\n", "  ".repeat(depth)));
    }
    if parts.is_empty() && !section.is_empty() {
        text.push('\n');
    }
    let start = format!("{}{name}: {value}", "  ".repeat(parts.len()));
    text.push_str(&format!("{start:<COMMENT_COLUMN$} # {comment}\n"));
    *section = parts;
}

fn shown(setting: &Setting, written: &Written) -> String {
    let one = |text: &str| {
        let is_plain = setting.is_secret() && !text.contains("${");
        let password = if setting.kind == Kind::Url { secret_part(text) } else { None };
        match password {
            _ if is_plain => quoted(MASK),
            Some(password) => quoted(&text.replace(password, MASK)),
            None => quoted(text),
        }
    };
    match &written.raw {
        Raw::One(text) => one(text),
        Raw::Many(texts) => format!("[{}]", texts.iter().map(|(text, _)| one(text)).collect::<Vec<_>>().join(", ")),
        Raw::Named(named) => {
            let is_secret = |name: &str| name.contains("password") || name.contains("secret");
            let pair = |(name, _, text): &(String, _, String)| {
                let value = if is_secret(name) && !text.contains("${") { quoted(MASK) } else { quoted(text) };
                format!("{}: {value}", quoted(name))
            };
            format!("{{ {} }}", named.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
    }
}

fn origin(setting: &Setting, layer: Layer) -> String {
    match layer {
        Layer::File => "file".to_owned(),
        Layer::Variable => setting.variable(),
        Layer::Set => "--set".to_owned(),
    }
}

fn default_words(setting: &Setting) -> String {
    if setting.default.is_some() { "default".to_owned() } else { format!("default: {}", setting.otherwise) }
}

fn bounds(kind: Kind) -> Option<String> {
    use crate::config::{duration, size};
    match kind {
        Kind::Count(min, max) => Some(format!("{min} to {max}.")),
        Kind::Duration(min, max) => Some(format!("{} to {}.", duration::show(min), duration::show(max))),
        Kind::Size(min, max) => Some(format!("{} to {}.", size::show(min), size::show(max))),
        Kind::Choice(choices) => {
            let choice = |(name, words): &(&str, &str)| if words.is_empty() { (*name).to_owned() } else { format!("{name} ({words})") };
            Some(format!("One of: {}.", choices.iter().map(choice).collect::<Vec<_>>().join(", ")))
        }
        _ => None,
    }
}

/// As YAML reads it back as this text: plain where nothing can be misread, else in double quotes.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    if !text.is_empty() && text.chars().all(is_plain) && !text.starts_with(['-', '.']) {
        return text.to_owned();
    }
    serde_json::Value::from(text).to_string()
}
