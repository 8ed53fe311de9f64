//! A cluster of real processes: log nodes `log-1`…, serving nodes `serving-1`…, in a folder of its own; on loopback, or
//! each on a host of its own.
//!
//! * Invariant: everything ends with this value; when a test is failing, it first shows the nodes' last lines and the
//!   command that runs the test again.
//! * On loopback every log node's framed TCP is advertised through a proxy unless said otherwise, so that links can be
//!   cut. Hosts have links of their own.

use super::config::{self, LogAddresses};
use super::http::{Answer, Http};
use super::ports::free_address;
use super::process::Process;
use super::proxy::{Network, Proxy};
use super::rng::run_seed;
use super::wait::until;
use serde_json::Value;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// How long a cluster may take to do what it should do in a second or two. The machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Log nodes.
    pub log_nodes: usize,
    /// Serving nodes.
    pub serving_nodes: usize,
    /// Data partitions.
    pub partitions: u16,
    /// Further lines for every log node's file.
    pub log_extra: String,
    /// Further lines for each serving node's file, by number from 0.
    pub serving_extra: Vec<String>,
    /// Whether the log nodes are reached through proxies, so that links can be cut. Costs some of the machine.
    pub proxied: bool,
    /// Data folders of the log nodes, when they are not to be in the cluster's own folder.
    pub log_data: Vec<PathBuf>,
    /// A host for each log node, then for each serving node. Empty: all are on loopback.
    pub hosts: Vec<Host>,
}

/// A host that a node runs on.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its address.
    pub ip: IpAddr,
    /// The program, with its arguments, that starts another one there.
    pub launcher: Vec<OsString>,
}

impl Host {
    const RPC_PORT: u16 = 7200;
    const LOG_HTTP_PORT: u16 = 7100;
    const HTTP_PORT: u16 = 7000;
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            log_nodes: 3,
            serving_nodes: 2,
            partitions: 4,
            log_extra: String::new(),
            serving_extra: Vec::new(),
            proxied: true,
            log_data: Vec::new(),
            hosts: Vec::new(),
        }
    }
}

/// A running cluster.
pub struct Cluster {
    /// Its processes: log nodes.
    pub log: Vec<Process>,
    /// Its processes: serving nodes.
    pub serving: Vec<Process>,
    /// Its links.
    pub network: Network,
    /// Data partitions.
    pub partitions: u16,
    log_data: Vec<PathBuf>,
    addresses: Vec<LogAddresses>,
    serving_http: Vec<SocketAddr>,
    _proxies: Vec<Proxy>,
    folder: TempDir,
}

impl Cluster {
    /// The usual five processes, ready.
    pub async fn five() -> Cluster {
        Cluster::start(Plan::default()).await
    }

    /// A cluster, ready to read and write.
    pub async fn start(plan: Plan) -> Cluster {
        let mut cluster = Cluster::prepare(&plan).await;
        cluster.start_all();
        cluster.wait_ready().await;
        cluster
    }

    /// A cluster of which nothing runs yet.
    pub async fn prepare(plan: &Plan) -> Cluster {
        let folder = TempDir::with_prefix("duramen-e2e-").expect("a temporary folder can be made");
        let network = Network::default();
        let mut addresses = Vec::new();
        let mut proxies = Vec::new();
        let address = |node: usize, port| match plan.hosts.get(node) {
            Some(host) => SocketAddr::new(host.ip, port),
            None => free_address(),
        };
        let launcher = |node: usize| plan.hosts.get(node).map_or(&[][..], |host| &host.launcher);
        for number in 1..=plan.log_nodes {
            let rpc_listen = address(number - 1, Host::RPC_PORT);
            let http = address(number - 1, Host::LOG_HTTP_PORT);
            let mut own = LogAddresses { rpc_listen, rpc_advertised: rpc_listen, http };
            if plan.proxied && plan.hosts.is_empty() {
                own.rpc_advertised = free_address();
                let name = format!("log-{number}");
                proxies.push(Proxy::start(&network, &name, own.rpc_advertised, own.rpc_listen).await);
            }
            addresses.push(own);
        }
        let mut log = Vec::new();
        let mut log_data = Vec::new();
        for number in 1..=plan.log_nodes {
            let name = format!("log-{number}");
            let data = plan.log_data.get(number - 1).cloned().unwrap_or_else(|| folder.path().join(&name));
            let text = config::log_node(number, &data, &addresses, plan.partitions, &plan.log_extra);
            log.push(process(&folder, &name, "log-node", &text).launched_by(launcher(number - 1)));
            log_data.push(data);
        }
        let mut serving = Vec::new();
        let mut serving_http = Vec::new();
        for number in 1..=plan.serving_nodes {
            let name = format!("serving-{number}");
            let node = plan.log_nodes + number - 1;
            let http = address(node, Host::HTTP_PORT);
            let extra = plan.serving_extra.get(number - 1).map_or("", String::as_str);
            let text = config::serving_node(&name, &folder.path().join(&name), http, &addresses, extra);
            serving.push(process(&folder, &name, "serving-node", &text).launched_by(launcher(node)));
            serving_http.push(http);
        }
        let partitions = plan.partitions;
        let _proxies = proxies;
        Cluster { log, serving, network, partitions, log_data, addresses, serving_http, _proxies, folder }
    }

