//! The demo's products and prices: made, and appended to the embedded log.

use bytes::Bytes;

use crate::cli::demo::{PARTITIONS, PRODUCTS, SPAN_MS, name};
use crate::log::memory::MemoryCluster;
use crate::log::partitioner::partition_of;
use crate::model::{Headers, Time};

/// Products that are priced but never created.
const UNKNOWN: u64 = 40;

/// Makes products and prices as a real system does: not in order.
pub struct Generator<'a> {
    pub random: u64,
    pub start: Time,
    pub cluster: &'a MemoryCluster,
    pub sent: u64,
}

impl Generator<'_> {
    /// A step of xorshift64: the demo is the same each time.
    fn next(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below.max(1)
    }

    /// One of a hundred rounds.
    pub fn round(&mut self, round: u64, prices: u64) -> Result<(), String> {
        let now = self.start.0 + (round as i64) * SPAN_MS / 100;
        for _ in 0..prices {
            // Every tenth price is of the hero, one in 500 of a product that nobody creates.
            let product = match self.next(500) {
                0 => PRODUCTS + self.next(UNKNOWN),
                n if n < 50 => 7,
                _ => self.next(PRODUCTS),
            };
            // One in 20 comes late, by up to 90 s; one in 200 by ten minutes, after its window's grace.
            let late = match self.next(200) {
                0 => 600_000,
                n if n < 10 => self.next(90_000) as i64,
                _ => 0,
            };
            let jitter = self.next((SPAN_MS / 100) as u64) as i64;
            let at = now + jitter - late;
            let wave = ((at - self.start.0) as f64 / SPAN_MS as f64 * 9.0).sin() * 300.0;
            let cents = 2_000 + (product * 37 % 5_000) as i64 + wave as i64 + self.next(120) as i64;
            let id = self.sent;
            self.price(id, product, cents, at)?;
            if self.next(50) == 0 {
                self.price(id, product, cents, at)?; // The producer tried again.
            }
        }
        // Products come with their prices, many of them after the first.
        for product in 0..PRODUCTS {
            if product % 100 == round {
                self.product(product, now)?;
            }
        }
        if round % 25 == 24 {
            self.send("product.price-updated", "p00001", "{\"eventId\":\"broken\",\"productId\":\"p00001\",\"price\":", now)?;
        }
        Ok(())
    }

    fn price(&mut self, id: u64, product: u64, cents: i64, at: i64) -> Result<(), String> {
        let key = format!("p{product:05}");
        let json = format!(
            "{{\"eventId\":\"x{id}\",\"productId\":\"{key}\",\"price\":\"{}.{:02}\",\"currency\":\"EUR\",\"occurredAt\":{at}}}",
            cents / 100,
            cents % 100
        );
        self.send("product.price-updated", &key, &json, at)
    }

    fn product(&mut self, product: u64, at: i64) -> Result<(), String> {
        const WORDS: [&str; 8] = ["Tea", "Lamp", "Chair", "Kettle", "Clock", "Basket", "Mirror", "Drum"];
        let key = format!("p{product:05}");
        let word = WORDS[(product % 8) as usize];
        let json = format!(
            "{{\"eventId\":\"c{product}\",\"productId\":\"{key}\",\"name\":\"{word} no. {product}\",\"category\":\"home\",\"occurredAt\":{at}}}"
        );
        self.send("product.created", &key, &json, at)
    }

    fn send(&mut self, topic: &str, key: &str, json: &str, at: i64) -> Result<(), String> {
        let partition = partition_of(key.as_bytes(), PARTITIONS);
        let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(json.as_bytes()));
        let sent = self.cluster.append(&name(topic)?, partition, Some(key), Some(value), Time(at), Headers::default());
        self.sent += 1;
        sent.map(drop).map_err(|error| error.to_string())
    }
}
