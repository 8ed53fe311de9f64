//! Records as JSON: what `POST /v1/log/{partition}` takes a line at a time and `GET` gives back.
//!
//! * Forms: `{"event":BLOB,"key"?:BLOB}`; `{"updates":[…],"guards"?:[…]}` with updates `{"key","value"}` or
//!   `{"key","delete":true}` and guards `{"key","version":TOKEN|null|"*"}`; one update alone may stand for its record.
//! * Invariant: what is given back is taken again and means the same (settled records have lost their guards).
//! * Deliberately absent: HTTP.
//! * Source: DESIGN §4 "Log node"; docs/formats.md "Record".

use bytes::Bytes;
use duramen_common::batch::{Guard, GuardCondition, GuardRef, Record, RecordBatch, RecordView, Update, UpdateRef};
use duramen_common::json::Object;
use duramen_common::limits::KEY_BYTES_MAX;
use duramen_common::placement::partition_of;
use duramen_common::{Blob, HistoryId, Offset, PartitionId, Problem, ProblemKind, SessionToken, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};

/// Where the records go, for what depends on it: tokens in guards, and where keys belong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) history: HistoryId,
    pub(super) partition: PartitionId,
    pub(super) partitions: u16,
    /// Longest value, and longest event. Unit: bytes.
    pub(super) value_bytes_max: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordJson {
    event: Option<Blob>,
    key: Option<Blob>,
    value: Option<Blob>,
    #[serde(default)]
    delete: bool,
    updates: Option<Vec<Object<UpdateJson>>>,
    #[serde(default)]
    guards: Vec<Object<GuardJson>>,
    /// Given back by `GET`, ignored here: lines may be fed from one log to another.
    #[serde(default, rename = "timestamp")]
    _timestamp: Option<serde::de::IgnoredAny>,
    /// As `timestamp`.
    #[serde(default, rename = "time_ms")]
    _time_ms: Option<serde::de::IgnoredAny>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateJson {
    key: Blob,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Blob>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    delete: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GuardJson {
    key: Blob,
    /// Must be there, if only as `null`.
    #[serde(deserialize_with = "present")]
    version: Option<String>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::deserialize(deserializer)
}

/// One record from one line of JSON.
pub(super) fn parse_line(line: &[u8], place: Place) -> Result<Record, Problem> {
    let Object(json): Object<RecordJson> =
        serde_json::from_slice(line).map_err(|error| bad_request(format!("not a record: {error}")))?;
    match (json.event, json.updates) {
        (Some(payload), None) => {
            if json.value.is_some() || json.delete || !json.guards.is_empty() {
                return Err(bad_request("an event has a key at most: no value, delete or guards"));
            }
            check_value("the event", &payload.0, place)?;
            Ok(Record::event(json.key.map(|key| key.0), payload.0))
        }
        (None, updates) => {
            let mut updates = updates.unwrap_or_default();
            if let Some(key) = json.key {
                if !updates.is_empty() {
                    return Err(bad_request("a record has either key and value, or updates"));
                }
                updates.push(Object(UpdateJson { key, value: json.value, delete: json.delete }));
            } else if json.value.is_some() || json.delete {
                return Err(bad_request("an update needs a key"));
            }
            if updates.is_empty() && json.guards.is_empty() {
                return Err(bad_request("a record is {\"event\"}, {\"key\",\"value\"} or {\"updates\",\"guards\"}"));
            }
            let guards =
                json.guards.into_iter().map(|Object(guard)| parse_guard(guard, place)).collect::<Result<_, _>>()?;
            let updates =
                updates.into_iter().map(|Object(update)| parse_update(update, place)).collect::<Result<_, _>>()?;
            Ok(Record::updates(guards, updates))
        }
        (Some(_), Some(_)) => Err(bad_request("a record is either an event or updates")),
    }
}

fn parse_update(update: UpdateJson, place: Place) -> Result<Update, Problem> {
    check_key(&update.key.0, place)?;
    match (update.value, update.delete) {
        (Some(value), false) => {
            check_value("the value", &value.0, place)?;
            Ok(Update { key: update.key.0, value: Some(value.0) })
        }
        (None, true) => Ok(Update { key: update.key.0, value: None }),
        _ => Err(bad_request("an update has either a value or \"delete\": true")),
    }
}

fn parse_guard(guard: GuardJson, place: Place) -> Result<Guard, Problem> {
    check_key(&guard.key.0, place)?;
    let condition = match guard.version.as_deref() {
        None => GuardCondition::Absent,
        Some("*") => GuardCondition::Exists,
        Some(text) => GuardCondition::Version(parse_version(text, place)?),
    };
    Ok(Guard { key: guard.key.0, condition })
}

fn parse_version(text: &str, place: Place) -> Result<Offset, Problem> {
    let token: SessionToken = text.parse().map_err(|error| Problem::new(ProblemKind::BadToken, format!("{error}")))?;
    if token.history() != place.history {
        let detail = format!("the version is of history {}, this cluster is {}", token.history(), place.history);
        return Err(Problem::new(ProblemKind::OtherHistory, detail));
    }
    match token.single() {
        Some(timestamp) if timestamp.partition == place.partition => Ok(timestamp.offset),
        _ => Err(Problem::new(
            ProblemKind::BadToken,
            format!(
                "a version names one record of partition {}, for instance {}.{}:17",
                place.partition, place.history, place.partition
            ),
        )),
    }
}

fn check_key(key: &[u8], place: Place) -> Result<(), Problem> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        let detail = format!("a key of {} bytes: it must have 1 to {KEY_BYTES_MAX}", key.len());
        return Err(Problem::new(ProblemKind::BadKey, detail).with("limit", KEY_BYTES_MAX));
    }
    let home = partition_of(key, place.partitions);
    if home == place.partition {
        return Ok(());
    }
    let detail = format!("a key belongs to partition {home}, not {}: nobody would find it here", place.partition);
    Err(Problem::new(ProblemKind::ManyPartitions, detail).with("partition", home.get()))
}

