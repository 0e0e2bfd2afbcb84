//! The repository checks itself: reads its files as text and says what neither the compiler nor a lint can see.
//!
//! What a rule means stands at the rule. An exception is a comment on the line above what it excuses, with its reason:
//! a `tidy-allow`, the name of the rule in parentheses, a colon, the reason (in Markdown inside `<!-- -->`). An exception
//! without a reason fails, and so does one that excuses nothing any more. The rules are tested at the end, on small strings.
//! Nothing here runs the program: it reads text, in well under a second.

#![expect(clippy::expect_used, reason = "a file of the repository that cannot be read fails the test")]
#![expect(clippy::print_stdout, reason = "the list of the longest functions is for whoever runs this with --nocapture")]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use regex::Regex;

/// A file of the repository. `code` and `comments` have the lines of `raw`: what belongs to the other (and, in `code`, what
/// stands in string and character literals) is blank.
struct Text {
    path: String,
    raw: String,
    code: String,
    comments: String,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    line: usize,
    rule: &'static str,
    what: String,
}

/// A named check of one file; what it needs to know of all files is in [`Repository`].
struct Rule {
    name: &'static str,
    check: fn(&Text, &Repository) -> Vec<(usize, String)>,
}

const RULES: &[Rule] = &[
    Rule { name: "head", check: head },
    Rule { name: "layers", check: layers },
    Rule { name: "homes", check: homes },
    Rule { name: "honest", check: honest },
    Rule { name: "notes", check: notes },
    Rule { name: "links", check: links },
    Rule { name: "places", check: places },
];

/// What appears in one file or folder only, so that it can be replaced, and be reviewed, in one place. A home is the beginning of
/// a path: `src/views/redis` is `redis.rs`, `redis_pool.rs` and the folder `redis/`.
const HOMES: &[(&str, &[&str])] = &[
    ("rdkafka", &["src/log/kafka/"]),
    ("rdkafka_sys", &["src/log/kafka/"]),
    ("rocksdb", &["src/state/rocks"]),
    ("redis", &["src/views/redis", "src/cli/demo"]),
    ("cel", &["src/expression/parse.rs"]),
    ("serde_saphyr", &["src/config/yaml.rs", "src/config/worker"]),
    ("miette", &["src/config/render.rs"]),
    ("axum", &["src/http/"]),
    ("bincode", &["src/state/format"]),
    ("prometheus_client", &["src/metrics"]),
];
const HOME_OF_UNSAFE: &[&str] = &["src/log/kafka/ffi.rs"];
const HOME_OF_ASYNC: &[&str] = &["src/http/", "src/views/redis", "src/cli/"];

/// A file that is larger is data, not text to read.
const TEXT_BYTES_MAX: u64 = 1 << 20;
const LONGEST_SHOWN: usize = 8;

#[test]
fn the_repository_is_tidy() {
    let repository = Repository::read(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(repository.texts.len() > 20, "found only {} files: the walk is broken", repository.texts.len());
    show_longest(&repository);
    let mut findings = repository.modules_without_layer();
    findings.extend(repository.texts.iter().flat_map(|text| findings_of(text, &repository)));
    findings.sort();
    let lines: Vec<String> = findings.iter().map(|f| format!("{}:{}: {}: {}", f.path, f.line, f.rule, f.what)).collect();
    assert!(lines.is_empty(), "{} findings\n{}\n", lines.len(), lines.join("\n"));
}

/// Every source file begins with `//!`: what it is, what it is not, what stays true.
fn head(text: &Text, _: &Repository) -> Vec<(usize, String)> {
    if !text.path.ends_with(".rs") || text.raw.starts_with("//!") {
        return Vec::new();
    }
    vec![(1, "a file begins with `//!`: what it is, what it is not, what stays true".to_owned())]
}

/// A module uses itself and modules of smaller numbers; the numbers stand in the head of `src/lib.rs`.
fn layers(text: &Text, repository: &Repository) -> Vec<(usize, String)> {
    let Some(module) = module_of(&text.path) else { return Vec::new() };
    let layer_own = repository.layers.get(module);
    let mut found = Vec::new();
    for (line, code) in numbered(&text.code) {
        for used in words_after(code, "crate::").filter(|used| *used != module) {
            match (layer_own, repository.layers.get(used)) {
                _ if used.is_empty() => found.push((line, "`crate::{` hides what is used: one `use` per module".to_owned())),
                (_, None) => found.push((line, format!("`{used}` has no layer in the head of src/lib.rs"))),
                (Some(own), Some(other)) if other >= own => {
                    found.push((line, format!("`{module}` (layer {own}) uses `{used}` (layer {other})")));
                }
                _ => {}
            }
        }
    }
    found
}

/// Each foreign crate, `unsafe` and `async` have a home.
fn homes(text: &Text, _: &Repository) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    if !text.path.starts_with("src/") || !text.path.ends_with(".rs") {
        return found;
    }
    for (line, code) in numbered(&text.code) {
        for (name, homes) in HOMES {
            if !is_at_home(&text.path, homes) && names_crate(code, name) {
                found.push((line, format!("`{name}` belongs in {}", homes.join(" or "))));
            }
        }
        for (word, homes) in [("unsafe", HOME_OF_UNSAFE), ("async", HOME_OF_ASYNC)] {
            if !is_at_home(&text.path, homes) && has_word(code, word) {
                found.push((line, format!("`{word}` belongs in {}", homes.join(" or "))));
            }
        }
    }
    found
}

