//! What the faults happen to: five processes, each on a host of its own where that is possible, and small disks.
//!
//! * log-1 keeps its data on the machine's disk, where a sync takes its time; log-2 and log-3 have small disks of their
//!   own, which can be filled.
//! * Invariant: everything ends with this value, in the order processes, disks, hosts; what a killed owner left on disk
//!   is removed by the next one.
//! * Without namespaces the nodes are on loopback behind proxies, and without a way to mount, disks cannot be filled:
//!   `missing` says what could not be had, and why.

use super::hosts::Hosts;
use super::links::Links;
use crate::harness::clock::CLOCK_VARIABLE;
use crate::harness::disk::SmallDisk;
use crate::harness::http::Http;
use crate::harness::process::Process;
use crate::harness::{Cluster, Plan, Rng, poll};
use duramen_common::planted::{PLANTED_VARIABLE, Plant};
use rustix::process::Signal;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How long a healed cluster may take until it is well again. The machine may be busy.
pub const HEALTHY_WITHIN: Duration = Duration::from_secs(60);

/// How long a node may take to end when it is told to.
const ENDED_WITHIN: Duration = Duration::from_secs(40);

/// How long one question to a node may take while the stage looks after it.
pub const QUESTION: Duration = Duration::from_secs(2);

const PARTITIONS: u16 = 4;
const FOLDER_PREFIX: &str = "duramen-chaos-";

/// Many small files, so that some are closed soon.
const LOG_SETTINGS: &str = "segment-mib = 1";
const SERVING_SETTINGS: &str = "cache-mib = 32";

/// A node of the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// A log node, from 0.
    Log(usize),
    /// A serving node, from 0.
    Serving(usize),
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Log(number) => write!(f, "log-{}", number + 1),
            Node::Serving(number) => write!(f, "serving-{}", number + 1),
        }
    }
}

/// All nodes.
pub const NODES: [Node; 5] = [Node::Log(0), Node::Log(1), Node::Log(2), Node::Serving(0), Node::Serving(1)];

/// The clients' host.
const CLIENTS: &str = "clients";

/// The host of a log node that belongs to another cluster.
pub const STRANGER: &str = "stranger";

/// What this machine could not give, with the reason.
#[derive(Clone, Debug, Default)]
pub struct Missing {
    /// Hosts of their own.
    pub hosts: Option<String>,
    /// Small disks.
    pub disks: Option<String>,
}

/// The machines, before anything runs on them.
pub struct Ground {
    links: Option<Hosts>,
    disks: BTreeMap<usize, SmallDisk>,
    folder: TempDir,
    /// What could not be had.
    pub missing: Missing,
    /// A bug that every process is to have.
    pub planted: Option<Plant>,
}

impl Ground {
    /// Hosts and disks, as far as this machine gives them; `loopback` asks for no hosts.
    pub fn prepare(loopback: bool, disk_mebibytes: usize) -> std::io::Result<Ground> {
        remove_left_behind();
        let prefix = format!("{FOLDER_PREFIX}{}-", std::process::id());
        let folder = TempDir::with_prefix(prefix)?;
        let mut missing = Missing::default();
        let names: Vec<String> = NODES.iter().map(Node::to_string).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).chain([CLIENTS, STRANGER]).collect();
        let hosts = match loopback {
            true => Err("loopback was asked for".to_owned()),
            false => Hosts::start(&names),
        };
        let links = hosts.map_err(|why| missing.hosts = Some(why)).ok();
        let mut disks = BTreeMap::new();
        for number in [1, 2] {
            match SmallDisk::mount(&folder.path().join(format!("disk-{}", number + 1)), disk_mebibytes) {
                Ok(disk) => drop(disks.insert(number, disk)),
                Err(why) => missing.disks = Some(why),
            }
        }
        Ok(Ground { links, disks, folder, missing, planted: None })
    }

    /// Moves the calling thread onto the clients' host, where there is one, and makes a runtime all of whose threads are
    /// there.
    pub fn runtime(&self) -> Result<Runtime, String> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all();
        if let Some(hosts) = &self.links {
            let door = hosts.door(CLIENTS)?;
            door.enter().map_err(|error| format!("entering the clients' host: {error}"))?;
            // A thread that stayed outside would send to addresses that mean something else there.
            builder.on_thread_start(move || door.enter().expect("this thread entered before"));
        }
        builder.build().map_err(|error| error.to_string())
    }
}

