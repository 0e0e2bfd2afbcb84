//! A consumer group over the task topic: members, generations, who owns which task, committed and pending offsets.
//!
//! The coordinator of a real cluster works in rounds of JoinGroup and SyncGroup; here a change takes one step and each
//! member learns of it when it polls. What stays true, as with `cooperative-sticky`: a partition has one owner at a time, and
//! a new one only after the old one has agreed or is gone; whoever stays keeps what it has, within one of an even share;
//! each change of membership is a new generation. And, as there: what a static member was to give back when it died, nobody gets
//! before the next change, for its next life is given the rest and is not asked (KIP-345).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::{Name, Offset, Time};

/// A partition of a topic that offsets are committed for.
pub(super) type TopicPartition = (Name, i32);

pub(super) struct Member {
    pub(super) instance: Option<Name>,
    /// Subscribed to another topic than the tasks: has no share of them.
    is_guest: bool,
    /// Announced by an `Assigned` event and not given back yet.
    pub(super) owned: BTreeSet<i32>,
    /// What it should own once everybody has given back what is another's.
    target: BTreeSet<i32>,
    pub(super) session_timeout: Duration,
    /// When its process went away without leaving.
    crashed_at: Option<Time>,
}

impl Member {
    fn new(instance: Option<Name>, session_timeout: Duration) -> Member {
        Member { instance, is_guest: false, owned: BTreeSet::new(), target: BTreeSet::new(), session_timeout, crashed_at: None }
    }
}

/// What a member has to be told next.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Change {
    Assigned(Vec<i32>),
    Revoked(Vec<i32>),
}

/// Why a member is not one any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    UnknownMember,
    IllegalGeneration,
    FencedInstance,
}

#[derive(Default)]
pub(super) struct Group {
    pub(super) generation: i32,
    pub(super) task_topic: Option<Name>,
    /// By number of joining.
    pub(super) members: BTreeMap<u64, Member>,
    members_ever: u64,
    /// Partitions that a round has promised to somebody and no round will give.
    unassigned: BTreeSet<i32>,
    pub(super) offsets: BTreeMap<TopicPartition, Offset>,
    /// By producer: offsets in transactions that are still open.
    pending: BTreeMap<u32, Vec<(TopicPartition, Offset)>>,
}

impl Group {
    /// Adds a member that wants a share, and returns its number. One with an instance id that is known takes over from its
    /// predecessor, which is fenced, and nobody else notices.
    pub(super) fn join(&mut self, instance: Option<Name>, session_timeout: Duration, partitions: i32) -> u64 {
        self.members_ever += 1;
        let number = self.members_ever;
        let predecessor = instance.as_ref().and_then(|name| self.member_of_instance(name));
        let mut member = Member::new(instance, session_timeout);
        match predecessor.and_then(|old| self.members.remove(&old)) {
            Some(old) => {
                let owed: BTreeSet<i32> = old.owned.difference(&old.target).copied().collect();
                self.members.values_mut().for_each(|other| other.target.retain(|partition| !owed.contains(partition)));
                self.unassigned.extend(owed);
                member.target = old.target;
                self.members.insert(number, member);
            }
            None => {
                self.members.insert(number, member);
                self.rebalance(partitions);
            }
        }
        number
    }

    /// Adds a member that has no share, for it is subscribed to another topic. Its coming is a change all the same.
    pub(super) fn join_as_guest(&mut self, session_timeout: Duration, partitions: i32) -> u64 {
        self.members_ever += 1;
        self.members.insert(self.members_ever, Member { is_guest: true, ..Member::new(None, session_timeout) });
        self.rebalance(partitions);
        self.members_ever
    }

    /// What nobody will get before the next change.
    pub(super) fn unassigned(&self) -> Vec<i32> {
        self.unassigned.iter().copied().collect()
    }

    /// Removes a member at once: it left, or its session ended.
    pub(super) fn remove(&mut self, number: u64, partitions: i32) -> bool {
        let found = self.members.remove(&number).is_some();
        if found {
            self.rebalance(partitions);
        }
        found
    }

    /// Its process is gone; the session runs out from now.
    pub(super) fn crashed(&mut self, number: u64, now: Time) {
        if let Some(member) = self.members.get_mut(&number) {
            member.crashed_at.get_or_insert(now);
        }
    }

