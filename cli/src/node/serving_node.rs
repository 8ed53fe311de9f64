//! `duramen serving-node`: one serving node in a process of its own.

use super::config::{ConfigFileArgs, advertised, check_host_port, required};
use crate::failure::Failure;
use clap::{Args, ValueEnum};
use duramen_serving_node::partitions::IndexKind;
use serde::Deserialize;
use std::path::PathBuf;

/// Which index holds what was applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Index {
    /// A tree on disk: the default.
    #[default]
    Sled,
    /// A log-structured merge tree on disk, for heavy writes.
    Fjall,
    /// Nothing on disk: everything is replayed at each start.
    Memory,
}

impl From<Index> for IndexKind {
    fn from(index: Index) -> IndexKind {
        match index {
            Index::Sled => IndexKind::Sled,
            Index::Fjall => IndexKind::Fjall,
            Index::Memory => IndexKind::Memory,
        }
    }
}

/// Arguments of `duramen serving-node`.
#[derive(Clone, Debug, Default, Args)]
pub struct ServingNodeArgs {
    #[command(flatten)]
    file: ConfigFileArgs,
    #[command(flatten)]
    given: ServingNodeSettings,
}

/// What can be set; the file has the same names.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServingNodeSettings {
    /// This node's name, by which the cluster knows it.
    #[arg(long, env = "DURAMEN_NAME", value_name = "NAME")]
    name: Option<String>,
    /// Where the index is kept. Made when it is missing; it can be deleted at any time while the node is down.
    #[arg(long, env = "DURAMEN_DATA_DIR", value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Listen here for HTTP. A name is resolved at the start.
    #[arg(long, env = "DURAMEN_HTTP", value_name = "HOST:PORT")]
    http: Option<String>,
    /// Where others reach --http. Default: that address.
    #[arg(long, env = "DURAMEN_ADVERTISE_HTTP", value_name = "HOST:PORT")]
    advertise_http: Option<String>,
    /// Log nodes (framed TCP), some or all: HOST:PORT,HOST:PORT,HOST:PORT.
    #[arg(long, env = "DURAMEN_LOG_NODES", value_name = "HOST:PORT", value_delimiter = ',')]
    log_nodes: Option<Vec<String>>,
    /// Which index. Default: sled.
    #[arg(long, env = "DURAMEN_INDEX", value_name = "KIND")]
    index: Option<Index>,
    /// The index's page cache. Unit: MiB. Default: 256.
    #[arg(long, env = "DURAMEN_CACHE_MIB", value_name = "MIB")]
    cache_mib: Option<u64>,
    /// Read and verify the whole index this often while the node runs; 0 never. Unit: hours. Default: 24.
    #[arg(long, env = "DURAMEN_INDEX_SCRUB_HOURS", value_name = "HOURS")]
    index_scrub_hours: Option<u64>,
    /// Longest value that is taken. Unit: bytes. Default: 1048576.
    #[arg(long, env = "DURAMEN_VALUE_BYTES_MAX", value_name = "BYTES")]
    value_bytes_max: Option<usize>,
    /// Delay applying, so that a read can be seen to wait. Unit: milliseconds. Default: 0.
    #[arg(long, env = "DURAMEN_LAG_MS", value_name = "MS")]
    lag_ms: Option<u64>,
    /// Origins of web pages that may use this node's HTTP, for instance `https://example.org`.
    #[arg(long, env = "DURAMEN_ORIGINS", value_name = "ORIGIN", value_delimiter = ',')]
    origins: Option<Vec<String>>,
    /// Threads of the process. Default: 2.
    #[arg(long, env = "DURAMEN_THREADS", value_name = "N")]
    threads: Option<usize>,
}

/// The checked settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServingNodePlan {
    /// Its name.
    pub name: String,
    /// Where the index is kept; `None` with the memory index.
    pub data_dir: Option<PathBuf>,
    /// Where HTTP listens.
    pub http: String,
    /// HTTP, as others reach it.
    pub advertise_http: String,
    /// Log nodes' framed TCP.
    pub log_nodes: Vec<String>,
    /// Which index.
    pub index: Index,
    /// The index's page cache. Unit: bytes.
    pub cache_bytes: u64,
    /// The index is verified this often. Unit: hours.
    pub index_scrub_hours: u64,
    /// Longest value. Unit: bytes.
    pub value_bytes_max: usize,
    /// Delays applying. Unit: milliseconds.
    pub lag_ms: u64,
    /// Origins of pages that may come in.
    pub origins: Vec<String>,
    /// Threads of the process.
    pub threads: usize,
}

impl ServingNodeArgs {
    /// The settings of flags, variables, file and defaults together, checked.
    pub fn plan(&self) -> Result<ServingNodePlan, Failure> {
        self.given.clone().or(self.file.read()?).plan()
    }
}

impl Index {
    /// Files that it has open at most.
    #[must_use]
    pub const fn files_max(self) -> u64 {
        match self {
            Index::Memory => 4,
            Index::Sled => 32,
            // Its tables (`FILES_MAX` of the index), its journals, and those that it is writing.
            Index::Fjall => 192,
        }
    }
}

