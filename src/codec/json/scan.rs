//! Reads JSON text token by token, straight from the bytes of a record.
//!
//! Not a tree and not `serde_json`: a source asks for a few fields, wants the text of a number as it was written (`9.90` is not
//! `9.9`), an error that names the field and the byte, and a depth limit that also holds in what is skipped. What stays true:
//! everything that is passed over is checked against the grammar of RFC 8259 (`serde_json` is the judge in the tests),
//! nothing is allocated but unescaped strings, and nothing recurses.

use std::borrow::Cow;

/// The deepest nesting that can be asked for: open containers are remembered in the bits of a `u128`.
pub const DEPTH_MAX: usize = 128;

/// Characters of a bad value that are quoted in an error.
const EXCERPT_CHARS: usize = 40;

/// Why a text is refused, with the way to the place from the outside in (collected from the inside out).
#[derive(Debug)]
pub struct Bad {
    pub reason: &'static str,
    pub what: String,
    /// Byte in the value.
    pub at: usize,
    path: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Field(String),
    Index(usize),
}

/// Boxed: the good path moves a pointer, not a page of text.
pub type Outcome<T> = Result<T, Box<Bad>>;

impl Bad {
    #[cold]
    pub fn new(reason: &'static str, what: impl Into<String>, at: usize) -> Box<Bad> {
        Box::new(Bad { reason, what: what.into(), at, path: Vec::new() })
    }

    /// Adds the field in which it was found.
    #[cold]
    pub fn in_field(mut self: Box<Self>, name: &str) -> Box<Bad> {
        self.path.push(Step::Field(excerpt(name)));
        self
    }

    /// Adds the place in the list in which it was found.
    #[cold]
    pub fn in_item(mut self: Box<Self>, index: usize) -> Box<Bad> {
        self.path.push(Step::Index(index));
        self
    }

