//! Settings of one run: how its nodes are configured, from its seed.
//!
//! * Sizes are small, so that segments roll, caches miss and queues fill within seconds of virtual time.

use super::cluster::{LOG_HOSTS, SERVING_HOSTS};
use super::network::Weather;
use crate::harness::Rng;
use duramen_client::log_client::LogClientConfig;
use duramen_common::NodeId;
use duramen_log_service::node::{LogNodeConfig, NodeLimits, PeerConfig};
use duramen_log_service::store::StoreConfig;
use duramen_serving_node::{IndexKind, PartitionsConfig, ServingNodeConfig};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Where log nodes keep their data, on disks of their own.
pub const DATA_DIR: &str = "/data";

/// A run's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Data partitions.
    pub partitions: u16,
    /// Over how many offsets request ids are remembered. The smallest there may be is passed within a run where many append.
    pub dedup_window: u64,
    /// How packets fare while nothing is wrong.
    pub weather: Weather,
    /// By how many parts in a thousand each node's monotonic clock is fast, by host.
    pub drifts: Vec<i64>,
    segment_bytes: u64,
    cache_bytes: usize,
    batches_in_flight_max: usize,
    flush_bytes: usize,
    flush_interval_ms: u64,
    fetch_bytes_max: u32,
}

impl Settings {
    /// From a seed.
    #[must_use]
    pub fn of(rng: &mut Rng) -> Settings {
        Settings {
            partitions: 2,
            dedup_window: *rng.pick(&[1_024, 1 << 16]),
            weather: Weather { delay_ms_max: *rng.pick(&[1, 3, 3, 8, 15]), ..Weather::FAIR },
            drifts: (0..LOG_HOSTS + SERVING_HOSTS).map(|_| *rng.pick(&[0, 0, 0, -30, -3, 3, 30])).collect(),
            segment_bytes: *rng.pick(&[8 * 1024, 16 * 1024, 64 * 1024]),
            cache_bytes: *rng.pick(&[2 * 1024, 16 * 1024, 1024 * 1024]),
            batches_in_flight_max: *rng.pick(&[1, 2, 4]),
            flush_bytes: *rng.pick(&[256, 4 * 1024, 128 * 1024]),
            flush_interval_ms: *rng.pick(&[20, 500]),
            fetch_bytes_max: *rng.pick(&[512, 16 * 1024, 1024 * 1024]),
        }
    }

    /// Names of the hosts, in order; they are addresses too.
    #[must_use]
    pub fn names() -> Vec<String> {
        let logs = (1..=LOG_HOSTS).map(|number| format!("log-{number}"));
        let serving = (1..=SERVING_HOSTS).map(|number| format!("serving-{number}"));
        logs.chain(serving).chain(["clients".to_owned()]).collect()
    }

    /// A log node.
    #[must_use]
    pub fn log_node(&self, host: usize) -> LogNodeConfig {
        let names = Settings::names();
        let peers = (0..LOG_HOSTS).map(|other| PeerConfig {
            node: NodeId::new(other as u64 + 1),
            rpc_addr: names[other].clone(),
            http_addr: names[other].clone(),
        });
        let node = NodeId::new(host as u64 + 1);
        let (rpc, http) = (names[host].clone(), names[host].clone());
        LogNodeConfig {
            partitions: self.partitions,
            dedup_window: self.dedup_window,
            store: StoreConfig {
                segment_bytes: self.segment_bytes,
                meta_segment_bytes: 8 * 1024,
                reserve_bytes: 128 * 1024,
                cache_bytes_max: self.cache_bytes * 3,
                cache_bytes_partition_max: self.cache_bytes,
                ..StoreConfig::default()
            },
            limits: NodeLimits { batches_in_flight_max: self.batches_in_flight_max, ..NodeLimits::default() },
            ..LogNodeConfig::new(node, PathBuf::from(DATA_DIR), rpc, http, peers.collect())
        }
    }

    /// A serving node.
    #[must_use]
    pub fn serving_node(&self, number: usize) -> ServingNodeConfig {
        ServingNodeConfig {
            name: format!("serving-{}", number + 1),
            http_addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 7001 + number as u16)),
            partitions: PartitionsConfig {
                index: IndexKind::Memory,
                flush_bytes: self.flush_bytes,
                flush_interval_ms: self.flush_interval_ms,
                fetch_bytes_max: self.fetch_bytes_max,
                ..PartitionsConfig::default()
            },
            ..ServingNodeConfig::default()
        }
    }

    /// A client of the log.
    #[must_use]
    pub fn log_client(&self) -> LogClientConfig {
        let names = Settings::names();
        LogClientConfig::new(names[..LOG_HOSTS].to_vec())
    }
}
