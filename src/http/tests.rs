//! A real server on a real socket, over a worker that is a few maps.

use std::collections::BTreeMap;
use std::ops::RangeBounds;
use std::sync::Mutex;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{pending, ready};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::codec::KeyCodec;
use crate::metrics::RECORDS;
use crate::model::{Key, Name, Offset, TableId, TaskId, Time, Value};
use crate::runtime::changes::{FEED_EVENTS_MAX, Feed};
use crate::runtime::queries::{
    Answer, Answered, Health, InputStatus, KeyRange, KeyedRow, Location, Page, Row, TableInfo, TaskPhase, TaskStatus, Unanswered, WindowRow,
};

/// A worker that has two readable tables and one that is not.
struct Fake {
    tables: Vec<TableInfo>,
    rows: BTreeMap<Key, Row>,
    location: Mutex<Location>,
    elsewhere: Mutex<Vec<Location>>,
    windows: i64,
    fault: Mutex<Option<Unanswered>>,
    never_answers: bool,
    feed: Arc<Feed>,
    health: Health,
    partitions: Vec<i32>,
    others: Mutex<Vec<String>>,
}

fn row(name: &str, offset: i64, is_complete: bool) -> Row {
    let value = crate::codec::json::from_json(&json!({ "name": name, "complete": is_complete }), &crate::model::Type::Any);
    Row { value: value.unwrap(), offset: Offset(offset), is_complete }
}

fn key(text: &str) -> Key {
    KeyCodec::String.from_text(text).unwrap().0
}

impl Fake {
    fn new() -> Fake {
        let table = |id: usize, name: &str, key: KeyCodec, window_ms: Option<i64>, is_readable: bool| TableInfo {
            id: TableId(id),
            name: Name::parse(name).unwrap(),
            key,
            window_ms,
            is_readable,
        };
        let names = ["p1", "p2", "p3", "q1", "a/b", "changes", "é"];
        let rows = names.iter().enumerate().map(|(at, name)| (key(name), row(name, at as i64 + 10, *name != "p2")));
        Fake {
            tables: vec![
                table(0, "product", KeyCodec::String, None, true),
                table(1, "chart", KeyCodec::Int, Some(60_000), true),
                table(2, "hidden", KeyCodec::String, None, false),
            ],
            rows: rows.collect(),
            location: Mutex::new(Location::Local),
            elsewhere: Mutex::default(),
            windows: 5,
            fault: Mutex::new(None),
            never_answers: false,
            feed: Feed::new(5),
            health: Health { is_live: true, is_ready: true, problems: Vec::new() },
            partitions: vec![1, 3],
            others: Mutex::default(),
        }
    }

    fn answer<T: Send + 'static>(&self, value: T) -> Answered<Answer<T>> {
        if self.never_answers {
            return pending().boxed();
        }
        let answer = Answer { value, partition: 3, position: Offset(99) };
        let fault = self.fault.lock().unwrap().clone();
        ready(fault.map_or(Ok(answer), Err)).boxed()
    }
}

impl Queries for Fake {
    fn tables(&self) -> &[TableInfo] {
        &self.tables
    }

    fn locate(&self, _: TableId, _: &Value) -> Vec<Location> {
        [&[self.location.lock().unwrap().clone()], &**self.elsewhere.lock().unwrap()].concat()
    }

    fn get(&self, _: TableId, key: Key) -> Answered<Answer<Option<Row>>> {
        self.answer(self.rows.get(&key).cloned())
    }

    fn page(&self, _: TableId, range: KeyRange) -> Answered<Page> {
        let bounds = (range.start, range.end);
        let mut rows = self.rows.iter().filter(|(key, _)| bounds.contains(*key)).map(|(key, row)| KeyedRow {
            store_key: key.clone(),
            key: KeyCodec::String.from_store_key(key),
            window: None,
            row: row.clone(),
            partition: self.partitions[1],
        });
        let page: Vec<KeyedRow> = rows.by_ref().take(range.limit).collect();
        let has_more = rows.next().is_some();
        ready(Ok(Page { rows: page, has_more, partitions: self.partitions.clone() })).boxed()
    }

