//! What a fault changes in how a node is run: its configuration file, the program that starts it, where its output goes.
//!
//! * Invariant: `put_back` undoes all of it; what it undoes takes effect at the node's next start.
//! * What a fault needs beside the five nodes: an address that is free, a host for a node that is not one of them.
//! * Whether the cluster serves while a fault is there is asked here too.

use super::links::Links;
use super::stage::{Node, QUESTION, STRANGER, Stage, one_key_a_partition};
use crate::harness::cluster::Host;
use crate::harness::http::{Http, kv};
use crate::harness::poll;
use crate::harness::ports::free_address;
use crate::harness::process::Manner;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// The first of the ports that no node has, where every node has a host of its own.
const SPARE_PORT: u16 = 7300;

impl Stage {
    /// Changes how a node is run from its next start on.
    pub fn set_manner(&mut self, node: Node, manner: Manner) {
        self.remember_config(node);
        self.process(node).set_manner(manner);
    }

    /// A node's configuration file.
    #[must_use]
    pub fn config(&self, node: Node) -> String {
        let file = self.cluster.config_file(&node.to_string());
        std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    }

    /// Replaces a node's configuration file. Takes effect at its next start.
    pub fn change_config(&mut self, node: Node, text: &str) {
        self.remember_config(node);
        self.write_config(node, text);
    }

    /// Undoes every change of a node; says whether there was one.
    pub fn put_back(&mut self, node: Node) -> bool {
        // A clock that is missing its file is right.
        let _ = std::fs::remove_file(self.clock_file(node));
        let Some(text) = self.configs.remove(&node) else { return false };
        self.write_config(node, &text);
        self.process(node).set_manner(Manner::default());
        true
    }

    fn remember_config(&mut self, node: Node) {
        let text = self.config(node);
        self.configs.entry(node).or_insert(text);
    }

    fn write_config(&self, node: Node, text: &str) {
        let file = self.cluster.config_file(&node.to_string());
        std::fs::write(&file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }

    /// Where processes beside the five run: a host that is no node's, or loopback.
    #[must_use]
    pub fn strangers_host(&self) -> Host {
        self.host(STRANGER)
    }

    /// A node's host.
    #[must_use]
    pub fn host_of(&self, node: Node) -> Host {
        self.host(&node.to_string())
    }

    fn host(&self, name: &str) -> Host {
        match &self.links {
            Links::Hosts(hosts) => hosts.host(name),
            Links::Proxies(_) => Host { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), launcher: Vec::new() },
        }
    }

    /// An address on a host that nobody listens on.
    #[must_use]
    pub fn spare_address(&self, host: &Host) -> SocketAddr {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        match &self.links {
            Links::Hosts(_) => SocketAddr::new(host.ip, SPARE_PORT + NEXT.fetch_add(1, Ordering::Relaxed) % 10_000),
            Links::Proxies(_) => free_address(),
        }
    }

    /// The history of this cluster, as the first log node that answers knows it.
    pub async fn history(&self) -> Result<String, String> {
        let asking = || async {
            for number in 0..self.cluster.log.len() {
                if let Ok(history) = history_at(&self.cluster.log_http(number)).await {
                    return Ok(history);
                }
            }
            Err("no log node answers".to_owned())
        };
        poll("the cluster's history", Duration::from_secs(40), asking).await
    }

    /// Waits until each of these serving nodes acknowledges a write to every partition, over a new connection, and shows it.
    pub async fn serves(&self, numbers: &[usize], within: Duration) -> Result<(), String> {
        for &number in numbers {
            for key in one_key_a_partition() {
                let what = format!("a write to {key} and a read of it at {}", Node::Serving(number));
                let http = self.cluster.http(number);
                poll(&what, within, || write_and_read(&http, &key)).await?;
            }
        }
        Ok(())
    }

    /// `Err` names the first node that has ended by itself.
    pub fn check_alive(&mut self, nodes: &[Node]) -> Result<(), String> {
        nodes.iter().try_for_each(|&node| self.process(node).check_alive())
    }
}

/// The history of the cluster that a log node belongs to.
pub async fn history_at(http: &Http) -> Result<String, String> {
    let answer = http.get("/v1/cluster").limit(QUESTION).send().await.map_err(|error| error.to_string())?;
    let history = (answer.status == 200).then(|| answer.json()["history"].as_str().map(str::to_owned)).flatten();
    history.ok_or_else(|| answer.to_string())
}

async fn write_and_read(http: &Http, key: &str) -> Result<(), String> {
    let target = kv(key);
    let written = http.put(&*target, "served").wait(2).limit(QUESTION * 2).send().await;
    let written = written.map_err(|error| error.to_string())?;
    if written.status != 204 {
        return Err(written.to_string());
    }
    let read = http.get(&*target).wait(2).limit(QUESTION * 2).send().await.map_err(|error| error.to_string())?;
    if read.status == 200 { Ok(()) } else { Err(read.to_string()) }
}
