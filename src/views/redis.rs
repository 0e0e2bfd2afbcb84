//! The views of a worker on a real Redis: a tokio task per view and partition drives its lane.
//!
//! Stream threads only push into the queue. A task has one script in flight; tasks share a few pipelined connections. Whatever
//! Redis says or does not say, the task waits a moment and takes the same step again: the script sorts out what had happened.
//! No address with a password is ever logged.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, IntoConnectionInfo, RedisError, Script, Value};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::metrics::{Counter, Metrics, REDIS_ERRORS, VIEW_QUEUE_BYTES};
use crate::model::{Clock, Name, Offset, SystemClock, TableId};
use crate::views::fence::{FIELD_KEYS, FIELDS, Piece, Reply, SCRIPT, Stored};
use crate::views::lane::{Answer, Lane, Step};
use crate::views::opening::{Opening, Views};
use crate::views::queue::{LaneId, OnLag, ViewQueue};
use crate::views::rows::RowSource;
use crate::views::{CommittedBatch, Pressure, ViewPublisher, ViewShape, ViewSpec, ViewStatus};

/// Connections that the lanes of a worker share: enough that one large script does not hold up all others.
const CONNECTIONS: usize = 4;
/// Shortest and longest wait before a failed step is taken again. The longest bounds how late the return of Redis is noticed.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a lane that was closed may go on to write what is queued.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Keys asked for by one `SCAN` or `HSCAN`.
const SCAN_COUNT: usize = 500;
/// A tick by which lanes that wait look at the time again, at most.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// How to reach Redis and how much to hold for it.
pub struct RedisSettings {
    /// `redis://[user:password@]host:port[/db]`; secret.
    pub url: String,
    /// Rows per script, 1 to 500.
    pub batch: usize,
    /// Bytes of committed rows held for Redis, for the whole process. Default 64 MiB.
    pub queue_bytes: usize,
    pub on_lag: OnLag,
    /// How long a reply may take before its outcome counts as unknown. Default 5 s.
    pub reply_timeout: Duration,
    /// Names this worker in watermarks.
    pub worker: Name,
}

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RedisSettings { url: _, batch, queue_bytes, on_lag, reply_timeout, worker } = self;
        f.debug_struct("RedisSettings")
            .field("url", &"…")
            .field("batch", batch)
            .field("queue_bytes", queue_bytes)
            .field("on_lag", on_lag)
            .field("reply_timeout", reply_timeout)
            .field("worker", worker)
            .finish()
    }
}

/// Settings with which no connection can ever be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadRedisSettings(pub String);

impl fmt::Display for BadRedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadRedisSettings {}

/// The views of one worker on Redis.
pub struct RedisViews {
    shared: Arc<Shared>,
    runtime: Handle,
    lanes: Mutex<HashMap<LaneId, LaneTask>>,
}

struct LaneTask {
    abort: AbortHandle,
    status: Arc<Mutex<ViewStatus>>,
}

/// What the tasks share.
struct Shared {
    views: Views,
    queue: ViewQueue,
    connections: Vec<Connector>,
    script: Script,
    errors: Errors,
    troubled: Troubled,
    clock: SystemClock,
}