/// A test waits for a state and never for a time, is never left out, and can fail.
fn honest(text: &Text, _: &Repository) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    if !text.path.ends_with(".rs") {
        return found;
    }
    let mut in_tests = text.path.starts_with("tests/");
    for (line, code) in numbered(&text.code) {
        let trimmed = code.trim();
        in_tests |= trimmed.starts_with("#[cfg(test)]");
        if in_tests && has_word(code, "sleep") {
            found.push((line, "a test waits for a state with a deadline, it does not sleep".to_owned()));
        }
        if trimmed.starts_with("#[ignore") {
            found.push((line, "an ignored test is no test: make it run, or remove it".to_owned()));
        }
        if trimmed.starts_with("#[should_panic") && !has_word(code, "expected") {
            found.push((line, "any panic would do here: name it, `should_panic(expected = \"…\")`".to_owned()));
        }
    }
    found.extend(bare_matches(&text.code).into_iter().map(|line| (line, "`matches!(…);` checks nothing: `assert!` it".to_owned())));
    found
}

/// What is left to do carries the number of its issue.
fn notes(text: &Text, _: &Repository) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, comment) in numbered(&text.comments) {
        for word in ["TODO", "FIXME", "XXX"] {
            let has_issue = comment.split_once(word).is_some_and(|(_, rest)| rest.starts_with("(#"));
            // In backticks it is spoken of, not left.
            if has_word(comment, word) && !has_issue && !comment.contains('`') {
                found.push((line, format!("`{word}` needs its issue, as `{word}(#12)`")));
            }
        }
    }
    found
}

/// Every relative link in our Markdown leads to a file, and its fragment to a heading.
fn links(text: &Text, repository: &Repository) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    if !text.path.ends_with(".md") {
        return found;
    }
    for (line, prose) in numbered(&text.code) {
        let targets = repository.link_pattern.captures_iter(prose).filter_map(|found| found.get(1).or(found.get(2)));
        for target in targets.map(|target| target.as_str()).filter(|target| !target.contains("://")) {
            let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { text.path.clone() } else { resolved(&text.path, file) };
            if !repository.paths.contains(&path) {
                found.push((line, format!("the link leads nowhere: {target}")));
            } else if !fragment.is_empty() && !repository.has_heading(&path, fragment, text) {
                found.push((line, format!("no heading of {path} gives the fragment #{fragment}")));
            }
        }
    }
    found
}

/// No path of somebody's machine.
fn places(text: &Text, _: &Repository) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, raw) in numbered(&text.raw) {
        for place in ["root", "home", "work", "Users"].map(|folder| format!("/{folder}/")) {
            // Inside an address or a longer path it is no place of a machine.
            let is_inside = |at: usize| raw[..at].ends_with(|c: char| c.is_alphanumeric() || "._-~}".contains(c));
            if raw.match_indices(&place).any(|(at, _)| !is_inside(at)) {
                found.push((line, format!("a path of a machine: {place}")));
            }
        }
    }
    found
}

