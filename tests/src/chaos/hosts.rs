//! Several hosts on one machine: network namespaces with an address of their own, all plugged into one switch.
//!
//! * The switch (a bridge) lives in a namespace of its own, the root namespace has no interface on it, and nobody has a
//!   default route: nothing can leave the machine.
//! * A link is cut by dropping packets at the host that would receive them, so that each direction is a link of its own;
//!   a slow host has a token bucket at both ends of its cable.
//! * Names hold the owner's process id: what a killed owner left is removed by the next one.
//! * Deliberately absent: delay, loss and reordering of single packets (`netem` is not in every kernel).

use crate::harness::Host;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::OsString;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

const NAMESPACES: &str = "/run/netns";
const PREFIX: &str = "duramen-tests-";

/// A set of hosts. They end with this value; processes on them must have ended before.
pub struct Hosts {
    prefix: String,
    names: Vec<String>,
}

impl Hosts {
    /// Hosts of these names. `Err` says why this machine cannot have any.
    pub fn start(names: &[&str]) -> Result<Hosts, String> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        remove_left_behind();
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{PREFIX}{}-{serial}-", std::process::id());
        // From here on, what there is of it is removed again should a step fail.
        let hosts = Hosts { prefix, names: names.iter().map(|&name| name.to_owned()).collect() };
        let switch = hosts.namespace("switch");
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "switch", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "switch", "up"])?;
        for (place, name) in names.iter().enumerate() {
            let (own, cable) = (hosts.namespace(name), cable(place));
            ip(&["netns", "add", &own])?;
            ip(&["-n", &own, "link", "add", "eth0", "type", "veth", "peer", "name", &cable, "netns", &switch])?;
            ip(&["-n", &switch, "link", "set", &cable, "master", "switch", "up"])?;
            ip(&["-n", &own, "addr", "add", &format!("{}/24", address(place)), "dev", "eth0"])?;
            ip(&["-n", &own, "link", "set", "lo", "up"])?;
            ip(&["-n", &own, "link", "set", "eth0", "up"])?;
            // Whether packets can be dropped here is known before anything relies on it.
            hosts.iptables(name, &["-F"])?;
        }
        Ok(hosts)
    }

    /// Where processes of this host are started, and its address.
    #[must_use]
    pub fn host(&self, name: &str) -> Host {
        let launcher = ["nsenter".into(), net_option(&self.namespace(name)), "--".into()];
        Host { ip: IpAddr::V4(address(self.place(name))), launcher: launcher.to_vec() }
    }

    /// What moves a thread onto this host: all sockets that it opens from then on are there. May be called on many threads.
    pub fn door(&self, name: &str) -> Result<Door, String> {
        let path = path_of(&self.namespace(name));
        let namespace = File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Door { namespace })
    }

    /// Drops everything that `from` sends to `to`.
    pub fn cut(&self, from: &str, to: &str) -> Result<(), String> {
        let source = address(self.place(from)).to_string();
        self.iptables(to, &["-A", "INPUT", "-s", &source, "-j", "DROP"])
    }

    /// Makes a host's cable slow, in both directions: a rate as `tc` writes it.
    pub fn slow(&self, name: &str, rate: &str) -> Result<(), String> {
        let bucket = ["root", "tbf", "rate", rate, "burst", "8kb", "latency", "400ms"];
        for (namespace, device) in self.cable_ends(name) {
            let mut args = vec!["-n", &namespace, "qdisc", "add", "dev", &device];
            args.extend(bucket);
            run("tc", &args)?;
        }
        Ok(())
    }

    /// Undoes `slow`.
    pub fn fast(&self, name: &str) -> Result<(), String> {
        for (namespace, device) in self.cable_ends(name) {
            run("tc", &["-n", &namespace, "qdisc", "del", "dev", &device, "root"])?;
        }
        Ok(())
    }

    /// Undoes every `cut`.
    pub fn heal(&self) -> Result<(), String> {
        self.names.iter().try_for_each(|name| self.iptables(name, &["-F"]))
    }

    fn cable_ends(&self, name: &str) -> [(String, String); 2] {
        let own = (self.namespace(name), "eth0".to_owned());
        [own, (self.namespace("switch"), cable(self.place(name)))]
    }

    fn iptables(&self, name: &str, args: &[&str]) -> Result<(), String> {
        let enter = format!("--net={}", path_of(&self.namespace(name)).display());
        let mut whole = vec![enter.as_str(), "--", "iptables", "-w"];
        whole.extend(args);
        run("nsenter", &whole)
    }

    fn place(&self, name: &str) -> usize {
        let place = self.names.iter().position(|known| known == name);
        place.unwrap_or_else(|| panic!("there is no host {name}"))
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in self.names.iter().map(String::as_str).chain(["switch"]) {
            let namespace = self.namespace(name);
            if path_of(&namespace).exists() {
                let _ = ip(&["netns", "del", &namespace]);
            }
        }
    }
}

