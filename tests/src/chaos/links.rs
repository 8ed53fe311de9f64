//! The links between nodes, over whichever network they have: namespaces that drop packets, or proxies on loopback.
//!
//! * Clients are never cut off: they go on asking the nodes that are, which is where wrong answers would come from.
//! * Proxies hold a link's both directions together, and know no speed: what needs more says why it cannot be had.

use super::hosts::Hosts;
use crate::harness::proxy::Network;

/// Links that can be cut.
pub enum Links {
    /// Hosts of their own.
    Hosts(Hosts),
    /// Loopback.
    Proxies(Network),
}

impl Links {
    /// Cuts `one` from each of `others`, both ways.
    pub fn cut(&self, one: &str, others: &[&str]) -> Result<(), String> {
        match self {
            Links::Hosts(hosts) => others.iter().try_for_each(|other| {
                hosts.cut(one, other)?;
                hosts.cut(other, one)
            }),
            Links::Proxies(network) => {
                network.cut(one, others);
                Ok(())
            }
        }
    }

    /// Drops what `from` sends to `to`.
    pub fn cut_one_way(&self, from: &str, to: &str) -> Result<(), String> {
        self.hosts()?.cut(from, to)
    }

    /// Heals every cut.
    pub fn heal(&self) -> Result<(), String> {
        match self {
            Links::Hosts(hosts) => hosts.heal(),
            Links::Proxies(network) => {
                network.heal();
                Ok(())
            }
        }
    }

    /// The hosts, where there are any.
    pub fn hosts(&self) -> Result<&Hosts, String> {
        match self {
            Links::Hosts(hosts) => Ok(hosts),
            Links::Proxies(_) => Err("all nodes are on loopback".to_owned()),
        }
    }
}