/// A running stage.
pub struct Stage {
    /// The processes.
    pub cluster: Cluster,
    /// Small disks by log node.
    pub disks: BTreeMap<usize, SmallDisk>,
    /// Its links.
    pub links: Links,
    /// Payloads that every log node has had on its disk for a while, with their partition.
    pub old_payloads: Vec<(u16, String)>,
    /// Keys that were written once for faults of the index, and that nobody writes again, with their values.
    pub settled_keys: BTreeMap<String, String>,
    /// How the nodes' files were before any fault.
    pub(super) configs: BTreeMap<Node, String>,
    folder: TempDir,
}

impl Stage {
    /// Five processes on this ground, ready. To be called on the clients' host.
    pub async fn start(ground: Ground) -> Result<Stage, String> {
        let Ground { links, disks, folder, planted, .. } = ground;
        let data = |number: usize| match disks.get(&number) {
            Some(disk) => disk.at.join("data"),
            None => folder.path().join(format!("disk-{}", number + 1)).join("data"),
        };
        let log_data: Vec<PathBuf> = (0..3).map(data).collect();
        for data in &log_data {
            let parent = data.parent().expect("it is in a folder");
            std::fs::create_dir_all(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
        }
        let hosts = match &links {
            Some(hosts) => NODES.iter().map(|node| hosts.host(&node.to_string())).collect(),
            None => Vec::new(),
        };
        let plan = Plan {
            partitions: PARTITIONS,
            log_extra: LOG_SETTINGS.to_owned(),
            serving_extra: vec![SERVING_SETTINGS.to_owned(); 2],
            log_data,
            hosts,
            ..Plan::default()
        };
        let mut cluster = Cluster::prepare(&plan).await;
        for process in cluster.log.iter_mut().chain(&mut cluster.serving) {
            process.set_variable(CLOCK_VARIABLE, clock_file(folder.path(), &process.name));
            if let Some(plant) = planted {
                process.set_variable(PLANTED_VARIABLE, plant.name());
            }
        }
        cluster.start_all();
        let links = links.map_or_else(|| Links::Proxies(cluster.network.clone()), Links::Hosts);
        let (configs, settled_keys) = (BTreeMap::new(), BTreeMap::new());
        let mut stage = Stage { cluster, disks, links, old_payloads: Vec::new(), settled_keys, configs, folder };
        stage.healthy().await?;
        Ok(stage)
    }

    /// A node's process.
    pub fn process(&mut self, node: Node) -> &mut Process {
        match node {
            Node::Log(number) => &mut self.cluster.log[number],
            Node::Serving(number) => &mut self.cluster.serving[number],
        }
    }

    /// Starts a node that does not run.
    pub fn start_node(&mut self, node: Node) {
        match node {
            Node::Log(number) => self.cluster.start_log(number),
            Node::Serving(number) => self.cluster.start_serving(number),
        }
    }

    /// A client of a node.
    #[must_use]
    pub fn http(&self, node: Node) -> Http {
        match node {
            Node::Log(number) => self.cluster.log_http(number),
            Node::Serving(number) => self.cluster.http(number),
        }
    }

    /// The leader of a partition that is chosen at random, as the log nodes know it; any log node when none is known.
    pub async fn some_leader(&self, rng: &mut Rng) -> Node {
        let partition = rng.below(usize::from(PARTITIONS));
        for number in 0..self.cluster.log.len() {
            let answer = self.cluster.log_http(number).get("/v1/cluster").limit(QUESTION).send().await;
            let leader = answer.ok().filter(|answer| answer.status == 200);
            let leader = leader.and_then(|answer| answer.json()["leaders"][partition].as_u64());
            if let Some(leader) = leader {
                return Node::Log(leader as usize - 1);
            }
        }
        Node::Log(rng.below(self.cluster.log.len()))
    }

    /// Mostly a leader, now and then a serving node or any log node.
    pub async fn some_victim(&self, rng: &mut Rng) -> Node {
        match rng.below(8) {
            0 => Node::Log(rng.below(self.cluster.log.len())),
            1 | 2 => Node::Serving(rng.below(self.cluster.serving.len())),
            _ => self.some_leader(rng).await,
        }
    }

    /// SIGTERM, and waits for a clean end.
    pub async fn stop(&mut self, node: Node) -> Result<(), String> {
        let process = RefCell::new(self.process(node));
        process.borrow().signal(Signal::TERM);
        let ended = poll(&format!("{node} to end after SIGTERM"), ENDED_WITHIN, || async {
            process.borrow_mut().try_end().ok_or_else(|| "it runs".to_owned())
        })
        .await;
        match ended? {
            status if status.success() => Ok(()),
            status => Err(format!("{node} ended with {status} after SIGTERM")),
        }
    }

    /// SIGTERM, and the start of another run once it has ended, which must be clean.
    pub async fn restart(&mut self, node: Node) -> Result<(), String> {
        let stopped = self.stop(node).await;
        if !self.process(node).is_started() {
            self.start_node(node);
        }
        stopped
    }

    /// Waits until a node is ready.
    pub async fn ready(&mut self, node: Node) -> Result<(), String> {
        let http = self.http(node);
        let process = RefCell::new(self.process(node));
        let asking = || async {
            // One that ended will not be ready: no need to wait for it.
            let alive = process.borrow_mut().check_alive();
            match alive {
                Err(ended) => Ok(Err(ended)),
                Ok(()) => is_ok(&http, "/readyz").await.map(Ok),
            }
        };
        poll(&format!("{node} to be ready"), HEALTHY_WITHIN, asking).await?
    }

    /// Waits until every node is ready and every serving node takes a write to each partition. `Err` says what it waited
    /// for in vain, or which process ended by itself.
    pub async fn healthy(&mut self) -> Result<(), String> {
        for node in NODES {
            self.ready(node).await?;
        }
        for number in 0..self.cluster.serving.len() {
            let http = self.cluster.http(number);
            for key in one_key_a_partition() {
                let target = crate::harness::http::kv(&key);
                poll(&format!("a write to {key} at {}", Node::Serving(number)), HEALTHY_WITHIN, || async {
                    let answer = http.put(&*target, "healthy").wait(2).limit(QUESTION * 2).send().await;
                    match answer.map_err(|error| error.to_string())? {
                        answer if answer.status == 204 => Ok(()),
                        answer => Err(answer.to_string()),
                    }
                })
                .await?;
            }
        }
        Ok(())
    }

    /// Undoes what can be undone without knowing what was done: for a fault that could not see itself through.
    pub fn mend(&mut self) {
        let _ = self.links.heal();
        if let Ok(hosts) = self.links.hosts() {
            NODES.iter().for_each(|node| drop(hosts.fast(&node.to_string())));
        }
        self.disks.values().for_each(|disk| drop(disk.free()));
        for node in NODES {
            if self.put_back(node) {
                self.process(node).kill();
            }
            let process = self.process(node);
            if process.check_alive().is_ok() {
                process.resume();
            } else {
                process.kill();
                self.start_node(node);
            }
        }
    }

    /// Keeps what the nodes wrote, for people to read; says where.
    pub fn keep(&mut self, to: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(to)?;
        for node in NODES {
            std::fs::write(to.join(format!("{node}.output")), self.process(node).output())?;
        }
        Ok(())
    }

    /// The file that says how far a node's clock is off: `harness::clock`.
    #[must_use]
    pub fn clock_file(&self, node: Node) -> PathBuf {
        clock_file(self.folder.path(), &node.to_string())
    }

    /// A folder of this name for what a fault needs, in the stage's own.
    #[must_use]
    pub fn aside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A log node's data folder.
    #[must_use]
    pub fn data(&self, number: usize) -> PathBuf {
        self.cluster.log_data(number)
    }
}

fn clock_file(folder: &Path, node: &str) -> PathBuf {
    folder.join(format!("{node}.clock"))
}

async fn is_ok(http: &Http, target: &str) -> Result<(), String> {
    let answer = http.get(target).limit(QUESTION).send().await.map_err(|error| error.to_string())?;
    if answer.status == 200 { Ok(()) } else { Err(answer.to_string()) }
}

/// A key for each partition, the same in every run.
#[must_use]
pub fn one_key_a_partition() -> Vec<String> {
    let mut keys = BTreeMap::new();
    for number in 0.. {
        let key = format!("health/{number}");
        let partition = duramen_common::placement::partition_of(key.as_bytes(), PARTITIONS);
        keys.entry(partition).or_insert(key);
        if keys.len() == usize::from(PARTITIONS) {
            break;
        }
    }
    keys.into_values().collect()
}

/// Unmounts and removes what owners left that are gone.
fn remove_left_behind() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(FOLDER_PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_none_or(|owner| Path::new(&format!("/proc/{owner}")).exists()) {
            continue;
        }
        for disk in std::fs::read_dir(entry.path()).into_iter().flatten().flatten() {
            drop(SmallDisk { at: disk.path() });
        }
        let _ = std::fs::remove_dir_all(entry.path());
    }
}
