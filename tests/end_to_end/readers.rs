//! Readers that look at HTTP and Redis all the time while workers die, and remember what they saw.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::events::KEYS;
use crate::fold::Row;
use crate::random::Random;
use crate::workers::get;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(4);

/// A row over HTTP, or that there is none.
pub struct SeenRow {
    pub key: String,
    pub partition: i32,
    /// The changelog offset up to which the answer has everything.
    pub position: i64,
    pub row: Option<Row>,
}

/// A card in Redis.
pub struct SeenCard {
    pub key: String,
    pub card: Option<BTreeMap<String, String>>,
}

#[derive(Default)]
pub struct Seen {
    pub rows: Vec<SeenRow>,
    pub cards: Vec<SeenCard>,
}

/// Two threads that look.
pub struct Readers {
    stop: Arc<AtomicBool>,
    /// Where workers answer at the moment.
    pub addresses: Arc<Mutex<Vec<String>>>,
    threads: [JoinHandle<Seen>; 2],
}

impl Readers {
    pub fn start(seed: u64, redis: &str, app: &str) -> Readers {
        let (stop, addresses) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (told, known) = (stop.clone(), addresses.clone());
        let http = thread::spawn(move || look_at_http(seed, &told, &known));
        let (told, app) = (stop.clone(), app.to_owned());
        let mut connection = redis::Client::open(redis).unwrap().get_connection().unwrap();
        let cards = thread::spawn(move || look_at_redis(seed, &told, &mut connection, &app));
        Readers { stop, addresses, threads: [http, cards] }
    }

    pub fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut seen = Seen::default();
        for thread in self.threads {
            let part = thread.join().unwrap();
            seen.rows.extend(part.rows);
            seen.cards.extend(part.cards);
        }
        seen
    }
}

fn some_key(random: &mut Random) -> String {
    format!("p{}", random.below(KEYS).min(random.below(KEYS)).min(random.below(KEYS)))
}

fn look_at_http(seed: u64, stop: &AtomicBool, addresses: &Mutex<Vec<String>>) -> Seen {
    let (mut random, mut seen) = (Random(seed), Seen::default());
    while !stop.load(Ordering::Relaxed) {
        thread::park_timeout(PAUSE);
        let known = addresses.lock().unwrap().clone();
        if known.is_empty() {
            continue;
        }
        let key = some_key(&mut random);
        let address = &known[random.below(known.len() as u64) as usize];
        // A worker that has just been killed, or a task that is being restored: no answer is no wrong answer.
        let Some(answer) = get(address, &format!("/tables/product/{key}")) else { continue };
        let row = match answer.status {
            200 => Some(serde_json::from_slice(&answer.body).unwrap()),
            404 => None,
            _ => continue,
        };
        let number = |name| answer.header(name).and_then(|value| value.parse::<i64>().ok());
        let (partition, position) = (number("x-partition"), number("x-position"));
        let (partition, position) = partition.zip(position).unwrap_or_else(|| panic!("an answer without a position: {}", answer.head));
        seen.rows.push(SeenRow { key, partition: partition as i32, position, row });
    }
    seen
}

fn look_at_redis(seed: u64, stop: &AtomicBool, connection: &mut redis::Connection, app: &str) -> Seen {
    let (mut random, mut seen) = (Random(seed), Seen::default());
    while !stop.load(Ordering::Relaxed) {
        thread::park_timeout(PAUSE);
        let key = some_key(&mut random);
        let card: BTreeMap<String, String> = redis::cmd("HGETALL").arg(format!("{app}:product:{key}")).query(connection).unwrap();
        seen.cards.push(SeenCard { key, card: Some(card).filter(|card| !card.is_empty()) });
    }
    seen
}
