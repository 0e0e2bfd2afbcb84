//! From a plan to an app that can run: the cluster is checked against the plan, internal topics are made or checked.
//!
//! Everything here happens before the group is joined. Problems are collected and told at once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::log::{Admin, Log, LogError, LogErrorKind, NewTopic, TopicDescription};
use crate::metrics::Metrics;
use crate::model::{Clock, Name, TaskId};
use crate::runtime::observe::Observer;
use crate::runtime::restore::TOMBSTONES_KEPT_MS;
use crate::runtime::settings::Settings;
use crate::runtime::task::StateStorage;
use crate::topology::plan::StoreKind;
use crate::topology::{Plan, names};

/// How long one question to the cluster may take. Shorter than a worker has to end when it is told to.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(8);
/// What a changelog keeps beyond the life of its records, so that a worker that was away can still catch up. Kafka Streams:
/// `windowstore.changelog.additional.retention.ms`.
const RETENTION_EXTRA_MS: i64 = 24 * 60 * 60 * 1000;

/// `max.message.bytes` of changelogs. Values of 1 MiB are read from inputs, and a row may hold several.
const ROW_BYTES_MAX: u64 = 16 << 20;
/// What a dead letter's headers and key may take beside a value that its input took.
const DEAD_LETTER_BYTES_EXTRA: u64 = 64 << 10;
/// How long a topic that was made may take to be known, and how long we wait before we ask again.
const MADE_TIMEOUT: Duration = Duration::from_secs(15);
const MADE_PAUSE: Duration = Duration::from_millis(20);

/// What all stream threads of a worker share.
pub struct App {
    pub plan: Plan,
    /// Index is the partition of the task topic.
    pub tasks: Vec<TaskId>,
    /// Partitions per sub-topology.
    pub partitions: Vec<i32>,
    /// Ids of the topics whose offsets are kept: inputs and changelogs.
    pub topic_ids: BTreeMap<Name, String>,
    /// All topics of the app as they were at the start; `watch.rs` looks whether they still are.
    pub topics: Vec<TopicDescription>,
    pub settings: Settings,
    pub log: Arc<dyn Log>,
    pub storage: Arc<dyn StateStorage>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    pub observers: Vec<Arc<dyn Observer>>,
}

/// Why an app cannot start.
#[derive(Debug)]
pub struct StartError {
    /// The cause may go away by itself (no broker): try again with back-off.
    pub can_heal: bool,
    /// One line per problem.
    pub problems: Vec<String>,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl From<LogError> for StartError {
    fn from(error: LogError) -> StartError {
        let can_heal = matches!(error.kind, LogErrorKind::Retry | LogErrorKind::Unreachable | LogErrorKind::Unknown);
        StartError { can_heal, problems: vec![error.to_string()] }
    }
}

/// Makes the storage of task state once it is known what runs: given the app, the ids of its topics and the number of tasks.
pub type MakeStorage<'a> = &'a dyn Fn(&Name, &BTreeMap<Name, String>, usize) -> Arc<dyn StateStorage>;

/// The parts an app is made of.
pub struct Parts<'a> {
    pub plan: Plan,
    pub settings: Settings,
    pub log: Arc<dyn Log>,
    pub storage: MakeStorage<'a>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    pub observers: Vec<Arc<dyn Observer>>,
}

/// Checks the cluster and makes what is missing.
///
/// # Errors
/// Missing topics, different partition counts in one sub-topology, internal topics with wrong settings, no broker.
pub fn prepare(parts: Parts<'_>) -> Result<App, StartError> {
    let admin = parts.log.admin()?;
    let given = describe_given(&parts.plan, admin.as_ref())?;
    let partitions = check_partitions(&parts.plan, &given)?;
    let tasks = task_list(&partitions);
    let sizes = sizes(&parts.plan, &parts.settings, &partitions, admin.as_ref())?;
    let wanted = internal_topics(&parts.plan, &partitions, &sizes);
    let made = make_internal(&wanted, admin.as_ref())?;
    let keeps_offsets = |topic: &&TopicDescription| {
        parts.plan.topology.sources.iter().any(|source| source.topic == topic.name) || topic.name.ends_with("-changelog")
    };
    let topics: Vec<TopicDescription> = given.into_values().chain(made).collect();
    let topic_ids = topics.iter().filter(keeps_offsets).map(|topic| (topic.name.clone(), topic.id.clone())).collect();
    info!(app = %parts.plan.topology.app, subtopologies = parts.plan.subtopologies.len(), tasks = tasks.len(), "checked the cluster");
    let storage = (parts.storage)(&parts.plan.topology.app, &topic_ids, tasks.len());
    let Parts { plan, settings, log, clock, metrics, observers, .. } = parts;
    Ok(App { plan, tasks, partitions, topic_ids, topics, settings, log, storage, clock, metrics, observers })
}