    /// Removes crashed members whose session is over. Says whether there were any.
    pub(super) fn expire(&mut self, now: Time, partitions: i32) -> bool {
        let is_over = |member: &Member| {
            member
                .crashed_at
                .is_some_and(|at| now.0.saturating_sub(at.0) >= i64::try_from(member.session_timeout.as_millis()).unwrap_or(i64::MAX))
        };
        let count = self.members.len();
        self.members.retain(|_, member| !is_over(member));
        let changed = self.members.len() < count;
        if changed {
            self.rebalance(partitions);
        }
        changed
    }

    pub(super) fn member_of_instance(&self, instance: &Name) -> Option<u64> {
        self.members.iter().find(|(_, member)| member.instance.as_ref() == Some(instance)).map(|(number, _)| *number)
    }

    /// What a member must give back, or may take. Taking makes it the owner.
    pub(super) fn next_change(&mut self, number: u64) -> Option<Change> {
        let member = self.members.get(&number)?;
        let extra: Vec<i32> = member.owned.difference(&member.target).copied().collect();
        if !extra.is_empty() {
            return Some(Change::Revoked(extra));
        }
        let free = |partition: &i32| !self.members.values().any(|other| other.owned.contains(partition));
        let missing: Vec<i32> = member.target.difference(&member.owned).copied().filter(free).collect();
        if missing.is_empty() {
            return None;
        }
        self.members.get_mut(&number)?.owned.extend(&missing);
        Some(Change::Assigned(missing))
    }

    /// Whether [`Group::next_change`] would have something to say.
    pub(super) fn has_change(&self, number: u64) -> bool {
        let Some(member) = self.members.get(&number) else { return true };
        let free = |partition: &i32| !self.members.values().any(|other| other.owned.contains(partition));
        !member.owned.is_subset(&member.target) || member.target.difference(&member.owned).any(free)
    }

    /// A member gives some partitions back, of all there are. As in the second round of the cooperative protocol, that is a new
    /// generation, and a change if the first round has left something.
    pub(super) fn give_back(&mut self, number: u64, given: &[i32], partitions: i32) {
        let Some(member) = self.members.get_mut(&number) else { return };
        member.owned.retain(|partition| !given.contains(partition));
        if self.unassigned.is_empty() {
            self.generation += 1;
        } else {
            self.rebalance(partitions);
        }
    }

    /// Spreads the partitions of the task topic anew: an even share for everybody, and as few moves as that takes.
    pub(super) fn rebalance(&mut self, partitions: i32) {
        self.generation += 1;
        self.unassigned.clear();
        let count = self.members.values().filter(|member| !member.is_guest).count();
        if count == 0 {
            return;
        }
        let total = usize::try_from(partitions).unwrap_or(0);
        let (share, extra) = (total / count, total % count);
        // Those who hold most get the larger shares, so that fewer partitions move.
        let mut order: Vec<u64> = self.members.iter().filter(|(_, member)| !member.is_guest).map(|(number, _)| *number).collect();
        order.sort_by_key(|number| std::cmp::Reverse(self.members[number].owned.len()));
        let mut free: BTreeSet<i32> = (0..partitions).collect();
        for (rank, number) in order.iter().enumerate() {
            let Some(member) = self.members.get_mut(number) else { continue };
            member.target = member.owned.iter().copied().take(share + usize::from(rank < extra)).collect();
            free.retain(|partition| !member.target.contains(partition));
        }
        for (rank, number) in order.iter().enumerate() {
            let Some(member) = self.members.get_mut(number) else { continue };
            let wanted = share + usize::from(rank < extra);
            while member.target.len() < wanted
                && let Some(partition) = free.pop_first()
            {
                member.target.insert(partition);
            }
        }
    }

    /// Whether offsets may be committed by a member in a generation (KIP-447). As a broker, it does not look at who owns what.
    pub(super) fn check(&self, number: u64, instance: Option<&Name>, generation: i32) -> Result<(), Refusal> {
        if !self.members.contains_key(&number) {
            let taken = instance.and_then(|name| self.member_of_instance(name)).is_some();
            return Err(if taken { Refusal::FencedInstance } else { Refusal::UnknownMember });
        }
        if generation == self.generation { Ok(()) } else { Err(Refusal::IllegalGeneration) }
    }

