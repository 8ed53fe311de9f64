//! The workbench: plays Maelstrom's part against `duramen-maelstrom`.
//!
//! ```text
//! settings ─▶ cluster of processes ◀─lines─▶ router (network, partition, nemesis) ◀─ clients ◀─ workloads
//!                                                                                     │ records
//!                                              summary ◀─ verdict ◀─ checkers ◀───────┘
//! ```
//!
//! * In: settings. Out: a summary with a verdict; where it is not good, the history is kept in a file.
//! * Semantics are Maelstrom's, as upstream's tool is held against the same binary: 5 s for an answer, codes 0 and 13 and
//!   silence leave the outcome open, a client's process ends with it, the faulty network is between nodes only.
//! * All choices follow from the seed; processes and their timing do not.
//! * Deliberately absent: a second checker of anything, see `checkers`.
//! * Source: Maelstrom's documentation: protocol, workloads, `--nemesis`.

mod clients;
mod cluster;
mod nemesis;
mod network;
mod partition;
mod process;
mod record;
mod router;
mod settings;
mod summary;
mod workloads;

pub use cluster::ClusterError;
pub use record::Ending;
pub use settings::{Fault, LatencyShape, Settings, UnknownName, Workload};
pub use summary::{Counted, Summary};

use crate::checkers::Verdict;
use clients::Clients;
use cluster::Cluster;
use nemesis::Nemesis;
use record::Record;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;
use workloads::Load;

/// How long nodes have, once healed, to come to what is asked of them in the end.
const RECOVERY_MAX: Duration = Duration::from_secs(10);
/// Between two rounds of reads in the end.
const ROUND_PAUSE: Duration = Duration::from_millis(250);
/// What is shown of operations that should have been answered.
const SHOWN_MAX: usize = 5;

/// Why there is no summary.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A node cannot take part.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A file or folder of the run cannot be written.
    #[error("{what}: {reason}")]
    File {
        /// Which.
        what: String,
        /// Why.
        reason: io::Error,
    },
}

/// Runs once.
pub async fn run(settings: &Settings) -> Result<Summary, RunError> {
    let made = tempfile::Builder::new().prefix("duramen-workbench-").tempdir();
    let folder = made.map_err(|reason| RunError::File { what: "no temporary folder".to_owned(), reason })?;
    let cluster = Cluster::start(settings, folder.path()).await?;
    let clients = Clients::new(&cluster, settings, workloads::load(settings));
    let end = Instant::now() + settings.time_limit;
    let (deeds, ()) = tokio::join!(Nemesis::new(&cluster, settings).run(end), clients.run(end));
    let ended = match deeds {
        Ok(deeds) => {
            clients.ask_in_the_end(RECOVERY_MAX, ROUND_PAUSE).await;
            Ok(deeds)
        }
        Err(error) => Err(error),
    };
    let misdeeds = cluster.misdeeds().await;
    let traffic = cluster.router().traffic();
    cluster.stop().await;
    let deeds = ended?;
    let (load, records) = clients.finish();
    let verdict = verdict(settings, &*load, records.all(), misdeeds);
    let mut summary = Summary::of(settings, records.all(), deeds, traffic, verdict);
    if !summary.verdict.is_valid() {
        // The nodes' disks and what they wrote stay beside it.
        summary.history_path = Some(keep(&folder.keep(), records.all())?);
    }
    Ok(summary)
}

fn keep(folder: &Path, records: &[Record]) -> Result<PathBuf, RunError> {
    let path = folder.join("history.jsonl");
    let written = File::create(&path).and_then(|file| record::write_lines(records, BufWriter::new(file)));
    written.map_err(|reason| RunError::File { what: path.display().to_string(), reason })?;
    Ok(path)
}

/// The load's verdict, with what else was wrong.
fn verdict(settings: &Settings, load: &dyn Load, records: &[Record], misdeeds: Vec<String>) -> Verdict<String> {
    let mut violations = misdeeds;
    // A killed node answers nobody.
    if load.is_totally_available() && !settings.has(Fault::Kill) {
        let unanswered = records.iter().filter(|record| record.ending() != Ending::Ok);
        violations.extend(unanswered.take(SHOWN_MAX).map(|record| format!("not available: {record:?}")));
    }
    if violations.is_empty() {
        return load.judge(records);
    }
    violations.extend(load.judge(records).violations().iter().cloned());
    Verdict::Violated(violations)
}
