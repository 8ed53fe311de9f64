//! The command line: one [`clap`] parser; each command's own arguments stand beside its code.
//!
//! * Precedence: flag, then `DURAMEN_…` variable, then (node roles) the file, then the default.
//! * Deliberately absent: what the commands do.

use crate::{bench, kv, load, log_commands, node, status};
use clap::{Args, Parser, Subcommand};

/// A log-centric replicated key-value database.
#[derive(Debug, Parser)]
#[command(name = "duramen", version, about, max_term_width = 110, propagate_version = true)]
pub struct Duramen {
    /// What to log on stderr: error, warn, info, debug, trace, or a filter such as `warn,duramen_log_service=debug`.
    #[arg(long = "log", global = true, env = "DURAMEN_LOG", value_name = "FILTER", display_order = 900)]
    pub log: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole cluster in this process, on this machine's disk: three log nodes, two serving nodes.
    Dev(node::dev::DevArgs),
    /// Run one log node.
    LogNode(node::log_node::LogNodeArgs),
    /// Run one serving node.
    ServingNode(node::serving_node::ServingNodeArgs),
    /// Set a key; prints the write's timestamp.
    Put(kv::PutArgs),
    /// Print a key's value as it is.
    Get(kv::GetArgs),
    /// Remove a key; prints the write's timestamp.
    Delete(kv::DeleteArgs),
    /// Print keys and values in the order of the keys.
    Scan(kv::ScanArgs),
    /// Print every change as it comes.
    Watch(kv::WatchArgs),
    /// Read and write the log itself, at the log nodes.
    Log(log_commands::LogArgs),
    /// Show where each node is: leaders, ends and lag of every partition.
    Status(status::StatusArgs),
    /// Load a file of keys and values: NDJSON, CSV, delimited text, or one key a line.
    Load(load::LoadArgs),
    /// Read back every key of a loaded file at another node and compare.
    Verify(load::verify::VerifyArgs),
    /// Measure a running cluster: a closed loop of clients; operations a second and latencies.
    Bench(bench::BenchArgs),
}

impl Command {
    /// What is logged unless somebody says otherwise.
    #[must_use]
    pub fn log_default(&self) -> &'static str {
        match self {
            Self::LogNode(_) | Self::ServingNode(_) => "info,openraft=error",
            _ => "warn,openraft=error",
        }
    }
}

/// Where serving nodes are.
#[derive(Clone, Debug, Args)]
pub struct ServingUrls {
    /// A serving node's address; more than one may be given, and is tried when the first does not answer.
    #[arg(
        long = "url",
        env = "DURAMEN_URL",
        value_name = "URL",
        value_delimiter = ',',
        value_parser = crate::http::parse_base_url,
        default_value = "http://127.0.0.1:7001,http://127.0.0.1:7002"
    )]
    pub urls: Vec<String>,
}

/// Where log nodes' HTTP is.
#[derive(Clone, Debug, Args)]
pub struct LogUrls {
    /// A log node's HTTP address; more than one may be given.
    #[arg(
        long = "log-url",
        env = "DURAMEN_LOG_URL",
        value_name = "URL",
        value_delimiter = ',',
        value_parser = crate::http::parse_base_url,
        default_value = "http://127.0.0.1:7101,http://127.0.0.1:7102,http://127.0.0.1:7103"
    )]
    pub log_urls: Vec<String>,
}
