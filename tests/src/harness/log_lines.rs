//! Records as a log node's HTTP gives them, a line of JSON each, read back.
//!
//! * In: lines of `GET /v1/log/{partition}`. Out: records at their offsets, for the checkers.
//! * Of its own, so that no bug of the server's writer can hide in a reader that it shares.
//! * Source: DESIGN §4 "Log node".

use super::cluster::{Cluster, records};
use crate::checkers::log::{Log, LoggedRecord};
use bytes::Bytes;
use duramen_common::batch::{Guard, GuardCondition, Record, Update};
use duramen_common::{Offset, PartitionId, SessionToken};
use serde_json::Value;

/// Every committed record of every partition, from the first log node that runs. Nothing may be writing.
pub async fn read_all(cluster: &Cluster) -> Log {
    let number = (0..cluster.log.len()).find(|&number| cluster.log[number].is_started()).expect("a log node runs");
    let http = cluster.log_http(number);
    let info = http.get("/v1/cluster").expect(200).await.json();
    let history = info["history"].as_str().and_then(|text| text.parse().ok());
    let mut log = Log::new(history.unwrap_or_else(|| panic!("a cluster has a history: {info}")));
    for partition in 0..cluster.partitions {
        let tail = http.get(format!("/v1/log/{partition}/tail")).expect(200).await.json();
        let end = tail["committed_end"].as_u64().unwrap_or_else(|| panic!("a tail is a number: {tail}"));
        for line in records(&http, partition, end).await {
            log.push(PartitionId::new(partition), parse(&line));
        }
    }
    log
}

/// One record. Panics when the line is none.
#[must_use]
pub fn parse(line: &str) -> LoggedRecord {
    let json: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    let offset = offset_of(&json["timestamp"]);
    let list = |name: &str| json[name].as_array().cloned().unwrap_or_default();
    let record = match json.get("event") {
        Some(payload) => Record::event(json.get("key").map(blob), blob(payload)),
        None => {
            Record::updates(list("guards").iter().map(guard).collect(), list("updates").iter().map(update).collect())
        }
    };
    // A line does not say whether its record is settled; a settled one has no guards, so that it folds the same.
    LoggedRecord { offset, record, is_settled: false }
}

fn blob(value: &Value) -> Bytes {
    Bytes::from(super::feed::blob(value))
}

fn offset_of(token: &Value) -> Offset {
    let token: SessionToken =
        token.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no token: {token}"));
    token.single().expect("one record has one timestamp").offset
}

fn update(json: &Value) -> Update {
    Update { key: blob(&json["key"]), value: json.get("value").map(blob) }
}

fn guard(json: &Value) -> Guard {
    let condition = match &json["version"] {
        Value::Null => GuardCondition::Absent,
        Value::String(any) if any == "*" => GuardCondition::Exists,
        version => GuardCondition::Version(offset_of(version)),
    };
    Guard { key: blob(&json["key"]), condition }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        let line = r#"{"timestamp":"c7f3a1.0:17","time_ms":7,"updates":[{"key":"a","value":""},{"key":"b","delete":true}],"guards":[{"key":"a","version":"c7f3a1.0:3"},{"key":"b","version":null},{"key":"c","version":"*"}]}"#;
        let guard = |key: &'static str, condition| Guard { key: Bytes::from_static(key.as_bytes()), condition };
        let update = |key: &'static str, value| Update { key: Bytes::from_static(key.as_bytes()), value };
        let guards = vec![
            guard("a", GuardCondition::Version(Offset::new(3))),
            guard("b", GuardCondition::Absent),
            guard("c", GuardCondition::Exists),
        ];
        let record = Record::updates(guards, vec![update("a", Some(Bytes::new())), update("b", None)]);
        assert_eq!(parse(line), LoggedRecord { offset: Offset::new(17), record, is_settled: false });
        let line = r#"{"timestamp":"c7f3a1.0:18","time_ms":7,"event":{"base64":"/w=="},"key":"k"}"#;
        let record = Record::event(Some(Bytes::from_static(b"k")), Bytes::from_static(b"\xff"));
        assert_eq!(parse(line).record, record);
    }
}
