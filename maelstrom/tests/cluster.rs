//! Goal: the binary keeps Maelstrom's protocol, every workload works at every node, a log outlives its process, and no line
//! stops a node. Method: three real processes, whose lines the test carries as Maelstrom would, at once and all of them.

#![expect(clippy::unwrap_used, reason = "these are tests; the lint does not see that of helpers")]

use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

const NAMES: [&str; 3] = ["n1", "n2", "n3"];
/// Nothing here takes so long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who waits for answers, by the request's number.
type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>;
/// Where each node's lines go, while it runs.
type Inputs = Arc<Mutex<HashMap<String, mpsc::UnboundedSender<String>>>>;

struct Cluster {
    data_dir: PathBuf,
    children: HashMap<String, Child>,
    inputs: Inputs,
    waiting: Waiting,
    last: u64,
}

impl Cluster {
    async fn start(data_dir: &Path) -> Cluster {
        let data_dir = data_dir.to_owned();
        let (inputs, waiting) = (Inputs::default(), Waiting::default());
        let mut cluster = Cluster { data_dir, children: HashMap::new(), inputs, waiting, last: 0 };
        for name in NAMES {
            cluster.spawn(name);
        }
        let asked = NAMES.map(|name| cluster.ask(name, init(name)));
        for asked in asked {
            assert_eq!(asked.await["type"], "init_ok");
        }
        cluster
    }

    #[expect(clippy::disallowed_methods, reason = "a test's own lines; the processes bound theirs")]
    fn spawn(&mut self, name: &str) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_duramen-maelstrom"))
            .arg("--data-dir")
            .arg(&self.data_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::unbounded_channel();
        tokio::spawn(feed(child.stdin.take().unwrap(), lines));
        tokio::spawn(route(child.stdout.take().unwrap(), Arc::clone(&self.inputs), Arc::clone(&self.waiting)));
        self.inputs.lock().unwrap().insert(name.to_owned(), sender);
        self.children.insert(name.to_owned(), child);
    }

    async fn kill(&mut self, name: &str) {
        self.inputs.lock().unwrap().remove(name);
        self.children.remove(name).unwrap().kill().await.unwrap();
    }

    fn say(&self, name: &str, line: &str) {
        self.inputs.lock().unwrap()[name].send(line.to_owned()).unwrap();
    }

    /// Sends a request; answers the body that comes back.
    fn ask(&mut self, name: &str, mut body: Value) -> impl Future<Output = Value> + use<> {
        self.last += 1;
        body["msg_id"] = json!(self.last);
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().unwrap().insert(self.last, sender);
        self.say(name, &json!({"src": "c1", "dest": name, "body": body}).to_string());
        async move { timeout(PATIENCE, answer).await.unwrap_or_else(|_| panic!("no answer to {body}")).unwrap() }
    }

    /// Asks, and wants exactly these members besides the type and the number.
    async fn expect(&mut self, name: &str, body: Value, wanted: Value) {
        let mut answer = self.ask(name, body.clone()).await;
        answer.as_object_mut().unwrap().remove("in_reply_to");
        assert_eq!(answer, wanted, "to {body} at {name}");
    }

    async fn expect_error(&mut self, name: &str, body: Value, code: u16) {
        let answer = self.ask(name, body.clone()).await;
        assert_eq!(
            (&answer["type"], &answer["code"]),
            (&json!("error"), &json!(code)),
            "to {body} at {name}: {answer}"
        );
        assert!(answer["text"].as_str().is_some_and(|text| !text.is_empty()));
    }

