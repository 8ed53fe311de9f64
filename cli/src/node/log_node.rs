//! `duramen log-node`: one log node in a process of its own.

use super::config::{ConfigFileArgs, Member, check_host_port, required};
use crate::failure::Failure;
use clap::Args;
use duramen_common::limits::{BODY_BYTES_MAX, DEDUP_WINDOW_DEFAULT, PARTITIONS_MAX, VALUE_BYTES_MAX};
use serde::Deserialize;
use std::path::PathBuf;

/// Partitions of a new cluster unless said otherwise.
pub const PARTITIONS_DEFAULT: u16 = 4;

/// Smallest duplicate window that the log takes.
const DEDUP_WINDOW_MIN: u64 = 1024;

/// Length of the log's files unless said otherwise. Unit: mebibytes.
const SEGMENT_MIB_DEFAULT: u64 = 64;
/// The longest that still opens quickly: the last file is read whole at start.
const SEGMENT_MIB_MAX: u64 = 1024;

/// Arguments of `duramen log-node`.
#[derive(Clone, Debug, Default, Args)]
pub struct LogNodeArgs {
    #[command(flatten)]
    file: ConfigFileArgs,
    #[command(flatten)]
    given: LogNodeSettings,
}

/// What can be set; the file has the same names.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LogNodeSettings {
    /// This node's number, from 1; never used again for another folder.
    #[arg(long, env = "DURAMEN_NODE", value_name = "N")]
    node: Option<u64>,
    /// Where the log is kept. Made when it is missing.
    #[arg(long, env = "DURAMEN_DATA_DIR", value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// All log nodes of the cluster, this one included, with host, framed TCP port and HTTP port.
    #[arg(long, env = "DURAMEN_MEMBERS", value_name = "N=HOST:PORT/HTTP_PORT", value_delimiter = ',')]
    members: Option<Vec<Member>>,
    /// Listen here for other nodes (framed TCP). Default: this node's address in --members.
    #[arg(long, env = "DURAMEN_RPC", value_name = "HOST:PORT")]
    rpc: Option<String>,
    /// Listen here for HTTP. Default: this node's address in --members.
    #[arg(long, env = "DURAMEN_HTTP", value_name = "HOST:PORT")]
    http: Option<String>,
    /// Partitions of a new cluster; an existing one keeps its number. Default: 4.
    #[arg(long, env = "DURAMEN_PARTITIONS", value_name = "N")]
    partitions: Option<u16>,
    /// Over how many offsets a new cluster remembers request ids. Default: 262144.
    #[arg(long, env = "DURAMEN_DEDUP_WINDOW", value_name = "OFFSETS")]
    dedup_window: Option<u64>,
    /// Length of the log's files, and how much of the disk is reserved ahead for each partition. Default: 64.
    #[arg(long, env = "DURAMEN_SEGMENT_MIB", value_name = "MIB")]
    segment_mib: Option<u64>,
    /// Longest value, and longest event, that this node's HTTP takes. Unit: bytes. Default: 1048576.
    #[arg(long, env = "DURAMEN_VALUE_BYTES_MAX", value_name = "BYTES")]
    value_bytes_max: Option<usize>,
    /// Origins of web pages that may use this node's HTTP, for instance `https://example.org`.
    #[arg(long, env = "DURAMEN_ORIGINS", value_name = "ORIGIN", value_delimiter = ',')]
    origins: Option<Vec<String>>,
    /// Threads of the process. Default: 2.
    #[arg(long, env = "DURAMEN_THREADS", value_name = "N")]
    threads: Option<usize>,
}

/// The checked settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogNodePlan {
    /// Its number.
    pub node: u64,
    /// Where the log is kept.
    pub data_dir: PathBuf,
    /// Where framed TCP listens.
    pub rpc: String,
    /// Where HTTP listens.
    pub http: String,
    /// All log nodes by number, this one included.
    pub members: Vec<Member>,
    /// Partitions of a new cluster.
    pub partitions: u16,
    /// Duplicate window of a new cluster.
    pub dedup_window: u64,
    /// Length of the log's files. Unit: mebibytes.
    pub segment_mib: u64,
    /// Longest value, and longest event, over HTTP. Unit: bytes.
    pub value_bytes_max: usize,
    /// Origins of pages that may come in.
    pub origins: Vec<String>,
    /// Threads of the process.
    pub threads: usize,
}

impl LogNodeArgs {
    /// The settings of flags, variables, file and defaults together, checked.
    pub fn plan(&self) -> Result<LogNodePlan, Failure> {
        self.given.clone().or(self.file.read()?).plan()
    }
}

impl LogNodeSettings {
    fn or(self, file: LogNodeSettings) -> LogNodeSettings {
        LogNodeSettings {
            node: self.node.or(file.node),
            data_dir: self.data_dir.or(file.data_dir),
            members: self.members.or(file.members),
            rpc: self.rpc.or(file.rpc),
            http: self.http.or(file.http),
            partitions: self.partitions.or(file.partitions),
            dedup_window: self.dedup_window.or(file.dedup_window),
            segment_mib: self.segment_mib.or(file.segment_mib),
            value_bytes_max: self.value_bytes_max.or(file.value_bytes_max),
            origins: self.origins.or(file.origins),
            threads: self.threads.or(file.threads),
        }
    }