    fn others(&self, _: TableId) -> Vec<String> {
        self.others.lock().unwrap().clone()
    }

    fn partition_count(&self, _: TableId) -> i32 {
        4
    }

    fn windows(&self, _: TableId, _: Key, from: Time, to: Time, limit: usize) -> Answered<Answer<Vec<WindowRow>>> {
        let all = (0..self.windows).map(|n| WindowRow { start: Time(n * 60_000), end: Time((n + 1) * 60_000), row: row("w", n, true) });
        self.answer(all.filter(|window| (from..to).contains(&window.start)).take(limit).collect())
    }

    fn feed(&self, _: TableId) -> Arc<Feed> {
        Arc::clone(&self.feed)
    }

    fn tasks(&self) -> Vec<TaskStatus> {
        let task = |partition: i32, phase: TaskPhase| TaskStatus {
            id: TaskId { subtopology: 0, partition },
            phase,
            tables: vec![Name::parse("product").unwrap()],
            inputs: vec![InputStatus {
                topic: Name::parse("product.created").unwrap(),
                partition,
                position: Offset(7),
                end: Some(Offset(10)),
            }],
        };
        vec![task(0, TaskPhase::Running), task(1, TaskPhase::Restoring { done: 3, total: 9 })]
    }

    fn health(&self) -> Health {
        self.health.clone()
    }

    fn topology(&self) -> Bytes {
        Bytes::from_static(b"{\"app\":\"product-views\"}")
    }
}

const TOKEN: &str = "0123456789abcdef";

async fn started(fake: Fake, tokens: &[&str], limits: HttpLimits) -> (Arc<Fake>, Server) {
    started_of("shop", fake, tokens, limits).await
}

async fn started_of(app: &str, fake: Fake, tokens: &[&str], limits: HttpLimits) -> (Arc<Fake>, Server) {
    let fake = Arc::new(fake);
    let tokens = tokens.iter().map(|token| Secret::new(*token)).collect();
    let app = Name::parse(app).unwrap();
    let options = HttpOptions { app, listen: "127.0.0.1:0".parse().unwrap(), tokens, limits };
    let queries: Arc<dyn Queries> = fake.clone();
    let metrics = Metrics::new();
    metrics.counter(&RECORDS, &["product_created"]).inc();
    let server = Server::start(options, queries, metrics).await.unwrap();
    (fake, server)
}

async fn simple() -> (Arc<Fake>, Server) {
    started(Fake::new(), &[], HttpLimits::default()).await
}

/// An answer as it came over the wire.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    #[track_caller]
    fn is_problem(&self, status: u16, code: &str) {
        assert_eq!(
            (self.status, self.header("content-type"), self.json()["code"].as_str()),
            (status, Some("application/problem+json"), Some(code)),
            "{self:?}"
        );
        assert_eq!(self.json()["status"], status);
    }
}

/// Sends a whole request and reads until the server closes.
async fn raw(server: &Server, request: &str) -> Reply {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    // A server that refuses early may close before it has read everything.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    Reply { status, head: head.to_owned(), body: body.to_owned() }
}

async fn get_with(server: &Server, path: &str, headers: &str) -> Reply {
    raw(server, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n")).await
}

async fn get(server: &Server, path: &str) -> Reply {
    get_with(server, path, "").await
}

#[tokio::test]
async fn a_row_has_a_tag_and_says_as_of_when() {
    let (_, server) = simple().await;
    let reply = get(&server, "/tables/product/p1").await;
    assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"complete":true,"name":"p1"}"#));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!((reply.header("etag"), reply.header("x-partition"), reply.header("x-position")), (Some("\"10\""), Some("3"), Some("99")));
    assert_eq!(reply.header("x-complete"), None);
    let known = get_with(&server, "/tables/product/p1", "if-none-match: \"9\", W/\"10\"\r\n").await;
    assert_eq!((known.status, known.body.as_str(), known.header("etag")), (304, "", Some("\"10\"")));
    let changed = get_with(&server, "/tables/product/p1", "if-none-match: \"9\"\r\n").await;
    assert_eq!(changed.status, 200);
}

