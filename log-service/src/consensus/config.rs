//! How openraft is set up: what may be chosen ([`RaftTimings`]) and what must not.
//!
//! * Invariant: `enable_leader_restore` is off. Its default loses acknowledged writes: a leader replicates entries that
//!   it has not flushed itself; restarted before its flush, it would lead again in the same term and write others at
//!   the same log ids, and followers compare ids only.
//! * Invariant: no snapshots by policy (the log is the data), and no reversion of a follower's log.
//! * Source: DESIGN D1.

use duramen_common::planted::{Plant, is_planted};
use openraft::{Config, SnapshotPolicy};

/// Most entries that openraft asks the store for at once; the store bounds what it gives by bytes.
const ENTRIES_A_REQUEST_MAX: u64 = 1024;

/// When a leader is heard of and when it is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftTimings {
    /// How often a leader is heard of at least. Unit: milliseconds, at least 250 but for tests.
    pub heartbeat_ms: u64,
    /// Shortest silence before an election. Unit: milliseconds.
    pub election_ms_min: u64,
    /// Longest silence before an election; also how long a leader's lease is respected. Unit: milliseconds.
    pub election_ms_max: u64,
}

impl Default for RaftTimings {
    fn default() -> RaftTimings {
        RaftTimings { heartbeat_ms: 250, election_ms_min: 500, election_ms_max: 850 }
    }
}

impl RaftTimings {
    /// What is wrong with them, as one clause.
    pub fn check(&self) -> Result<(), String> {
        if self.heartbeat_ms == 0 {
            return Err("heartbeats every 0 ms".to_owned());
        }
        raft_config("check", *self).map(|_| ())
    }
}

/// openraft's configuration of one group.
pub(super) fn raft_config(group: &str, timings: RaftTimings) -> Result<Config, String> {
    let config = Config {
        cluster_name: group.to_owned(),
        heartbeat_interval: timings.heartbeat_ms,
        election_timeout_min: timings.election_ms_min,
        election_timeout_max: timings.election_ms_max,
        max_payload_entries: ENTRIES_A_REQUEST_MAX,
        snapshot_policy: SnapshotPolicy::Never,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(is_planted(Plant::LeaderRestore)),
        api_channel_size: Some(4_096),
        ..Config::default()
    };
    config.validate().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of these, changed, loses acknowledged writes or serves what is not there (DESIGN D1).
    #[test]
    fn the_dangerous_settings_are_as_the_design_says() {
        let config = raft_config("p0", RaftTimings::default()).unwrap();
        assert_eq!(config.enable_leader_restore, Some(false));
        assert_eq!(config.snapshot_policy, SnapshotPolicy::Never);
        assert_eq!(config.allow_log_reversion, None);
        assert_eq!(config.enable_pre_vote, Some(true));
        assert!(config.heartbeat_interval >= 250);
        assert!(config.election_timeout_min >= 500 && config.election_timeout_max <= 850);
    }

    #[test]
    fn timings_that_cannot_work_are_refused() {
        assert!(RaftTimings::default().check().is_ok());
        assert!(RaftTimings { heartbeat_ms: 600, ..RaftTimings::default() }.check().is_err());
        assert!(RaftTimings { heartbeat_ms: 0, ..RaftTimings::default() }.check().is_err());
        assert!(RaftTimings { election_ms_min: 900, ..RaftTimings::default() }.check().is_err());
    }
}
