//! The configuration files of a cluster's nodes: the names of `duramen log-node`'s and `serving-node`'s flags, as TOML.

use std::net::SocketAddr;
use std::path::Path;

/// Where a log node listens, and where others find it.
#[derive(Clone, Copy, Debug)]
pub struct LogAddresses {
    /// Where it listens for framed TCP.
    pub rpc_listen: SocketAddr,
    /// Where others reach its framed TCP: a proxy.
    pub rpc_advertised: SocketAddr,
    /// HTTP.
    pub http: SocketAddr,
}

/// The file of log node `number` (from 1).
#[must_use]
pub fn log_node(number: usize, data: &Path, nodes: &[LogAddresses], partitions: u16, extra: &str) -> String {
    let own = &nodes[number - 1];
    let member = |(index, node): (usize, &LogAddresses)| {
        format!("\"{}={}/{}\"", index + 1, node.rpc_advertised, node.http.port())
    };
    let members: Vec<String> = nodes.iter().enumerate().map(member).collect();
    format!(
        "node = {number}\ndata-dir = {data:?}\npartitions = {partitions}\nrpc = \"{}\"\nhttp = \"{}\"\n\
         members = [{}]\n{extra}\n",
        own.rpc_listen,
        own.http,
        members.join(", ")
    )
}

/// The file of a serving node.
#[must_use]
pub fn serving_node(name: &str, data: &Path, http: SocketAddr, nodes: &[LogAddresses], extra: &str) -> String {
    let log: Vec<String> = nodes.iter().map(|node| format!("\"{}\"", node.rpc_advertised)).collect();
    format!("name = \"{name}\"\ndata-dir = {data:?}\nhttp = \"{http}\"\nlog-nodes = [{}]\n{extra}\n", log.join(", "))
}