/// Compares the cluster with the plan and changes nothing. Returns the internal topics that a start would make.
///
/// # Errors
/// As [`prepare`].
pub fn compare(plan: &Plan, settings: &Settings, log: &dyn Log) -> Result<Vec<Name>, StartError> {
    let admin = log.admin()?;
    let partitions = check_partitions(plan, &describe_given(plan, admin.as_ref())?)?;
    let sizes = sizes(plan, settings, &partitions, admin.as_ref())?;
    let wanted = internal_topics(plan, &partitions, &sizes);
    let names: Vec<Name> = wanted.iter().map(|topic| topic.name.clone()).collect();
    let found = admin.describe(&names, ADMIN_TIMEOUT)?;
    let problems = internal_problems(&wanted, &found, admin.as_ref())?;
    if !problems.is_empty() {
        return Err(StartError { can_heal: false, problems });
    }
    Ok(names.into_iter().zip(found).filter_map(|(name, found)| found.is_none().then_some(name)).collect())
}

fn sizes(plan: &Plan, settings: &Settings, partitions: &[i32], admin: &dyn Admin) -> Result<Sizes, StartError> {
    let tasks = task_list(partitions).len() as i32;
    Ok(Sizes { tasks, replication: replication(settings, admin)?, record_bytes_max: largest_record(plan, admin)? })
}

/// Tasks in the order of sub-topologies and partitions; the index is the partition of the task topic.
pub fn task_list(partitions: &[i32]) -> Vec<TaskId> {
    let of = |(subtopology, count): (usize, &i32)| (0..*count).map(move |partition| TaskId { subtopology: subtopology as u32, partition });
    partitions.iter().enumerate().flat_map(of).collect()
}

fn describe_given(plan: &Plan, admin: &dyn Admin) -> Result<BTreeMap<Name, TopicDescription>, StartError> {
    let mut uses: BTreeMap<Name, String> = BTreeMap::new();
    for source in &plan.topology.sources {
        uses.entry(source.topic.clone()).or_insert_with(|| format!("source `{}` reads it", source.name));
    }
    for output in &plan.topology.outputs {
        uses.entry(output.topic.clone()).or_insert_with(|| format!("output `{}` writes it", output.name));
    }
    let names: Vec<Name> = uses.keys().cloned().collect();
    let found = admin.describe(&names, ADMIN_TIMEOUT)?;
    let mut problems = Vec::new();
    let mut missing = Vec::new();
    let mut described = BTreeMap::new();
    for ((name, used), found) in uses.into_iter().zip(found) {
        match found {
            Some(topic) => {
                described.insert(name, topic);
            }
            None => missing.push((name, used)),
        }
    }
    let partitions_of = |topic: &Name| described.get(topic).map(|topic: &TopicDescription| topic.partitions);
    for (name, used) in missing {
        // Topics that feed one table need the same number, so that of a neighbour is the right one.
        let neighbours =
            plan.subtopologies.iter().filter(|subtopology| subtopology.topics.contains(&name)).flat_map(|subtopology| &subtopology.topics);
        let partitions = neighbours.filter_map(partitions_of).next().map_or("N".to_owned(), |count| count.to_string());
        problems.push(format!(
            "topic `{name}` does not exist ({used}): create it with `kafka-topics.sh --bootstrap-server HOST:PORT --create --topic {name} --partitions {partitions}`, \
             or correct `topic:` in the topology file"
        ));
    }
    if problems.is_empty() { Ok(described) } else { Err(StartError { can_heal: false, problems }) }
}

