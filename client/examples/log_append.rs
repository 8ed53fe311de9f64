//! Appends events to the log itself, reads them back, and waits for more: the log without the serving layer. Run
//! `duramen dev` first, and `duramen log append` while this waits.

#![allow(clippy::print_stdout, reason = "an example speaks to whoever runs it")]

use bytes::Bytes;
use duramen_client::log_client::{LogClient, LogClientConfig};
use duramen_common::batch::{Record, RecordSetBuilder};
use duramen_common::log::Log as _;
use duramen_common::protocol::AppendedRun;
use duramen_common::seams::Seams;
use duramen_common::{PartitionId, RequestId};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);
const FETCH_BYTES_MAX: u32 = 1024 * 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let nodes = ["127.0.0.1:7201", "127.0.0.1:7202", "127.0.0.1:7203"].map(str::to_owned).to_vec();
    let seams = Seams::system();
    let log = LogClient::over_tcp(LogClientConfig::new(nodes), "example", seams.clone());
    let partition = PartitionId::new(0);

    // The ids make a repeat of the same append harmless.
    let ids = RequestId::from_bits(seams.entropy.bits());
    let mut records = RecordSetBuilder::default();
    for number in 0..3 {
        let payload = Bytes::from(format!("hello {number}"));
        records.push(ids.plus(number), &Record::event(Some(Bytes::from_static(b"greeting")), payload))?;
    }
    let appended = log.append(partition, records.finish(), TIMEOUT).await?;
    let Some(AppendedRun::At { first_offset, .. }) = appended.first() else {
        return Err("the ids were used for other records before".into());
    };
    let tail = log.tail(partition, TIMEOUT).await?;
    println!("appended at {partition}:{first_offset}; the log's committed end is {}", tail.committed_end);

    let mut from = *first_offset;
    println!("reading from there on, waiting for more; Ctrl-C ends");
    loop {
        let fetched = log.fetch(partition, from, None, FETCH_BYTES_MAX, TIMEOUT).await?;
        for (offset, record) in fetched.batches.iter().flat_map(|fetched| fetched.batch.records()) {
            if offset < from {
                continue;
            }
            match record.event() {
                Some((_, payload)) => println!("{partition}:{offset} event {}", String::from_utf8_lossy(payload)),
                None => println!("{partition}:{offset} {} updates", record.updates().count()),
            }
        }
        from = fetched.next_offset;
    }
}