impl RedisViews {
    /// Starts publishing. Connects when the first table is opened; a Redis that is away is not an error.
    ///
    /// # Errors
    /// [`BadRedisSettings`] if the URL is none, or asks for what is not built in (TLS).
    pub fn start(
        runtime: Handle,
        app: Name,
        settings: &RedisSettings,
        specs: Vec<ViewSpec>,
        source: Arc<dyn RowSource>,
        metrics: &Arc<Metrics>,
    ) -> Result<RedisViews, BadRedisSettings> {
        let bad = |cause: &RedisError| {
            let cause = cause.category();
            BadRedisSettings(format!(
                "`redis.url` is not usable ({cause}): write `redis://host:port`, or `redis://user:password@host:port/db`"
            ))
        };
        let address = settings.url.as_str().into_connection_info().map_err(|error| bad(&error))?;
        let name = address.addr().to_string();
        let address = address.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let client = Client::open(address).map_err(|error| bad(&error))?;
        let errors = Errors::new(metrics);
        let connector = |number| Connector::new(client.clone(), name.clone(), settings.reply_timeout, number == 0);
        let mut views = Views::new(app, &settings.worker, specs, source, metrics.clone());
        views.rows_max = settings.batch.clamp(1, crate::views::fence::PIECE_ROWS_MAX);
        let shared = Shared {
            views,
            queue: ViewQueue::new(settings.queue_bytes, settings.on_lag, metrics.gauge(&VIEW_QUEUE_BYTES, &[])),
            connections: (0..CONNECTIONS).map(connector).collect(),
            script: Script::new(SCRIPT),
            errors,
            troubled: Troubled::default(),
            clock: SystemClock,
        };
        Ok(RedisViews { shared: Arc::new(shared), runtime, lanes: Mutex::default() })
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<LaneId, LaneTask>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ViewPublisher for RedisViews {
    fn open(&self, table: TableId, partition: i32, topic_id: &str, offset: Offset) {
        let shared = &self.shared;
        // The lanes of an earlier opening end at once: two of them would take the watermark from each other.
        for id in shared.queue.close(table, partition) {
            if let Some(task) = self.lanes().remove(&id) {
                task.abort.abort();
            }
            shared.queue.remove(id);
        }
        for Opening { lane, dropped } in shared.views.open(table, partition, topic_id, offset, shared.clock.now()) {
            let wake = Arc::new(Notify::new());
            let status = Arc::new(Mutex::new(lane.view_status()));
            let id = shared.queue.add(table, partition, offset, wake.clone(), dropped);
            let driver = Driver { shared: shared.clone(), lane, id, wake, status: status.clone(), backoff: BACKOFF_MIN, trouble: None };
            let task = self.runtime.spawn(driver.run());
            self.lanes().insert(id, LaneTask { abort: task.abort_handle(), status });
        }
    }

    fn close(&self, table: TableId, partition: i32) {
        let ids = self.shared.queue.close(table, partition);
        // They end by themselves; their tasks are forgotten now, so that `status` does not show them.
        ids.iter().for_each(|id| _ = self.lanes().remove(id));
    }

    fn publish(&self, batch: CommittedBatch) -> Pressure {
        self.shared.queue.push(batch)
    }

    fn pressure(&self) -> Pressure {
        self.shared.queue.pressure()
    }

    fn status(&self) -> Vec<ViewStatus> {
        let status = |task: &LaneTask| task.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut all: Vec<ViewStatus> = self.lanes().values().map(status).collect();
        all.sort_by(|a, b| (&a.view, a.partition).cmp(&(&b.view, b.partition)));
        all
    }

    fn shutdown(&self, within: Duration) -> bool {
        let is_settled = self.shared.queue.wait_settled(within);
        for (id, task) in self.lanes().drain() {
            task.abort.abort();
            self.shared.queue.remove(id);
        }
        is_settled
    }
}

impl Drop for RedisViews {
    fn drop(&mut self) {
        self.lanes().drain().for_each(|(_, task)| task.abort.abort());
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(trouble) = self.trouble {
            self.shared.troubled.leave(trouble);
        }
        self.shared.queue.remove(self.id);
        self.lane.retire();
    }
}

/// What a turn that did not fail says of Redis.
enum Turn {
    /// It took what was written, or nothing is left to write: all is well.
    Level,
    /// It was asked something, or the store was. That says nothing: a Redis that is full or paused still answers.
    Preparing,
}

/// The task of one lane.
struct Driver {
    shared: Arc<Shared>,
    lane: Lane,
    id: LaneId,
    wake: Arc<Notify>,
    status: Arc<Mutex<ViewStatus>>,
    backoff: Duration,
    /// What the last step met, if it failed.
    trouble: Option<Trouble>,
}

impl Driver {
    async fn run(mut self) {
        let mut closing_since = None;
        loop {
            if self.shared.queue.is_closing(self.id) {
                let since = *closing_since.get_or_insert_with(|| self.shared.clock.now());
                let is_late = self.shared.clock.now().0 - since.0 > CLOSE_TIMEOUT.as_millis() as i64;
                if is_late || self.lane.view_status().state != "live" {
                    break;
                }
            }
            self.lane.set_sealed(self.shared.queue.look(self.id).0);
            if self.lane.wants_batches() {
                self.lane.take(self.shared.queue.take(self.id));
            }
            match self.turn().await {
                Ok(Turn::Level) => self.recovered(),
                Ok(Turn::Preparing) => {}
                Err(failure) => self.failed(failure).await,
            }
            self.shared.queue.done(self.id, self.lane.take_released());
            self.report();
            if let Some(offset) = self.lane.settled_at()
                && self.shared.queue.settle(self.id, offset)
            {
                break;
            }
        }
    }

    /// Takes one step and gives the lane its answer.
    async fn turn(&mut self) -> Result<Turn, Failure> {
        let now = self.shared.clock.now();
        let (table, partition, watermark) = (self.lane.table(), self.lane.partition(), self.lane.watermark_key().to_owned());
        let shared = self.shared.clone();
        let answer = match self.lane.step(now) {
            Step::Idle { until } => {
                let wait = Duration::from_millis(u64::try_from(until.0 - now.0).unwrap_or(0)).min(IDLE_MAX);
                _ = timeout(wait, self.wake.notified()).await;
                return Ok(Turn::Level);
            }
            Step::Ask(question) => question.ask(&*shared.views.source, table, partition).await,
            Step::Read => shared.read(self.id, &watermark).await?,
            Step::Run(piece) => Answer::Reply(shared.run(self.id, piece).await?),
            Step::FindKeys { pattern, of, cursor } => shared.find_keys(self.id, &pattern.glob(), of, cursor).await?,
            Step::FindEntries { ledger, cursor } => shared.find_entries(self.id, &ledger, cursor).await?,
        };
        let turn = if matches!(answer, Answer::Reply(_)) { Turn::Level } else { Turn::Preparing };
        self.lane.answer(answer, shared.clock.now());
        Ok(turn)
    }

    fn recovered(&mut self) {
        self.backoff = BACKOFF_MIN;
        if let Some(trouble) = self.trouble.take()
            && self.shared.troubled.leave(trouble)
        {
            info!(after = trouble.label(), "Redis takes writes again, views catch up");
        }
    }

    async fn failed(&mut self, failure: Failure) {
        let Failure { trouble, text } = failure;
        self.shared.errors.count(trouble);
        let before = self.trouble.replace(trouble);
        let is_news = before != Some(trouble) && self.shared.troubled.enter(trouble);
        if let Some(before) = before.filter(|before| *before != trouble) {
            self.shared.troubled.leave(before);
        }
        if is_news {
            let (view, partition, kind, help) = (self.lane.view(), self.lane.partition(), trouble.label(), trouble.help());
            let address = &self.shared.connections[0].address;
            warn!(%address, kind, error = %text, help, %view, partition, "Redis does not take writes; streams go on, views wait and try again");
        }
        if trouble == Trouble::WrongType {
            self.shared.clear_bookkeeping(self.id, &self.lane.bookkeeping_keys()).await;
            self.lane.doubt();
        }
        let is_lost = self.shared.queue.look(self.id).1;
        self.lane.failed(text, is_lost);
        self.report();
        sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    fn report(&mut self) {
        if let Some((rows, reason)) = self.lane.take_unshowable() {
            warn!(view = %self.lane.view(), partition = self.lane.partition(), rows, %reason, "rows cannot be shown");
        }
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = self.lane.view_status();
    }
}

impl Shared {
    async fn send(&self, lane: LaneId, command: &Cmd) -> Result<Value, Failure> {
        let connector = &self.connections[lane as usize % self.connections.len()];
        let (number, mut connection) = connector.connection().await?;
        connection.send_packed_command(command).await.and_then(Value::extract_error).map_err(|error| {
            let failure = Failure::from(&error);
            if failure.trouble.ends_connection() {
                connector.discard(number);
            }
            failure
        })
    }

    async fn read(&self, lane: LaneId, watermark: &str) -> Result<Answer, Failure> {
        let mut command = redis::cmd("HMGET");
        command.arg(watermark);
        FIELDS.iter().chain([&FIELD_KEYS]).for_each(|field| _ = command.arg(*field));
        let Value::Array(values) = self.send(lane, &command).await? else { return Err(Failure::unexpected()) };
        let mut texts = values.into_iter().map(text);
        let mut stored = Stored::default();
        stored.iter_mut().for_each(|field| *field = texts.next().unwrap_or_default());
        Ok(Answer::Watermark { stored, keys: texts.next().filter(|keys| !keys.is_empty()) })
    }

    async fn run(&self, lane: LaneId, piece: &Piece) -> Result<Reply, Failure> {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.script.get_hash()).arg(piece.key_count());
        piece.keys().for_each(|key| _ = command.arg(key));
        piece.each_argument(|argument| _ = command.arg(argument));
        let mut reply = self.send(lane, &command).await;
        if let Err(failure) = &reply
            && failure.trouble == Trouble::NoScript
        {
            // SCRIPT FLUSH or a server that has not seen it yet.
            self.errors.count(Trouble::NoScript);
            let mut load = redis::cmd("SCRIPT");
            load.arg("LOAD").arg(SCRIPT);
            self.send(lane, &load).await?;
            reply = self.send(lane, &command).await;
        }
        match reply? {
            Value::Int(replaced) => Ok(Reply::Applied { replaced: u64::try_from(replaced).unwrap_or(0) }),
            Value::Array(values) if values.len() == FIELDS.len() => {
                let mut stored = Stored::default();
                stored.iter_mut().zip(values).for_each(|(field, value)| *field = text(value));
                Ok(Reply::Refused(stored))
            }
            _ => Err(Failure::unexpected()),
        }
    }

    async fn find_keys(&self, lane: LaneId, glob: &str, of: Option<ViewShape>, cursor: u64) -> Result<Answer, Failure> {
        let mut command = redis::cmd("SCAN");
        command.arg(cursor).arg("MATCH").arg(glob).arg("COUNT").arg(SCAN_COUNT);
        if let Some(shape) = of {
            let kind = match shape {
                ViewShape::Hash => "hash",
                ViewShape::Json | ViewShape::String | ViewShape::Pubsub => "string",
                ViewShape::Zset => "zset",
                ViewShape::Set => "set",
                ViewShape::Stream => "stream",
            };
            command.arg("TYPE").arg(kind);
        }
        let (cursor, keys) = page(self.send(lane, &command).await?)?;
        Ok(Answer::Keys { cursor, keys })
    }

    async fn find_entries(&self, lane: LaneId, ledger: &str, cursor: u64) -> Result<Answer, Failure> {
        let mut command = redis::cmd("HSCAN");
        command.arg(ledger).arg(cursor).arg("COUNT").arg(SCAN_COUNT);
        let (cursor, list) = page(self.send(lane, &command).await?)?;
        let mut entries = Vec::with_capacity(list.len() / 2);
        let mut list = list.into_iter();
        while let (Some(row), Some(entry)) = (list.next(), list.next()) {
            entries.push((row, entry));
        }
        Ok(Answer::Entries { cursor, entries })
    }

    /// One of our own keys holds something that is no hash. If clearing it fails too, the next step meets the same trouble.
    async fn clear_bookkeeping(&self, lane: LaneId, keys: &[String]) {
        for key in keys {
            let mut ask = redis::cmd("TYPE");
            ask.arg(key);
            if matches!(self.send(lane, &ask).await.map(text).as_deref(), Ok("hash" | "none") | Err(_)) {
                continue;
            }
            let mut clear = redis::cmd("UNLINK");
            clear.arg(key);
            _ = self.send(lane, &clear).await;
        }
    }
}

fn text(value: Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::SimpleString(text) => text,
        Value::Int(number) => number.to_string(),
        _ => String::new(),
    }
}

/// A reply of `SCAN`: the next cursor, and texts.
fn page(reply: Value) -> Result<(u64, Vec<Vec<u8>>), Failure> {
    let Value::Array(parts) = reply else { return Err(Failure::unexpected()) };
    let mut parts = parts.into_iter();
    let (Some(cursor), Some(Value::Array(list))) = (parts.next(), parts.next()) else { return Err(Failure::unexpected()) };
    let cursor = text(cursor).parse().map_err(|_| Failure::unexpected())?;
    let bytes = |value| if let Value::BulkString(bytes) = value { bytes } else { Vec::new() };
    Ok((cursor, list.into_iter().map(bytes).collect()))
}

/// A connection that is made when it is needed.
struct Connector {
    client: Client,
    /// Host and port, without user and password.
    address: String,
    reply_timeout: Duration,
    /// The first of a worker's connectors speaks for all.
    is_first: bool,
    /// The server that the log was told of last.
    introduced: Mutex<Option<[String; 4]>>,
    /// With a number that tells it from those before it.
    current: Mutex<Option<(u64, MultiplexedConnection)>>,
    attempts: tokio::sync::Mutex<Attempts>,
}

/// Held while connecting, so that one lane connects and the others wait for it.
struct Attempts {
    made: u64,
    /// Not before this time again, but fail as the last time.
    retry_at: Instant,
    delay: Duration,
    failure: Option<Failure>,
}

impl Connector {
    fn new(client: Client, address: String, reply_timeout: Duration, is_first: bool) -> Connector {
        let attempts = Attempts { made: 0, retry_at: Instant::now(), delay: BACKOFF_MIN, failure: None };
        Connector {
            client,
            address,
            reply_timeout,
            is_first,
            introduced: Mutex::default(),
            current: Mutex::default(),
            attempts: tokio::sync::Mutex::new(attempts),
        }
    }