    /// Starts whatever does not run.
    pub fn start_all(&mut self) {
        for number in 0..self.log.len() {
            if !self.log[number].is_started() {
                self.start_log(number);
            }
        }
        for number in 0..self.serving.len() {
            if !self.serving[number].is_started() {
                self.start_serving(number);
            }
        }
    }

    /// Starts a log node (from 0).
    pub fn start_log(&mut self, number: usize) {
        self.log[number].start();
        self.network.set_party(self.log[number].pid(), &self.log[number].name);
    }

    /// Starts a serving node (from 0).
    pub fn start_serving(&mut self, number: usize) {
        self.serving[number].start();
        self.network.set_party(self.serving[number].pid(), &self.serving[number].name);
    }

    /// Adds lines to a serving node's file (from 0); they take effect at its next start.
    pub fn append_serving_config(&self, number: usize, lines: &str) {
        let file = self.config_file(&format!("serving-{}", number + 1));
        let text = std::fs::read_to_string(&file).expect("its file is there");
        std::fs::write(&file, format!("{text}\n{lines}\n")).expect("its file can be written");
    }

    /// Waits until every node that was started says that it is ready.
    pub async fn wait_ready(&mut self) {
        for number in 0..self.log.len() {
            if self.log[number].is_started() {
                self.wait_log_ready(number).await;
            }
        }
        for number in 0..self.serving.len() {
            if self.serving[number].is_started() {
                self.wait_serving_ready(number).await;
            }
        }
    }

    /// Waits until a log node is ready.
    pub async fn wait_log_ready(&mut self, number: usize) {
        let http = self.log_http(number);
        wait_ready(&mut self.log[number], &http).await;
    }

    /// Waits until a serving node is ready.
    pub async fn wait_serving_ready(&mut self, number: usize) {
        let http = self.http(number);
        wait_ready(&mut self.serving[number], &http).await;
    }

    /// A client of a serving node (from 0).
    #[must_use]
    pub fn http(&self, number: usize) -> Http {
        Http::new(self.serving_http[number])
    }

    /// A client of a log node's HTTP (from 0).
    #[must_use]
    pub fn log_http(&self, number: usize) -> Http {
        Http::new(self.addresses[number].http)
    }

    /// Where a log node (from 0) really listens for framed TCP.
    #[must_use]
    pub fn log_rpc(&self, number: usize) -> SocketAddr {
        self.addresses[number].rpc_listen
    }

    /// Where a log node (from 0) is reached by the others.
    #[must_use]
    pub fn log_rpc_advertised(&self, number: usize) -> SocketAddr {
        self.addresses[number].rpc_advertised
    }

    /// A log node's data folder (from 0).
    #[must_use]
    pub fn log_data(&self, number: usize) -> PathBuf {
        self.log_data[number].clone()
    }

