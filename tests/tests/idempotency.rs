//! A repeated `Idempotency-Key` takes effect once and gets the first answer, wherever and whenever it is repeated.

use crate::e2e;
use duramen_tests::harness::cluster::PATIENCE;
use duramen_tests::harness::http::{Call, Http, kv};
use duramen_tests::harness::{Answer, Cluster, until};
use serde_json::json;

/// A request with its first answer, to be repeated.
struct Once {
    name: &'static str,
    make: Box<dyn Fn(&Http) -> Call + Send + Sync>,
    first: Answer,
}

async fn once(http: &Http, name: &'static str, make: impl Fn(&Http) -> Call + Send + Sync + 'static) -> Once {
    let make = move |http: &Http| make(http).header("idempotency-key", name);
    let first = make(http).ok().await;
    Once { name, make: Box::new(make), first }
}

impl Once {
    /// The same request again, until the cluster answers: it must be the first answer.
    async fn again(&self, http: &Http, when: &str) {
        let answer = until("an answer to a repeat", PATIENCE, || async {
            let answer = (self.make)(http).wait(5).send().await.map_err(|error| error.to_string())?;
            if answer.status == 503 { Err(answer.to_string()) } else { Ok(answer) }
        })
        .await;
        let told = format!("{} {when}:\nfirst {}\nagain {answer}", self.name, self.first);
        assert_eq!(answer.status, self.first.status, "{told}");
        if self.first.status < 300 {
            assert_eq!(answer.header("log-timestamp"), self.first.header("log-timestamp"), "{told}");
            assert_eq!(answer.header("etag"), self.first.header("etag"), "{told}");
            assert_eq!(answer.body, self.first.body, "{told}");
        } else {
            assert_eq!(answer.problem(), self.first.problem(), "{told}");
        }
    }
}

/// Writes of every kind under keys of their own: plain, conditional with either outcome, delete, batch, transaction.
async fn all_kinds(http: &Http) -> Vec<Once> {
    http.put(kv("taken"), "by somebody").expect(204).await;
    let etag = http.put(kv("guarded"), "first").expect(204).await.header("etag").expect("an ETag").to_owned();
    let doomed = http.put(kv("doomed"), "x").expect(204).await;
    assert_eq!(doomed.status, 204);
    let mut kinds = vec![
        once(http, "plain", |http| http.put(kv("plain"), "1")).await,
        once(http, "create", |http| http.put(kv("created"), "1").header("if-none-match", "*")).await,
        once(http, "create-taken", |http| http.put(kv("taken"), "mine").header("if-none-match", "*")).await,
        once(http, "delete", |http| http.delete(kv("doomed"))).await,
        once(http, "batch", |http| {
            let ops = json!([{"put": {"key": "b1", "value": "1"}}, {"put": {"key": "b2", "value": "2"}},
                             {"put": {"key": "b3", "value": "3"}}, {"delete": {"key": "b4"}}]);
            http.post("/v1/batch", &json!({"ops": ops}))
        })
        .await,
        once(http, "txn", |http| {
            let condition = json!([{"key": "{t}a", "version": null}]);
            http.post("/v1/txn", &json!({"if": condition, "ops": [{"put": {"key": "{t}a", "value": "1"}}]}))
        })
        .await,
    ];
    let stale_etag = etag.clone();
    kinds.push(once(http, "guarded", move |http| http.put(kv("guarded"), "second").header("if-match", &etag)).await);
    kinds.push(
        once(http, "guarded-late", move |http| http.put(kv("guarded"), "third").header("if-match", &stale_etag)).await,
    );
    let wanted = [204, 204, 412, 204, 200, 200, 204, 412];
    for (kind, status) in kinds.iter().zip(wanted) {
        assert_eq!(kind.first.status, status, "{}: {}", kind.name, kind.first);
    }
    assert_eq!(kinds[5].first.json()["committed"], true);
    kinds
}

