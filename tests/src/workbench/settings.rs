//! Settings of a run: what is asked for, of how many nodes, how fast, over which network, under which faults.
//!
//! * Names and defaults are Maelstrom's where it has them.
//! * Source: Maelstrom's command line, `--workload`, `--latency-dist`, `--nemesis`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

macro_rules! named {
    ($(#[doc = $about:literal] $kind:ident { $($(#[doc = $what:literal])? $variant:ident = $name:literal,)* })*) => {$(
        #[doc = $about]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $kind {
            $($(#[doc = $what])? $variant,)*
        }

        impl $kind {
            /// All of them.
            pub const ALL: &[$kind] = &[$($kind::$variant,)*];

            /// What it is called.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $($kind::$variant => $name,)*
                }
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $kind {
            type Err = UnknownName;

            fn from_str(name: &str) -> Result<$kind, UnknownName> {
                let found = $kind::ALL.iter().find(|kind| kind.name() == name);
                found.copied().ok_or_else(|| UnknownName {
                    name: name.to_owned(),
                    known: $kind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", "),
                })
            }
        }
    )*};
}

/// There is nothing of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no {name:?}, only {known}")]
pub struct UnknownName {
    name: String,
    known: String,
}

named! {
    /// What is asked for and checked.
    Workload {
        /// Registers: read, write, compare-and-set.
        LinKv = "lin-kv",
        /// Transactions over lists.
        TxnListAppend = "txn-list-append",
        /// Transactions over registers.
        TxnRwRegister = "txn-rw-register",
        /// Logs with offsets.
        Kafka = "kafka",
        /// The same back.
        Echo = "echo",
        /// Numbers that nobody else got.
        UniqueIds = "unique-ids",
        /// Messages that all nodes come to have.
        Broadcast = "broadcast",
        /// A set that grows.
        GSet = "g-set",
        /// A counter that grows.
        GCounter = "g-counter",
        /// A counter.
        PnCounter = "pn-counter",
    }
    /// How the delays of messages between nodes are distributed around their mean.
    LatencyShape {
        /// Always the mean.
        Constant = "constant",
        /// From nothing to twice the mean.
        Uniform = "uniform",
        /// Mostly short, sometimes long.
        Exponential = "exponential",
    }
    /// What is done to the cluster while it works.
    Fault {
        /// Links between nodes are cut and healed.
        Partition = "partition",
        /// Nodes are killed, and started again with what is on their disks.
        Kill = "kill",
    }
}

/// One run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is asked for.
    pub workload: Workload,
    /// How many nodes.
    pub nodes: usize,
    /// How long clients ask, without the recovery behind it.
    pub time_limit: Duration,
    /// Operations a second that are asked for at most, all clients together.
    pub rate: f64,
    /// Clients that ask at the same time.
    pub concurrency: usize,
    /// Which faults there are.
    pub faults: Vec<Fault>,
    /// A fault begins, and ends, so often.
    pub fault_interval: Duration,
    /// Mean delay of a message between nodes.
    pub latency: Duration,
    /// How delays are distributed.
    pub latency_shape: LatencyShape,
    /// The share of messages between nodes that are lost, in 0.0..1.0.
    pub loss: f64,
    /// For all choices.
    pub seed: u64,
    /// What runs as a node.
    pub binary: PathBuf,
    /// The name of a bug that the nodes have.
    pub planted: Option<String>,
}

impl Settings {
    /// Maelstrom's defaults.
    #[must_use]
    pub fn new(workload: Workload, binary: PathBuf) -> Settings {
        Settings {
            workload,
            nodes: 5,
            time_limit: Duration::from_secs(60),
            rate: 100.0,
            concurrency: 10,
            faults: Vec::new(),
            fault_interval: Duration::from_secs(5),
            latency: Duration::ZERO,
            latency_shape: LatencyShape::Constant,
            loss: 0.0,
            seed: 1,
            binary,
            planted: None,
        }
    }

    /// Whether this fault is among those of the run.
    #[must_use]
    pub fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for &workload in Workload::ALL {
            assert_eq!(workload.name().parse(), Ok(workload));
        }
        let unknown = "chain".parse::<Fault>().unwrap_err();
        assert_eq!(unknown.to_string(), "there is no \"chain\", only partition, kill");
    }
}
