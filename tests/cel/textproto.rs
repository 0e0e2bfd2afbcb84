//! A reader of protobuf's text format, as far as the conformance data needs it: no schema, every field a list of values.

use std::collections::BTreeMap;

/// The fields of a message, each as often as it is written.
#[derive(Clone, Debug, Default)]
pub struct Message(pub BTreeMap<String, Vec<Field>>);

#[derive(Clone, Debug)]
pub enum Field {
    Message(Message),
    Bytes(Vec<u8>),
    /// A number, a name of an enum, `true`.
    Word(String),
}

impl Message {
    pub fn all(&self, name: &str) -> &[Field] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn messages(&self, name: &str) -> impl Iterator<Item = &Message> {
        self.all(name).iter().filter_map(|field| match field {
            Field::Message(message) => Some(message),
            _ => None,
        })
    }

    pub fn message(&self, name: &str) -> Option<&Message> {
        self.messages(name).next()
    }

    pub fn word(&self, name: &str) -> Option<&str> {
        match self.all(name).first() {
            Some(Field::Word(word)) => Some(word),
            _ => None,
        }
    }

    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        match self.all(name).first() {
            Some(Field::Bytes(bytes)) => Some(bytes),
            _ => None,
        }
    }

    pub fn text(&self, name: &str) -> Option<String> {
        self.bytes(name).map(|bytes| String::from_utf8(bytes.to_vec()).expect("a text of the data is UTF-8"))
    }
}

pub fn read(source: &str) -> Message {
    let mut reader = Reader { rest: source };
    reader.message(None)
}

struct Reader<'s> {
    rest: &'s str,
}

impl Reader<'_> {
    fn skip(&mut self) {
        loop {
            self.rest = self.rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',' || c == ';');
            if !self.rest.starts_with('#') {
                return;
            }
            self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
        }
    }

    fn message(&mut self, end: Option<char>) -> Message {
        let mut message = Message::default();
        loop {
            self.skip();
            match (self.rest.chars().next(), end) {
                (None, None) => return message,
                (None, Some(end)) => panic!("the data ends before `{end}`"),
                (Some(c), Some(end)) if c == end => {
                    self.rest = &self.rest[1..];
                    return message;
                }
                _ => {}
            }
            let name = self.word();
            self.skip();
            self.rest = self.rest.strip_prefix(':').unwrap_or(self.rest);
            self.skip();
            let value = self.value();
            message.0.entry(name).or_default().push(value);
        }
    }

    fn value(&mut self) -> Field {
        if let Some(rest) = self.rest.strip_prefix('{') {
            self.rest = rest;
            return Field::Message(self.message(Some('}')));
        }
        if !self.rest.starts_with(['"', '\'']) {
            return Field::Word(self.word());
        }
        let mut bytes = Vec::new();
        while self.rest.starts_with(['"', '\'']) {
            self.string(&mut bytes);
            self.skip();
        }
        Field::Bytes(bytes)
    }

    fn word(&mut self) -> String {
        let end = if self.rest.starts_with('[') {
            self.rest.find(']').map(|end| end + 1)
        } else {
            self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_.+-".contains(c)))
        };
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        assert!(!word.is_empty(), "a name or number is expected at `{}`", rest.chars().take(40).collect::<String>());
        self.rest = rest;
        word.to_owned()
    }

    fn string(&mut self, bytes: &mut Vec<u8>) {
        let quote = self.rest.as_bytes()[0];
        let source = self.rest.as_bytes();
        let mut at = 1;
        while source[at] != quote {
            if source[at] != b'\\' {
                bytes.push(source[at]);
                at += 1;
                continue;
            }
            let (width, value) = escape(&self.rest[at + 1..]);
            bytes.extend(value);
            at += 1 + width;
        }
        self.rest = &self.rest[at + 1..];
    }
}

/// The bytes of an escape after its backslash, and how long it is.
fn escape(text: &str) -> (usize, Vec<u8>) {
    let digits = |from: usize, most: usize, radix: u32| {
        let count = text[from..].chars().take(most).take_while(|c| c.is_digit(radix)).count();
        (from + count, u32::from_str_radix(&text[from..from + count], radix).expect("digits"))
    };
    let character = |(width, code): (usize, u32)| (width, char::from_u32(code).expect("a character").to_string().into_bytes());
    let first = text.chars().next().expect("an escape");
    match first {
        'a' => (1, vec![7]),
        'b' => (1, vec![8]),
        'f' => (1, vec![12]),
        'n' => (1, vec![10]),
        'r' => (1, vec![13]),
        't' => (1, vec![9]),
        'v' => (1, vec![11]),
        '0'..='7' => {
            let (width, code) = digits(0, 3, 8);
            (width, vec![code as u8])
        }
        'x' | 'X' => {
            let (width, code) = digits(1, 2, 16);
            (width, vec![code as u8])
        }
        'u' => character(digits(1, 4, 16)),
        'U' => character(digits(1, 8, 16)),
        other => (other.len_utf8(), other.to_string().into_bytes()),
    }
}
