//! One page over all workers: each gives its part, sorted by key, and the parts are merged.
//!
//! What stays true: a page leaves nothing out. A partition that nobody answers for makes the whole page a `503`, and where a part was
//! cut, the page ends there too.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{HeaderMap, Response, StatusCode, Uri};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::future::join_all;
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::http::State as Shared;
use crate::http::problem::{Problem, RETRY_AFTER_DEFAULT};
use crate::runtime::queries::TableInfo;

/// What one worker has of a page.
pub struct Part {
    /// Store key, partition, and the row as JSON; sorted by key.
    pub rows: Vec<(Vec<u8>, i32, Vec<u8>)>,
    pub has_more: bool,
    pub partitions: Vec<i32>,
}

impl Part {
    /// As the answer to a request. Another worker also gets the store keys, to merge by.
    pub fn written(&self, with_store_keys: bool) -> Vec<u8> {
        let mut body = b"{\"rows\":[".to_vec();
        for (position, (_, _, row)) in self.rows.iter().enumerate() {
            if position > 0 {
                body.push(b',');
            }
            body.extend_from_slice(row);
        }
        let encode = |(key, _, _): &(Vec<u8>, i32, Vec<u8>)| URL_SAFE_NO_PAD.encode(key);
        let cursor = serde_json::json!(self.rows.last().filter(|_| self.has_more).map(encode));
        let partitions = serde_json::json!(self.partitions);
        body.extend_from_slice(format!("],\"cursor\":{cursor},\"partitions\":{partitions}").as_bytes());
        if with_store_keys {
            let keys = serde_json::json!(self.rows.iter().map(encode).collect::<Vec<_>>());
            body.extend_from_slice(format!(",\"store_keys\":{keys}").as_bytes());
        }
        body.push(b'}');
        body
    }
}

/// A part as another worker sends it.
#[derive(Deserialize)]
struct Sent<'a> {
    #[serde(borrow)]
    rows: Vec<&'a RawValue>,
    cursor: Option<String>,
    partitions: Vec<i32>,
    store_keys: Vec<String>,
}

#[derive(Deserialize)]
struct Placed {
    partition: i32,
}

/// The page of all workers, of which `here` is our part.
pub async fn gathered(
    state: &Shared,
    table: &TableInfo,
    here: Part,
    uri: &Uri,
    headers: &HeaderMap,
    limit: usize,
) -> Result<Part, Problem> {
    let others = state.queries.others(table.id);
    let asked = others.iter().map(|endpoint| async move {
        let answer = state.forwarder.forward(endpoint, uri, headers).await?;
        part_of(answer, endpoint).await
    });
    let mut parts = vec![here];
    let mut failed = None;
    for answer in join_all(asked).await {
        match answer {
            Ok(part) => parts.push(part),
            Err(problem) => failed = Some(problem),
        }
    }
    let all = merged(parts, limit);
    let missing: Vec<String> = (0..state.queries.partition_count(table.id))
        .filter(|partition| !all.partitions.contains(partition))
        .map(|partition| partition.to_string())
        .collect();
    if !missing.is_empty() {
        // One that has gone matters only if nobody has its partitions yet.
        if let Some(problem) = failed {
            return Err(problem);
        }
        let detail = format!("no worker answers for partition {} of `{}` at the moment", missing.join(", "), table.name);
        return Err(Problem::later("unassigned", detail, RETRY_AFTER_DEFAULT));
    }
    Ok(all)
}

async fn part_of(answer: Response<Body>, endpoint: &str) -> Result<Part, Problem> {
    let later = |detail: String| Problem::later("owner_unreachable", detail, RETRY_AFTER_DEFAULT);
    let (status, body) = (answer.status(), answer.into_body());
    let body = body.collect().await.map_err(|_| later(format!("the worker at {endpoint} broke off")))?.to_bytes();
    if status != StatusCode::OK {
        let problem: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
        let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str()).unwrap_or("it is of another version");
        return Err(later(format!("the worker at {endpoint} answered {}: {detail}", status.as_u16())));
    }
    let read = || -> Option<Part> {
        let sent: Sent<'_> = serde_json::from_slice(&body).ok()?;
        if sent.rows.len() != sent.store_keys.len() {
            return None;
        }
        let rows = sent.rows.iter().zip(&sent.store_keys).map(|(row, key)| {
            let placed: Placed = serde_json::from_str(row.get()).ok()?;
            Some((URL_SAFE_NO_PAD.decode(key).ok()?, placed.partition, row.get().as_bytes().to_vec()))
        });
        Some(Part { rows: rows.collect::<Option<_>>()?, has_more: sent.cursor.is_some(), partitions: sent.partitions })
    };
    read().ok_or_else(|| later(format!("the worker at {endpoint} does not answer as one of this version")))
}

/// The first `limit` rows of all parts, up to where every part is known.
fn merged(parts: Vec<Part>, limit: usize) -> Part {
    let mut rows = Vec::new();
    let mut has_more = false;
    let mut cut: Option<Vec<u8>> = None;
    let mut partitions = BTreeSet::new();
    for part in parts {
        if let Some((last, _, _)) = part.rows.last().filter(|_| part.has_more) {
            cut = Some(cut.map_or_else(|| last.clone(), |cut| cut.min(last.clone())));
        }
        has_more |= part.has_more;
        // A partition moves while the workers are asked: whoever answered first for it has answered.
        rows.extend(part.rows.into_iter().filter(|(_, partition, _)| !partitions.contains(partition)));
        partitions.extend(part.partitions);
    }
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    if let Some(cut) = cut {
        rows.retain(|(key, _, _)| *key <= cut);
    }
    has_more |= rows.len() > limit;
    rows.truncate(limit);
    Part { rows, has_more, partitions: partitions.into_iter().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(rows: &[(&str, i32)], has_more: bool, partitions: &[i32]) -> Part {
        let row = |(key, partition): &(&str, i32)| (key.as_bytes().to_vec(), *partition, key.as_bytes().to_vec());
        Part { rows: rows.iter().map(row).collect(), has_more, partitions: partitions.to_vec() }
    }

    fn check(parts: Vec<Part>, limit: usize, expected: (&[&str], bool)) {
        let merged = merged(parts, limit);
        let keys: Vec<&str> = merged.rows.iter().map(|(key, _, _)| str::from_utf8(key).unwrap()).collect();
        assert_eq!((keys.as_slice(), merged.has_more), expected);
    }

    #[test]
    fn parts_are_merged_by_key_up_to_the_limit() {
        let parts = || vec![part(&[("a", 0), ("d", 0)], false, &[0]), part(&[("b", 1), ("c", 1)], false, &[1])];
        check(parts(), 10, (&["a", "b", "c", "d"], false));
        check(parts(), 3, (&["a", "b", "c"], true));
        assert_eq!(merged(parts(), 3).partitions, [0, 1]);
    }

    /// A part that was cut (its bytes were too many) may have rows before the last one of another part.
    #[test]
    fn a_page_ends_where_a_part_was_cut() {
        check(vec![part(&[("a", 0)], true, &[0]), part(&[("b", 1), ("c", 1)], false, &[1])], 10, (&["a"], true));
    }

    #[test]
    fn a_partition_that_two_workers_answer_for_counts_once() {
        check(vec![part(&[("a", 0)], false, &[0]), part(&[("a", 0), ("b", 1)], false, &[0, 1])], 10, (&["a", "b"], false));
    }
}