fn check_partitions(plan: &Plan, inputs: &BTreeMap<Name, TopicDescription>) -> Result<Vec<i32>, StartError> {
    let mut problems = Vec::new();
    let mut counts = Vec::new();
    for subtopology in &plan.subtopologies {
        let of = |topic: &Name| inputs.get(topic).map_or(0, |topic| topic.partitions);
        let Some(first) = subtopology.topics.first() else { continue };
        for other in &subtopology.topics[1..] {
            if of(other) != of(first) {
                problems.push(format!(
                    "topics `{first}` and `{other}` feed the same table but have {} and {} partitions: a key must be in the same partition of both; \
                     create one of them anew with the other's count, or copy it into a topic that has it",
                    of(first),
                    of(other)
                ));
            }
        }
        counts.push(of(first));
    }
    if problems.is_empty() { Ok(counts) } else { Err(StartError { can_heal: false, problems }) }
}

fn replication(settings: &Settings, admin: &dyn Admin) -> Result<i16, StartError> {
    let brokers = admin.brokers(ADMIN_TIMEOUT)?;
    if brokers < settings.replication.max(1) as usize {
        warn!(
            brokers,
            wanted = settings.replication,
            "the cluster has fewer brokers than `kafka.replication`: internal topics are made with one replica per broker, and losing a broker loses them"
        );
        return Ok(brokers.max(1) as i16);
    }
    Ok(settings.replication)
}