/// Findings of all rules in one file, less what is excused, with what is wrong about the excuses.
fn findings_of(text: &Text, repository: &Repository) -> Vec<Finding> {
    let finding = |line: usize, rule: &'static str, what: String| Finding { path: text.path.clone(), line, rule, what };
    let mut excuses = excuses_of(text);
    let mut findings = Vec::new();
    for rule in RULES {
        for (line, what) in (rule.check)(text, repository) {
            match excuses.iter_mut().find(|excuse| excuse.rule == rule.name && excuse.excused == line) {
                Some(excuse) => excuse.is_used = true,
                None => findings.push(finding(line, rule.name, what)),
            }
        }
    }
    for excuse in excuses {
        if !RULES.iter().any(|rule| rule.name == excuse.rule) {
            findings.push(finding(excuse.line, "allow", format!("there is no rule `{}`", excuse.rule)));
        } else if !excuse.has_reason {
            findings.push(finding(excuse.line, "allow", "an exception gives its reason after a colon".to_owned()));
        } else if !excuse.is_used {
            findings.push(finding(excuse.line, "allow", "it excuses nothing any more: remove it".to_owned()));
        }
    }
    findings
}

struct Excuse {
    rule: String,
    line: usize,
    /// The next line that is not itself an exception.
    excused: usize,
    has_reason: bool,
    is_used: bool,
}

fn excuses_of(text: &Text) -> Vec<Excuse> {
    let is_markdown = text.path.ends_with(".md");
    let lines: Vec<&str> = if is_markdown { text.code.lines().collect() } else { text.comments.lines().collect() };
    let opening = if is_markdown { "<!-- tidy-allow(" } else { "// tidy-allow(" };
    let is_excuse = |line: &str| line.trim_start().starts_with(opening);
    let mut excuses = Vec::new();
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| is_excuse(line)) {
        let rest = line.trim().trim_start_matches(opening).trim_end_matches("-->");
        let (rule, reason) = rest.split_once(')').unwrap_or((rest, ""));
        let has_reason = reason.strip_prefix(':').is_some_and(|reason| !reason.trim().is_empty());
        let excused = lines.iter().skip(index).take_while(|line| is_excuse(line)).count() + index + 1;
        excuses.push(Excuse { rule: rule.to_owned(), line: index + 1, excused, has_reason, is_used: false });
    }
    excuses
}

/// What rules know beside the file they look at.
struct Repository {
    texts: Vec<Text>,
    /// Files and folders, relative to the root, which is the empty path.
    paths: BTreeSet<String>,
    /// Number of each module of the crate.
    layers: BTreeMap<String, u32>,
    link_pattern: Regex,
}

impl Repository {
    fn new(texts: Vec<Text>, paths: BTreeSet<String>) -> Repository {
        let head = texts.iter().find(|text| text.path == "src/lib.rs").map_or("", |text| text.comments.as_str());
        let layers = layers_in(head);
        let link_pattern = Regex::new(r#"\]\(([^)\s]+)\)|src="([^"]+)""#).expect("a constant");
        Repository { texts, paths, layers, link_pattern }
    }

    fn read(root: &Path) -> Repository {
        let (mut texts, mut paths) = (Vec::new(), BTreeSet::from([String::new()]));
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(root.join(&folder)).expect("a folder").map(|entry| entry.expect("an entry")) {
                let name = entry.file_name().into_string().expect("names are UTF-8");
                let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                let is_generated = path == ".git" || path.starts_with("target") || (folder == "state" && path != "state/README.md");
                if is_generated {
                    continue;
                }
                paths.insert(path.clone());
                let kind = entry.metadata().expect("its metadata");
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.len() <= TEXT_BYTES_MAX
                    && let Ok(raw) = fs::read_to_string(entry.path())
                {
                    texts.push(Text::new(path, raw));
                }
            }
        }
        Repository::new(texts, paths)
    }

    /// Modules that are missing in the code map.
    fn modules_without_layer(&self) -> Vec<Finding> {
        let modules: BTreeSet<&str> = self.texts.iter().filter_map(|text| module_of(&text.path)).collect();
        let missing = modules.into_iter().filter(|module| !self.layers.contains_key(*module));
        let what = |module| format!("`{module}` has no number in the code map");
        missing.map(|module| Finding { path: "src/lib.rs".to_owned(), line: 1, rule: "layers", what: what(module) }).collect()
    }