    /// ``field `items[2].price`: expected decimal, found true, at byte 17``.
    pub fn detail(&self) -> String {
        let mut path = String::new();
        for step in self.path.iter().rev() {
            match step {
                Step::Field(name) if path.is_empty() => path.push_str(name),
                Step::Field(name) => path.extend([".", name]),
                Step::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        let place = if path.is_empty() { String::new() } else { format!("field `{path}`: ") };
        format!("{place}{}, at byte {}", self.what, self.at)
    }
}

/// A number as it is written.
#[derive(Clone, Copy, Debug)]
pub struct Number<'a> {
    pub text: &'a str,
    /// No fraction and no exponent.
    pub integral: bool,
    /// The value of an integral number of up to 18 digits.
    pub small: Option<i64>,
}

/// A cursor over a JSON text.
pub struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    depth_max: usize,
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str, depth_max: usize) -> Scanner<'a> {
        Scanner { text, bytes: text.as_bytes(), at: 0, depth: 0, depth_max: depth_max.min(DEPTH_MAX) }
    }

    /// The byte that is read next.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Goes back to an earlier place of the same nesting.
    pub fn rewind(&mut self, at: usize) {
        self.at = at;
    }

    /// The first byte of the next token, or `None` at the end.
    #[inline]
    pub fn peek(&mut self) -> Option<u8> {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                other => return other.copied(),
            }
        }
    }

    /// Takes exactly these bytes if they come next.
    #[inline]
    pub fn take(&mut self, expected: &[u8]) -> bool {
        let comes = self.bytes[self.at..].starts_with(expected);
        if comes {
            self.at += expected.len();
        }
        comes
    }

    /// Steps into a container whose first byte was seen by `peek`.
    #[inline]
    pub fn open(&mut self) -> Outcome<()> {
        if self.depth == self.depth_max {
            return Err(Bad::new("too_deep", format!("nested deeper than {} levels", self.depth_max), self.at));
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    /// Right after `open`: whether the container is empty; if so it is closed.
    #[inline]
    pub fn is_empty(&mut self, close: u8) -> bool {
        let empty = self.peek() == Some(close);
        if empty {
            self.at += 1;
            self.depth -= 1;
        }
        empty
    }

    /// After a member or an element: whether another one follows. The container is closed if not.
    #[inline]
    pub fn has_more(&mut self, close: u8) -> Outcome<bool> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.peek();
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                self.depth -= 1;
                Ok(false)
            }
            _ => Err(self.syntax(if close == b'}' { "`,` or `}`" } else { "`,` or `]`" })),
        }
    }

    /// The name of a member and its colon.
    pub fn name(&mut self) -> Outcome<Cow<'a, str>> {
        if self.peek() != Some(b'"') {
            return Err(self.syntax("a name in double quotes"));
        }
        let name = self.string()?;
        self.colon()?;
        Ok(name)
    }

    fn colon(&mut self) -> Outcome<()> {
        if self.peek() != Some(b':') {
            return Err(self.syntax("`:`"));
        }
        self.at += 1;
        Ok(())
    }

    /// A string whose opening quote was seen by `peek`. Borrowed unless it has escapes.
    #[inline]
    pub fn string(&mut self) -> Outcome<Cow<'a, str>> {
        let start = self.at + 1;
        let end = plain_end(self.bytes, start);
        if self.bytes.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(Cow::Borrowed(&self.text[start..end]));
        }
        self.escaped_string(start).map(Cow::Owned)
    }

    fn escaped_string(&mut self, start: usize) -> Outcome<String> {
        let mut unescaped = String::new();
        self.at = start;
        loop {
            let end = plain_end(self.bytes, self.at);
            unescaped.push_str(&self.text[self.at..end]);
            self.at = end;
            if self.string_stop()? {
                return Ok(unescaped);
            }
            unescaped.push(self.escape()?);
        }
    }

    /// At the end of a run of plain characters: true if the string ends here, false if an escape begins.
    fn string_stop(&mut self) -> Outcome<bool> {
        match self.bytes.get(self.at) {
            Some(b'"') => {
                self.at += 1;
                Ok(true)
            }
            Some(b'\\') => Ok(false),
            Some(control) => Err(Bad::new("not_json", format!("control character {control:#04x} in a string"), self.at)),
            None => Err(Bad::new("not_json", "a string without end", self.at)),
        }
    }

    /// One escape, from its backslash on.
    fn escape(&mut self) -> Outcome<char> {
        let start = self.at;
        self.at += 2;
        Ok(match self.bytes.get(start + 1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(start),
            _ => return Err(Bad::new("not_json", "an escape that JSON does not have", start)),
        })
    }

    /// `\uXXXX`, or two of them where the first is a leading surrogate (RFC 8259 section 7).
    fn unicode_escape(&mut self, start: usize) -> Outcome<char> {
        let lone = |code: u32| Bad::new("not_json", format!("lone surrogate `\\u{code:04x}` in a string"), start);
        let first = self.hex4(start)?;
        if !(0xd800..0xe000).contains(&first) {
            return char::from_u32(first).ok_or_else(|| lone(first));
        }
        if first >= 0xdc00 || !self.take(b"\\u") {
            return Err(lone(first));
        }
        let second = self.hex4(start)?;
        if !(0xdc00..0xe000).contains(&second) {
            return Err(lone(first));
        }
        char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)).ok_or_else(|| lone(first))
    }

    fn hex4(&mut self, escape: usize) -> Outcome<u32> {
        let digits = self.bytes.get(self.at..self.at + 4).unwrap_or_default();
        let mut code = if digits.len() == 4 { Some(0) } else { None };
        for &digit in digits {
            let value = char::from(digit).to_digit(16);
            code = code.zip(value).map(|(code, value)| code * 16 + value);
        }
        self.at += 4;
        code.ok_or_else(|| Bad::new("not_json", "`\\u` without four hexadecimal digits", escape))
    }

    /// A number whose first byte (`-` or a digit) was seen by `peek`.
    #[inline]
    pub fn number(&mut self) -> Outcome<Number<'a>> {
        let start = self.at;
        let negative = self.bytes[start] == b'-';
        let digits = start + usize::from(negative);
        let mut at = digits;
        let mut magnitude: i64 = 0;
        while let Some(digit @ b'0'..=b'9') = self.bytes.get(at) {
            // Wraps past 18 digits, where `small` is not given.
            magnitude = magnitude.wrapping_mul(10).wrapping_add(i64::from(digit - b'0'));
            at += 1;
        }
        let count = at - digits;
        if count == 0 || (count > 1 && self.bytes[digits] == b'0') {
            self.at = digits + usize::from(count > 0);
            return Err(self.syntax(if count == 0 { "a digit" } else { "no digit after a leading zero" }));
        }
        let integral = !matches!(self.bytes.get(at), Some(b'.' | b'e' | b'E'));
        if !integral {
            at = self.fraction_and_exponent(at)?;
        }
        self.at = at;
        let small = (integral && count <= 18).then_some(if negative { magnitude.wrapping_neg() } else { magnitude });
        Ok(Number { text: &self.text[start..at], integral, small })
    }

    fn fraction_and_exponent(&mut self, mut at: usize) -> Outcome<usize> {
        if self.bytes.get(at) == Some(&b'.') {
            at = self.digits(at + 1)?;
        }
        if let Some(b'e' | b'E') = self.bytes.get(at) {
            let signed = matches!(self.bytes.get(at + 1), Some(b'+' | b'-'));
            at = self.digits(at + 1 + usize::from(signed))?;
        }
        Ok(at)
    }

    fn digits(&mut self, start: usize) -> Outcome<usize> {
        let count = self.bytes[start.min(self.bytes.len())..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 {
            self.at = start;
            return Err(self.syntax("a digit"));
        }
        Ok(start + count)
    }

    /// `true`, `false` or `null`, whose first byte was seen by `peek`.
    pub fn literal(&mut self, literal: &'static str) -> Outcome<()> {
        if self.take(literal.as_bytes()) { Ok(()) } else { Err(self.syntax("a value")) }
    }

    /// Passes over a value of any kind, checking its grammar and its depth.
    pub fn skip_value(&mut self) -> Outcome<()> {
        // One bit for each container opened here, the innermost lowest: whether it is an object. `DEPTH_MAX` bits suffice.
        let mut objects: u128 = 0;
        let outside = self.depth;
        loop {
            let first = self.peek();
            match first {
                Some(open @ (b'{' | b'[')) => {
                    let close = if open == b'{' { b'}' } else { b']' };
                    self.open()?;
                    if !self.is_empty(close) {
                        objects = objects << 1 | u128::from(open == b'{');
                        if open == b'{' {
                            self.skip_name()?;
                        }
                        continue;
                    }
                }
                Some(b'"') => self.skip_string()?,
                Some(b'-' | b'0'..=b'9') => self.number().map(drop)?,
                Some(b't') => self.literal("true")?,
                Some(b'f') => self.literal("false")?,
                Some(b'n') => self.literal("null")?,
                _ => return Err(self.syntax("a value")),
            }
            // A value has ended: close what ends with it, up to the next member or element.
            loop {
                if self.depth == outside {
                    return Ok(());
                }
                let in_object = objects & 1 == 1;
                if self.has_more(if in_object { b'}' } else { b']' })? {
                    if in_object {
                        self.skip_name()?;
                    }
                    break;
                }
                objects >>= 1;
            }
        }
    }

    fn skip_name(&mut self) -> Outcome<()> {
        if self.peek() != Some(b'"') {
            return Err(self.syntax("a name in double quotes"));
        }
        self.skip_string()?;
        self.colon()
    }

    /// Surrogates are not paired up here: nobody reads the text.
    fn skip_string(&mut self) -> Outcome<()> {
        self.at += 1;
        loop {
            self.at = plain_end(self.bytes, self.at);
            if self.string_stop()? {
                return Ok(());
            }
            let start = self.at;
            self.at += 2;
            match self.bytes.get(start + 1) {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {}
                Some(b'u') => self.hex4(start).map(drop)?,
                _ => return Err(Bad::new("not_json", "an escape that JSON does not have", start)),
            }
        }
    }

    /// Nothing but blanks may follow the value.
    pub fn end(&mut self) -> Outcome<()> {
        if self.peek().is_none() { Ok(()) } else { Err(self.syntax("the end of the value")) }
    }

    /// The next value is not what was declared. If it is not even JSON, that is the error.
    #[cold]
    pub fn wrong_type(&mut self, expected: &str) -> Box<Bad> {
        self.peek();
        let start = self.at;
        if let Err(bad) = self.skip_value() {
            return bad;
        }
        let found = match self.bytes[start] {
            b'{' => "an object".to_owned(),
            b'[' => "a list".to_owned(),
            _ => excerpt(&self.text[start..self.at]),
        };
        Bad::new("wrong_type", format!("expected {expected}, found {found}"), start)
    }

    #[cold]
    fn syntax(&mut self, expected: &str) -> Box<Bad> {
        self.peek();
        self.at = self.at.min(self.bytes.len());
        // A byte in the middle of a character cannot be next: everything before it was a whole token.
        let found = match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            Some(c) => format!("`{}`", c.escape_debug()),
            None => "the end".to_owned(),
        };
        Bad::new("not_json", format!("not JSON: expected {expected}, found {found}"), self.at)
    }
}