/// The index's page cache unless said otherwise. Unit: MiB.
pub const CACHE_MIB_DEFAULT: u64 = 256;
/// How often the index is verified unless said otherwise, and at the most seldom. Unit: hours.
pub const INDEX_SCRUB_HOURS_DEFAULT: u64 = 24;
const INDEX_SCRUB_HOURS_MAX: u64 = 24 * 366;

impl ServingNodeSettings {
    fn or(self, file: ServingNodeSettings) -> ServingNodeSettings {
        ServingNodeSettings {
            name: self.name.or(file.name),
            data_dir: self.data_dir.or(file.data_dir),
            http: self.http.or(file.http),
            advertise_http: self.advertise_http.or(file.advertise_http),
            log_nodes: self.log_nodes.or(file.log_nodes),
            index: self.index.or(file.index),
            cache_mib: self.cache_mib.or(file.cache_mib),
            index_scrub_hours: self.index_scrub_hours.or(file.index_scrub_hours),
            value_bytes_max: self.value_bytes_max.or(file.value_bytes_max),
            lag_ms: self.lag_ms.or(file.lag_ms),
            origins: self.origins.or(file.origins),
            threads: self.threads.or(file.threads),
        }
    }

    fn plan(self) -> Result<ServingNodePlan, Failure> {
        let name = required(self.name, "name")?;
        if name.is_empty() || name.len() > 64 || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failure::usage(format!("name: {name:?}; a name has 1 to 64 printable ASCII characters")));
        }
        let http =
            check_host_port(&required(self.http, "http")?).map_err(|error| Failure::usage(format!("http: {error}")))?;
        let log_nodes = required(self.log_nodes, "log-nodes")?;
        if log_nodes.is_empty() {
            return Err(Failure::usage("log-nodes: give at least one"));
        }
        for addr in &log_nodes {
            check_host_port(addr).map_err(|error| Failure::usage(format!("log-nodes: {error}")))?;
        }
        let index = self.index.unwrap_or_default();
        let data_dir = match index {
            Index::Memory => None,
            Index::Sled | Index::Fjall => Some(required(self.data_dir, "data-dir")?),
        };
        let cache_mib = self.cache_mib.unwrap_or(CACHE_MIB_DEFAULT);
        if cache_mib == 0 || cache_mib > 1024 * 1024 {
            return Err(Failure::usage(format!("cache-mib: {cache_mib}; give 1 to 1048576")));
        }
        let index_scrub_hours = self.index_scrub_hours.unwrap_or(INDEX_SCRUB_HOURS_DEFAULT);
        if index_scrub_hours > INDEX_SCRUB_HOURS_MAX {
            let most = INDEX_SCRUB_HOURS_MAX;
            return Err(Failure::usage(format!("index-scrub-hours: {index_scrub_hours}; give 0 to {most}")));
        }
        let value_bytes_max = self.value_bytes_max.unwrap_or(duramen_common::limits::VALUE_BYTES_MAX);
        if value_bytes_max > duramen_common::limits::BODY_BYTES_MAX {
            let most = duramen_common::limits::BODY_BYTES_MAX;
            return Err(Failure::usage(format!("value-bytes-max: {value_bytes_max}; at most {most}")));
        }
        Ok(ServingNodePlan {
            name,
            data_dir,
            advertise_http: advertised(self.advertise_http, &http, "http")?,
            http,
            log_nodes,
            index,
            cache_bytes: cache_mib * 1024 * 1024,
            index_scrub_hours,
            value_bytes_max,
            lag_ms: self.lag_ms.unwrap_or(0),
            origins: self.origins.unwrap_or_default(),
            threads: self.threads.unwrap_or(super::THREADS_DEFAULT).max(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ServingNodeSettings {
        toml::from_str("name = 'a'\ndata-dir = 'a'\nhttp = '127.0.0.1:7001'\nlog-nodes = ['127.0.0.1:7201']\n").unwrap()
    }

    #[test]
    fn what_is_given_wins_over_the_file_and_the_file_over_defaults() {
        let given = ServingNodeSettings { lag_ms: Some(5), index: Some(Index::Memory), ..Default::default() };
        let file = ServingNodeSettings { lag_ms: Some(7), cache_mib: Some(1), ..settings() };
        let plan = given.or(file).plan().unwrap();
        assert_eq!((plan.lag_ms, plan.cache_bytes, plan.data_dir), (5, 1024 * 1024, None));
        assert_eq!(plan.advertise_http, "127.0.0.1:7001");
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        let refused = |change: fn(&mut ServingNodeSettings), name: &str| {
            let mut settings = settings();
            change(&mut settings);
            let refused = settings.plan().unwrap_err().to_string();
            assert!(refused.contains(name), "{refused}");
        };
        refused(|settings| settings.name = None, "DURAMEN_NAME");
        refused(|settings| settings.name = Some("a b".into()), "name");
        refused(|settings| settings.data_dir = None, "data-dir");
        refused(|settings| settings.http = Some("7001".into()), "http");
        refused(|settings| settings.log_nodes = Some(vec!["127.0.0.1".into()]), "log-nodes");
        refused(|settings| settings.cache_mib = Some(0), "cache-mib");
        refused(|settings| settings.index_scrub_hours = Some(10_000), "index-scrub-hours");
    }
}
