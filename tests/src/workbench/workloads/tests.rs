//! Every judge finds what is wrong with a bad history, and nothing with a good one.

use super::{body, load};
use crate::workbench::record::{Body, Record, Records, Reply};
use crate::workbench::settings::{Settings, Workload};
use serde_json::{Value, json};
use tokio::time::Instant;

/// What is asked, of which node, and what is heard.
struct Step {
    node: usize,
    call: Body,
    reply: Reply,
    round: Option<u32>,
}

fn asked(kind: &str, members: Value, reply: Reply) -> Step {
    Step { node: 0, call: body(kind, members), reply, round: None }
}

fn finally(node: usize, kind: &str, members: Value) -> Step {
    Step { node, call: body(kind, Value::Null), reply: answer(members), round: Some(0) }
}

fn answer(members: Value) -> Reply {
    Reply::Answer(body("ok", members))
}

fn error(code: i64) -> Reply {
    Reply::Error { code, text: String::new() }
}

/// One step after the other.
fn records(workload: Workload, steps: Vec<Step>) -> Vec<Record> {
    let load = load(&Settings::new(workload, "none".into()));
    let mut records = Records::new(Instant::now());
    for (process, step) in (0..).zip(steps) {
        let is_read = load.is_read(&step.call);
        let operation = records.invoke(process, step.node, step.call, is_read, step.round);
        let _ = records.complete(operation, step.reply);
    }
    records.all().to_vec()
}

fn is_right(workload: Workload, steps: Vec<Step>) -> bool {
    let load = load(&Settings::new(workload, "none".into()));
    load.judge(&records(workload, steps)).is_valid()
}

#[test]
fn registers_show_what_was_written_last() {
    let steps = |seen: Reply| {
        vec![
            asked("read", json!({ "key": 0 }), error(20)),
            asked("write", json!({ "key": 0, "value": 1 }), answer(json!({}))),
            asked("cas", json!({ "key": 0, "from": 2, "to": 3 }), error(22)),
            asked("cas", json!({ "key": 0, "from": 1, "to": 4 }), error(0)),
            asked("read", json!({ "key": 0 }), seen),
        ]
    };
    for value in [1, 4] {
        assert!(is_right(Workload::LinKv, steps(answer(json!({ "value": value })))), "{value}");
    }
    for seen in [answer(json!({ "value": 3 })), error(20), answer(json!({ "value": null })), answer(json!({}))] {
        assert!(!is_right(Workload::LinKv, steps(seen.clone())), "{seen:?}");
    }
    let mismatch = |from| asked("cas", json!({ "key": 0, "from": from, "to": 3 }), error(22));
    let write = || asked("write", json!({ "key": 0, "value": 1 }), answer(json!({})));
    assert!(is_right(Workload::LinKv, vec![write(), mismatch(2)]));
    assert!(!is_right(Workload::LinKv, vec![write(), mismatch(1)]), "it was what was compared with");
}

#[test]
fn sets_lose_nothing_and_invent_nothing() {
    for (workload, add, element, elements) in
        [(Workload::Broadcast, "broadcast", "message", "messages"), (Workload::GSet, "add", "element", "value")]
    {
        let steps = |first: Value, second: Value| {
            vec![
                asked(add, json!({ element: 1 }), answer(json!({}))),
                asked(add, json!({ element: 2 }), error(0)),
                asked(add, json!({ element: 3 }), error(11)),
                finally(0, "read", json!({ elements: first })),
                finally(1, "read", json!({ elements: second })),
            ]
        };
        for both in [json!([1]), json!([2, 1])] {
            assert!(is_right(workload, steps(both.clone(), both)));
        }
        for (first, second, what) in [
            (json!([2]), json!([2]), "lost"),
            (json!([1, 3]), json!([1, 3]), "failed"),
            (json!([1, 7]), json!([1, 7]), "never asked for"),
            (json!([1, 1]), json!([1]), "twice"),
            (json!([1]), json!([1, 2]), "different"),
            (json!(null), json!([1]), "no set"),
        ] {
            assert!(!is_right(workload, steps(first, second)), "{workload}: {what}");
        }
        let early = vec![
            asked("read", Value::Null, answer(json!({ elements: [1] }))),
            asked(add, json!({ element: 1 }), answer(json!({}))),
            finally(0, "read", json!({ elements: [1] })),
        ];
        assert!(!is_right(workload, early), "{workload}: shown before it was asked for");
        let unanswered = vec![Step { reply: error(11), ..finally(0, "read", Value::Null) }];
        assert!(!is_right(workload, unanswered), "{workload}: no answer in the end");
    }
}

