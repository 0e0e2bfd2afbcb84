//! What a group has given to its members, in the bytes of the consumer protocol (KIP-429). The broker passes them on unread.

use std::collections::BTreeSet;

use bytes::Buf;

/// The state of a group, as the broker calls it, in which everybody has what it was given. While it rebalances a broker tells no
/// assignments.
const AT_REST: &str = "Stable";

/// Which of the first `tasks` partitions of a topic no member has been given; none unless the group is at rest and somebody is in it.
///
/// # Errors
/// The id of a member whose assignment cannot be read.
pub(super) fn unassigned<'a>(
    state: &str,
    members: impl ExactSizeIterator<Item = (&'a str, &'a [u8])>,
    topic: &str,
    tasks: i32,
) -> Result<Vec<i32>, &'a str> {
    if state != AT_REST || members.len() == 0 {
        return Ok(Vec::new());
    }
    let mut given = BTreeSet::new();
    for (member, assignment) in members {
        given.extend(partitions_of(assignment, topic).ok_or(member)?);
    }
    Ok((0..tasks).filter(|task| !given.contains(task)).collect())
}

/// The partitions of a topic in an assignment: version, then topics, each a name and partitions; what follows is the assignor's.
/// No bytes at all are an assignment of nothing. `None`: it is not of that form.
fn partitions_of(mut assignment: &[u8], topic: &str) -> Option<BTreeSet<i32>> {
    let mut found = BTreeSet::new();
    if assignment.is_empty() {
        return Some(found);
    }
    let bytes = &mut assignment;
    let _version = bytes.try_get_i16().ok()?;
    for _ in 0..bytes.try_get_i32().ok()? {
        let length = usize::try_from(bytes.try_get_i16().ok()?).ok()?;
        let (name, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        for _ in 0..bytes.try_get_i32().ok()? {
            let partition = bytes.try_get_i32().ok()?;
            if name == topic.as_bytes() {
                found.insert(partition);
            }
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a Java client writes it: version 3, topics `a` with 1 and 5, `bc` with 2, no user data.
    const ASSIGNMENT: &[u8] =
        b"\x00\x03\x00\x00\x00\x02\x00\x01a\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x05\x00\x02bc\x00\x00\x00\x01\x00\x00\x00\x02\xff\xff\xff\xff";

    #[test]
    fn an_assignment_is_read_by_topic() {
        assert_eq!(partitions_of(ASSIGNMENT, "a"), Some(BTreeSet::from([1, 5])));
        assert_eq!(partitions_of(ASSIGNMENT, "bc"), Some(BTreeSet::from([2])));
        assert_eq!(partitions_of(ASSIGNMENT, "b"), Some(BTreeSet::new()));
        assert_eq!(partitions_of(b"", "a"), Some(BTreeSet::new()));
    }

    #[test]
    fn what_no_member_has_is_told_of_a_group_at_rest_only() {
        let members = [("m1", ASSIGNMENT), ("m2", b"".as_slice())];
        let of = |state| unassigned(state, members.into_iter(), "a", 6);
        assert_eq!(of("Stable"), Ok(vec![0, 2, 3, 4]));
        for state in ["PreparingRebalance", "CompletingRebalance", "Empty", "Dead", "Assigning"] {
            assert_eq!(of(state), Ok(vec![]), "{state}");
        }
        assert_eq!(unassigned("Stable", [].into_iter(), "a", 6), Ok(vec![]));
        assert_eq!(unassigned("Stable", [("m1", ASSIGNMENT), ("m2", &ASSIGNMENT[..9])].into_iter(), "a", 6), Err("m2"));
    }

    #[test]
    fn an_assignment_that_is_cut_is_not_taken_for_an_empty_one() {
        // The four bytes of the user data are not looked at.
        for length in 1..ASSIGNMENT.len() - 4 {
            assert_eq!(partitions_of(&ASSIGNMENT[..length], "a"), None, "cut to {length} bytes");
        }
        let endless = b"\x00\x03\x7f\xff\xff\xff";
        assert_eq!(partitions_of(endless, "a"), None);
    }
}
