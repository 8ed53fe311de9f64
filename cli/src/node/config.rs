//! Where the node roles' settings come from: flags and `DURAMEN_…` variables (clap reads both), then a TOML file.
//!
//! * The file's keys are the flags' names. An unknown key is an error that names it.
//! * Invariant: settings are complete and checked before anything is opened.
//! * Deliberately absent: the other nodes' settings; a file says only what one process needs to find the others (DESIGN D12).

use crate::failure::Failure;
use clap::Args;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The option that names the file.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigFileArgs {
    /// A TOML file whose keys are the names of these flags; flags and variables win over it.
    #[arg(long, env = "DURAMEN_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl ConfigFileArgs {
    /// The file's settings; the empty ones without a file.
    pub fn read<T: DeserializeOwned + Default>(&self) -> Result<T, Failure> {
        let Some(path) = &self.config else { return Ok(T::default()) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
        parse(path, &text)
    }
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, Failure> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| text.get(..span.start).unwrap_or_default().matches('\n').count() + 1);
        Failure::usage(format!("{}, line {line}: {}", path.display(), error.message()))
    })
}

/// A setting that has no default.
pub fn required<T>(setting: Option<T>, name: &str) -> Result<T, Failure> {
    let variable = format!("DURAMEN_{}", name.to_uppercase().replace('-', "_"));
    setting.ok_or_else(|| {
        Failure::usage(format!("{name} is not set: give --{name}, {variable}, or {name} in the --config file"))
    })
}

/// A log node as everybody finds it: `1=127.0.0.1:7201/7101`, its number, host, framed TCP port and HTTP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub node: u64,
    /// Its framed TCP, `host:port`.
    pub rpc_addr: String,
    /// Its HTTP, `host:port`.
    pub http_addr: String,
}

impl FromStr for Member {
    type Err = String;

    fn from_str(text: &str) -> Result<Member, String> {
        let parse = || {
            let (node, addrs) = text.split_once('=')?;
            let (rpc_addr, http_port) = addrs.split_once('/')?;
            let (host, _) = rpc_addr.rsplit_once(':')?;
            let rpc_addr = check_host_port(rpc_addr).ok()?;
            let http_addr = check_host_port(&format!("{host}:{http_port}")).ok()?;
            Some(Member { node: node.parse().ok().filter(|&node| node > 0)?, rpc_addr, http_addr })
        };
        parse().ok_or_else(|| {
            format!("{text:?} is no member: expected NODE=HOST:PORT/HTTP_PORT, for instance 1=127.0.0.1:7201/7101")
        })
    }
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Member, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Checks that a text is `host:port`.
pub fn check_host_port(text: &str) -> Result<String, String> {
    let is_host_port = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
    match is_host_port && !text.contains('/') {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is no address: expected HOST:PORT, for instance 127.0.0.1:7201")),
    }
}

/// What others are told when only a listening address is known: that address, unless it means every interface.
pub fn advertised(told: Option<String>, listen: &str, name: &str) -> Result<String, Failure> {
    let is_every = listen.parse::<SocketAddr>().is_ok_and(|listen| listen.ip().is_unspecified());
    match told {
        Some(addr) => check_host_port(&addr).map_err(|error| Failure::usage(format!("advertise-{name}: {error}"))),
        None if is_every => Err(Failure::usage(format!(
            "{name} listens on every interface ({listen}): say with --advertise-{name} under which address others reach it"
        ))),
        None => Ok(listen.to_owned()),
    }
}

/// The address that a `host:port` to listen on means. A name may have several: one of version 4 is taken first, as everywhere
/// here, so that two nodes of one machine agree.
pub async fn resolve(listen: &str, name: &str) -> Result<SocketAddr, Failure> {
    let found = tokio::net::lookup_host(listen).await.map(Vec::from_iter);
    let mut found = found.map_err(|error| {
        Failure::failed(format!("{name}: {listen} is not an address here: {error}; give one of this machine's"))
    })?;
    found.sort_by_key(SocketAddr::is_ipv6);
    found.first().copied().ok_or_else(|| Failure::failed(format!("{name}: {listen} has no address; give another")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_a_number_a_host_and_two_ports() {
        let member = Member { node: 2, rpc_addr: "log-b:7201".to_owned(), http_addr: "log-b:7101".to_owned() };
        assert_eq!("2=log-b:7201/7101".parse(), Ok(member));
        let ipv6: Member = "3=[::1]:1/2".parse().unwrap();
        assert_eq!((ipv6.rpc_addr.as_str(), ipv6.http_addr.as_str()), ("[::1]:1", "[::1]:2"));
        for text in
            ["", "2", "0=a:1/2", "x=a:1/2", "1=a:1", "1=a/2", "1=:1/2", "1=a:0/2", "1=a:1/99999", "1=http://a:1/"]
        {
            assert!(text.parse::<Member>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn an_address_that_nobody_can_call_is_not_advertised() {
        assert_eq!(advertised(None, "127.0.0.1:7201", "rpc"), Ok("127.0.0.1:7201".to_owned()));
        assert_eq!(advertised(None, "localhost:7201", "rpc"), Ok("localhost:7201".to_owned()));
        assert!(advertised(None, "0.0.0.0:7201", "rpc").is_err());
        let told = Some("log-a.internal:7201".to_owned());
        assert_eq!(advertised(told.clone(), "0.0.0.0:7201", "rpc").ok(), told);
    }

    /// Goal: a name is taken to listen on, and means the same at every node.
    #[tokio::test]
    async fn a_name_is_an_address_to_listen_on() {
        assert_eq!(resolve("localhost:7001", "http").await, Ok("127.0.0.1:7001".parse().unwrap()));
        assert_eq!(resolve("[::1]:7001", "http").await, Ok("[::1]:7001".parse().unwrap()));
        let refused = resolve("no-such-host.invalid:7001", "http").await.unwrap_err().to_string();
        assert!(refused.contains("http") && refused.contains("no-such-host.invalid"), "{refused}");
    }
}
