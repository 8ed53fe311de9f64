//! Options of the sockets between processes.
//!
//! * No delay: frames are coalesced here, not by the system.
//! * Keep-alive and a limit on unacknowledged bytes: a machine that vanished without a word is noticed in seconds, idle
//!   or not, on both sides. A process that hangs is not: its callers time out.

use std::time::Duration;
use tokio::net::TcpStream;

/// Idle time before the first probe, and between probes.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// Unanswered probes until the connection is given up.
const PROBES: u32 = 3;
/// How long written bytes may stay unacknowledged. Unit: milliseconds.
const UNACKNOWLEDGED_MS_MAX: u32 = 15_000;

/// Sets the options. None is needed for correctness, so that a system which refuses one is only noted.
pub(crate) fn tune(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY is refused");
    }
    if let Err(error) = watch_peer(stream) {
        tracing::debug!(%error, "TCP keep-alive is refused");
    }
}

fn watch_peer(stream: &TcpStream) -> Result<(), rustix::io::Errno> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, PROBE_EVERY)?;
    sockopt::set_tcp_keepintvl(stream, PROBE_EVERY)?;
    sockopt::set_tcp_keepcnt(stream, PROBES)?;
    sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS_MAX)
}
