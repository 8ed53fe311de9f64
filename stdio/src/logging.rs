//! Log lines: from tracing into the queue of stderr, human readable.
//!
//! * Invariant: a log line never waits and never fails. tracing would report a failed write with `eprintln!`, which panics
//!   where stderr is gone.
//! * [`filter`] refuses what would silence everything by mistake: a misspelt level is a valid name of a target to tracing.
//! * Deliberately absent: which filter is meant, files, rotation. A supervisor does the last two.

use crate::{stderr, stderr_is_terminal};
use std::io;
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;

/// What log lines can come from: a directive that names a target begins with one of these.
const TARGETS: [&str; 12] =
    ["duramen", "openraft", "hyper", "tokio", "axum", "sled", "fjall", "lsm_tree", "tower", "mio", "want", "h2"];

/// Parses a filter; an empty one is `default`. The error says what is wrong with it, in one line.
pub fn filter(text: &str, default: &str) -> Result<EnvFilter, String> {
    let text = if text.trim().is_empty() { default } else { text };
    for directive in text.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        let is_level = directive.eq_ignore_ascii_case("off") || directive.parse::<Level>().is_ok();
        let is_target = directive.contains(['=', '[']) || TARGETS.iter().any(|target| directive.starts_with(target));
        if !is_level && !is_target {
            return Err(format!(
                "{directive:?} is neither a level (off, error, warn, info, debug, trace) nor a part of the program"
            ));
        }
        if let Err(error) = directive.parse::<Directive>() {
            return Err(format!("{directive:?}: {error}"));
        }
    }
    EnvFilter::try_new(text).map_err(|error| error.to_string())
}

/// Installs the process's subscriber. A second call in one process (tests) keeps the first.
pub fn install(filter: EnvFilter, with_target: bool) {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| IntoQueue)
        .log_internal_errors(false)
        .with_ansi(stderr_is_terminal())
        .with_target(with_target)
        .finish();
    // Refused only when this process has one already.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// A log line is one write.
struct IntoQueue;

impl io::Write for IntoQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        stderr().push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what an operator sets by mistake is refused by name or means the default; nothing silences the program unseen.
    #[test]
    fn an_empty_filter_is_the_default_and_a_misspelt_one_is_refused_by_name() {
        for empty in ["", " ", "\t"] {
            assert_eq!(filter(empty, "warn,openraft=error").unwrap().to_string(), "openraft=error,warn");
        }
        for good in
            ["info", "WARN", "off", "warn,duramen_log_service=debug", "duramen_cli", "openraft=error,2", "[span]=info"]
        {
            assert!(filter(good, "warn").is_ok(), "{good} was refused");
        }
        for (bad, name) in [("inf", "\"inf\""), ("warn,verbose", "\"verbose\""), ("=?=", "=?="), ("duramen=loud", "")] {
            let refused = filter(bad, "warn").unwrap_err();
            assert!(refused.contains(name) && !refused.contains('\n'), "{bad}: {refused}");
        }
    }
}
