//! Logs go to stderr through tracing, human readable. `--log` or `DURAMEN_LOG`, else `RUST_LOG`, else the command's
//! default: warn for commands, info for nodes; of openraft only errors, since it repeats one line a heartbeat for every peer
//! that is away.

use crate::failure::Failure;
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// Installs the process's subscriber. A second call in one process (tests) keeps the first.
pub fn install(filter: Option<&str>, default: &str) -> Result<(), Failure> {
    let from_environment = std::env::var(EnvFilter::DEFAULT_ENV).ok();
    let directives = filter.or(from_environment.as_deref()).unwrap_or(default);
    let filter = EnvFilter::try_new(directives).map_err(|error| {
        Failure::usage(format!(
            "--log {directives:?} is no filter ({error}); try info, or warn,duramen_log_service=debug"
        ))
    })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(directives.contains("debug") || directives.contains("trace"))
        .finish();
    // Refused only when this process has one already.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}
