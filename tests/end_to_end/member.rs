//! A member of the app's group that is no worker: asked for tasks, it says what it hears and does nothing.

use std::time::Duration;

use millstream::log::kafka::{KafkaLog, KafkaSettings};
use millstream::log::{Consumer, Event, GroupSettings, Log};
use millstream::model::Name;
use millstream::topology::names;

use crate::servers::wait_for;

const SOON: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

pub struct Member(Box<dyn Consumer>);

impl Member {
    /// Joins as the static member `instance`; who was it before is out.
    pub fn join(brokers: &str, app: &str, instance: &str) -> Member {
        let name = |text: &str| Name::parse(text).unwrap();
        let log = KafkaLog::new(KafkaSettings::new(brokers.to_owned(), app)).unwrap();
        let (group, task_topic, instance_id) = (name(app), names::tasks(&name(app)), Some(name(instance)));
        let settings = GroupSettings { group, task_topic, instance_id, session_timeout: Duration::from_secs(6) };
        Member(log.group_consumer(&settings).unwrap())
    }

    /// Until it hears of such a thing. A revocation is not answered.
    pub fn wait_for(&mut self, what: &str, is_it: impl Fn(&Event) -> bool) {
        wait_for(what, SOON, || {
            let events = self.0.poll(0, POLL, &mut Vec::new()).unwrap();
            events.iter().any(&is_it).then_some(())
        });
    }
}