/// An open network namespace.
#[derive(Debug)]
pub struct Door {
    namespace: File,
}

impl Door {
    /// Moves the calling thread through it.
    pub fn enter(&self) -> std::io::Result<()> {
        let namespace = self.namespace.as_fd();
        Ok(move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?)
    }
}

fn address(place: usize) -> Ipv4Addr {
    let last = u8::try_from(place + 1).expect("a handful of hosts");
    Ipv4Addr::new(10, 77, 0, last)
}

fn cable(place: usize) -> String {
    format!("port{place}")
}

fn path_of(namespace: &str) -> PathBuf {
    Path::new(NAMESPACES).join(namespace)
}

fn net_option(namespace: &str) -> OsString {
    let mut option = OsString::from("--net=");
    option.push(path_of(namespace));
    option
}

/// Removes the hosts of owners that are gone.
fn remove_left_behind() {
    let Ok(entries) = std::fs::read_dir(NAMESPACES) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists()) {
            // Somebody else may be removing it too.
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

fn ip(args: &[&str]) -> Result<(), String> {
    run("ip", args)
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let shown = || format!("{program} {}", args.join(" "));
    // In a group of its own: Ctrl-C must not end what mends.
    let output = Command::new(program).args(args).stdin(Stdio::null()).process_group(0).output();
    let output = output.map_err(|error| format!("{}: {error}", shown()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{}: {}", shown(), String::from_utf8_lossy(&output.stderr).trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    const SHORT: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_secs(20);

    /// Runs this on a host, on a thread of its own.
    fn on<T: Send>(hosts: &Hosts, name: &str, what: impl FnOnce() -> T + Send) -> T {
        let door = hosts.door(name).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                door.enter().unwrap();
                what()
            });
            thread.join().unwrap()
        })
    }

    fn passes(from: &mut TcpStream, to: &mut TcpStream, limit: Duration) -> bool {
        to.set_read_timeout(Some(limit)).unwrap();
        from.write_all(b"x").unwrap();
        to.read(&mut [0u8; 1]).is_ok_and(|count| count == 1)
    }

    /// Goal: hosts reach each other and nobody else; a cut drops one direction only, and heals; nothing is left behind.
    #[test]
    fn hosts_reach_each_other_over_links_that_can_be_cut_one_way() {
        let hosts = match Hosts::start(&["a", "b"]) {
            Ok(hosts) => hosts,
            Err(why) => return eprintln!("skipped: no network namespaces here ({why})"),
        };
        let listener = on(&hosts, "a", || TcpListener::bind("0.0.0.0:7000").unwrap());
        let at = SocketAddr::new(hosts.host("a").ip, 7000);
        // Nothing is sent to find out: from here it would take the machine's own way out.
        for device in ["switch", "port0", "port1"] {
            assert!(!Path::new("/sys/class/net").join(device).exists(), "{device} is in the root namespace");
        }
        let outside = SocketAddr::from(([192, 0, 2, 1], 7000));
        let error = on(&hosts, "b", || TcpStream::connect_timeout(&outside, SHORT)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NetworkUnreachable, "there is a way out");
        let mut b = on(&hosts, "b", || TcpStream::connect_timeout(&at, LONG).unwrap());
        let (mut a, _) = listener.accept().unwrap();
        assert!(passes(&mut a, &mut b, LONG) && passes(&mut b, &mut a, LONG));
        hosts.cut("b", "a").unwrap();
        assert!(!passes(&mut b, &mut a, SHORT), "a byte passed a cut");
        // What a sends still arrives; that a hears no acknowledgement of it does not matter.
        assert!(passes(&mut a, &mut b, LONG), "the other direction was cut too");
        hosts.heal().unwrap();
        a.set_read_timeout(Some(LONG)).unwrap();
        assert_eq!(a.read(&mut [0u8; 1]).unwrap(), 1, "it goes on when it heals");
        hosts.slow("b", "96kbit").unwrap();
        hosts.fast("b").unwrap();
        let namespace = path_of(&hosts.namespace("a"));
        assert!(namespace.exists());
        drop(hosts);
        assert!(!namespace.exists());
    }
}