/// The same limit as at a serving node, so that whatever is in the log can be written there too.
pub(super) fn check_value(what: &str, value: &[u8], place: Place) -> Result<(), Problem> {
    let limit = place.value_bytes_max;
    if value.len() <= limit {
        return Ok(());
    }
    let detail = format!("{what} is over the limit of {limit} bytes (value-bytes-max): send less");
    Err(Problem::new(ProblemKind::TooLarge, detail).with("limit", limit))
}

fn bad_request(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::BadRequest, detail)
}

#[derive(Serialize)]
struct LineJson {
    timestamp: SessionToken,
    time_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<Blob>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Blob>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updates: Option<Vec<UpdateJson>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    guards: Vec<GuardJson>,
}

/// Writes the batch's records from `from` on as lines, at most `limit` of them, and none after `out` holds `bytes_max`.
/// Returns how many it wrote, and the offset to go on at.
pub(super) fn write_lines(
    batch: &RecordBatch,
    from: Offset,
    (limit, bytes_max): (usize, usize),
    place: Place,
    out: &mut Vec<u8>,
) -> (usize, Offset) {
    let time_ms = batch.header().append_time_ms;
    let mut written = 0;
    for (offset, record) in batch.records().filter(|&(offset, _)| offset >= from) {
        if written == limit || out.len() >= bytes_max {
            return (written, offset);
        }
        let line = line_of(batch, offset, &record, time_ms, place);
        serde_json::to_writer(&mut *out, &line).expect("these structures are JSON, and memory takes them");
        out.push(b'\n');
        written += 1;
    }
    (written, batch.header().end())
}

fn line_of(batch: &RecordBatch, offset: Offset, record: &RecordView<'_>, time_ms: u64, place: Place) -> LineJson {
    let blob = |bytes: &[u8]| Blob(batch.share(bytes));
    let timestamp = SessionToken::of(place.history, Timestamp { partition: place.partition, offset });
    let mut line = LineJson { timestamp, time_ms, event: None, key: None, updates: None, guards: Vec::new() };
    if let Some((key, payload)) = record.event() {
        line.key = key.map(blob);
        line.event = Some(blob(payload));
        return line;
    }
    line.guards = record.guards().map(|guard| guard_json(guard, place)).collect();
    line.updates = Some(
        record
            .updates()
            .map(|UpdateRef { key, value }| UpdateJson {
                key: blob(key),
                value: value.map(blob),
                delete: value.is_none(),
            })
            .collect(),
    );
    line
}

fn guard_json(guard: GuardRef<'_>, place: Place) -> GuardJson {
    let version = match guard.condition {
        GuardCondition::Absent => None,
        GuardCondition::Exists => Some("*".to_owned()),
        GuardCondition::Version(offset) => {
            Some(SessionToken::of(place.history, Timestamp { partition: place.partition, offset }).to_string())
        }
    };
    GuardJson { key: Blob(Bytes::copy_from_slice(guard.key)), version }
}

#[cfg(test)]
mod tests {
    use super::*;
    use duramen_common::RequestId;
    use duramen_common::batch::RecordSetBuilder;

    fn place() -> Place {
        Place {
            history: HistoryId::from_bits(0x00c7_f3a1),
            partition: PartitionId::new(0),
            partitions: 1,
            value_bytes_max: 1 << 20,
        }
    }

