//! `duramen dev`: a whole cluster in one process: three log nodes, two serving nodes, real TCP between them, real files.
//!
//! * Everything under one folder, so that a restart finds everything; one lock on it.
//! * Ports: HTTP `--http-port` and the next one; log nodes' HTTP `--log-http-port` and the next two; framed TCP `--log-port`
//!   and the next two. All on 127.0.0.1.
//! * Threads: one runtime for everything; each log node adds its sync thread and each serving node its flusher, which block.
//! * Deliberately absent: any shortcut. What is acknowledged is on disk on a majority, as anywhere.

use super::files;
use super::log_node::{LogNodePlan, PARTITIONS_DEFAULT};
use super::preflight::{check_port, take_folder};
use super::running::{RunningLogNode, RunningServingNode, ending, first_failure};
use super::serving_node::{CACHE_MIB_DEFAULT, INDEX_SCRUB_HOURS_DEFAULT, Index, ServingNodePlan};
use crate::failure::Failure;
use crate::node::config::Member;
use crate::signals::{HangUp, Stop};
use clap::Args;
use duramen_common::HistoryId;
use duramen_common::limits::{DEDUP_WINDOW_DEFAULT, PARTITIONS_MAX, VALUE_BYTES_MAX};
use duramen_common::seams::Seams;
use futures_util::future::{join_all, try_join_all};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

const LOG_NODES: u16 = 3;
const SERVING_NODES: u16 = 2;
/// How often a start that takes long says that it goes on.
const STILL_EVERY: Duration = Duration::from_secs(5);

/// Length of the log's files: three nodes on one disk reserve this for each partition. Unit: mebibytes.
const SEGMENT_MIB: u64 = 16;

/// Arguments of `duramen dev`.
#[derive(Clone, Debug, Args)]
pub struct DevArgs {
    /// Where everything is kept. Made when it is missing.
    #[arg(long, env = "DURAMEN_DATA_DIR", value_name = "FOLDER", default_value = "./duramen-data")]
    data_dir: PathBuf,
    /// Which index the serving nodes use.
    #[arg(long, env = "DURAMEN_INDEX", value_name = "KIND", default_value = "sled")]
    index: Index,
    /// Delay applying on the second serving node, so that a read can be seen to wait. Unit: milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    lag_ms: u64,
    /// Partitions of a new cluster; an existing one keeps its number. Default: 4.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(PARTITIONS_MAX)))]
    partitions: Option<u16>,
    /// Serving nodes' HTTP: this port and the next one.
    #[arg(long, value_name = "PORT", default_value_t = 7001, value_parser = first_port())]
    http_port: u16,
    /// Log nodes' HTTP: this port and the next two.
    #[arg(long, value_name = "PORT", default_value_t = 7101, value_parser = first_port())]
    log_http_port: u16,
    /// Log nodes' framed TCP: this port and the next two.
    #[arg(long, value_name = "PORT", default_value_t = 7201, value_parser = first_port())]
    log_port: u16,
    /// Threads of the runtime.
    #[arg(long, env = "DURAMEN_THREADS", value_name = "N", default_value_t = super::THREADS_DEFAULT)]
    threads: usize,
}

fn first_port() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..=65_533)
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