    async fn connection(&self) -> Result<(u64, MultiplexedConnection), Failure> {
        if let Some(current) = self.current() {
            return Ok(current);
        }
        let mut attempts = self.attempts.lock().await;
        if let Some(current) = self.current() {
            return Ok(current);
        }
        if let Some(failure) = attempts.failure.as_ref().filter(|_| Instant::now() < attempts.retry_at) {
            return Err(failure.clone());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(self.reply_timeout))
            .set_pipeline_buffer_size(PIPELINE_BUFFER);
        // The set-up of a connection waits for replies, for which the connection timeout does not count.
        let connecting = self.client.get_multiplexed_async_connection_with_config(&config);
        let made = match timeout(CONNECT_TIMEOUT * 2, greeted(connecting)).await {
            Ok(made) => made,
            Err(_) => Err(Failure { trouble: Trouble::Unreachable, text: "no answer while connecting".to_owned() }),
        };
        match made {
            Ok(mut connection) => {
                attempts.made += 1;
                attempts.delay = BACKOFF_MIN;
                attempts.failure = None;
                if self.is_first {
                    self.introduce(&mut connection).await;
                }
                let current = (attempts.made, connection);
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(current.clone());
                Ok(current)
            }
            Err(failure) => {
                attempts.retry_at = Instant::now() + attempts.delay;
                attempts.delay = (attempts.delay * 2).min(BACKOFF_MAX);
                attempts.failure = Some(failure.clone());
                Err(failure)
            }
        }
    }