    /// Goal: what `GET` gives, `POST` takes, and it is the same record.
    #[test]
    fn every_form_comes_back_as_it_went_in() {
        let lines: &[&str] = &[
            r#"{"event":"hello"}"#,
            r#"{"event":{"base64":"/w=="},"key":"k"}"#,
            r#"{"key":"microsoft","value":"bill gates"}"#,
            r#"{"key":"microsoft","delete":true}"#,
            r#"{"updates":[{"key":"a","value":""},{"key":"b","delete":true}],"guards":[{"key":"a","version":"c7f3a1.0:17"},{"key":"b","version":null},{"key":"c","version":"*"}]}"#,
            r#"{"guards":[{"key":"a","version":null}]}"#,
        ];
        let mut builder = RecordSetBuilder::default();
        let records: Vec<Record> = lines.iter().map(|line| parse_line(line.as_bytes(), place()).unwrap()).collect();
        for (number, record) in records.iter().enumerate() {
            builder.push(RequestId::from_bits(number as u128), record).unwrap();
        }
        let batch = RecordBatch::build(&[builder.finish()], 7).at(Offset::new(100));
        let mut out = Vec::new();
        let all = (100, usize::MAX);
        assert_eq!(write_lines(&batch, Offset::ZERO, all, place(), &mut out), (lines.len(), batch.header().end()));
        let written: Vec<&[u8]> = out.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
        assert!(std::str::from_utf8(written[0]).unwrap().contains(r#""timestamp":"c7f3a1.0:100","time_ms":7"#));
        for (line, record) in written.iter().zip(&records) {
            assert_eq!(&parse_line(line, place()).unwrap(), record, "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn from_and_limit_choose_the_records() {
        let mut builder = RecordSetBuilder::default();
        for number in 0..10u32 {
            builder
                .push(RequestId::from_bits(u128::from(number)), &Record::event(None, Bytes::from(number.to_string())))
                .unwrap();
        }
        let batch = RecordBatch::build(&[builder.finish()], 7).at(Offset::new(100));
        let mut out = Vec::new();
        assert_eq!(write_lines(&batch, Offset::new(104), (3, 1 << 20), place(), &mut out), (3, Offset::new(107)));
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with(r#"{"timestamp":"c7f3a1.0:104""#) && text.contains(r#""event":"6""#), "{text}");
    }

    /// Goal: a page of large records ends in the midst of a batch, and goes on there.
    #[test]
    fn a_page_ends_when_it_holds_enough() {
        let mut builder = RecordSetBuilder::default();
        for number in 0..10u64 {
            let payload = Bytes::from(vec![b'v'; 1000]);
            builder.push(RequestId::from_bits(u128::from(number)), &Record::event(None, payload)).unwrap();
        }
        let batch = RecordBatch::build(&[builder.finish()], 7).at(Offset::new(100));
        let mut out = Vec::new();
        assert_eq!(write_lines(&batch, Offset::ZERO, (10, 2500), place(), &mut out), (3, Offset::new(103)));
        assert!(out.len() < 4000, "{}", out.len());
    }

    #[test]
    fn what_is_no_record_is_refused_by_name() {
        for (line, kind) in [
            ("", ProblemKind::BadRequest),
            ("{}", ProblemKind::BadRequest),
            (r#"{"key":"a"}"#, ProblemKind::BadRequest),
            (r#"{"key":"","value":"v"}"#, ProblemKind::BadKey),
            (&format!(r#"{{"key":"{}","value":"v"}}"#, "k".repeat(KEY_BYTES_MAX + 1)), ProblemKind::BadKey),
            (r#"{"value":"v"}"#, ProblemKind::BadRequest),
            (r#"["e"]"#, ProblemKind::BadRequest),
            (r#"{"updates":[["a","v"]]}"#, ProblemKind::BadRequest),
            (r#"{"guards":[["a",null]]}"#, ProblemKind::BadRequest),
            (r#"{"key":["YQ=="],"value":"v"}"#, ProblemKind::BadRequest),
            (r#"{"event":"e","updates":[]}"#, ProblemKind::BadRequest),
            (r#"{"event":"e","value":"v"}"#, ProblemKind::BadRequest),
            (r#"{"key":"a","value":"v","delete":true}"#, ProblemKind::BadRequest),
            (r#"{"key":"a","value":"v","surprise":1}"#, ProblemKind::BadRequest),
            (r#"{"guards":[{"key":"a"}]}"#, ProblemKind::BadRequest),
            (r#"{"guards":[{"key":"a","version":"x"}]}"#, ProblemKind::BadToken),
            (r#"{"guards":[{"key":"a","version":"c7f3a1.1:17"}]}"#, ProblemKind::BadToken),
            (r#"{"guards":[{"key":"a","version":"c7f3a2.0:17"}]}"#, ProblemKind::OtherHistory),
        ] {
            let problem = parse_line(line.as_bytes(), place()).expect_err(line);
            assert_eq!(problem.kind, kind, "{line}: {problem}");
        }
    }

    /// Goal: an update that no reader would look for here is not taken.
    #[test]
    fn a_key_of_another_partition_is_refused() {
        let elsewhere = Place { partitions: 4, partition: PartitionId::new(3), ..place() };
        assert_eq!(partition_of(b"microsoft", 4), PartitionId::new(1));
        let problem = parse_line(br#"{"key":"microsoft","value":"v"}"#, elsewhere).unwrap_err();
        assert_eq!(problem.kind, ProblemKind::ManyPartitions);
    }
}
