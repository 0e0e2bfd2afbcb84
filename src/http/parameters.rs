//! The query of a request. A parameter that a path does not take is refused by its name: a misspelt one would be ignored, and its
//! default answered for it.

use axum::http::StatusCode;

use crate::config::suggest::did_you_mean;
use crate::http::problem::Problem;
use crate::model::{Time, Timestamp};

/// Parameters that the language promises and that no path takes yet.
const PLANNED: [&str; 3] = ["at", "wait", "timeout"];

/// The parameters of one request, decoded, each once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads a query for a path that takes what `template` names: `/tables/{table}?from=&to=`.
    pub fn of(query: Option<&str>, template: &str) -> Result<Parameters, Problem> {
        let (path, known) = template.split_once('?').unwrap_or((template, ""));
        let known: Vec<&str> = known.split('&').map(|name| name.trim_end_matches('=')).filter(|name| !name.is_empty()).collect();
        let mut found: Vec<(String, String)> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let read = |text: &str| decoded(text).ok_or_else(|| bad(format!("`{}` is not percent-encoded UTF-8", text.escape_debug())));
            let (name, value) = (read(name)?, read(value)?);
            if !known.contains(&name.as_str()) {
                return Err(unknown(path, &name, &known));
            }
            if found.iter().any(|(before, _)| *before == name) {
                return Err(bad(format!("`{name}` is given twice")));
            }
            found.push((name, value));
        }
        Ok(Parameters(found))
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A number of rows, from 1 to `max`.
    pub fn limit(&self, default: usize, max: usize) -> Result<usize, Problem> {
        let Some(text) = self.text("limit") else { return Ok(default.min(max)) };
        let limit = text.parse().ok().filter(|limit| (1..=max).contains(limit));
        limit.ok_or_else(|| bad(format!("`limit` is a number from 1 to {max}, not `{}`", text.escape_debug())))
    }

    /// A point in time: milliseconds since 1970, or RFC 3339.
    pub fn time(&self, name: &str) -> Result<Option<Time>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let ms = text.parse().ok().map(Time);
        ms.or_else(|| Timestamp::parse(text).map(Timestamp::to_ms))
            .map(Some)
            .ok_or_else(|| bad(format!("`{name}` is milliseconds since 1970 or RFC 3339, not `{}`", text.escape_debug())))
    }

    /// One of some words, of which the first is the default.
    pub fn word<'w>(&self, name: &str, words: &[&'w str]) -> Result<&'w str, Problem> {
        let Some(text) = self.text(name) else { return Ok(words[0]) };
        let found = words.iter().find(|word| **word == text);
        found.copied().ok_or_else(|| bad(format!("`{name}` is one of {}, not `{}`", words.join(", "), text.escape_debug())))
    }
}

fn bad(detail: String) -> Problem {
    Problem::bad_request("bad_query", detail)
}

fn unknown(path: &str, name: &str, known: &[&str]) -> Problem {
    let hint = match did_you_mean(name, known.iter().copied(), "it takes") {
        _ if PLANNED.contains(&name) => "it comes later".to_owned(),
        Some(hint) => hint,
        None => "it takes none".to_owned(),
    };
    Problem::new(StatusCode::BAD_REQUEST, "unknown_parameter", format!("`{path}` has no parameter `{}`; {hint}", name.escape_debug()))
}

/// Text of a query: `+` is a space, `%41` a byte of UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "/tables/{table}?from=&limit=";

    #[test]
    fn parameters_are_decoded_once() {
        let read = |query: &str| Parameters::of(Some(query), TEMPLATE).unwrap();
        assert_eq!(read("from=a%20b+c%2Bd&&limit=3"), Parameters(vec![("from".into(), "a b c+d".into()), ("limit".into(), "3".into())]));
        assert_eq!(read("from=%C3%A9").text("from"), Some("é"));
        assert_eq!(read("from").text("from"), Some(""));
        assert_eq!(Parameters::of(None, TEMPLATE).unwrap().limit(100, 1000), Ok(100));
    }

    #[test]
    fn what_a_path_does_not_take_is_refused_by_name() {
        let check = |query: &str, template: &str, code: &str, expected: &str| {
            let problem = Parameters::of(Some(query), template).unwrap_err();
            assert_eq!((problem.code, problem.detail.as_str()), (code, expected));
        };
        check("form=a", TEMPLATE, "unknown_parameter", "`/tables/{table}` has no parameter `form`; did you mean `from`?");
        check("x=1", TEMPLATE, "unknown_parameter", "`/tables/{table}` has no parameter `x`; it takes: `from`, `limit`");
        check("at=1", TEMPLATE, "unknown_parameter", "`/tables/{table}` has no parameter `at`; it comes later");
        check("x", "/tasks", "unknown_parameter", "`/tasks` has no parameter `x`; it takes none");
        check("from=a&from=b", TEMPLATE, "bad_query", "`from` is given twice");
        check("from=%ff", TEMPLATE, "bad_query", "`%ff` is not percent-encoded UTF-8");
        check("from=%4", TEMPLATE, "bad_query", "`%4` is not percent-encoded UTF-8");
    }

    #[test]
    fn values_out_of_bounds_are_refused() {
        let read = |query: &str| Parameters::of(Some(query), TEMPLATE).unwrap();
        for limit in ["0", "-1", "1001", "x", "", "1e2"] {
            assert_eq!(read(&format!("limit={limit}")).limit(1, 1000).unwrap_err().code, "bad_query", "{limit}");
        }
        assert_eq!(read("limit=1000").limit(1, 1000), Ok(1000));
        assert_eq!(read("from=1970-01-01T00:00:01Z").time("from"), Ok(Some(Time(1000))));
        assert_eq!(read("from=-5").time("from"), Ok(Some(Time(-5))));
        assert_eq!(read("from=tomorrow").time("from").unwrap_err().code, "bad_query");
        assert_eq!(read("").word("from", &["local", "all"]), Ok("local"));
        assert_eq!(read("from=some").word("from", &["local", "all"]).unwrap_err().code, "bad_query");
    }
}