    fn current(&self) -> Option<(u64, MultiplexedConnection)> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives a connection up; the next step makes another one. Nothing if that has happened already.
    fn discard(&self, number: u64) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|(known, _)| *known == number) {
            *current = None;
        }
    }

    /// Says whom we are connected to, and warns of settings that break the promise of views.
    async fn introduce(&self, connection: &mut MultiplexedConnection) {
        // A user without the right to INFO is served all the same.
        let facts = match connection.send_packed_command(&redis::cmd("INFO")).await {
            Ok(value) => text(value),
            Err(_) => String::new(),
        };
        let fact = |name: &str| facts.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim();
        let server = [fact("run_id"), fact("role"), fact("maxmemory_policy"), fact("maxmemory")].map(str::to_owned);
        // A connection that breaks again and again (a replica refuses writes) leads to the same server each time.
        if self.introduced.lock().unwrap_or_else(PoisonError::into_inner).replace(server.clone()) == Some(server) {
            return;
        }
        info!(address = %self.address, version = fact("redis_version"), role = fact("role"), "connected to Redis");
        let policy = fact("maxmemory_policy");
        if !matches!(policy, "" | "noeviction") && fact("maxmemory") != "0" {
            let help = "set `maxmemory-policy noeviction`: what Redis evicts is missing from a view until its row changes";
            warn!(address = %self.address, policy, help, "Redis may evict rows of views");
        }
        if fact("redis_mode") == "cluster" {
            warn!(address = %self.address, help = Trouble::Moved.help(), "Redis is a cluster, which views do not support");
        }
    }
}

