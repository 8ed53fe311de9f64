//! What is asked for: which keys, which values, which requests. Pure but for its seed.
//!
//! * Keys are 16 bytes, `bench-0000000042`, chosen uniformly; values are cut from one random text at random places.
//! * A request is written into the caller's buffer, by hand: nothing is allocated.

use super::BenchArgs;
use super::tally::OpKind;
use clap::ValueEnum;
use duramen_common::SessionToken;
use serde::Serialize;
use std::io::Write as _;

/// Random text beyond one value's length that values are cut from. Unit: bytes.
const TEXT_SPARE_BYTES: usize = 4096;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Set keys.
    Put,
    /// Read keys, linearizably.
    Get,
    /// Read keys from what the node has.
    GetStale,
    /// Read keys with a token that has seen the load.
    GetSession,
    /// Linearizable gets and puts.
    Mixed,
    /// Append events to the log itself, in turn over its partitions.
    Append,
}

impl Workload {
    /// Whether the keys must be there first.
    pub(super) fn reads(self) -> bool {
        matches!(self, Self::Get | Self::GetStale | Self::GetSession | Self::Mixed)
    }
}

/// Random numbers for choices: splitmix64.
#[derive(Clone, Debug)]
pub(super) struct Choices(u64);

impl Choices {
    pub(super) fn new(seed: u64) -> Choices {
        Choices(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `bound` (at least 1).
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        // The high half of a product: no division, and no bias that matters.
        ((u128::from(self.bits()) * u128::from(bound.max(1))) >> 64) as u64
    }
}

/// Everything that clients share.
pub(super) struct Target {
    pub workload: Workload,
    /// `host:port` of each serving node.
    pub hosts: Vec<String>,
    pub log_addrs: Vec<String>,
    keys: u64,
    value_bytes: usize,
    gets_percent: u64,
    /// The header line of session reads, empty for others.
    read_after: String,
    text: Vec<u8>,
    seed: u64,
}

impl Target {
    pub(super) fn new(args: &BenchArgs, token: Option<SessionToken>, seed: u128) -> Target {
        let value_bytes = args.value_size as usize;
        let read_after = match (args.workload, token) {
            (Workload::GetSession, Some(token)) => format!("Read-After: {token}\r\n"),
            _ => String::new(),
        };
        Target {
            workload: args.workload,
            hosts: args.serving.urls.iter().map(|url| url.trim_start_matches("http://").to_owned()).collect(),
            log_addrs: args.log_addrs.clone(),
            keys: u64::from(args.keys),
            value_bytes,
            gets_percent: u64::from(args.gets_percent),
            read_after,
            text: random_text(value_bytes + TEXT_SPARE_BYTES, seed as u64),
            seed: (seed >> 64) as u64,
        }
    }

    /// The choices of one client.
    pub(super) fn choices(&self, client: usize) -> Choices {
        let mut choices = Choices::new(self.seed.wrapping_add(client as u64));
        Choices::new(choices.bits())
    }

    /// A value.
    pub(super) fn value(&self, choices: &mut Choices) -> &[u8] {
        let at = choices.below(TEXT_SPARE_BYTES as u64) as usize;
        &self.text[at..at + self.value_bytes]
    }

    /// Writes the next request into `buffer`, whole.
    pub(super) fn next_request(&self, host: &str, choices: &mut Choices, buffer: &mut Vec<u8>) -> OpKind {
        buffer.clear();
        let key = choices.below(self.keys);
        let is_put = match self.workload {
            Workload::Put | Workload::Append => true,
            Workload::Mixed => choices.below(100) >= self.gets_percent,
            Workload::Get | Workload::GetStale | Workload::GetSession => false,
        };
        if is_put {
            let value = self.value(choices);
            let length = value.len();
            let head = write!(
                buffer,
                "PUT /v1/kv/bench-{key:010} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n"
            );
            head.expect("writing to memory does not fail");
            buffer.extend_from_slice(value);
            return OpKind::Put;
        }
        let query = if self.workload == Workload::GetStale { "?consistency=stale" } else { "" };
        let read_after = &self.read_after;
        write!(buffer, "GET /v1/kv/bench-{key:010}{query} HTTP/1.1\r\nHost: {host}\r\n{read_after}\r\n")
            .expect("writing to memory does not fail");
        OpKind::Get
    }
}

/// The name of a key.
pub(super) fn key_name(number: u32) -> String {
    format!("bench-{number:010}")
}

/// Letters and digits: text, so that values need no encoding in JSON when they are loaded.
pub(super) fn random_text(length: usize, seed: u64) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut choices = Choices::new(seed);
    (0..length).map(|_| LETTERS[choices.below(64) as usize]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(workload: Workload) -> Target {
        Target {
            workload,
            hosts: vec!["h:1".to_owned()],
            log_addrs: Vec::new(),
            keys: 10,
            value_bytes: 5,
            gets_percent: 70,
            read_after: String::new(),
            text: random_text(5 + TEXT_SPARE_BYTES, 1),
            seed: 7,
        }
    }

    #[test]
    fn requests_are_whole_http() {
        let (mut buffer, target) = (Vec::new(), target(Workload::Put));
        let mut choices = target.choices(0);
        assert_eq!(target.next_request("h:1", &mut choices, &mut buffer), OpKind::Put);
        let text = String::from_utf8(buffer.clone()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("PUT /v1/kv/bench-000000000"), "{text}");
        assert!(head.ends_with("\r\nHost: h:1\r\nContent-Length: 5"), "{text}");
        assert_eq!(body.len(), 5);
        let target = Target { workload: Workload::GetSession, read_after: "Read-After: c7f3a1.\r\n".into(), ..target };
        assert_eq!(target.next_request("h:1", &mut choices, &mut buffer), OpKind::Get);
        let text = String::from_utf8(buffer).unwrap();
        assert!(text.ends_with(" HTTP/1.1\r\nHost: h:1\r\nRead-After: c7f3a1.\r\n\r\n"), "{text}");
        assert_eq!(key_name(42).len(), 16);
    }

    #[test]
    fn choices_are_uniform_and_each_clients_own() {
        let target = target(Workload::Mixed);
        let (mut buffer, mut gets, mut keys) = (Vec::new(), 0, [0u32; 10]);
        for client in 0..100 {
            let mut choices = target.choices(client);
            for _ in 0..100 {
                gets += u32::from(target.next_request("h:1", &mut choices, &mut buffer) == OpKind::Get);
                let digit = buffer.iter().position(|&byte| byte == b'-').unwrap() + 10;
                keys[usize::from(buffer[digit] - b'0')] += 1;
            }
        }
        assert!((6_700..7_300).contains(&gets), "{gets} of 10,000, wanted 7,000");
        assert!(keys.iter().all(|&count| (850..1_150).contains(&count)), "{keys:?}");
    }
}
