//! Which log lines are written: `--log` or `DURAMEN_LOG`, else `RUST_LOG`, else the command's default: warn for commands,
//! info for nodes; of openraft only errors, since it repeats one line a heartbeat for every peer that is away.
//!
//! * An empty setting means that nothing is set. A wrong one is a usage error that names it.
//! * Deliberately absent: how lines reach stderr (`duramen_stdio`).

use crate::failure::Failure;

/// What many Rust programs take their filter from.
const COMMON_VARIABLE: &str = "RUST_LOG";

/// Installs the process's subscriber. A second call in one process (tests) keeps the first.
pub fn install(given: Option<&str>, default: &str) -> Result<(), Failure> {
    let from_environment = std::env::var(COMMON_VARIABLE).ok();
    let is_set = |text: &&str| !text.trim().is_empty();
    let (name, text) = match (given.filter(is_set), from_environment.as_deref().filter(is_set)) {
        (Some(text), _) => ("--log (DURAMEN_LOG)", text),
        (None, Some(text)) => (COMMON_VARIABLE, text),
        (None, None) => ("the default", default),
    };
    let filter = duramen_stdio::logging::filter(text, default).map_err(|why| {
        Failure::usage(format!("{name}: {text:?} is not a filter: {why}; try info, or warn,duramen_log_service=debug"))
    })?;
    duramen_stdio::logging::install(filter, text.contains("debug") || text.contains("trace"));
    Ok(())
}
