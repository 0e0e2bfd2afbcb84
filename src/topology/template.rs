//! Text with expressions in braces: `product:{key}`. `{{` and `}}` are braces themselves.

use std::ops::Range;

/// A part of a template, with its place in the text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    Text(String),
    /// The bytes between the braces.
    Expression(Range<usize>),
}

/// Why a text is no template, and where in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TemplateProblem {
    pub at: Range<usize>,
    pub message: String,
    pub help: &'static str,
}

/// Cuts a template into its parts. Braces and quotes inside an expression are minded, so `{ {"a": "}"}["a"] }` is one part.
pub fn parse(template: &str) -> Result<Vec<Part>, TemplateProblem> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut at = 0;
    while let Some(c) = template[at..].chars().next() {
        let rest = &template[at..];
        if rest.starts_with("{{") || rest.starts_with("}}") {
            text.push(c);
            at += 2;
        } else if c == '{' {
            let end = closing(rest).ok_or(TemplateProblem {
                at: at..template.len(),
                message: "this `{` is never closed".to_owned(),
                help: "close it with `}`, or write `{{` for the brace itself",
            })?;
            let inside = at + 1..at + end;
            if template[inside.clone()].trim().is_empty() {
                return Err(TemplateProblem {
                    at: at..at + end + 1,
                    message: "an expression is expected in the braces".to_owned(),
                    help: "write an expression, such as `{key}`",
                });
            }
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            at = inside.end + 1;
            parts.push(Part::Expression(inside));
        } else if c == '}' {
            return Err(TemplateProblem {
                at: at..at + 1,
                message: "this `}` closes nothing".to_owned(),
                help: "open it with `{`, or write `}}` for the brace itself",
            });
        } else {
            text.push(c);
            at += c.len_utf8();
        }
    }
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    Ok(parts)
}

/// The byte of the brace that closes the first one.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut quote: Option<char> = None;
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match (quote, c) {
            (Some(_), '\\') => _ = characters.next(),
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '{') => depth += 1,
            (None, '}') => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            (None, _) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_a_template_into_text_and_expressions() {
        let text = |text: &str| Part::Text(text.to_owned());
        assert_eq!(parse("product:{key}"), Ok(vec![text("product:"), Part::Expression(9..12)]));
        assert_eq!(parse("{{{key}}}"), Ok(vec![text("{"), Part::Expression(3..6), text("}")]));
        assert_eq!(parse(r#"{ {"a": "}"}["a"] }x"#), Ok(vec![Part::Expression(1..18), text("x")]));
        assert_eq!(parse("plain"), Ok(vec![text("plain")]));
        assert_eq!(parse(""), Ok(vec![]));
    }

    #[test]
    fn refuses_braces_that_do_not_match() {
        assert_eq!(parse("a{key").unwrap_err().at, 1..5);
        assert_eq!(parse("a}b").unwrap_err().at, 1..2);
        assert_eq!(parse("a{ }b").unwrap_err().at, 1..4);
    }
}
