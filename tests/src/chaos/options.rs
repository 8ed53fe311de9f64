//! What a run is to be, and the command that makes the same choices again.

use super::faults::Fault;
use super::workloads::Kind;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

/// When a run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// After so many rounds.
    Rounds(u64),
    /// After the round in which this time has passed.
    Passed(Duration),
}

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// When it is over.
    pub until: Until,
    /// What it decides by.
    pub seed: u64,
    /// Faults to choose from.
    pub faults: Vec<Fault>,
    /// Workloads to run.
    pub workloads: Vec<Kind>,
    /// Whether all nodes are to be on loopback.
    pub loopback: bool,
    /// How long a fault is held. Unit: milliseconds.
    pub hold_ms: Range<u64>,
    /// Where what belongs to a violation is kept.
    pub evidence: PathBuf,
}

impl fmt::Display for Options {
    /// The command that makes the same choices again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "scripts/chaos.sh --seed {}", self.seed)?;
        match self.until {
            Until::Rounds(rounds) => write!(f, " --rounds {rounds}")?,
            Until::Passed(length) => write!(f, " --minutes {}", length.as_secs().div_ceil(60))?,
        }
        if self.faults != Fault::ALL {
            let names: Vec<&str> = self.faults.iter().map(|fault| fault.name()).collect();
            write!(f, " --faults {}", names.join(","))?;
        }
        if self.workloads != Kind::ALL {
            let names: Vec<&str> = self.workloads.iter().map(|kind| kind.name()).collect();
            write!(f, " --workloads {}", names.join(","))?;
        }
        if self.loopback {
            f.write_str(" --loopback")?;
        }
        Ok(())
    }
}

/// Space of a small disk for a run of this length: its log, the reserve of a log node, and some for the fault to take.
#[must_use]
pub fn disk_mebibytes(until: Until) -> usize {
    let minutes = match until {
        Until::Rounds(rounds) => rounds / 4,
        Until::Passed(length) => length.as_secs() / 60,
    };
    256 + 12 * usize::try_from(minutes).unwrap_or(0).min(240)
}
