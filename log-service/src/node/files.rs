//! What a log node may open: its log comes first, its ports get the rest.
//!
//! * In: the configuration, how many partitions there are, what the process may open. Out: how many connections each port takes,
//!   or a refusal that names the number needed. Pure.
//! * Source: docs/adr/0015-files-are-a-budget.md.

use super::config::LogNodeConfig;
use duramen_common::files::{TooFewFiles, Wish};
use duramen_transport::{EXTRA_CALLERS_MAX, TcpServerConfig};

/// A segment that is begun while the one before it is still open; folders that are listed or synced; a mark of damage.
const STORE_PASSING: u64 = 8;
/// Closed segments that are read at the same time beyond those that are kept open.
const READERS: u64 = 16;
/// Locks, the identity, the reserve, listeners, a caller that waits for its place.
const NODE: u64 = 10;
/// Connections to one peer, while one is being opened in another's place.
const CALLS_A_PEER: u64 = 2;
/// Kept free for what comes and goes.
const SPARE: u64 = 16;
/// A port that takes fewer connections is of no use.
const CONNECTIONS_LEAST: usize = 16;

/// Connections that the ports take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connections {
    pub(super) rpc: usize,
    pub(super) http: usize,
}

/// What the node needs besides its ports' connections.
fn need(config: &LogNodeConfig, partitions: u16) -> u64 {
    // One segment of each partition is written, that of the meta partition too.
    let store = u64::from(partitions) + 1 + config.store.open_segments_max as u64 + STORE_PASSING + READERS;
    store + NODE + CALLS_A_PEER * config.peers.len() as u64 + SPARE + EXTRA_CALLERS_MAX as u64
}

const FEW_FILES: &str = "few files may be open: the ports take fewer connections (raise ulimit -Hn, LimitNOFILE=)";

/// Divides what there is; says so where the ports get less than usual.
pub(super) fn divide(config: &LogNodeConfig, partitions: u16) -> Result<Connections, TooFewFiles> {
    let usual = Connections { rpc: TcpServerConfig::default().connections_max, http: config.http.connections_max };
    let Some(files) = config.files else { return Ok(usual) };
    let need = need(config, partitions);
    let wish = |most| Wish { most, least: CONNECTIONS_LEAST };
    let given = files.divide(need, &[wish(usual.rpc), wish(usual.http)])?;
    let &[rpc, http] = &given[..] else { return Ok(usual) };
    let connections = Connections { rpc, http };
    let (node, files) = (config.node, files.limit);
    if rpc < usual.rpc / 4 || http < usual.http / 4 {
        tracing::warn!(%node, files, set_aside = need, ?connections, ?usual, "{FEW_FILES}");
    } else if connections != usual {
        tracing::info!(%node, files, set_aside = need, ?connections, ?usual, "{FEW_FILES}");
    }
    Ok(connections)
}

#[cfg(test)]
mod tests {
    use super::*;
    use duramen_common::NodeId;
    use duramen_common::files::FilesShare;

    fn config(limit: u64) -> LogNodeConfig {
        let files = Some(FilesShare { limit, taken: 20, nodes: 1 });
        let new = LogNodeConfig::new(NodeId::new(1), "log".into(), String::new(), String::new(), Vec::new());
        LogNodeConfig { files, ..new }
    }

    /// Goal: the log has its files before any port has one, whatever the limit; too few are refused with the number needed.
    #[test]
    fn the_log_comes_first() {
        for (limit, partitions) in [(256, 4), (1_024, 4), (1_024, 256), (1 << 20, 256)] {
            let Connections { rpc, http } = divide(&config(limit), partitions).unwrap();
            assert!(rpc >= CONNECTIONS_LEAST && http >= CONNECTIONS_LEAST);
            let all = 20 + need(&config(limit), partitions) + rpc as u64 + http as u64;
            assert!(all <= limit, "{all} of {limit}");
        }
        assert_eq!(divide(&config(1 << 20), 4), Ok(Connections { rpc: 1_024, http: 4_096 }));
        let TooFewFiles { limit, needed } = divide(&config(256), 256).unwrap_err();
        assert_eq!(limit, 256);
        assert!(divide(&config(needed), 256).is_ok() && divide(&config(needed - 1), 256).is_err());
    }
}