    /// `own` is the text that links: a test does not put it into the repository.
    fn has_heading(&self, path: &str, fragment: &str, own: &Text) -> bool {
        let text = self.texts.iter().find(|text| text.path == path).unwrap_or(own);
        text.code.lines().filter(|line| line.starts_with('#')).any(|line| fragment_of(line) == fragment)
    }
}

impl Text {
    fn new(path: String, raw: String) -> Text {
        let (code, comments) = if path.ends_with(".rs") {
            split_rust(&raw)
        } else if path.ends_with(".md") {
            (without_code_blocks(&raw), String::new())
        } else {
            (raw.clone(), String::new())
        };
        Text { path, raw, code, comments }
    }
}

/// The numbers in the head of `src/lib.rs`: a number, then names in backticks.
fn layers_in(head: &str) -> BTreeMap<String, u32> {
    let group = Regex::new(r"\b(\d+)((?:[\s,/!]*`[a-z_]+(?:\.rs)?`)+)").expect("a constant");
    let name = Regex::new(r"`([a-z_]+)(?:\.rs)?`").expect("a constant");
    let mut layers = BTreeMap::new();
    for found in group.captures_iter(head) {
        let number: u32 = found[1].parse().expect("digits");
        layers.extend(name.captures_iter(&found[2]).map(|name| (name[1].to_owned(), number)));
    }
    layers
}

/// The module of the crate that a file belongs to; none for `lib.rs`, which declares them, and for files outside `src/`.
fn module_of(path: &str) -> Option<&str> {
    let module = path.strip_prefix("src/")?.strip_suffix(".rs")?.split('/').next()?;
    (module != "lib").then_some(module)
}

fn is_at_home(path: &str, homes: &[&str]) -> bool {
    homes.iter().any(|home| path.starts_with(home))
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where `word` stands and is not a part of a longer word.
fn places_of<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = line.as_bytes();
    let ends_as_word = word.bytes().next_back().is_some_and(is_word);
    line.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let goes_on_before = at.checked_sub(1).is_some_and(|before| is_word(bytes[before]));
        let goes_on_after = ends_as_word && bytes.get(at + word.len()).is_some_and(|&after| is_word(after));
        !goes_on_before && !goes_on_after
    })
}

fn has_word(line: &str, word: &str) -> bool {
    places_of(line, word).next().is_some()
}

/// The words that follow a prefix such as `crate::`; an empty one where a brace follows.
fn words_after<'a>(line: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    places_of(line, prefix).map(move |at| {
        let rest = &line[at + prefix.len()..];
        &rest[..rest.bytes().take_while(|&byte| is_word(byte)).count()]
    })
}

/// A path that begins with the crate, or a `use` of it; not `views::redis::…`, which is a module of ours.
fn names_crate(line: &str, name: &str) -> bool {
    places_of(line, name).any(|at| {
        let (before, after) = (line[..at].trim_end(), &line[at + name.len()..]);
        let is_inner = before.strip_suffix("::").is_some_and(|path| path.ends_with(|c: char| c.is_alphanumeric() || "_>".contains(c)));
        let is_path = after.starts_with("::");
        let is_use = before.ends_with("use") && (after.starts_with(';') || after.starts_with(" as "));
        !is_inner && (is_path || is_use)
    })
}

/// Lines where `matches!(…);` stands alone as a statement.
fn bare_matches(code: &str) -> Vec<usize> {
    let mut lines = Vec::new();
    for (at, opening) in code.match_indices("matches!(") {
        let is_statement = code[..at].trim_end().ends_with([';', '{', '}']);
        let mut depth = 1;
        let inside = &code[at + opening.len()..];
        let end = inside.find(|c: char| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        });
        let is_dropped = end.is_some_and(|end| inside[end + 1..].trim_start().starts_with(';'));
        if is_statement && is_dropped {
            lines.push(code[..at].matches('\n').count() + 1);
        }
    }
    lines
}

