//! Who may talk to an HTTP port, decided on headers alone, so that a web page cannot reach a developer's database.
//!
//! * A server bound to loopback takes only loopback names in `Host` (otherwise a page could have its own name resolve
//!   to 127.0.0.1). A request with an `Origin` is taken when that is the server itself or is configured.
//! * Deliberately absent: HTTP; both servers call this in the one place where a request is let in.
//! * Source: DESIGN §4, "No cross-origin access".

use crate::problem::{Problem, ProblemKind};
use std::net::{IpAddr, SocketAddr};

/// What a server takes.
#[derive(Clone, Debug, Default)]
pub struct HostGuard {
    /// Whether it is bound to loopback.
    pub loopback_only: bool,
    /// Origins (`https://example.org`) of pages that may talk to it.
    pub origins: Vec<String>,
}

impl HostGuard {
    /// The guard of a server that listens here.
    #[must_use]
    pub fn listening_on(addr: SocketAddr, origins: Vec<String>) -> HostGuard {
        HostGuard { loopback_only: addr.ip().is_loopback(), origins }
    }

    /// Whether a request with these headers may come in.
    pub fn check(&self, host: Option<&str>, origin: Option<&str>) -> Result<(), Problem> {
        if self.loopback_only && !host.is_some_and(is_loopback) {
            let name = host.unwrap_or("(none)");
            let detail = format!("this server is bound to loopback and takes only loopback names as Host, not {name}");
            return Err(Problem::new(ProblemKind::Forbidden, detail));
        }
        let Some(origin) = origin else { return Ok(()) };
        let own = origin.split_once("://").map(|(_, authority)| authority);
        if own.is_some() && own == host || self.origins.iter().any(|allowed| allowed == origin) {
            return Ok(());
        }
        let detail = format!("pages of {origin} may not talk to this server: configure that origin to allow it");
        Err(Problem::new(ProblemKind::Forbidden, detail))
    }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_reach_a_server_on_loopback() {
        let guard = HostGuard::listening_on("127.0.0.1:7001".parse().unwrap(), Vec::new());
        for host in ["127.0.0.1", "127.0.0.1:7001", "127.9.9.9:1", "localhost:7001", "LOCALHOST", "[::1]:7001", "[::1]"]
        {
            assert!(guard.check(Some(host), None).is_ok(), "{host}");
        }
        for host in
            [None, Some(""), Some("evil.example"), Some("127.0.0.1.evil.example"), Some("10.0.0.1:7001"), Some("[::2]")]
        {
            assert!(guard.check(host, None).is_err(), "{host:?}");
        }
        let open = HostGuard::listening_on("0.0.0.0:7001".parse().unwrap(), Vec::new());
        assert!(open.check(Some("db.example:7001"), None).is_ok());
    }

    #[test]
    fn other_origins_must_be_configured() {
        let guard = HostGuard { loopback_only: true, origins: vec!["https://app.example".to_owned()] };
        let host = Some("127.0.0.1:7001");
        assert!(guard.check(host, Some("http://127.0.0.1:7001")).is_ok());
        assert!(guard.check(host, Some("https://app.example")).is_ok());
        for origin in ["http://127.0.0.1:7002", "http://evil.example", "null", ""] {
            assert!(guard.check(host, Some(origin)).is_err(), "{origin}");
        }
    }
}