e2e! {
    /// Goal: DESIGN D5: once, and the first answer; for a conditional write, the first outcome, although the state has
    /// moved on. Method: each kind of write is repeated at the same node, at the other, after overwrites, after the kill
    /// of each log node, after the kill of a serving node and after a restart of everything.
    async fn a_repeated_idempotency_key_gets_the_first_answer_everywhere(places: 1, seconds: 150) {
        let mut cluster = Cluster::five().await;
        let nodes = [cluster.http(0), cluster.http(1)];
        let kinds = all_kinds(&nodes[0]).await;
        for kind in &kinds {
            kind.again(&nodes[0], "at the same node").await;
            kind.again(&nodes[1], "at the other node").await;
        }
        for key in ["plain", "created", "taken", "guarded", "doomed", "b1", "b4", "{t}a"] {
            nodes[1].put(kv(key), "overwritten").expect(204).await;
        }
        for kind in &kinds {
            kind.again(&nodes[1], "after an overwrite").await;
        }
        for victim in 0..3 {
            cluster.log[victim].kill();
            for kind in &kinds {
                kind.again(&nodes[victim % 2], "with a log node killed").await;
            }
            cluster.start_log(victim);
            cluster.wait_log_ready(victim).await;
        }
        cluster.serving[1].kill();
        std::fs::remove_dir_all(cluster.serving_data(1)).expect("its folder can be deleted");
        cluster.start_serving(1);
        cluster.wait_serving_ready(1).await;
        for kind in &kinds {
            kind.again(&nodes[1], "at a node rebuilt by replay").await;
        }
        for process in cluster.log.iter_mut().chain(&mut cluster.serving) {
            process.stop(PATIENCE).await;
        }
        cluster.start_all();
        cluster.wait_ready().await;
        for kind in &kinds {
            kind.again(&nodes[0], "after a restart of everything").await;
            kind.again(&nodes[1], "after a restart of everything, at the other node").await;
        }
        for key in ["plain", "created", "taken", "guarded", "doomed", "b1", "b4", "{t}a"] {
            assert_eq!(nodes[0].get(kv(key)).expect(200).await.text(), "overwritten", "a repeat of {key} took effect");
        }
        cluster.wait_same_digests().await;
    }
}

e2e! {
    /// Goal: an idempotency key that was used for something else is refused and changes nothing. Method: another
    /// value, another key of the same partition, and a delete under a used key.
    async fn an_idempotency_key_used_for_something_else_is_refused(places: 1, seconds: 60) {
        let cluster = Cluster::five().await;
        let nodes = [cluster.http(0), cluster.http(1)];
        nodes[0].put(kv("{r}a"), "1").header("idempotency-key", "used").expect(204).await;
        for http in &nodes {
            let others = [
                http.put(kv("{r}a"), "2").header("idempotency-key", "used"),
                http.put(kv("{r}b"), "1").header("idempotency-key", "used"),
                http.delete(kv("{r}a")).header("idempotency-key", "used"),
            ];
            for other in others {
                let _ = other.ok().await.expect_problem(422, "key-reused");
            }
            assert_eq!(http.get(kv("{r}a")).expect(200).await.text(), "1");
            let _ = http.get(kv("{r}b")).expect(404).await;
        }
    }
}

e2e! {
    /// Goal: many repeats at once are one write. Method: 64 requests under one key at both nodes, at the same time.
    async fn simultaneous_repeats_are_one_write(places: 1, seconds: 60) {
        let cluster = Cluster::five().await;
        let nodes = [cluster.http(0), cluster.http(1)];
        for round in 0..10 {
            let mut requests = tokio::task::JoinSet::new();
            for number in 0..64usize {
                let call = nodes[number % 2].put(kv("same"), format!("{round}"));
                requests.spawn(call.header("idempotency-key", format!("round {round}")).ok());
            }
            let mut versions = std::collections::BTreeSet::new();
            while let Some(answer) = requests.join_next().await {
                versions.insert(answer.expect("a request panicked").expect_status(204).version().to_string());
            }
            assert_eq!(versions.len(), 1, "repeats were written more than once: {versions:?}");
        }
    }
}