/// The largest record that an input takes; 0 where we may not ask.
fn largest_record(plan: &Plan, admin: &dyn Admin) -> Result<u64, StartError> {
    let mut largest = 0;
    for topic in plan.subtopologies.iter().flat_map(|subtopology| &subtopology.topics) {
        match admin.config(topic, &["max.message.bytes"], ADMIN_TIMEOUT) {
            Ok(values) => largest = values.into_iter().flatten().filter_map(|text| text.parse().ok()).fold(largest, u64::max),
            Err(error) if error.kind == LogErrorKind::Authorization => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(largest)
}

const TOMBSTONES: &str = "delete.retention.ms";

/// What internal topics are made by, beside the plan.
struct Sizes {
    tasks: i32,
    replication: i16,
    /// Of the inputs.
    record_bytes_max: u64,
}

fn internal_topics(plan: &Plan, partitions: &[i32], sizes: &Sizes) -> Vec<NewTopic> {
    let Sizes { tasks, replication, record_bytes_max } = *sizes;
    let app = &plan.topology.app;
    let large = || ("max.message.bytes", ROW_BYTES_MAX.to_string());
    let tombstones = || (TOMBSTONES, TOMBSTONES_KEPT_MS.to_string());
    let compact = || vec![("cleanup.policy", "compact".to_owned()), tombstones(), large()];
    let topic = |name, partitions, config| NewTopic { name, partitions, replication, config };
    let most = partitions.iter().copied().max().unwrap_or(1);
    let mut wanted = vec![
        topic(names::tasks(app), tasks, vec![("cleanup.policy", "delete".to_owned())]),
        topic(names::workers(app), 1, compact()),
        topic(
            names::dead_letters(app),
            most,
            vec![
                ("cleanup.policy", "delete".to_owned()),
                ("retention.ms", "-1".to_owned()),
                // Any record of an input fits, with the headers that say why it is here.
                ("max.message.bytes", (record_bytes_max + DEAD_LETTER_BYTES_EXTRA).max(ROW_BYTES_MAX).to_string()),
            ],
        ),
    ];
    for (subtopology, count) in plan.subtopologies.iter().zip(partitions) {
        for store in &subtopology.stores {
            let Some(changelog) = &store.changelog else { continue };
            let table = &plan.topology.tables[store.table.0];
            let life = match (store.kind, table.window, &table.dedupe) {
                (StoreKind::Rows, Some(window), _) => Some(window.keep_ms.max(window.grace_ms) + window.size_ms),
                (StoreKind::Dedupe, _, Some(dedupe)) => Some(dedupe.for_ms),
                _ => None,
            };
            let config = match life {
                Some(life) => vec![
                    ("cleanup.policy", "compact,delete".to_owned()),
                    ("retention.ms", life.saturating_add(RETENTION_EXTRA_MS).to_string()),
                    tombstones(),
                    large(),
                ],
                None => compact(),
            };
            wanted.push(topic(changelog.clone(), *count, config));
        }
    }
    wanted
}

/// Makes and checks them. Returns them as they are now.
fn make_internal(wanted: &[NewTopic], admin: &dyn Admin) -> Result<Vec<TopicDescription>, StartError> {
    let names: Vec<Name> = wanted.iter().map(|topic| topic.name.clone()).collect();
    let found = admin.describe(&names, ADMIN_TIMEOUT)?;
    let missing: Vec<NewTopic> = wanted.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(topic, _)| topic.clone()).collect();
    if !missing.is_empty() {
        admin.create(&missing, ADMIN_TIMEOUT)?;
        for topic in &missing {
            info!(topic = %topic.name, partitions = topic.partitions, "made internal topic");
        }
    }
    for (topic, found) in wanted.iter().zip(&found) {
        // Tasks only grow: a partition added to an input adds a task, and nothing takes one away.
        if topic.name.ends_with("-tasks") && found.as_ref().is_some_and(|found| found.partitions < topic.partitions) {
            admin.add_partitions(&topic.name, topic.partitions, ADMIN_TIMEOUT)?;
        }
    }
    let problems = internal_problems(wanted, &found, admin)?;
    if problems.is_empty() { wait_until_made(wanted, admin) } else { Err(StartError { can_heal: false, problems }) }
}

/// What is wrong with internal topics that exist.
fn internal_problems(wanted: &[NewTopic], found: &[Option<TopicDescription>], admin: &dyn Admin) -> Result<Vec<String>, StartError> {
    let mut problems = Vec::new();
    for (topic, found) in wanted.iter().zip(found) {
        let Some(found) = found else { continue };
        if topic.name.ends_with("-changelog") && found.partitions != topic.partitions {
            problems.push(format!(
                "internal topic `{}` has {} partitions, its inputs have {}: partitions of an input were added after the app had state, so keys have moved; \
                 use a new app name, or delete the app's internal topics, group and state folders to start anew",
                topic.name, found.partitions, topic.partitions
            ));
        }
        let mut values = admin.config(&topic.name, &["cleanup.policy", TOMBSTONES], ADMIN_TIMEOUT)?.into_iter();
        let (policy, kept) = (values.next().flatten(), values.next().flatten());
        if topic.name.ends_with("-changelog")
            && let Some(kept) = kept
            && kept.parse().is_ok_and(|kept_ms: i64| kept_ms < TOMBSTONES_KEPT_MS)
        {
            problems.push(format!(
                "internal topic `{}` has {TOMBSTONES}={kept}: a worker that was away for longer would bring deleted rows back; set it to {TOMBSTONES_KEPT_MS} or more",
                topic.name
            ));
        }
        let wanted_policy = topic.config.iter().find(|(key, _)| *key == "cleanup.policy").map(|(_, value)| value.as_str());
        if let (Some(found), Some("compact")) = (policy, wanted_policy)
            && found.split(',').any(|word| word.trim() == "delete")
        {
            problems.push(format!(
                "internal topic `{}` has cleanup.policy={found}, which deletes rows that were not changed for a while: set it to compact",
                topic.name
            ));
        }
    }
    Ok(problems)
}

/// A broker may answer that it has made a topic before every broker knows it.
fn wait_until_made(wanted: &[NewTopic], admin: &dyn Admin) -> Result<Vec<TopicDescription>, StartError> {
    let names: Vec<Name> = wanted.iter().map(|topic| topic.name.clone()).collect();
    let end = Instant::now() + MADE_TIMEOUT;
    loop {
        let found = admin.describe(&names, ADMIN_TIMEOUT)?;
        // Dead letters, and tasks of inputs that shrank, may have other numbers than they would be made with.
        let unknown = wanted.iter().zip(&found).find(|(_, found)| found.is_none()).map(|(wanted, _)| wanted.name.clone());
        match unknown {
            None => return Ok(found.into_iter().flatten().collect()),
            Some(topic) if Instant::now() >= end => {
                let problem = format!(
                    "internal topic `{topic}` was made, but the cluster does not show it within {MADE_TIMEOUT:?}: look at its brokers"
                );
                return Err(StartError { can_heal: true, problems: vec![problem] });
            }
            Some(_) => std::thread::park_timeout(MADE_PAUSE),
        }
    }
}