impl DevArgs {
    /// Threads of the runtime.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.max(1)
    }

    fn log_nodes(&self) -> Vec<LogNodePlan> {
        let numbers = 0..LOG_NODES;
        let members: Vec<Member> = numbers
            .clone()
            .map(|number| Member {
                node: u64::from(number) + 1,
                rpc_addr: local(self.log_port + number).to_string(),
                http_addr: local(self.log_http_port + number).to_string(),
            })
            .collect();
        let plan = |number: u16| LogNodePlan {
            node: u64::from(number) + 1,
            data_dir: self.data_dir.join(format!("log-{}", number + 1)),
            rpc: local(self.log_port + number).to_string(),
            http: local(self.log_http_port + number).to_string(),
            members: members.clone(),
            partitions: self.partitions.unwrap_or(PARTITIONS_DEFAULT),
            dedup_window: DEDUP_WINDOW_DEFAULT,
            segment_mib: SEGMENT_MIB,
            value_bytes_max: VALUE_BYTES_MAX,
            origins: Vec::new(),
            threads: self.threads(),
        };
        numbers.map(plan).collect()
    }

    fn serving_nodes(&self) -> Vec<ServingNodePlan> {
        let log_nodes: Vec<String> = (0..LOG_NODES).map(|number| local(self.log_port + number).to_string()).collect();
        let plan = |number: u16| ServingNodePlan {
            name: format!("serving-{}", number + 1),
            data_dir: (self.index != Index::Memory).then(|| self.data_dir.join(format!("serving-{}", number + 1))),
            http: local(self.http_port + number).to_string(),
            advertise_http: local(self.http_port + number).to_string(),
            log_nodes: log_nodes.clone(),
            index: self.index,
            // Both share one machine's memory.
            cache_bytes: CACHE_MIB_DEFAULT / 2 * 1024 * 1024,
            index_scrub_hours: INDEX_SCRUB_HOURS_DEFAULT,
            value_bytes_max: VALUE_BYTES_MAX,
            // The second one lags, so that the first shows what the second has yet to see.
            lag_ms: if number == 1 { self.lag_ms } else { 0 },
            origins: Vec::new(),
            threads: self.threads(),
        };
        (0..SERVING_NODES).map(plan).collect()
    }

    fn check_ports(&self) -> Result<(), Failure> {
        let ports = [
            (self.http_port, SERVING_NODES, "--http-port"),
            (self.log_http_port, LOG_NODES, "--log-http-port"),
            (self.log_port, LOG_NODES, "--log-port"),
        ];
        for (number, (first, count, option)) in ports.iter().enumerate() {
            for (other, other_count, other_option) in ports.iter().skip(number + 1) {
                if first < &(other + other_count) && other < &(first + count) {
                    return Err(Failure::usage(format!("{option} and {other_option} overlap: {first} and {other}")));
                }
            }
            for port in *first..first + count {
                check_port(local(port), option)?;
            }
        }
        Ok(())
    }
}

struct Cluster {
    history: HistoryId,
    partitions: u16,
    log_nodes: Vec<RunningLogNode>,
    serving_nodes: Vec<RunningServingNode>,
}

/// Runs `duramen dev` until it is told to stop.
pub async fn run(args: DevArgs, seams: Seams) -> Result<(), Failure> {
    let began = Instant::now();
    let mut stop = Stop::listen_as_node(hang_up())?;
    let _folder = take_folder(&args.data_dir)?;
    args.check_ports()?;
    let cluster = tokio::select! {
        started = still_saying("starting", start(&args, &seams)) => started?,
        // Nothing was acknowledged to anybody yet.
        () = stop.asked() => return Ok(()),
    };
    let screen = screen(&args, cluster.history, cluster.partitions, began.elapsed());
    duramen_stdio::stdout().push_line(&screen);
    let ended = tokio::select! {
        () = stop.asked() => Ok(()),
        failure = first_failure(&cluster.log_nodes, &cluster.serving_nodes) => Err(failure),
    };
    stop.exit_at_next();
    if ended.is_ok() {
        let line = "stopping; everything acknowledged is on disk (Ctrl-C again ends at once)";
        duramen_stdio::stdout().push_line(line);
    }
    ending(async {
        join_all(cluster.serving_nodes.into_iter().map(RunningServingNode::shutdown)).await;
        join_all(cluster.log_nodes.into_iter().map(RunningLogNode::shutdown)).await;
    })
    .await;
    ended
}

/// On a terminal, SIGHUP says that it was closed. Elsewhere (`nohup`, a supervisor) it is somebody's habit.
fn hang_up() -> HangUp {
    let on_terminal = duramen_stdio::stdin_is_terminal()
        || duramen_stdio::stdout_is_terminal()
        || duramen_stdio::stderr_is_terminal();
    if on_terminal { HangUp::Ends } else { HangUp::IsIgnored }
}

