//! The events of the shop, from a seed: out of order, late, doubled, deleted, about products that never come, and some bad ones.
//!
//! What is here is only what was sent. What must become of it is said by `fold.rs`, which reads the topics and not this.

use std::collections::VecDeque;

use serde_json::json;

use crate::random::Random;

/// Products that are spoken of.
pub const KEYS: u64 = 160;
/// 2026-01-01T00:00:00Z, in milliseconds.
pub const DAY: i64 = 1_767_225_600_000;
/// An hour into the day, so that nothing falls out of it; `fold.rs` writes times of this day only.
const START: i64 = DAY + 3_600_000;
/// Event time that passes from one event to the next.
const STEP_MS: i64 = 40;
/// Events that may be sent again.
const RECENT: usize = 400;

/// Two topics of one shop.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Topic {
    Created,
    Priced,
}

#[derive(Clone, Debug)]
pub struct Event {
    pub topic: Topic,
    pub key: Option<String>,
    /// `None`: a tombstone.
    pub value: Option<Vec<u8>>,
    pub time: i64,
}

impl Random {
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// An endless row of events.
pub struct Events {
    random: Random,
    number: i64,
    recent: VecDeque<Event>,
}

impl Events {
    pub fn new(seed: u64) -> Events {
        Events { random: Random(seed), number: 0, recent: VecDeque::new() }
    }

    /// An upsert whose product is known and whose time is the newest so far: its row leaves the table for certain.
    pub fn newest(&mut self) -> Event {
        self.number += 1;
        self.upsert(Topic::Created, 0, START + self.number * STEP_MS + 3_600_000)
    }

    fn upsert(&mut self, topic: Topic, key: u64, time: i64) -> Event {
        let (id, number) = (format!("e{}", self.number), self.number);
        let product = format!("p{key}");
        let at = if number % 2 == 0 { json!(time) } else { json!(text_of(time)) };
        let value = match topic {
            Topic::Created => {
                let category = self.random.percent(60).then(|| format!("c{}", self.random.below(5)));
                json!({ "eventId": id, "productId": product, "name": format!("n{number}"), "category": category, "occurredAt": at })
            }
            Topic::Priced => {
                // Few different prices, so that some rows come back to what they were. Zero is a price that the card does not take.
                let cents = if self.random.percent(3) { 0 } else { 100 + self.random.below(40) * 25 };
                let price = format!("{}.{:02}", cents / 100, cents % 100);
                let currency = if self.random.percent(80) { "EUR" } else { "USD" };
                json!({ "eventId": id, "productId": product, "price": price, "currency": currency, "occurredAt": at })
            }
        };
        Event { topic, key: Some(product), value: Some(value.to_string().into_bytes()), time }
    }

    /// Whole seconds, so that records of one key often have the same time.
    fn time(&mut self) -> i64 {
        let now = START + self.number * STEP_MS;
        let random = &mut self.random;
        let shift = match random.below(100) {
            0..70 => -(random.below(5_000) as i64),
            70..95 => -(random.below(60_000) as i64),
            95..98 => random.below(20_000) as i64,
            // Later than a window of a minute and its grace of two.
            _ => -(200_000 + random.below(200_000) as i64),
        };
        (now + shift) / 1000 * 1000
    }

    /// Some keys are spoken of more often; of each eighth key the product never comes.
    fn key(&mut self, topic: Topic) -> u64 {
        loop {
            let key = self.random.below(KEYS).min(self.random.below(KEYS));
            if topic == Topic::Priced || key % 8 != 7 {
                return key;
            }
        }
    }

    fn bad(&mut self) -> Event {
        let topic = if self.random.percent(50) { Topic::Created } else { Topic::Priced };
        let (key, time) = (self.key(topic), self.time());
        let mut event = self.upsert(topic, key, time);
        let mut tree: serde_json::Value = serde_json::from_slice(&event.value.take().unwrap_or_default()).unwrap();
        let (field, wrong) = if topic == Topic::Created { ("name", json!(5)) } else { ("price", json!(true)) };
        let mut text = None;
        match self.random.below(5) {
            0 => text = Some(b"{\"eventId\": oops".to_vec()),
            1 => tree["productId"] = json!("somebody-else"),
            2 => _ = tree.as_object_mut().map(|fields| fields.remove(field)),
            3 => event.key = None,
            _ => tree[field] = wrong,
        }
        event.value = Some(text.unwrap_or_else(|| tree.to_string().into_bytes()));
        event
    }

    /// An event that was sent before; sometimes its name with other contents, as a careless producer would.
    fn again(&mut self) -> Option<Event> {
        let at = self.random.below(self.recent.len().max(1) as u64) as usize;
        let mut event = self.recent.get(at)?.clone();
        if self.random.percent(20) {
            let mut tree: serde_json::Value = serde_json::from_slice(event.value.as_deref()?).ok()?;
            let (field, other) = if event.topic == Topic::Created { ("name", json!("again")) } else { ("price", json!("99.99")) };
            tree[field] = other;
            event.value = Some(tree.to_string().into_bytes());
        }
        Some(event)
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.number += 1;
        match self.random.below(100) {
            0..2 => return Some(self.bad()),
            2..8 => {
                if let Some(event) = self.again() {
                    return Some(event);
                }
            }
            _ => {}
        }
        let topic = if self.random.percent(25) { Topic::Created } else { Topic::Priced };
        let (key, time) = (self.key(topic), self.time());
        if self.random.percent(5) {
            return Some(Event { topic, key: Some(format!("p{key}")), value: None, time });
        }
        let event = self.upsert(topic, key, time);
        self.recent.push_back(event.clone());
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        Some(event)
    }
}

/// A whole second of the day as RFC 3339, as rows show it.
pub fn text_of(time: i64) -> String {
    let (seconds, ms) = ((time - DAY) / 1000, (time - DAY) % 1000);
    assert!((0..86_400).contains(&seconds), "a time of another day: {time}");
    let fraction = if ms == 0 { String::new() } else { format!(".{ms:03}") };
    format!("2026-01-01T{:02}:{:02}:{:02}{fraction}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