/// Where a relative link leads, from the root.
fn resolved(from: &str, link: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => _ = parts.pop(),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// The fragment that GitHub gives a heading.
fn fragment_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Markdown with its code blocks and inline code blanked: what looks like a link there is none. A heading keeps the words in
/// backticks, its fragment is made of them.
fn without_code_blocks(markdown: &str) -> String {
    let mut in_block = false;
    let mut prose = String::with_capacity(markdown.len());
    for line in markdown.lines() {
        let is_fence = line.trim_start().starts_with("```");
        in_block ^= is_fence;
        if line.starts_with('#') && !in_block {
            prose.push_str(line);
        } else if !in_block && !is_fence {
            line.split('`').step_by(2).for_each(|outside| prose.push_str(outside));
        }
        prose.push('\n');
    }
    prose
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// Rust source as `(code, comments)`; see [`Text`]. Knows nested comments, raw strings, and a lifetime from a character.
fn split_rust(source: &str) -> (String, String) {
    let bytes = source.as_bytes();
    let mut kinds = vec![Kind::Code; bytes.len()];
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let begins_word = at == 0 || !is_word(bytes[at - 1]);
        let (kind, length) = if rest.starts_with(b"//") {
            (Kind::Comment, length_until(rest, b"\n"))
        } else if rest.starts_with(b"/*") {
            (Kind::Comment, length_of_block_comment(rest))
        } else if rest[0] == b'"' {
            (Kind::Literal, length_of_string(rest))
        } else if let Some(length) = length_of_raw_string(rest).filter(|_| begins_word) {
            (Kind::Literal, length)
        } else if let Some(length) = length_of_character(rest) {
            (Kind::Literal, length)
        } else {
            (Kind::Code, 1)
        };
        let end = (at + length).min(bytes.len());
        kinds[at..end].fill(kind);
        at = end;
    }
    let only = |wanted: Kind| source.char_indices().map(|(at, c)| if c == '\n' || kinds[at] == wanted { c } else { ' ' }).collect();
    (only(Kind::Code), only(Kind::Comment))
}

fn length_until(rest: &[u8], end: &[u8]) -> usize {
    rest.windows(end.len()).position(|window| window == end).unwrap_or(rest.len())
}

fn length_of_block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn length_of_string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != b'"' {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// `r"…"`, `r#"…"#`, with a `b` or `c` before; `None` for an identifier such as `r#type`.
fn length_of_raw_string(rest: &[u8]) -> Option<usize> {
    let prefix = usize::from(matches!(rest, [b'b' | b'c', ..]));
    let inside = rest[prefix..].strip_prefix(b"r")?;
    let hashes = inside.iter().take_while(|&&byte| byte == b'#').count();
    let inside = inside[hashes..].strip_prefix(b"\"")?;
    let end: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    Some(prefix + 1 + hashes + 1 + length_until(inside, &end) + end.len())
}

/// `'x'` or `'\n'`; `None` for a lifetime. A character is at most four bytes long, an escape begins with a backslash.
fn length_of_character(rest: &[u8]) -> Option<usize> {
    let inside = rest.strip_prefix(b"'")?;
    if inside.starts_with(b"\\") {
        return Some(1 + 2 + length_until(&inside[2..], b"'") + 1);
    }
    let bytes = match inside.first()? {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    };
    (inside.get(bytes) == Some(&b'\'')).then_some(1 + bytes + 1)
}

/// The longest files and functions: a smell to look at, never a failure. Shown by `cargo test --test tidy -- --nocapture`.
fn show_longest(repository: &Repository) {
    let sources = || repository.texts.iter().filter(|text| text.path.starts_with("src/") && text.path.ends_with(".rs"));
    let mut files: Vec<(usize, String)> = sources().map(|text| (text.raw.lines().count(), text.path.clone())).collect();
    let mut functions: Vec<(usize, String)> = sources().flat_map(functions_of).collect();
    for (title, list) in [("files", &mut files), ("functions", &mut functions)] {
        list.sort_by(|a, b| b.cmp(a));
        println!("longest {title}:");
        list.iter().take(LONGEST_SHOWN).for_each(|(lines, name)| println!("  {lines:5} lines  {name}"));
    }
}

fn functions_of(text: &Text) -> Vec<(usize, String)> {
    let lines: Vec<&str> = text.code.lines().collect();
    let mut functions = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(name) = words_after(line, "fn ").next().filter(|name| !name.is_empty()) else { continue };
        // A declaration in a trait has no body.
        let signature = lines[index..].iter().find(|line| line.contains('{') || line.trim_end().ends_with(';'));
        if !signature.is_some_and(|line| line.contains('{')) {
            continue;
        }
        // rustfmt puts the closing brace below the first letter.
        let end = format!("{}}}", " ".repeat(line.len() - line.trim_start().len()));
        let length = lines[index..].iter().position(|line| line.trim_end() == end);
        functions.extend(length.map(|length| (length + 1, format!("{}:{} {name}", text.path, index + 1))));
    }
    functions
}

/// Runs all rules over one small file, in a repository whose code map is `1 low · 2 middle, other · 3 high`. Line 1 of a source
/// file is its head.
fn check(path: &str, source: &str, expected: &[&str]) {
    let map = Text::new("src/lib.rs".to_owned(), "//! 3 `high` · 2 `middle`, `other` · 1 `low.rs`\n".to_owned());
    let paths = ["README.md", "docs", "docs/a.md", "docs/b.md"].map(str::to_owned);
    let repository = Repository::new(vec![map], BTreeSet::from(paths));
    let source = if path.ends_with(".rs") { format!("//! A file.\n{source}") } else { source.to_owned() };
    let found = findings_of(&Text::new(path.to_owned(), source), &repository);
    let lines: Vec<String> = found.iter().map(|f| format!("{}: {}: {}", f.line, f.rule, f.what)).collect();
    assert_eq!(lines, expected, "{path}");
}

#[test]
fn a_file_without_a_head_is_found() {
    let repository = Repository::new(Vec::new(), BTreeSet::new());
    let found = findings_of(&Text::new("src/low.rs".to_owned(), "use std::fs;\n".to_owned()), &repository);
    assert_eq!(found.iter().map(|f| (f.line, f.rule)).collect::<Vec<_>>(), [(1, "head")]);
}

#[test]
fn a_module_uses_only_lower_layers() {
    check("src/middle/a.rs", "use crate::low::X;\nuse crate::middle::b::Y;\n", &[]);
    check("src/middle/a.rs", "use crate::high::X;\n", &["2: layers: `middle` (layer 2) uses `high` (layer 3)"]);
    check("src/middle.rs", "fn f(x: crate::other::X) {}\n", &["2: layers: `middle` (layer 2) uses `other` (layer 2)"]);
    check("src/middle.rs", "use crate::unknown::X;\n", &["2: layers: `unknown` has no layer in the head of src/lib.rs"]);
    check("src/middle.rs", "use crate::{low, high};\n", &["2: layers: `crate::{` hides what is used: one `use` per module"]);
    check("src/low.rs", "/// See [`crate::high::X`].\nconst A: &str = \"crate::high\"; // crate::high\n", &[]);
}

#[test]
fn a_module_that_is_missing_in_the_map_is_found() {
    let texts = ["src/lib.rs", "src/low.rs", "src/new/mod.rs"].map(|path| Text::new(path.to_owned(), "//! 1 `low`\n".to_owned()));
    let found = Repository::new(Vec::from(texts), BTreeSet::new()).modules_without_layer();
    assert_eq!(found.iter().map(|f| f.what.as_str()).collect::<Vec<_>>(), ["`new` has no number in the code map"]);
}

#[test]
fn a_crate_is_named_at_home_only() {
    check("src/log/kafka/consumer.rs", "use rdkafka::Message;\n", &[]);
    check("src/low.rs", "use rdkafka::Message;\n", &["2: homes: `rdkafka` belongs in src/log/kafka/"]);
    check("src/low.rs", "let x = ::bincode::encode(y);\n", &["2: homes: `bincode` belongs in src/state/format"]);
    check("src/views/redis_script.rs", "use redis::Script;\n", &[]);
    check("src/low.rs", "use low::redis::Writer;\nlet redis = 1;\nmod redis;\n", &[]);
    check("src/low.rs", "async fn f() {}\n", &["2: homes: `async` belongs in src/http/ or src/views/redis or src/cli/"]);
    check("src/low.rs", "unsafe { f() }\n", &["2: homes: `unsafe` belongs in src/log/kafka/ffi.rs"]);
    check("src/low.rs", "#![expect(unsafe_code)]\n", &[]);
}

#[test]
fn a_test_that_sleeps_is_ignored_or_cannot_fail_is_found() {
    check("tests/a.rs", "thread::sleep(x);\n", &["2: honest: a test waits for a state with a deadline, it does not sleep"]);
    check("src/low.rs", "tokio::time::sleep(x);\n", &[]);
    let in_source = "#[cfg(test)]\nmod tests { fn f() { sleep(x) } }\n";
    check("src/low.rs", in_source, &["3: honest: a test waits for a state with a deadline, it does not sleep"]);
    check("tests/a.rs", "#[ignore]\nfn f() {}\n", &["2: honest: an ignored test is no test: make it run, or remove it"]);
    let any = "2: honest: any panic would do here: name it, `should_panic(expected = \"…\")`";
    check("tests/a.rs", "#[should_panic]\nfn f() {}\n", &[any]);
    check("tests/a.rs", "#[should_panic(expected = \"no\")]\nfn f() {}\n", &[]);
    let bare = "3: honest: `matches!(…);` checks nothing: `assert!` it";
    check("tests/a.rs", "fn f() {\n    matches!(g(1), Some(\n _));\n}\n", &[bare]);
    check("tests/a.rs", "fn f() -> bool {\n    let a = matches!(b, C);\n    matches!(b, C)\n}\n", &[]);
}

#[test]
fn what_is_left_to_do_names_its_issue() {
    check("src/low.rs", "// TODO(#7): later\n", &[]);
    check("src/low.rs", "// TODO: later\n", &["2: notes: `TODO` needs its issue, as `TODO(#12)`"]);
}

#[test]
fn a_link_leads_to_a_file_and_a_heading() {
    let good = "# `One` two\n[a](a.md) [b](../README.md) [c](#one-two) [d](https://x.y/z) `[e](f.md)`\n```\n[g](h.md)\n```\n";
    check("docs/b.md", good, &[]);
    check("docs/b.md", "[a](../a.md)\n", &["1: links: the link leads nowhere: ../a.md"]);
    check("docs/b.md", "# One\n[a](#two)\n", &["2: links: no heading of docs/b.md gives the fragment #two"]);
    check("README.md", "<img src=\"docs/x.svg\">\n", &["1: links: the link leads nowhere: docs/x.svg"]);
}

#[test]
fn a_path_of_a_machine_is_found() {
    let folder = "root";
    check("README.md", &format!("see /{folder}/x\n"), &[&format!("1: places: a path of a machine: /{folder}/")]);
    check("README.md", &format!("see https://x.y/{folder}/x and net{folder}/\n"), &[]);
}

#[test]
fn an_exception_gives_a_reason_and_excuses_something() {
    let sleeps = "thread::sleep(x);\n";
    check("tests/a.rs", &format!("// tidy-allow(honest): the only pause\n{sleeps}"), &[]);
    check("tests/a.rs", &format!("// tidy-allow(honest):\n{sleeps}"), &["2: allow: an exception gives its reason after a colon"]);
    check("tests/a.rs", "// tidy-allow(honest): was needed once\nlet a = 1;\n", &["2: allow: it excuses nothing any more: remove it"]);
    check("tests/a.rs", "// tidy-allow(magic): because\nlet a = 1;\n", &["2: allow: there is no rule `magic`"]);
    check("docs/b.md", "<!-- tidy-allow(links): written soon -->\n[a](soon.md)\n", &[]);
    let two = "// tidy-allow(honest): one\n// tidy-allow(notes): two\nthread::sleep(x); // TODO: later\n";
    check("tests/a.rs", two, &[]);
}

#[test]
fn comments_and_literals_are_told_from_code() {
    let check_split = |source: &str, code: &str, comments: &str| {
        assert_eq!(split_rust(source), (code.to_owned(), comments.to_owned()), "{source}");
    };
    check_split("a // b\nc", "a     \nc", "  // b\n ");
    check_split("a /* b /* c */ d */ e", "a                   e", "  /* b /* c */ d */  ");
    check_split(r#"f("a\"b", c)"#, "f(      , c)", "            ");
    check_split(r###"r#"a"b"# + r#type"###, "         + r#type", "                 ");
    check_split("'a' + '\\'' + &'b c", "    +      + &'b c", "                  ");
    check_split("ä'ö'ü", "ä   ü", "     ");
}