    /// Asks again until the answer is this one: what others have written comes in its own time.
    async fn expect_soon(&mut self, name: &str, body: Value, wanted: Value) {
        let soon = async {
            loop {
                let mut answer = self.ask(name, body.clone()).await;
                answer.as_object_mut().unwrap().remove("in_reply_to");
                if answer == wanted {
                    return;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, soon).await.unwrap_or_else(|_| panic!("{wanted} never came"));
    }
}

fn init(name: &str) -> Value {
    json!({"type": "init", "node_id": name, "node_ids": NAMES})
}

async fn feed(mut input: ChildStdin, mut lines: mpsc::UnboundedReceiver<String>) {
    while let Some(line) = lines.recv().await {
        if input.write_all(line.as_bytes()).await.is_err() || input.write_all(b"\n").await.is_err() {
            return;
        }
    }
}

async fn route(output: ChildStdout, inputs: Inputs, waiting: Waiting) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let message: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let dest = message["dest"].as_str().unwrap();
        if NAMES.contains(&dest) {
            if let Some(input) = inputs.lock().unwrap().get(dest) {
                let _ = input.send(line);
            }
            continue;
        }
        let asked = message["body"]["in_reply_to"].as_u64().and_then(|id| waiting.lock().unwrap().remove(&id));
        if let Some(asked) = asked {
            let _ = asked.send(message["body"].clone());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_workload_works_at_every_node_and_the_log_outlives_its_process() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path()).await;
    echo_and_unique_ids(&mut cluster).await;
    lin_kv(&mut cluster).await;
    txn(&mut cluster).await;
    kafka(&mut cluster).await;
    folds(&mut cluster).await;
    hostile_lines(&mut cluster).await;

    // Every node loses its process, one after the other, the leader among them; what was acknowledged stays.
    let mut ids = Vec::new();
    for (round, name) in NAMES.into_iter().enumerate() {
        ids.push(cluster.ask(name, json!({"type": "generate"})).await["id"].as_u64().unwrap());
        cluster.kill(name).await;
        let other = NAMES[(round + 1) % 3];
        let written = json!({"type": "write", "key": "round", "value": round});
        cluster.expect(other, written, json!({"type": "write_ok"})).await;
        cluster.spawn(name);
        cluster.expect(name, init(name), json!({"type": "init_ok"})).await;
        let read = json!({"type": "read", "key": "round"});
        cluster.expect(name, read, json!({"type": "read_ok", "value": round})).await;
        ids.push(cluster.ask(name, json!({"type": "generate"})).await["id"].as_u64().unwrap());
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 6, "a restarted node gives out no number twice");
    cluster.expect("n1", json!({"type": "read", "key": 1}), json!({"type": "read_ok", "value": [3]})).await;
    let poll = json!({"type": "poll", "offsets": {"k": 0}});
    let messages = cluster.ask("n2", poll).await["msgs"]["k"].as_array().map(Vec::len);
    assert_eq!(messages, Some(2));
    cluster.expect("n3", json!({"type": "read"}), json!({"type": "read_ok", "value": -2})).await;
}

async fn echo_and_unique_ids(cluster: &mut Cluster) {
    let mut ids = Vec::new();
    for name in NAMES {
        let payload = json!({"a": [1, null, "\u{e9}\n"]});
        let wanted = json!({"type": "echo_ok", "echo": payload.clone()});
        cluster.expect(name, json!({"type": "echo", "echo": payload}), wanted).await;
        for _ in 0..10 {
            ids.push(cluster.ask(name, json!({"type": "generate"})).await["id"].as_u64().unwrap());
        }
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 30);
}

async fn lin_kv(cluster: &mut Cluster) {
    let cas = |from: Value, to: Value| json!({"type": "cas", "key": 1, "from": from, "to": to});
    cluster.expect_error("n1", json!({"type": "read", "key": 1}), 20).await;
    cluster.expect_error("n2", cas(json!(1), json!(2)), 20).await;
    for (at, name) in NAMES.into_iter().enumerate() {
        let written = json!({"type": "write", "key": 1, "value": [at]});
        cluster.expect(name, written, json!({"type": "write_ok"})).await;
        let other = NAMES[(at + 1) % 3];
        cluster.expect(other, json!({"type": "read", "key": 1}), json!({"type": "read_ok", "value": [at]})).await;
        // The key's text differs from the number's.
        cluster.expect_error(other, json!({"type": "read", "key": "1"}), 20).await;
    }
    cluster.expect_error("n1", cas(json!([1]), json!([3])), 22).await;
    cluster.expect("n1", cas(json!([2]), json!([3])), json!({"type": "cas_ok"})).await;
    cluster.expect("n2", json!({"type": "read", "key": 1}), json!({"type": "read_ok", "value": [3]})).await;
    let created = json!({"type": "cas", "key": "new", "from": 0, "to": 1, "create_if_not_exists": true});
    cluster.expect("n3", created, json!({"type": "cas_ok"})).await;

    // Of those who compare with the same value at the same time, one wins.
    let asked: Vec<_> = (0..12)
        .map(|at| cluster.ask(NAMES[at % 3], json!({"type": "cas", "key": "new", "from": 1, "to": 2})))
        .collect();
    let mut won = 0;
    for answer in asked {
        let answer = answer.await;
        match answer["code"].as_u64() {
            None => won += 1,
            code => assert_eq!(code, Some(22), "{answer}"),
        }
    }
    assert_eq!(won, 1);
}

async fn txn(cluster: &mut Cluster) {
    let txn = |steps: Value| json!({"type": "txn", "txn": steps});
    let done = |steps: Value| json!({"type": "txn_ok", "txn": steps});
    let steps = json!([["r", 1, null], ["append", 1, 6], ["r", 1, null], ["append", 2, 9]]);
    let seen = json!([["r", 1, null], ["append", 1, 6], ["r", 1, [6]], ["append", 2, 9]]);
    cluster.expect("n1", txn(steps), done(seen)).await;
    let seen = json!([["r", 1, [6]], ["r", 2, [9]], ["r", 3, null]]);
    cluster.expect("n2", txn(json!([["r", 1, null], ["r", 2, null], ["r", 3, null]])), done(seen)).await;
    cluster.expect("n3", txn(json!([["w", 7, 1], ["r", 7, null]])), done(json!([["w", 7, 1], ["r", 7, 1]]))).await;
    cluster.expect("n1", txn(json!([["r", 7, null], ["w", 7, 2]])), done(json!([["r", 7, 1], ["w", 7, 2]]))).await;
    cluster.expect("n2", txn(json!([])), done(json!([]))).await;
    cluster.expect_error("n3", txn(json!([["append", 7, 1]])), 22).await;
    cluster.expect_error("n3", txn(json!([["del", 7, 1]])), 10).await;

    // Nobody's append is lost, and nobody's read tears.
    let asked: Vec<_> =
        (0..15).map(|at| cluster.ask(NAMES[at % 3], txn(json!([["append", "a", at], ["append", "b", at]])))).collect();
    for answer in asked {
        assert_eq!(answer.await["type"], "txn_ok");
    }
    let read = cluster.ask("n1", txn(json!([["r", "a", null], ["r", "b", null]]))).await;
    let (a, b) = (&read["txn"][0][2], &read["txn"][1][2]);
    assert_eq!((a, a.as_array().map(Vec::len)), (b, Some(15)));
}

async fn kafka(cluster: &mut Cluster) {
    let mut offsets = Vec::new();
    for (name, msg) in [("n1", "a"), ("n3", "b")] {
        let sent = cluster.ask(name, json!({"type": "send", "key": "k", "msg": msg})).await;
        offsets.push(sent["offset"].as_u64().unwrap());
        cluster.ask(name, json!({"type": "send", "key": "other", "msg": 0})).await;
    }
    assert!(offsets[0] < offsets[1]);
    let poll = |from: u64| json!({"type": "poll", "offsets": {"k": from, "none": 0}});
    let all = json!([[offsets[0], "a"], [offsets[1], "b"]]);
    cluster.expect("n3", poll(0), json!({"type": "poll_ok", "msgs": {"k": all.clone()}})).await;
    cluster.expect_soon("n2", poll(0), json!({"type": "poll_ok", "msgs": {"k": all}})).await;
    let rest = json!({"type": "poll_ok", "msgs": {"k": [[offsets[1], "b"]]}});
    cluster.expect("n2", poll(offsets[0] + 1), rest).await;
    cluster.expect("n2", poll(offsets[1] + 1), json!({"type": "poll_ok", "msgs": {}})).await;
    // A test's last polls are for all of its keys.
    let many: Vec<String> = (0..5_000).map(|number| number.to_string()).collect();
    let of_many: Map<String, Value> = many.iter().map(|key| (key.clone(), json!(0))).collect();
    let polled = json!({"type": "poll", "offsets": of_many.clone()});
    cluster.expect("n2", polled, json!({"type": "poll_ok", "msgs": {}})).await;
    let commit = json!({"type": "commit_offsets", "offsets": of_many.clone()});
    cluster.expect("n2", commit, json!({"type": "commit_offsets_ok"})).await;
    let listed = json!({"type": "list_committed_offsets", "keys": many});
    cluster.expect("n1", listed, json!({"type": "list_committed_offsets_ok", "offsets": of_many})).await;
    for (offset, name) in [(offsets[1], "n1"), (offsets[0], "n2")] {
        let commit = json!({"type": "commit_offsets", "offsets": {"k": offset}});
        cluster.expect(name, commit, json!({"type": "commit_offsets_ok"})).await;
        let wanted = json!({"type": "list_committed_offsets_ok", "offsets": {"k": offsets[1]}});
        cluster.expect("n3", json!({"type": "list_committed_offsets", "keys": ["k", "none"]}), wanted).await;
    }
}

async fn folds(cluster: &mut Cluster) {
    let read = || json!({"type": "read"});
    // A read that comes before it is clear what for waits for the first event.
    let early = cluster.ask("n3", read());
    let _ = cluster.ask("n1", json!({"type": "add", "delta": 0})).await;
    assert_eq!(early.await["value"], 0);
    for name in NAMES {
        let topology = json!({"type": "topology", "topology": {"n1": ["n2", "n3"]}});
        cluster.expect(name, topology, json!({"type": "topology_ok"})).await;
        cluster.expect(name, read(), json!({"type": "read_ok", "messages": []})).await;
    }
    cluster.expect("n1", json!({"type": "broadcast", "message": 7}), json!({"type": "broadcast_ok"})).await;
    cluster.expect("n1", read(), json!({"type": "read_ok", "messages": [7]})).await;
    cluster.expect_soon("n2", read(), json!({"type": "read_ok", "messages": [7]})).await;
    for name in NAMES {
        cluster.expect(name, json!({"type": "add", "element": name}), json!({"type": "add_ok"})).await;
    }
    for name in NAMES {
        cluster.expect_soon(name, read(), json!({"type": "read_ok", "value": NAMES})).await;
    }
    for (name, delta) in [("n1", 5), ("n2", -10), ("n3", 3)] {
        cluster.expect(name, json!({"type": "add", "delta": delta}), json!({"type": "add_ok"})).await;
    }
    for name in NAMES {
        cluster.expect_soon(name, read(), json!({"type": "read_ok", "value": -2})).await;
    }
}

async fn hostile_lines(cluster: &mut Cluster) {
    let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    for line in [
        "",
        "no json",
        "{}",
        "[]",
        "null",
        r#"{"src":"c1","dest":"n1"}"#,
        r#"{"src":"c1","dest":"n1","body":{}}"#,
        r#"{"src":"c1","dest":"n1","body":{"type":7,"msg_id":"x"}}"#,
        r#"{"src":"n2","dest":"n1","body":{"type":"duramen_call","msg_id":1,"service":64,"node":1,"hello":"AAAA","data":"x"}}"#,
        r#"{"src":"c1","dest":"n1","body":{"type":"duramen_call","msg_id":1,"service":1,"hello":"","data":""}}"#,
        r#"{"src":"n3","dest":"n1","body":{"type":"duramen_answer","in_reply_to":1,"welcome":"","data":""}}"#,
        "\u{0}\u{7f}\u{fffd}",
        &deep,
    ] {
        cluster.say("n1", line);
    }
    for (body, code) in [
        (json!({"type": "no such type"}), 10),
        (json!({"type": ""}), 10),
        (json!({}), 10),
        (json!({"type": "echo"}), 12),
        (json!({"type": "write", "key": 1}), 12),
        (json!({"type": "write", "key": "k".repeat(2_000), "value": 1}), 12),
        (json!({"type": "write", "key": 1, "value": "v".repeat(2_000_000)}), 12),
        (json!({"type": "cas", "key": 1, "from": 1}), 12),
        (json!({"type": "txn", "txn": {}}), 12),
        (json!({"type": "txn", "txn": [["r", 1]]}), 12),
        (json!({"type": "send", "key": 1, "msg": 1}), 12),
        (json!({"type": "poll", "offsets": [1]}), 12),
        (json!({"type": "poll", "offsets": {"k": "x"}}), 12),
        (json!({"type": "add"}), 12),
        (json!({"type": "add", "delta": 1.5}), 12),
        (json!({"type": "add", "delta": 1e300}), 12),
        (json!({"type": "topology"}), 12),
        (json!({"type": "init"}), 12),
        (json!({"type": "init", "node_id": "n2", "node_ids": ["n2"]}), 12),
    ] {
        cluster.expect_error("n1", body, code).await;
    }
    // Said again, it is no news.
    cluster.expect("n1", init("n1"), json!({"type": "init_ok"})).await;
    // For another node.
    let (sender, answer) = oneshot::channel();
    cluster.waiting.lock().unwrap().insert(0, sender);
    cluster.say("n1", r#"{"src":"c1","dest":"n9","body":{"type":"echo","echo":1,"msg_id":0}}"#);
    assert_eq!(timeout(PATIENCE, answer).await.unwrap().unwrap()["code"], 1);
}

/// Goal: without `--data-dir` nothing is left behind. Method: one node, whose input ends.
#[tokio::test]
async fn a_node_alone_answers_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_duramen-maelstrom"))
        .env("TMPDIR", folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let early = r#"{"src":"c1","dest":"n1","body":{"type":"write","key":1,"value":1,"msg_id":1}}"#;
    let init = r#"{"src":"c1","dest":"n1","body":{"type":"init","node_id":"n1","node_ids":["n1"],"msg_id":2}}"#;
    input.write_all(format!("{early}\n{init}\n").as_bytes()).await.unwrap();
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        let message: Value = serde_json::from_str(&line).unwrap();
        kinds.push(message["body"]["type"].as_str().unwrap().to_owned());
    }
    kinds.sort();
    assert_eq!(kinds, ["init_ok", "write_ok"], "what comes before init waits for it");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    drop(input);
    assert!(timeout(PATIENCE, child.wait()).await.unwrap().unwrap().success());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Goal: nobody is answered who has gone. Method: a process that stands still for longer than clients wait; what it finds
/// afterwards, it passes over, and what comes later, it answers.
#[tokio::test]
async fn what_came_while_a_process_stood_still_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_duramen-maelstrom"))
        .env("TMPDIR", folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let say = |kind: &str, id: u64| {
        format!("{}\n", json!({"src": "c1", "dest": "n1", "body": {"type": kind, "echo": id, "msg_id": id}}))
    };
    let init = r#"{"src":"c1","dest":"n1","body":{"type":"init","node_id":"n1","node_ids":["n1"],"msg_id":1}}"#;
    input.write_all(format!("{init}\n").as_bytes()).await.unwrap();
    let answered =
        |line: String| serde_json::from_str::<Value>(&line).unwrap()["body"]["in_reply_to"].as_u64().unwrap();
    assert_eq!(answered(timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap()), 1);
    let pid = child.id().unwrap().to_string();
    let signal = |name: &str| std::process::Command::new("kill").args([name, &pid]).status().unwrap().success();
    assert!(signal("-STOP"));
    input.write_all(say("echo", 2).as_bytes()).await.unwrap();
    sleep(Duration::from_millis(5_000)).await;
    assert!(signal("-CONT"));
    // Asked again and again, as it passes over what may have come before it went on.
    let first = async {
        for id in 3.. {
            input.write_all(say("echo", id).as_bytes()).await.unwrap();
            if let Ok(line) = timeout(Duration::from_millis(20), lines.next_line()).await {
                return answered(line.unwrap().unwrap());
            }
        }
        unreachable!("numbers do not end")
    };
    assert!(timeout(PATIENCE, first).await.unwrap() > 2, "the old request was answered");
}
