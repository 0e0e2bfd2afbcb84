//! The nearest right name for a wrong one.

/// How alike two names must be, from 0 to 1. At 0.7 `topc` finds `topic` and `price` does not find `place`.
const ALIKE_MIN: f64 = 0.7;

/// The known name that is most like `name`, if one is alike enough. The first of equals wins.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = plain(name);
    let mut best: Option<(f64, &str)> = None;
    for candidate in known {
        let alike = strsim::normalized_damerau_levenshtein(&name, &plain(candidate));
        if alike >= ALIKE_MIN && best.is_none_or(|(score, _)| alike > score) {
            best = Some((alike, candidate));
        }
    }
    best.map(|(_, name)| name)
}

/// `did you mean \`x\`?`, or the list of what is known, or nothing where nothing is known.
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>, noun: &str) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(name, known.iter().copied()) {
        Some(found) => Some(format!("did you mean `{found}`?")),
        None if known.is_empty() => None,
        None => Some(format!("{noun}: {}", list(&known))),
    }
}

/// At most this many names are listed.
const LISTED_MAX: usize = 20;

/// Names in backticks, with commas.
pub fn list(names: &[&str]) -> String {
    let mut text = names.iter().take(LISTED_MAX).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > LISTED_MAX {
        text.push_str(&format!(" and {} more", names.len() - LISTED_MAX));
    }
    text
}

/// Camel case, dashes and upper case are no difference.
fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '_' | '-' | '.')).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_slips_of_the_finger_and_other_spellings() {
        let known = ["topic", "keyed_by", "on_error", "price"];
        assert_eq!(nearest("topc", known), Some("topic"));
        assert_eq!(nearest("keyedBy", known), Some("keyed_by"));
        assert_eq!(nearest("on-error", known), Some("on_error"));
        assert_eq!(nearest("place", known), None);
        assert_eq!(did_you_mean("zzz", ["a", "b"], "known").as_deref(), Some("known: `a`, `b`"));
    }
}