#[tokio::test]
async fn a_placeholder_says_so() {
    let (_, server) = simple().await;
    assert_eq!(get(&server, "/tables/product/p2").await.header("x-complete"), Some("false"));
}

#[tokio::test]
async fn a_key_may_have_any_character() {
    let (_, server) = simple().await;
    for (path, name) in [("a%2Fb", "a/b"), ("%63hanges", "changes"), ("%C3%A9", "é")] {
        assert_eq!(get(&server, &format!("/tables/product/{path}")).await.json()["name"], name);
    }
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_with_a_code() {
    let (_, server) = simple().await;
    let absent = get(&server, "/tables/product/p9").await;
    absent.is_problem(404, "no_such_row");
    assert_eq!((absent.header("x-partition"), absent.header("x-position")), (Some("3"), Some("99")));
    get(&server, "/tables/nothing/p1").await.is_problem(404, "no_such_table");
    get(&server, "/tables/hidden/p1").await.is_problem(404, "no_such_table");
    get(&server, "/tables/hidden").await.is_problem(404, "no_such_table");
    get(&server, "/tables/hidden/changes").await.is_problem(404, "no_such_table");
    get(&server, "/nowhere").await.is_problem(404, "no_such_path");
    get(&server, "/tables/chart/x/windows").await.is_problem(400, "bad_key");
    get(&server, "/tables/chart/7").await.is_problem(400, "windowed");
    get(&server, "/tables/product/p1/windows").await.is_problem(400, "not_windowed");
    for path in ["/tables/product/%ff", "/tables/%ff", "/tables/%ff/changes", "/tables/product/%zz", "/tables/product/%4"] {
        get(&server, path).await.is_problem(400, "bad_path");
    }
    raw(&server, "DELETE /tables/product/p1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.is_problem(405, "method_not_allowed");
}

#[tokio::test]
async fn what_may_be_answered_later_says_when() {
    let (fake, server) = simple().await;
    let later = async |location: Location, fault: Option<Unanswered>, code: &str, after: &str| {
        *fake.location.lock().unwrap() = location;
        *fake.fault.lock().unwrap() = fault;
        let reply = get(&server, "/tables/product/p1").await;
        reply.is_problem(503, code);
        assert_eq!(reply.header("retry-after"), Some(after));
    };
    later(Location::Restoring, None, "restoring", "1").await;
    later(Location::Unknown, None, "unassigned", "1").await;
    later(Location::Local, Some(Unanswered::Restoring { retry_after: Duration::from_secs(7) }), "restoring", "7").await;
    later(Location::Stopped, None, "stopped", "30").await;
    later(Location::Local, Some(Unanswered::Stopped), "stopped", "30").await;
    later(Location::Local, Some(Unanswered::Moved), "moved", "1").await;
    later(Location::Local, Some(Unanswered::Busy), "busy", "1").await;
    later(Location::Local, Some(Unanswered::Closing), "closing", "1").await;
    later(Location::Local, Some(Unanswered::Failed("the store failed".to_owned())), "failed", "1").await;
}

#[tokio::test]
async fn a_task_that_does_not_answer_holds_nobody_for_long() {
    let fake = Fake { never_answers: true, ..Fake::new() };
    let (_, server) = started(fake, &[], HttpLimits { answer_timeout: Duration::from_millis(20), ..HttpLimits::default() }).await;
    get(&server, "/tables/product/p1").await.is_problem(503, "timeout");
}

#[tokio::test]
async fn the_owner_answers_after_one_hop() {
    let (_, owner) = started(Fake::new(), &[TOKEN], HttpLimits::default()).await;
    let (fake, server) = started(Fake::new(), &[TOKEN], HttpLimits::default()).await;
    *fake.location.lock().unwrap() = Location::Remote(owner.address().to_string());
    let authorization = format!("authorization: Bearer {TOKEN}\r\n");
    let reply = get_with(&server, "/tables/product/p2", &authorization).await;
    assert_eq!(
        (reply.status, &reply.json()["name"], reply.header("etag"), reply.header("x-complete")),
        (200, &json!("p2"), Some("\"11\""), Some("false"))
    );
    assert_eq!(reply.header("x-position"), Some("99"));
    get_with(&server, "/tables/product/p9", &authorization).await.is_problem(404, "no_such_row");
    let known = get_with(&server, "/tables/product/p2", &format!("{authorization}if-none-match: \"11\"\r\n")).await;
    assert_eq!(known.status, 304);
    let windows = get_with(&server, "/tables/chart/7/windows?from=60000&limit=1", &authorization).await;
    assert_eq!(windows.json()["windows"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn nothing_travels_further_than_one_hop() {
    let (stale, middle) = simple().await;
    let (fake, server) = simple().await;
    // Each takes the other for the owner.
    *stale.location.lock().unwrap() = Location::Remote(server.address().to_string());
    *fake.location.lock().unwrap() = Location::Remote(middle.address().to_string());
    get(&server, "/tables/product/p1").await.is_problem(503, "moved");
    get_with(&server, "/tables/product/p1", "x-hop: shop\r\n").await.is_problem(503, "moved");
}

/// A key of four bytes and the same of eight are one key, and choose different partitions.
#[tokio::test]
async fn a_key_that_may_be_in_two_partitions_is_looked_for_in_both() {
    let (_, first) = with_rows("a", 1, [0, 1]).await;
    let with_windows = Fake { rows: [(key("b0"), row("b", 1, true))].into(), ..Fake::new() };
    let (_, second) = started(with_windows, &[], HttpLimits::default()).await;
    let (fake, server) = started(Fake { windows: 0, ..Fake::new() }, &[], HttpLimits::default()).await;
    let remote = |server: &Server| Location::Remote(server.address().to_string());
    let asked = async |places: Vec<Location>, path: &str| {
        *fake.location.lock().unwrap() = places[0].clone();
        *fake.elsewhere.lock().unwrap() = places[1..].to_vec();
        get(&server, path).await
    };
    let both = || vec![Location::Local, remote(&second)];
    assert_eq!(asked(both(), "/tables/product/b0").await.json()["name"], "b");
    assert_eq!(asked(both(), "/tables/product/p1").await.json()["name"], "p1", "ours is not asked for elsewhere");
    assert_eq!(asked(both(), "/tables/chart/7/windows").await.json()["windows"].as_array().unwrap().len(), 5);
    assert_eq!(asked(vec![remote(&first), remote(&second)], "/tables/product/b0").await.json()["name"], "b");
    asked(both(), "/tables/product/nobody").await.is_problem(404, "no_such_row");
    // One that does not answer may have it.
    asked(vec![Location::Local, Location::Unknown], "/tables/product/b0").await.is_problem(503, "unassigned");
    assert_eq!(asked(vec![Location::Local, Location::Unknown], "/tables/product/p1").await.status, 200);
    *fake.location.lock().unwrap() = Location::Local;
    *fake.elsewhere.lock().unwrap() = vec![remote(&first)];
    get_with(&server, "/tables/product/b0", "x-hop: shop\r\n").await.is_problem(404, "no_such_row");
}

/// Ports and addresses are given again.
#[tokio::test]
async fn a_worker_of_another_app_is_not_taken_for_the_one_that_was_at_its_address() {
    let (_, stranger) = started_of("warehouse", Fake::new(), &[], HttpLimits::default()).await;
    let (fake, server) = simple().await;
    assert_eq!(get(&stranger, "/tables/product/p1").await.status, 200, "it has a row of that key");
    *fake.location.lock().unwrap() = Location::Remote(stranger.address().to_string());
    get(&server, "/tables/product/p1").await.is_problem(503, "moved");
    get(&server, "/tables/chart/7/windows").await.is_problem(503, "moved");
}

#[tokio::test]
async fn an_owner_that_cannot_be_reached_is_asked_again_later() {
    let (fake, server) = simple().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for endpoint in [
        closed.to_string(),
        "169.254.169.254:80".to_owned(),
        "[::ffff:169.254.169.254]:80".to_owned(),
        "no port".to_owned(),
        "host".to_owned(),
    ] {
        *fake.location.lock().unwrap() = Location::Remote(endpoint.clone());
        get(&server, "/tables/product/p1").await.is_problem(503, "owner_unreachable");
    }
    let (fake, server) = started(Fake::new(), &[], HttpLimits { answer_timeout: Duration::from_millis(50), ..HttpLimits::default() }).await;
    *fake.location.lock().unwrap() = Location::Remote(silent.local_addr().unwrap().to_string());
    get(&server, "/tables/product/p1").await.is_problem(503, "owner_unreachable");
}

#[tokio::test]
async fn an_answer_from_another_worker_has_a_bound() {
    let (_, owner) = simple().await;
    let (fake, server) = started(Fake::new(), &[], HttpLimits { forwarded_bytes: 5, ..HttpLimits::default() }).await;
    *fake.location.lock().unwrap() = Location::Remote(owner.address().to_string());
    get(&server, "/tables/product/p1").await.is_problem(503, "owner_unreachable");
}

#[tokio::test]
async fn pages_lead_through_all_rows_in_the_order_of_their_keys() {
    let (_, server) = simple().await;
    let mut keys = Vec::new();
    let mut path = "/tables/product?limit=3".to_owned();
    loop {
        let page = get(&server, &path).await.json();
        assert_eq!(page["partitions"], json!([1, 3]));
        keys.extend(page["rows"].as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["cursor"].as_str() else { break };
        path = format!("/tables/product?limit=3&cursor={cursor}");
    }
    assert_eq!(keys, ["a/b", "changes", "p1", "p2", "p3", "q1", "é"]);
    let first = get(&server, "/tables/product?prefix=p&limit=1").await.json();
    assert_eq!(first["rows"][0], json!({ "key": "p1", "partition": 3, "offset": 10, "row": { "name": "p1", "complete": true } }));
}

#[tokio::test]
async fn pages_keep_to_their_bounds() {
    let (_, server) = simple().await;
    let keys = async |query: &str| {
        let page = get(&server, &format!("/tables/product?{query}")).await.json();
        page["rows"]
            .as_array()
            .unwrap_or_else(|| panic!("{page}"))
            .iter()
            .map(|row| row["key"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(keys("prefix=p").await, ["p1", "p2", "p3"]);
    assert_eq!(keys("from=p2&to=q1").await, ["p2", "p3"]);
    assert_eq!(keys("prefix=p&from=p2&to=p3").await, ["p2"]);
    assert_eq!(keys("prefix=%C3%A9").await, ["é"]);
    get(&server, "/tables/product?cursor=!").await.is_problem(400, "bad_cursor");
    for limit in ["x", "0", "1001", "-1", ""] {
        get(&server, &format!("/tables/product?limit={limit}")).await.is_problem(400, "bad_query");
    }
    get(&server, "/tables/product?scope=everywhere").await.is_problem(400, "bad_query");
    get(&server, "/tables/chart?prefix=1").await.is_problem(400, "bad_query");
    get(&server, "/tables/chart?from=x").await.is_problem(400, "bad_key");
}

/// A worker with rows `<prefix>0`, `<prefix>1`, … on partitions of its own.
async fn with_rows(prefix: &str, count: usize, partitions: [i32; 2]) -> (Arc<Fake>, Server) {
    let rows = (0..count).map(|at| (key(&format!("{prefix}{at}")), row(prefix, at as i64, true))).collect();
    started(Fake { rows, partitions: partitions.to_vec(), ..Fake::new() }, &[], HttpLimits::default()).await
}

#[tokio::test]
async fn a_page_of_all_workers_leaves_nothing_out() {
    let (here, server) = with_rows("a", 5, [1, 3]).await;
    let (_, other) = with_rows("b", 5, [0, 2]).await;
    *here.others.lock().unwrap() = vec![other.address().to_string()];
    let (mut keys, mut path) = (Vec::new(), "/tables/product?scope=all&limit=3".to_owned());
    let mut pages = 0;
    loop {
        let page = get(&server, &path).await.json();
        assert_eq!((&page["partitions"], page.get("store_keys")), (&json!([0, 1, 2, 3]), None));
        keys.extend(page["rows"].as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap().to_owned()));
        pages += 1;
        let Some(cursor) = page["cursor"].as_str() else { break };
        path = format!("/tables/product?scope=all&limit=3&cursor={cursor}");
    }
    assert_eq!((keys.join(" ").as_str(), pages), ("a0 a1 a2 a3 a4 b0 b1 b2 b3 b4", 4));
    let local = get(&server, "/tables/product").await.json();
    assert_eq!((local["rows"].as_array().unwrap().len(), &local["partitions"]), (5, &json!([1, 3])));
}

#[tokio::test]
async fn a_page_of_all_workers_needs_all_of_them() {
    let (here, server) = with_rows("a", 1, [1, 3]).await;
    get(&server, "/tables/product?scope=all").await.is_problem(503, "unassigned");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    *here.others.lock().unwrap() = vec![closed.to_string()];
    get(&server, "/tables/product?scope=all").await.is_problem(503, "owner_unreachable");
    // One that gathers in its turn would ask us again.
    let (other, second) = with_rows("b", 1, [0, 2]).await;
    // A worker that is gone matters only while nobody has its partitions.
    *here.others.lock().unwrap() = vec![closed.to_string(), second.address().to_string()];
    *other.others.lock().unwrap() = vec![server.address().to_string()];
    assert_eq!(get(&server, "/tables/product?scope=all").await.status, 200);
}

#[tokio::test]
async fn a_parameter_that_a_path_does_not_take_is_refused_by_name() {
    let (_, server) = simple().await;
    for path in [
        "/?x=1",
        "/tables/product/p1?x=1",
        "/tables/product?x=1",
        "/tables/product/changes?x=1",
        "/tables/chart/7/windows?x=1",
        "/topology?x",
        "/tasks?x=1",
        "/health/live?x=1",
        "/health/ready?x=1",
        "/metrics?x=1",
    ] {
        let reply = get(&server, path).await;
        reply.is_problem(400, "unknown_parameter");
        assert!(reply.json()["detail"].as_str().unwrap().contains("no parameter `x`"), "{reply:?}");
    }
    get(&server, "/tables/product?prefix=%ff").await.is_problem(400, "bad_query");
    get(&server, "/tables/product?limit=1&limit=2").await.is_problem(400, "bad_query");
    get(&server, "/nowhere?x=1").await.is_problem(404, "no_such_path");
}

#[tokio::test]
async fn windows_of_a_key_come_oldest_first() {
    let (_, server) = simple().await;
    let reply = get(&server, "/tables/chart/7/windows?from=60000&to=1970-01-01T00:03:00Z").await;
    let window = |n: i64| json!({ "start": n * 60_000, "end": (n + 1) * 60_000, "offset": n, "row": { "name": "w", "complete": true } });
    assert_eq!(reply.json(), json!({ "key": 7, "windows": [window(1), window(2)], "next": null }));
    assert_eq!(reply.header("x-position"), Some("99"));
    let some = get(&server, "/tables/chart/7/windows?limit=2").await.json();
    assert_eq!((some["windows"].as_array().unwrap().len(), &some["next"]), (2, &json!(120_000)));
    get(&server, "/tables/chart/7/windows?limit=0").await.is_problem(400, "bad_query");
    get(&server, "/tables/chart/7/windows?from=yesterday").await.is_problem(400, "bad_query");
}

/// A listener on a socket of its own.
struct Listener {
    stream: TcpStream,
    text: String,
}

impl Listener {
    async fn connect(server: &Server, last: Option<&str>) -> Listener {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let last = last.map_or(String::new(), |id| format!("last-event-id: {id}\r\n"));
        stream.write_all(format!("GET /tables/product/changes HTTP/1.1\r\nhost: x\r\n{last}\r\n").as_bytes()).await.unwrap();
        let mut listener = Listener { stream, text: String::new() };
        listener.until("retry: 1000\n\n").await;
        listener
    }

    /// Reads until a text has come.
    async fn until(&mut self, text: &str) {
        while !self.text.contains(text) {
            let mut bytes = [0; 4096];
            let count = self.stream.read(&mut bytes).await.unwrap();
            assert!(count > 0, "ended before `{text}`: {}", self.text);
            self.text.push_str(str::from_utf8(&bytes[..count]).unwrap());
        }
    }

    async fn read_to_end(mut self) -> String {
        let mut rest = String::new();
        self.stream.read_to_string(&mut rest).await.unwrap();
        self.text + &rest
    }
}

#[tokio::test]
async fn changes_are_told_as_they_are_committed() {
    let (fake, server) = simple().await;
    fake.feed.publish([Bytes::from("{\"n\":0}")]);
    let mut listener = Listener::connect(&server, None).await;
    fake.feed.publish([Bytes::from("{\"n\":1}"), Bytes::from("{\"n\":2}")]);
    listener.until("id: 5-2\nevent: change\ndata: {\"n\":1}\n\nid: 5-3\nevent: change\ndata: {\"n\":2}\n\n").await;
    fake.feed.publish([Bytes::from("{\"n\":3}")]);
    listener.until("id: 5-4\nevent: change\ndata: {\"n\":3}\n\n").await;
    assert!(listener.text.contains("content-type: text/event-stream") && !listener.text.contains("{\"n\":0}"), "{}", listener.text);
    server.stop(Duration::from_secs(5)).await;
    assert!(listener.read_to_end().await.ends_with("0\r\n\r\n"), "a stream that ends well");
}

#[tokio::test]
async fn a_listener_goes_on_after_its_last_event() {
    let (fake, server) = simple().await;
    fake.feed.publish((0..3).map(|n| Bytes::from(format!("{{\"n\":{n}}}"))));
    let mut listener = Listener::connect(&server, Some("5-1")).await;
    listener.until("id: 5-3\n").await;
    assert!(listener.text.contains("id: 5-2\n") && !listener.text.contains("id: 5-1\n"), "{}", listener.text);
}

#[tokio::test]
async fn a_listener_that_missed_changes_is_told_to_read_anew() {
    let (fake, server) = simple().await;
    fake.feed.publish((0..FEED_EVENTS_MAX + 5).map(|_| Bytes::from("{}")));
    let newest = FEED_EVENTS_MAX + 5;
    for last in ["5-1", "4-7", "what?"] {
        let mut listener = Listener::connect(&server, Some(last)).await;
        listener.until(&format!("id: 5-{newest}\nevent: reload\ndata: {{}}\n\n")).await;
    }
    let mut listener = Listener::connect(&server, None).await;
    fake.feed.restart();
    listener.until("id: 6-0\nevent: reload\ndata: {}\n\n").await;
    fake.feed.publish([Bytes::from("{\"n\":1}")]);
    listener.until("id: 6-1\nevent: change\ndata: {\"n\":1}\n\n").await;
}

#[tokio::test]
async fn there_is_room_for_so_many_listeners() {
    let (_, server) = started(Fake::new(), &[], HttpLimits { listeners: 1, ..HttpLimits::default() }).await;
    let listener = Listener::connect(&server, None).await;
    get(&server, "/tables/product/changes").await.is_problem(503, "busy");
    // Other requests are not held up by those who listen.
    assert_eq!(get(&server, "/tables/product/p1").await.status, 200);
    drop(listener);
}

#[tokio::test]
async fn a_worker_tells_of_itself() {
    let (_, server) = simple().await;
    assert_eq!(get(&server, "/topology").await.json(), json!({ "app": "product-views" }));
    let tasks = get(&server, "/tasks").await.json();
    let input = json!({ "topic": "product.created", "partition": 0, "position": 7, "end": 10, "lag": 3 });
    assert_eq!(
        tasks["tasks"][0],
        json!({ "task": "0_0", "partition": 0, "phase": "running", "restore": null, "reason": null, "tables": ["product"], "inputs": [input] })
    );
    assert_eq!((&tasks["tasks"][1]["phase"], &tasks["tasks"][1]["restore"]), (&json!("restoring"), &json!({ "done": 3, "total": 9 })));
    let metrics = get(&server, "/metrics").await;
    assert_eq!(metrics.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(
        metrics.body.contains("millstream_records_total{source=\"product_created\"} 1\n") && metrics.body.ends_with("# EOF\n"),
        "{}",
        metrics.body
    );
    let index = get(&server, "/").await.body;
    for (path, _) in ENDPOINTS {
        assert!(index.contains(path), "{path}");
    }
}

#[tokio::test]
async fn health_is_a_status() {
    let (_, server) = simple().await;
    for path in ["/health/live", "/health/ready"] {
        let reply = get(&server, path).await;
        assert_eq!((reply.status, reply.json()), (200, json!({ "status": "ok", "problems": [] })));
    }
    let health = Health { is_live: true, is_ready: false, problems: vec!["no broker".to_owned()] };
    let (_, server) = started(Fake { health, ..Fake::new() }, &[], HttpLimits::default()).await;
    assert_eq!(get(&server, "/health/live").await.status, 200);
    let ready = get(&server, "/health/ready").await;
    assert_eq!((ready.status, ready.json()), (503, json!({ "status": "unavailable", "problems": ["no broker"] })));
}

#[tokio::test]
async fn with_tokens_nobody_else_is_answered() {
    let (_, server) = started(Fake::new(), &["another-token-0001", TOKEN], HttpLimits::default()).await;
    for headers in [
        "",
        "authorization: Bearer wrong\r\n",
        &format!("authorization: Basic {TOKEN}\r\n"),
        &format!("authorization: {TOKEN}\r\n"),
        "authorization: Bearer \r\n",
    ] {
        for path in ["/tables/product/p1", "/metrics", "/tasks", "/nowhere", "/tables/product/changes", "/health"] {
            let reply = get_with(&server, path, headers).await;
            reply.is_problem(401, "unauthorized");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        }
        // Who watches over the process has no token.
        assert_eq!(get_with(&server, "/health/ready", headers).await.status, 200);
    }
    for token in [TOKEN, "another-token-0001"] {
        assert_eq!(get_with(&server, "/tables/product/p1", &format!("authorization: bearer {token}\r\n")).await.status, 200);
    }
}

#[tokio::test]
async fn everything_from_outside_has_a_bound() {
    let limits = HttpLimits { head_timeout: Duration::from_millis(100), ..HttpLimits::default() };
    let (_, server) = started(Fake::new(), &[], limits).await;
    get(&server, &format!("/tables/product/{}", "x".repeat(8 << 10))).await.is_problem(414, "uri_too_long");
    let large = get_with(&server, "/", &format!("x-large: {}\r\n", "x".repeat(20 << 10))).await;
    assert_eq!(large.status, 431);
    let body = format!("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", (64 << 10) + 1);
    raw(&server, &body).await.is_problem(413, "body_too_large");
    // A head that never ends: the server does.
    let slow = raw(&server, "GET / HTTP/1.1\r\nhost: x\r\nx-slow").await;
    assert_ne!(slow.status, 200);
    let (_, server) = started(Fake::new(), &[], HttpLimits { requests: 0, ..HttpLimits::default() }).await;
    get(&server, "/tables/product/p1").await.is_problem(503, "busy");
}

#[tokio::test]
async fn a_server_that_stops_answers_what_it_has_begun() {
    let (_, server) = simple().await;
    let address = server.address();
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /tables/product/p1 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    server.stop(Duration::from_secs(5)).await;
    let mut rest = String::new();
    idle.read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with("{\"complete\":true,\"name\":\"p1\"}"), "{rest}");
    assert!(TcpStream::connect(address).await.is_err());
}