/// A connection on which a first word was said. A server that wants a password first answers a longer command with an error of its
/// protocol, which nobody understands, and hangs up.
async fn greeted(connecting: impl Future<Output = Result<MultiplexedConnection, RedisError>>) -> Result<MultiplexedConnection, Failure> {
    let mut connection = connecting.await.map_err(|error| Failure::connecting(&error))?;
    let greeting = connection.send_packed_command(&redis::cmd("PING")).await.and_then(Value::extract_error);
    match greeting.map_err(|error| Failure::connecting(&error)) {
        // What else it may say (it is loading, this user may not ping) is the lanes' to meet.
        Err(failure) if matches!(failure.trouble, Trouble::Auth | Trouble::Unreachable) => Err(failure),
        _ => Ok(connection),
    }
}

/// Commands that wait in one connection before senders wait.
const PIPELINE_BUFFER: usize = 256;

/// Why a step could not be taken.
#[derive(Clone, Debug)]
struct Failure {
    trouble: Trouble,
    text: String,
}

/// What Redis or the network said; each has its own counter and its own help.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trouble {
    Oom,
    Loading,
    ReadOnly,
    NoScript,
    Moved,
    Timeout,
    Reset,
    Unreachable,
    Auth,
    NoPermission,
    WrongType,
    Busy,
    Database,
    Other,
}