async fn start(args: &DevArgs, seams: &Seams) -> Result<Cluster, Failure> {
    // Together: a blank cluster forms only once all log nodes answer each other.
    let files = files::share(u64::from(LOG_NODES + SERVING_NODES));
    let log_nodes = args.log_nodes().into_iter().map(|plan| RunningLogNode::start(plan, seams.clone(), files));
    let log_nodes = try_join_all(log_nodes).await?;
    let serving_nodes =
        args.serving_nodes().into_iter().map(|plan| RunningServingNode::start(plan, seams.clone(), files));
    let serving_nodes = try_join_all(serving_nodes).await?;
    tokio::select! {
        _ = join_all(serving_nodes.iter().map(RunningServingNode::ready)) => {}
        failure = first_failure(&log_nodes, &serving_nodes) => return Err(failure),
    }
    let first = serving_nodes.first().expect("a cluster for development has serving nodes");
    let (history, partitions) = first.cluster().await?;
    Ok(Cluster { history, partitions, log_nodes, serving_nodes })
}

/// Says on stderr every few seconds that something still goes on.
async fn still_saying<T>(what: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let began = Instant::now();
    loop {
        match tokio::time::timeout(STILL_EVERY, &mut work).await {
            Ok(done) => return done,
            Err(_) => tracing::warn!("still {what} after {} s", began.elapsed().as_secs()),
        }
    }
}

/// What to try next: one short screen.
fn screen(args: &DevArgs, history: HistoryId, partitions: u16, took: Duration) -> String {
    let kept = match args.partitions {
        Some(wanted) if wanted != partitions => {
            format!(
                "\nThis folder's cluster has {partitions} partitions, and keeps them: --partitions {wanted} does not hold."
            )
        }
        _ => String::new(),
    };
    let (one, other) = (args.http_port, args.http_port + 1);
    let (log_http, log) = (args.log_http_port, args.log_port);
    let lag = match args.lag_ms {
        0 => String::new(),
        lag_ms => format!("  (this one applies {lag_ms} ms late)"),
    };
    let folder = args.data_dir.display();
    let urls = match (one, log_http) {
        (7001, 7101) => String::new(),
        _ => format!(
            "\n  For the duramen commands: export DURAMEN_URL=http://127.0.0.1:{one},http://127.0.0.1:{other} \
             DURAMEN_LOG_URL=http://127.0.0.1:{log_http}\n"
        ),
    };
    format!(
        "duramen dev: history {history}, {partitions} partitions, ready in {:.1} s; data in {folder}{kept}

  serving nodes  http://127.0.0.1:{one}   http://127.0.0.1:{other}{lag}
  log nodes      http://127.0.0.1:{log_http} to {}, between nodes {log} to {}
{urls}
Try, in another terminal:
  curl -i -X PUT --data 'Satya Nadella' http://127.0.0.1:{one}/v1/kv/microsoft
  curl -i -H 'Read-After: TIMESTAMP' http://127.0.0.1:{other}/v1/kv/microsoft   # the Log-Timestamp of that answer
  duramen log tail 0 --follow --from 0
  duramen status --digest
  duramen load /usr/share/dict/words --format lines

Ctrl-C ends it; started again, everything is still there.",
        took.as_secs_f64(),
        log_http + LOG_NODES - 1,
        log + LOG_NODES - 1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        dev: DevArgs,
    }

    fn dev(args: &[&str]) -> DevArgs {
        Line::parse_from([&["dev"], args].concat()).dev
    }

    #[test]
    fn ports_are_as_documented_and_only_the_second_serving_node_lags() {
        let dev = dev(&["--lag-ms", "500"]);
        let log_nodes = dev.log_nodes();
        assert_eq!(
            log_nodes.iter().map(|node| node.rpc.as_str()).collect::<Vec<_>>(),
            ["127.0.0.1:7201", "127.0.0.1:7202", "127.0.0.1:7203"]
        );
        for (number, node) in log_nodes.iter().enumerate() {
            assert_eq!((&node.rpc, &node.http), (&node.members[number].rpc_addr, &node.members[number].http_addr));
        }
        assert_eq!(log_nodes[2].http, "127.0.0.1:7103");
        let serving_nodes = dev.serving_nodes();
        assert_eq!(
            serving_nodes.iter().map(|node| node.http.as_str()).collect::<Vec<_>>(),
            ["127.0.0.1:7001", "127.0.0.1:7002"]
        );
        assert_eq!(serving_nodes.iter().map(|node| node.lag_ms).collect::<Vec<_>>(), [0, 500]);
    }

    #[test]
    fn ports_that_overlap_are_refused() {
        let refused = dev(&["--http-port", "7202"]).check_ports().unwrap_err();
        assert_eq!(refused.code(), 2);
    }
}