    pub(super) fn hold(&mut self, producer: u32, offsets: &[(Name, i32, Offset)]) {
        let pending = self.pending.entry(producer).or_default();
        pending.extend(offsets.iter().map(|(topic, partition, offset)| ((topic.clone(), *partition), *offset)));
    }

    pub(super) fn is_pending(&self, partition: &TopicPartition) -> bool {
        self.pending.values().flatten().any(|(pending, _)| pending == partition)
    }

    /// A transaction has ended: its offsets become true, or never were.
    pub(super) fn release(&mut self, producer: u32, is_committed: bool) {
        let pending = self.pending.remove(&producer).unwrap_or_default();
        if is_committed {
            self.offsets.extend(pending);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: Duration = Duration::from_secs(10);

    fn settle(group: &mut Group) -> Vec<Vec<i32>> {
        let numbers: Vec<u64> = group.members.keys().copied().collect();
        let mut quiet = false;
        while !quiet {
            quiet = true;
            for number in &numbers {
                match group.next_change(*number) {
                    Some(Change::Revoked(list)) => group.give_back(*number, &list, 5),
                    Some(Change::Assigned(_)) => {}
                    None => continue,
                }
                quiet = false;
            }
        }
        group.members.values().map(|member| member.owned.iter().copied().collect()).collect()
    }

    #[test]
    fn who_stays_keeps_what_it_has_within_an_even_share() {
        let mut group = Group::default();
        group.join(None, SESSION, 5);
        assert_eq!(settle(&mut group), [vec![0, 1, 2, 3, 4]]);
        let second = group.join(None, SESSION, 5);
        assert_eq!(settle(&mut group), [vec![0, 1, 2], vec![3, 4]]);
        group.join(None, SESSION, 5);
        assert_eq!(settle(&mut group), [vec![0, 1], vec![3, 4], vec![2]]);
        group.remove(second, 5);
        assert_eq!(settle(&mut group), [vec![0, 1, 3], vec![2, 4]]);
    }

    #[test]
    fn nobody_gets_a_partition_before_its_owner_agrees() {
        let mut group = Group::default();
        let first = group.join(None, SESSION, 2);
        assert_eq!(group.next_change(first), Some(Change::Assigned(vec![0, 1])));
        let second = group.join(None, SESSION, 2);
        assert_eq!(group.next_change(second), None);
        assert_eq!(group.next_change(first), Some(Change::Revoked(vec![1])));
        assert_eq!(group.next_change(second), None);
        group.give_back(first, &[1], 2);
        assert_eq!(group.next_change(second), Some(Change::Assigned(vec![1])));
    }

    #[test]
    fn a_restarted_instance_takes_over_without_a_new_generation() {
        let mut group = Group::default();
        let name = Name::parse("w-1").unwrap();
        let old = group.join(Some(name.clone()), SESSION, 2);
        settle(&mut group);
        let generation = group.generation;
        let new = group.join(Some(name.clone()), SESSION, 2);
        assert_eq!(group.generation, generation);
        assert_eq!(group.check(old, Some(&name), generation), Err(Refusal::FencedInstance));
        assert_eq!(group.next_change(new), Some(Change::Assigned(vec![0, 1])));
    }

    #[test]
    fn what_a_static_member_owed_when_it_died_nobody_gets_before_the_next_change() {
        let name = |text: &str| Some(Name::parse(text).unwrap());
        let mut group = Group::default();
        let old = group.join(name("w-1"), SESSION, 4);
        settle(&mut group);
        let other = group.join(name("w-2"), SESSION, 4);
        assert_eq!(group.next_change(old), Some(Change::Revoked(vec![2, 3])));
        group.join(name("w-1"), SESSION, 4);
        assert_eq!(settle(&mut group), [vec![], vec![0, 1]]);
        assert_eq!(group.unassigned(), [2, 3]);
        let guest = group.join_as_guest(SESSION, 4);
        assert_eq!(settle(&mut group), [vec![2, 3], vec![0, 1], vec![]]);
        assert!(group.unassigned().is_empty());
        group.remove(guest, 4);
        assert_eq!(settle(&mut group), [vec![2, 3], vec![0, 1]], "{other} keeps what it has");
    }
}