impl Trouble {
    const ALL: [Trouble; 14] = [
        Trouble::Oom,
        Trouble::Loading,
        Trouble::ReadOnly,
        Trouble::NoScript,
        Trouble::Moved,
        Trouble::Timeout,
        Trouble::Reset,
        Trouble::Unreachable,
        Trouble::Auth,
        Trouble::NoPermission,
        Trouble::WrongType,
        Trouble::Busy,
        Trouble::Database,
        Trouble::Other,
    ];

    /// The label `kind` of `millstream_redis_errors_total`.
    fn label(self) -> &'static str {
        match self {
            Trouble::Oom => "oom",
            Trouble::Loading => "loading",
            Trouble::ReadOnly => "readonly",
            Trouble::NoScript => "noscript",
            Trouble::Moved => "moved",
            Trouble::Timeout => "timeout",
            Trouble::Reset => "reset",
            Trouble::Unreachable => "unreachable",
            Trouble::Auth => "auth",
            Trouble::NoPermission => "noperm",
            Trouble::WrongType => "wrongtype",
            Trouble::Busy => "busy",
            Trouble::Database => "database",
            Trouble::Other => "other",
        }
    }

    fn help(self) -> &'static str {
        match self {
            Trouble::Oom => "Redis is full: raise `maxmemory` or show fewer rows; nothing is lost meanwhile",
            Trouble::Loading => "Redis is reading its data; it will take writes by itself",
            Trouble::ReadOnly => "this is a replica: give `redis.url` the address of the primary",
            Trouble::NoScript => "the script is loaded again",
            Trouble::Moved => "this is a node of a cluster: give `redis.url` the address of a Redis without cluster mode",
            Trouble::Timeout => "Redis is slow or stuck: look for long commands in its SLOWLOG",
            Trouble::Reset => "the connection broke; another one is made",
            Trouble::Unreachable => "see that Redis runs and `redis.url` is right",
            Trouble::Auth => "see user and password in `redis.url`",
            Trouble::NoPermission => "give the user the commands that docs/operations.md lists",
            Trouble::WrongType => "a key of the view's own bookkeeping is of another type; it is removed",
            Trouble::Busy => "Redis cannot write now (another script runs, or it cannot save to disk)",
            Trouble::Database => "give `redis.url` a number of a database that the server has (its setting `databases`, 16 by default)",
            Trouble::Other => "see the text of the error",
        }
    }

    /// After these the connection is not used again: replies may be out of step, or it leads to the wrong server.
    fn ends_connection(self) -> bool {
        matches!(self, Trouble::Timeout | Trouble::Reset | Trouble::ReadOnly | Trouble::Auth | Trouble::Unreachable)
    }

    /// By the code of an error reply and its text.
    fn of_reply(code: &str, text: &str) -> Trouble {
        match code {
            "OOM" => Trouble::Oom,
            "LOADING" => Trouble::Loading,
            "READONLY" => Trouble::ReadOnly,
            "NOSCRIPT" => Trouble::NoScript,
            "MOVED" | "ASK" | "CROSSSLOT" | "CLUSTERDOWN" => Trouble::Moved,
            "NOAUTH" | "WRONGPASS" => Trouble::Auth,
            "NOPERM" => Trouble::NoPermission,
            "WRONGTYPE" => Trouble::WrongType,
            "ERR" if text.contains("DB index") => Trouble::Database,
            "BUSY" | "MISCONF" | "NOREPLICAS" | "MASTERDOWN" | "TRYAGAIN" => Trouble::Busy,
            // Redis 6 wraps what went wrong in a script: `ERR Error running script …: -OOM command not allowed …`.
            _ => {
                let inner = text.split_whitespace().find_map(|word| word.strip_prefix('-').filter(|word| word.len() > 2));
                inner.filter(|inner| *inner != code).map_or(Trouble::Other, |inner| Trouble::of_reply(inner, ""))
            }
        }
    }
}