    fn plan(self) -> Result<LogNodePlan, Failure> {
        let node = required(self.node, "node")?;
        let mut members = required(self.members, "members")?;
        members.sort_by_key(|member| member.node);
        let refuse = |what: String| Err(Failure::usage(what));
        if let Some(pair) = members.windows(2).find(|pair| matches!(pair, [one, other] if one.node == other.node)) {
            return refuse(format!("members: node {} comes twice", pair.first().map_or(0, |member| member.node)));
        }
        let mut addrs: Vec<&str> = members.iter().flat_map(|member| [&*member.rpc_addr, &*member.http_addr]).collect();
        addrs.sort_unstable();
        if let Some([addr, _]) = addrs.windows(2).find(|pair| matches!(pair, [one, other] if one == other)) {
            return refuse(format!("members: {addr} stands there twice; each node's two ports are its own"));
        }
        let Some(own) = members.iter().find(|member| member.node == node) else {
            return refuse(format!("members: node {node}, this one, is missing"));
        };
        let listen = |given: Option<String>, own: &str, name: &str| {
            check_host_port(given.as_deref().unwrap_or(own)).map_err(|error| Failure::usage(format!("{name}: {error}")))
        };
        let rpc = listen(self.rpc, &own.rpc_addr, "rpc")?;
        let http = listen(self.http, &own.http_addr, "http")?;
        let partitions = self.partitions.unwrap_or(PARTITIONS_DEFAULT);
        if partitions == 0 || partitions > PARTITIONS_MAX {
            return refuse(format!("partitions: {partitions}; a cluster has 1 to {PARTITIONS_MAX}"));
        }
        let dedup_window = self.dedup_window.unwrap_or(DEDUP_WINDOW_DEFAULT);
        if dedup_window < DEDUP_WINDOW_MIN {
            return refuse(format!("dedup-window: {dedup_window}; repeats need at least {DEDUP_WINDOW_MIN}"));
        }
        let segment_mib = self.segment_mib.unwrap_or(SEGMENT_MIB_DEFAULT);
        if segment_mib == 0 || segment_mib > SEGMENT_MIB_MAX {
            return refuse(format!("segment-mib: {segment_mib}; 1 to {SEGMENT_MIB_MAX} are possible"));
        }
        let value_bytes_max = self.value_bytes_max.unwrap_or(VALUE_BYTES_MAX);
        if value_bytes_max > BODY_BYTES_MAX {
            return refuse(format!("value-bytes-max: {value_bytes_max}; at most {BODY_BYTES_MAX}"));
        }
        Ok(LogNodePlan {
            node,
            data_dir: required(self.data_dir, "data-dir")?,
            rpc,
            http,
            members,
            partitions,
            dedup_window,
            segment_mib,
            value_bytes_max,
            origins: self.origins.unwrap_or_default(),
            threads: self.threads.unwrap_or(super::THREADS_DEFAULT).max(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> LogNodeSettings {
        toml::from_str(
            r#"
            node = 2
            data-dir = "log-2"
            members = ["3=127.0.0.1:7203/7103", "1=127.0.0.1:7201/7101", "2=127.0.0.1:7202/7102"]
            "#,
        )
        .unwrap()
    }

    #[test]
    fn what_is_given_wins_over_the_file_and_the_file_over_defaults() {
        let given = LogNodeSettings { http: Some("0.0.0.0:9".to_owned()), ..LogNodeSettings::default() };
        let file = LogNodeSettings { partitions: Some(7), ..settings() };
        let plan = given.or(file).plan().unwrap();
        assert_eq!((plan.rpc.as_str(), plan.http.as_str()), ("127.0.0.1:7202", "0.0.0.0:9"));
        assert_eq!((plan.partitions, plan.dedup_window), (7, DEDUP_WINDOW_DEFAULT));
        assert_eq!(plan.members.iter().map(|member| member.node).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        let refused = |change: fn(&mut LogNodeSettings), name: &str| {
            let mut settings = settings();
            change(&mut settings);
            let refused = settings.plan().unwrap_err().to_string();
            assert!(refused.contains(name), "{refused}");
        };
        refused(|settings| settings.node = None, "--node");
        refused(|settings| settings.node = Some(9), "members");
        refused(|settings| settings.data_dir = None, "DURAMEN_DATA_DIR");
        refused(|settings| settings.rpc = Some("127.0.0.1".to_owned()), "rpc");
        let twice = |settings: &mut LogNodeSettings| {
            settings.members = Some(vec!["2=a:1/2".parse().unwrap(), "2=a:3/4".parse().unwrap()]);
        };
        refused(twice, "twice");
        let shared = |settings: &mut LogNodeSettings| {
            settings.members = Some(vec!["1=a:1/2".parse().unwrap(), "2=a:3/1".parse().unwrap()]);
        };
        refused(shared, "a:1 stands there twice");
        refused(|settings| settings.partitions = Some(0), "partitions");
        refused(|settings| settings.dedup_window = Some(0), "dedup-window");
    }
}
