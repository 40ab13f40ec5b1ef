//! Reads a run's records back and tells damage: what comes out is what went in, or an error in words.

use std::collections::HashMap;

use rusqlite::{Connection, params};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::op::seal;
use super::{Entry, Position, Record, delta, texts};
use crate::error::Error;

/// A record as it lies in the file.
pub(super) struct Stored {
    seq: i64,
    at: f64,
    body: String,
    /// Whether it is what was written.
    whole: bool,
}

/// Long texts by the names that records give them, and whether each is what was written.
pub(super) type Texts = HashMap<String, (bool, String)>;

/// What the file holds of a run from number `from` on; the ends of phases from the first on, for each
/// is stored relative to the one before.
pub(super) fn rows(desk: &Connection, id: &str, from: u64) -> rusqlite::Result<(Vec<Stored>, Texts)> {
    let from = i64::try_from(from).unwrap_or(i64::MAX);
    let sql = "SELECT run, seq, at, kind, body, seal FROM events \
               WHERE run = (SELECT no FROM runs WHERE id = ?1) AND (seq >= ?2 OR kind = 'ended') ORDER BY seq";
    let mut events = desk.prepare_cached(sql)?;
    let rows = events.query_map(params![id, from], |row| {
        let (seq, at, kind, body): (i64, f64, String, String) =
            (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
        let whole = row.get::<_, i64>(5)? == seal(row.get(0)?, seq, at, &kind, &body);
        Ok(Stored { seq, at, body, whole })
    })?;
    let rows: Vec<Stored> = rows.collect::<rusqlite::Result<_>>()?;
    let mut long = HashMap::new();
    if !rows.is_empty() {
        let sql = "SELECT hash, body FROM texts WHERE run = (SELECT no FROM runs WHERE id = ?1)";
        let mut texts = desk.prepare_cached(sql)?;
        let mut found = texts.query([id])?;
        while let Some(row) = found.next()? {
            let (hash, body): (Vec<u8>, String) = (row.get(0)?, row.get(1)?);
            long.insert(texts::name(&hash), (texts::hash(&body)[..] == hash, body));
        }
    }
    Ok((rows, long))
}

/// Levels of JSON that can be read: more than are ever written, fewer than a thread's stack holds.
const LEVELS: usize = 1000;

/// Reads what the store keeps as JSON, nested more deeply than `serde_json` likes.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    if levels(text) <= LEVELS {
        deserializer.disable_recursion_limit();
    }
    let value = T::deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

fn levels(text: &str) -> usize {
    let (mut most, mut now, mut quoted, mut escaped) = (0, 0usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                now += 1;
                most = most.max(now);
            }
            b']' | b'}' if !quoted => now = now.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// The records in these rows, or what is wrong with them.
pub(super) fn records(rows: Vec<Stored>, long: &Texts, from: u64) -> Result<Vec<Record>, String> {
    let mut kept_before = Value::Null;
    let mut records: Vec<Record> = Vec::with_capacity(rows.len());
    for Stored { seq, at, body, whole } in rows {
        if !whole {
            return Err(format!("record {seq} is not what was written"));
        }
        let wrong = |error| format!("record {seq} cannot be read ({error})");
        let (place, body): ([u32; 7], Value) = parse(&body).map_err(wrong)?;
        let mut text = |hash: &str| match long.get(hash) {
            Some((true, text)) => Ok(text.clone()),
            Some(_) => Err(Error::Journal("is not what was written".into())),
            None => Err(Error::Journal("is missing".into())),
        };
        let body = texts::join(body, &mut text).map_err(|error| format!("a text of record {seq} {error}"))?;
        let mut entry: Entry = serde_json::from_value(body).map_err(wrong)?;
        if let Entry::Ended { kept } = &mut entry {
            kept_before = delta::apply(std::mem::take(&mut kept_before), kept)
                .ok_or_else(|| format!("record {seq} does not follow the one before"))?;
            kept.clone_from(&kept_before);
        }
        let seq = u64::try_from(seq).unwrap_or(0);
        if seq < from {
            continue;
        }
        let expected = records.last().map_or(from, |record| record.seq + 1);
        if seq != expected {
            return Err(format!("record {expected} is missing"));
        }
        records.push(Record { seq, at, position: position(place), entry });
    }
    Ok(records)
}

/// The events among a run's records from number `from` on, at most `most` of them, or what is wrong
/// with one. Only the texts that they name are read.
pub(super) fn events(
    desk: &Connection,
    id: &str,
    from: u64,
    most: usize,
) -> rusqlite::Result<Result<Vec<Record>, String>> {
    let (from, most) = (i64::try_from(from).unwrap_or(i64::MAX), i64::try_from(most).unwrap_or(i64::MAX));
    let sql = "SELECT run, seq, at, kind, body, seal FROM events \
               WHERE run = (SELECT no FROM runs WHERE id = ?1) AND seq >= ?2 AND kind = 'event' \
               ORDER BY seq LIMIT ?3";
    let mut events = desk.prepare_cached(sql)?;
    let mut texts = desk.prepare_cached("SELECT body FROM texts WHERE run = ?1 AND hash = unhex(?2)")?;
    let mut rows = events.query(params![id, from, most])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (run, seq, at): (i64, i64, f64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (kind, body): (String, String) = (row.get(3)?, row.get(4)?);
        let whole = row.get::<_, i64>(5)? == seal(run, seq, at, &kind, &body);
        let mut text = |hash: &str| {
            let text: rusqlite::Result<String> = texts.query_row(params![run, hash], |row| row.get(0));
            text.ok()
                .filter(|text| texts::name(&texts::hash(text)) == hash)
                .ok_or_else(|| Error::Journal("is missing or not what was written".into()))
        };
        let mut read = || {
            let wrong = |error| format!("event {seq} cannot be read ({error})");
            let (place, body): ([u32; 7], Value) = parse(&body).map_err(wrong)?;
            let body =
                texts::join(body, &mut text).map_err(|error| format!("a text of event {seq} {error}"))?;
            let entry = serde_json::from_value(body).map_err(wrong)?;
            Ok(Record { seq: u64::try_from(seq).unwrap_or(0), at, position: position(place), entry })
        };
        found.push(if whole { read() } else { Err(format!("event {seq} is not what was written")) });
    }
    Ok(found.into_iter().collect())
}

fn position([attempt, phase, phase_try, nested, step, turn, call]: [u32; 7]) -> Position {
    Position { attempt, phase, phase_try, nested, step, turn, call }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::Value;

    use super::{LEVELS, levels, parse};

    #[test]
    fn what_is_nested_is_read_as_far_as_the_stack_allows() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert_eq!(levels(&nested(7)), 7);
        assert_eq!(levels(r#"{"a[[[\"[": ["]", {}]}"#), 3);
        assert!(parse::<Value>(&nested(LEVELS)).is_ok());
        assert!(parse::<Value>(&nested(1_000_000)).unwrap_err().to_string().contains("recursion limit"));
        assert!(parse::<Value>("[1] 2").is_err());
    }
}