impl Failure {
    fn unexpected() -> Failure {
        Failure { trouble: Trouble::Other, text: "a reply of another form than the command has".to_owned() }
    }

    /// While a connection was made.
    fn connecting(error: &RedisError) -> Failure {
        let failure = Failure::from(error);
        match failure.trouble {
            Trouble::Timeout | Trouble::Reset | Trouble::Other if error.kind() == ErrorKind::AuthenticationFailed => {
                Failure { trouble: Trouble::Auth, ..failure }
            }
            Trouble::Timeout | Trouble::Reset => Failure { trouble: Trouble::Unreachable, ..failure },
            _ => failure,
        }
    }
}

impl From<&RedisError> for Failure {
    fn from(error: &RedisError) -> Failure {
        if let Some(code) = error.code() {
            let detail = error.detail().unwrap_or_default();
            return Failure { trouble: Trouble::of_reply(code, detail), text: format!("{code} {detail}").trim().to_owned() };
        }
        let trouble = if error.is_timeout() {
            Trouble::Timeout
        } else if error.kind() == ErrorKind::AuthenticationFailed {
            Trouble::Auth
        } else if error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error() {
            Trouble::Reset
        } else {
            Trouble::Other
        };
        let text = error.to_string();
        // The parser of the client tells in several lines which byte it did not expect.
        let text = if text.contains("Parse error") { "what answers there does not speak the protocol of Redis".to_owned() } else { text };
        Failure { trouble, text }
    }
}

/// How many lanes meet each kind of trouble at the moment. The log tells of the first one and of the last: of a server that is away there
/// is one thing to say, not one for each view and partition.
#[derive(Default)]
struct Troubled(Mutex<[usize; Trouble::ALL.len()]>);

impl Troubled {
    /// True for the first of its kind. Lanes find out one after the other that their connection is gone: to whom knows that there is no
    /// server, that is no news.
    fn enter(&self, trouble: Trouble) -> bool {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = match trouble {
            Trouble::Reset | Trouble::Timeout => {
                [Trouble::Reset, Trouble::Timeout, Trouble::Unreachable].iter().any(|known| lanes[*known as usize] > 0)
            }
            other => lanes[other as usize] > 0,
        };
        lanes[trouble as usize] += 1;
        !is_known
    }

    /// True when no lane meets any trouble any more.
    fn leave(&self, trouble: Trouble) -> bool {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lanes[trouble as usize] = lanes[trouble as usize].saturating_sub(1);
        lanes.iter().all(|count| *count == 0)
    }
}

/// A counter per kind of trouble.
struct Errors(Vec<Counter>);

impl Errors {
    fn new(metrics: &Metrics) -> Errors {
        Errors(Trouble::ALL.iter().map(|trouble| metrics.counter(&REDIS_ERRORS, &[trouble.label()])).collect())
    }

    fn count(&self, trouble: Trouble) {
        _ = self.0[trouble as usize].inc();
    }
}
