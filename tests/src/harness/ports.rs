//! Free loopback ports, below the ephemeral range, so that no outgoing connection takes one between choice and use.
//!
//! * Each test process starts at a place of its own and remembers what it gave away.
//! * Whether a port is free is read from the kernel's table, never tried by binding it: a process that another test is just
//!   starting inherits the socket that tries, and holds the port until it runs its program.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;

/// A loopback address that nobody listens on and that this process has not given away yet.
#[must_use]
pub fn free_address() -> SocketAddr {
    free_run(1)
}

/// The first of `count` such addresses with ports in a row.
#[must_use]
pub fn free_run(count: u16) -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(211) % COUNT;
    let taken = taken_ports();
    for _ in 0..COUNT {
        let place = (start + NEXT.fetch_add(u32::from(count), Ordering::Relaxed)) % COUNT;
        let first = (FIRST + place) as u16;
        if (0..count).all(|number| !taken.contains(&(first + number))) {
            return SocketAddr::from((Ipv4Addr::LOCALHOST, first));
        }
    }
    panic!("no free loopback port from {FIRST} to {}", FIRST + COUNT);
}

/// Local ports of every TCP socket of this machine, in whatever state.
fn taken_ports() -> HashSet<u16> {
    // Where a kernel has no IPv6, its table is missing.
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| std::fs::read_to_string(table).unwrap_or_default());
    let local = |line: &str| {
        let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
        u16::from_str_radix(port, 16).ok()
    };
    tables.iter().flat_map(|table| table.lines()).filter_map(local).collect()
}

#[cfg(test)]
mod tests {
    use super::{free_address, taken_ports};
    use std::net::TcpListener;

    #[test]
    fn a_port_is_taken_while_somebody_listens_on_it() {
        let address = free_address();
        assert!(!taken_ports().contains(&address.port()));
        let listener = TcpListener::bind(address).unwrap();
        assert!(taken_ports().contains(&address.port()));
        drop(listener);
    }
}