    /// A serving node's data folder (from 0).
    #[must_use]
    pub fn serving_data(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("serving-{}", number + 1))
    }

    /// The configuration file of a node, by its name.
    #[must_use]
    pub fn config_file(&self, node: &str) -> PathBuf {
        self.folder.path().join(format!("{node}.toml"))
    }

    /// The cluster's own folder.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Base URLs of the serving nodes.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.serving_http.iter().map(|addr| format!("http://{addr}")).collect()
    }

    /// Base URLs of the log nodes' HTTP.
    #[must_use]
    pub fn log_urls(&self) -> Vec<String> {
        self.addresses.iter().map(|node| format!("http://{}", node.http)).collect()
    }

    /// The leader of a partition as any live serving node knows it: the log node's place, from 0.
    pub async fn leader_of(&self, partition: u16) -> usize {
        until(&format!("a leader of partition {partition}"), PATIENCE, || async {
            for number in (0..self.log.len()).filter(|&number| self.log[number].is_started()) {
                let answer = self.log_http(number).get("/v1/cluster").limit(Duration::from_secs(2)).send().await;
                let Ok(answer) = answer else { continue };
                if let Some(node) = answer.json()["leaders"][usize::from(partition)].as_u64() {
                    let place = node as usize - 1;
                    if self.log[place].is_started() {
                        return Ok(place);
                    }
                }
            }
            Err("nobody knows one".to_owned())
        })
        .await
    }

    /// Waits until both ends of every partition of every started serving node agree, and all nodes agree; gives the
    /// digests by partition. Nothing may be writing.
    pub async fn wait_same_digests(&self) -> Vec<Value> {
        let nodes: Vec<usize> = (0..self.serving.len()).filter(|&number| self.serving[number].is_started()).collect();
        let mut digests = Vec::new();
        for partition in 0..self.partitions {
            let digest = until(&format!("equal digests of partition {partition}"), PATIENCE, || async {
                let mut seen = Vec::new();
                for &number in &nodes {
                    // A linearizable read of nothing brings the node up to the log's end.
                    seen.push(digest(&self.http(number), partition).await?);
                }
                match seen.iter().all(|digest| *digest == seen[0]) {
                    true => Ok(seen[0].clone()),
                    false => Err(format!("{seen:?}")),
                }
            })
            .await;
            digests.push(digest);
        }
        digests
    }

    /// Holds every started log node's replica of every partition against the others', record by record. Nothing may be
    /// writing; nodes that are behind are waited for.
    pub async fn check_same_logs(&self) {
        for partition in 0..self.partitions {
            let mut first: Option<Vec<String>> = None;
            for number in (0..self.log.len()).filter(|&number| self.log[number].is_started()) {
                let tail = self.log_http(number).get(format!("/v1/log/{partition}/tail")).expect(200).await.json();
                let end = tail["committed_end"].as_u64().unwrap_or_else(|| panic!("a tail is a number: {tail}"));
                let lines = records(&self.log_http(number), partition, end).await;
                match &first {
                    None => first = Some(lines),
                    Some(first) => {
                        let differs = first.iter().zip(&lines).position(|(one, other)| one != other);
                        assert!(
                            differs.is_none() && first.len() == lines.len(),
                            "log-{} differs in partition {partition}: {} and {} records, first at {differs:?}",
                            number + 1,
                            first.len(),
                            lines.len()
                        );
                    }
                }
            }
        }
    }
}

/// Every record of a partition at one log node, below `end`, as the lines that it gives.
pub(super) async fn records(http: &Http, partition: u16, end: u64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    while (lines.len() as u64) < end {
        let from = lines.len();
        let page = http.get(format!("/v1/log/{partition}?from={from}&limit=1000&wait=10")).expect(200).await.text();
        lines.extend(page.lines().map(str::to_owned));
        assert!(lines.len() > from, "log node {} stays at {from} of {end} in partition {partition}", http.addr());
    }
    lines
}

async fn digest(http: &Http, partition: u16) -> Result<Value, String> {
    let answer = http.get(format!("/v1/partitions/{partition}/digest")).send().await;
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.status != 200 {
        return Err(answer.to_string());
    }
    Ok(answer.json())
}

fn process(folder: &TempDir, name: &str, role: &str, config: &str) -> Process {
    let file = folder.path().join(format!("{name}.toml"));
    std::fs::write(&file, config).expect("the cluster's folder can be written");
    let args: Vec<OsString> = vec![role.into(), "--config".into(), file.into()];
    Process::new(name, folder.path(), args)
}

async fn wait_ready(process: &mut Process, http: &Http) {
    let name = process.name.clone();
    let process = std::cell::RefCell::new(process);
    until(&format!("{name} to be ready"), PATIENCE, || async {
        process.borrow_mut().check_alive().unwrap_or_else(|ended| panic!("{ended}"));
        let answer: Result<Answer, _> = http.get("/readyz").limit(Duration::from_secs(2)).send().await;
        match answer {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(answer.to_string()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let test = std::thread::current().name().unwrap_or("…").to_owned();
        eprintln!("\n--- nodes of the failing test, last lines ---");
        for process in self.log.iter().chain(&self.serving) {
            eprintln!("[{}]", process.name);
            for line in process.last_lines(25) {
                eprintln!("  {line}");
            }
        }
        let seed = run_seed();
        eprintln!(
            "--- reproduce: DURAMEN_TEST_SEED={seed} cargo test -p duramen-tests --test end_to_end -- --exact {test} ---"
        );
    }
}