#[test]
fn counters_come_to_a_sum_that_can_be() {
    let steps = |early: i64, first: i64, second: i64| {
        vec![
            asked("add", json!({ "delta": 5 }), answer(json!({}))),
            asked("add", json!({ "delta": -2 }), error(13)),
            asked("add", json!({ "delta": 1 }), error(11)),
            asked("read", Value::Null, answer(json!({ "value": early }))),
            finally(0, "read", json!({ "value": first })),
            finally(1, "read", json!({ "value": second })),
        ]
    };
    for sum in [3, 5] {
        assert!(is_right(Workload::PnCounter, steps(0, sum, sum)), "{sum}");
    }
    for (early, first, second) in [(0, 4, 4), (0, 6, 6), (0, 3, 5), (6, 5, 5), (-3, 5, 5)] {
        assert!(!is_right(Workload::PnCounter, steps(early, first, second)), "{early}, {first}, {second}");
    }
}

#[test]
fn ids_are_unique_and_echoes_are_what_was_said() {
    let ids = |one: Value, other: Value| {
        let generate = |id| asked("generate", Value::Null, answer(json!({ "id": id })));
        is_right(Workload::UniqueIds, vec![generate(one), generate(other)])
    };
    assert!(ids(json!(1), json!("1")) && !ids(json!(1), json!(1)) && !ids(json!(1), json!(null)));
    let echo =
        |said| is_right(Workload::Echo, vec![asked("echo", json!({ "echo": "a" }), answer(json!({ "echo": said })))]);
    assert!(echo("a") && !echo("b"));
}

#[test]
fn transactions_are_answered_as_asked_and_serializable() {
    for (workload, write, nothing, one) in [
        (Workload::TxnListAppend, "append", json!(null), json!([1])),
        (Workload::TxnRwRegister, "w", json!(null), json!(1)),
    ] {
        let txn = |asked_for: Value, answered: Value| {
            asked("txn", json!({ "txn": asked_for }), answer(json!({ "txn": answered })))
        };
        let steps = |seen: Value| {
            let writes = json!([[write, 7, 1]]);
            vec![txn(writes.clone(), writes), txn(json!([["r", 7, null]]), json!([["r", 7, seen]]))]
        };
        assert!(is_right(workload, steps(one)), "{workload}");
        assert!(!is_right(workload, steps(nothing)), "{workload}: stale");
        assert!(!is_right(workload, steps(json!("x"))), "{workload}: no value");
        let other = vec![txn(json!([[write, 7, 1]]), json!([[write, 8, 1]]))];
        assert!(!is_right(workload, other), "{workload}: another transaction");
    }
}

#[test]
fn logs_show_every_message_in_the_end() {
    let steps = |first: Value, second: Value| {
        let poll = |node, messages: Value| Step {
            node,
            call: body("poll", json!({ "offsets": { "a": 0 } })),
            reply: answer(json!({ "msgs": messages })),
            round: Some(0),
        };
        vec![
            asked("send", json!({ "key": "a", "msg": 1 }), answer(json!({ "offset": 4 }))),
            asked("send", json!({ "key": "a", "msg": 2 }), error(0)),
            poll(0, first),
            poll(1, second),
        ]
    };
    let (with, without) = (json!({ "a": [[4, 1], [6, 2]] }), json!({ "a": [[4, 1]] }));
    assert!(is_right(Workload::Kafka, steps(without.clone(), without.clone())));
    assert!(is_right(Workload::Kafka, steps(without.clone(), with)));
    for wrong in [json!({}), json!({ "a": [[6, 2]] }), json!({ "a": [[4, 2]] }), json!({ "a": [4] }), json!(null)] {
        assert!(!is_right(Workload::Kafka, steps(without.clone(), wrong.clone())), "{wrong}");
    }
}