/// The first characters of a text, for an error.
pub fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

const fn splat(byte: u8) -> u64 {
    0x0101_0101_0101_0101 * byte as u64
}

/// The first place from `at` on that is not a plain character of a string: `"`, `\`, a control character, or the end.
///
/// Eight bytes at a time (the zero-byte test of S. Anderson, "Bit Twiddling Hacks"): a borrow can only make a byte look
/// special that stands after one that is.
#[inline]
pub fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let chunk = u64::from_le_bytes(*chunk);
        let quote = chunk ^ splat(b'"');
        let backslash = chunk ^ splat(b'\\');
        let special = (quote.wrapping_sub(splat(1)) & !quote)
            | (backslash.wrapping_sub(splat(1)) & !backslash)
            | (chunk.wrapping_sub(splat(0x20)) & !chunk);
        let special = special & splat(0x80);
        if special != 0 {
            return at + special.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while at < bytes.len() && !matches!(bytes[at], b'"' | b'\\' | 0..=0x1f) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn skip(text: &str) -> Result<(), String> {
        let mut scanner = Scanner::new(text, DEPTH_MAX);
        scanner.skip_value().and_then(|()| scanner.end()).map_err(|bad| bad.detail())
    }

    #[test]
    fn passes_over_what_is_json_and_nothing_else() {
        let good = ["{}", "[]", " [ 1 , -2.5e+3 , true,false,null ] ", r#"{"a":{"b":[[],{}]},"c":"\u00e9\n"}"#, "0", "-0", "1E5", "\"\""];
        for text in good {
            assert_eq!(skip(text), Ok(()), "{text}");
        }
        let bad = [
            "",
            " ",
            "{",
            "[",
            "[1,]",
            "{\"a\":1,}",
            "{\"a\"}",
            "{a:1}",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "NaN",
            "Infinity",
            "nul",
            "'a'",
            "\"a",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\u{1}\"",
            "[1 2]",
            "[1}",
            "{]",
            "{} {}",
            "tru",
            "1 1",
            "\u{feff}1",
        ];
        for text in bad {
            assert!(skip(text).is_err(), "{text}");
        }
    }

    #[test]
    fn counts_levels_also_in_what_is_skipped() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(skip(&nested(DEPTH_MAX)), Ok(()));
        assert_eq!(skip(&nested(DEPTH_MAX + 1)), Err("nested deeper than 128 levels, at byte 128".to_owned()));
        let objects = format!("{}1{}", r#"{"a":"#.repeat(200), "}".repeat(200));
        assert_eq!(skip(&objects), Err("nested deeper than 128 levels, at byte 640".to_owned()));
    }

    #[test]
    fn keeps_apart_objects_and_lists_at_every_depth() {
        let mut text = String::new();
        for level in 0..DEPTH_MAX {
            text.push_str(if level % 3 == 0 { r#"{"k":"# } else { "[" });
        }
        text.push('0');
        for level in (0..DEPTH_MAX).rev() {
            text.push(if level % 3 == 0 { '}' } else { ']' });
        }
        assert_eq!(skip(&text), Ok(()));
        let swapped = text.replacen('}', "]", 1);
        assert!(skip(&swapped).is_err());
    }

    #[test]
    fn finds_the_end_of_plain_text_at_every_distance() {
        for length in 0..40 {
            for stop in ['"', '\\', '\u{1f}', '\0'] {
                let text = format!("{}{stop}é\"", "ÿx".repeat(length));
                assert_eq!(plain_end(text.as_bytes(), 0), length * 3, "{text:?}");
            }
            assert_eq!(plain_end("a".repeat(length).as_bytes(), 0), length);
        }
    }

    proptest! {
        /// The judge is `serde_json`, which reads the same grammar. What it says of surrogates in skipped text is the same, too.
        #[test]
        fn agrees_with_serde_json(text in r#"[\[\]{}:,"\\0-9eE.+ \-tfnulrasdbx\u{e9}]{0,24}"#) {
            let judge = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(skip(&text).is_ok(), judge);
        }

        #[test]
        fn never_panics(text in "\\PC{0,64}") {
            let _ = skip(&text);
        }
    }
}
