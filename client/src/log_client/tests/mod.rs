//! Goal: no fault of a node or of the network makes the client report a failure for what was appended, append anything
//! twice, or hold a caller past its deadline. Method: a scripted cluster in memory, under a clock that only moves when
//! everybody waits.

mod appends;
mod fake;
mod random;
mod reads;

use super::{LogClient, LogClientConfig};
use bytes::Bytes;
use duramen_common::batch::{Record, RecordSet, RecordSetBuilder};
use duramen_common::log::{AppendError, Log as _};
use duramen_common::protocol::AppendedRun;
use duramen_common::seams::{Entropy, Seams, SystemClock, Threads};
use duramen_common::{Offset, PartitionId, RequestId};
use fake::{Cluster, addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const P0: PartitionId = PartitionId::new(0);
const LONG: Duration = Duration::from_secs(20);

/// Repeatable bits.
struct Counted(AtomicU64);

impl Entropy for Counted {
    fn bits(&self) -> u128 {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
    }
}

fn seams(seed: u64) -> Seams {
    Seams { clock: Arc::new(SystemClock), entropy: Arc::new(Counted(AtomicU64::new(seed))), threads: Threads::System }
}

fn client_with(cluster: &Cluster, change: impl FnOnce(&mut LogClientConfig)) -> LogClient {
    let mut config = LogClientConfig::new((1..=cluster.nodes).map(addr).collect());
    change(&mut config);
    let transport = cluster.network.transport("client", config.history.hello("test"));
    LogClient::new(config, Arc::new(transport), seams(1))
}

fn client(cluster: &Cluster) -> LogClient {
    client_with(cluster, |_| {})
}

fn id(number: u64) -> RequestId {
    RequestId::from_bits(u128::from(number) << 32)
}

fn set(number: u64) -> RecordSet {
    RecordSet::of(id(number), &Record::event(None, Bytes::from(number.to_string()))).unwrap()
}

fn set_of(number: u64, count: u64) -> RecordSet {
    let mut builder = RecordSetBuilder::default();
    for at in 0..count {
        let record = Record::event(None, Bytes::from(format!("{number}.{at}")));
        builder.push(id(number).plus(at), &record).unwrap();
    }
    builder.finish()
}

type Appending = tokio::task::JoinHandle<Result<Vec<AppendedRun>, AppendError>>;

fn spawn_append(client: &LogClient, set: RecordSet, timeout: Duration) -> Appending {
    let client = client.clone();
    tokio::spawn(async move { client.append(P0, set, timeout).await })
}

fn at(first_offset: u64, count: u32) -> Vec<AppendedRun> {
    vec![AppendedRun::At { first_offset: Offset::new(first_offset), count }]
}

/// Waits until a condition holds; the clock moves on meanwhile.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("never: {what}");
}

/// A request that carries `set(number)`, for putting it into the log by hand.
fn fake_request(number: u64) -> duramen_common::protocol::AppendRequest {
    let ids = set(number).ids;
    duramen_common::protocol::AppendRequest { partition: P0, count: 1, ids, known_end: Offset::ZERO, timeout_ms: 0 }
}
