//! Packets: what hosts say to each other. Calls of the framed transport, HTTP requests, streams.
//!
//! * Deliberately absent: when they arrive (`network`), what they mean.

use super::network::HostId;
use bytes::Bytes;
use duramen_transport::{CallError, Hello, Peer, Welcome};
use hyper::{Request, Response};
use xxhash_rust::xxh3::xxh3_64;

/// A host in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which host.
    pub host: HostId,
    /// Which life, from 1.
    pub life: u32,
}

/// A message under way.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Who sent it.
    pub from: Place,
    /// The host that it is for.
    pub to: HostId,
    /// The life that it is for, once there is one: a connection does not outlive its peer.
    pub to_life: Option<u32>,
    /// What it says.
    pub load: Load,
}

/// What a packet says.
#[derive(Clone, Debug)]
pub enum Load {
    /// A call of the framed transport.
    Request {
        /// Its number.
        call: u64,
        /// Who calls.
        hello: Hello,
        /// Whom.
        peer: Peer,
        /// Which service.
        service: u8,
        /// The request.
        body: Bytes,
    },
    /// What a call comes to.
    Answer {
        /// Its number.
        call: u64,
        /// What it comes to.
        outcome: Result<(Welcome, Bytes), CallError>,
    },
    /// An HTTP request.
    Http {
        /// Its number.
        call: u64,
        /// The request.
        request: Box<Request<Bytes>>,
    },
    /// The answer to an HTTP request.
    HttpAnswer {
        /// Its number.
        call: u64,
        /// The answer; none when the connection was refused or broke.
        answer: Result<Box<Response<Bytes>>, HttpLoss>,
        /// Whether its body comes in pieces, after it.
        streams: bool,
    },
    /// A piece of an answer's body; none at its end.
    Piece {
        /// The request's number.
        call: u64,
        /// The piece.
        bytes: Option<Bytes>,
    },
    /// Nobody waits for this HTTP answer any more.
    Gone {
        /// The request's number.
        call: u64,
    },
}

/// Why an HTTP request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpLoss {
    /// Nobody listens: it was not handled.
    Refused,
    /// The connection broke, or time ran out: it may have been handled.
    Broken,
}

impl Load {
    /// The number of its call.
    #[must_use]
    pub fn call(&self) -> u64 {
        match self {
            Load::Request { call, .. }
            | Load::Answer { call, .. }
            | Load::Http { call, .. }
            | Load::HttpAnswer { call, .. }
            | Load::Piece { call, .. }
            | Load::Gone { call } => *call,
        }
    }

    /// The stream that it belongs to.
    #[must_use]
    pub fn stream(&self) -> Option<u64> {
        match self {
            Load::HttpAnswer { call, streams: true, .. } | Load::Piece { call, .. } => Some(*call),
            _ => None,
        }
    }

    /// Length of a call's request; 0 for anything else. Unit: bytes.
    #[must_use]
    pub fn request_bytes(&self) -> usize {
        match self {
            Load::Request { body, .. } => body.len(),
            _ => 0,
        }
    }

    /// What its sender is told where nobody listens. `met`: the connection was made while somebody did.
    #[must_use]
    pub fn refusal(&self, met: bool) -> Option<Load> {
        match self {
            Load::Request { call, peer, .. } => {
                let addr = peer.addr.clone();
                let error = if met {
                    CallError::Lost { addr, reason: "the connection was reset".to_owned() }
                } else {
                    CallError::NotSent { addr, reason: "connection refused".to_owned() }
                };
                Some(Load::Answer { call: *call, outcome: Err(error) })
            }
            Load::Http { call, .. } => {
                let loss = if met { HttpLoss::Broken } else { HttpLoss::Refused };
                Some(Load::HttpAnswer { call: *call, answer: Err(loss), streams: false })
            }
            _ => None,
        }
    }

    /// Its content in one number.
    #[must_use]
    pub fn digest(&self) -> u64 {
        match self {
            Load::Request { service, body, .. } => xxh3_64(body) ^ u64::from(*service),
            Load::Answer { outcome: Ok((_, body)), .. } => xxh3_64(body),
            Load::Answer { outcome: Err(error), .. } => xxh3_64(error.to_string().as_bytes()),
            Load::Http { request, .. } => xxh3_64(request.body()) ^ xxh3_64(request.uri().path().as_bytes()),
            Load::HttpAnswer { answer: Ok(answer), .. } => xxh3_64(answer.body()) ^ u64::from(answer.status().as_u16()),
            Load::HttpAnswer { answer: Err(loss), .. } => *loss as u64,
            Load::Piece { bytes, .. } => bytes.as_ref().map_or(0, |bytes| xxh3_64(bytes)),
            Load::Gone { .. } => 0,
        }
    }

    fn words(&self) -> String {
        match self {
            Load::Request { service, body, .. } => format!("asks service {service} ({} bytes)", body.len()),
            Load::Answer { outcome: Ok((_, body)), .. } => format!("answers ({} bytes)", body.len()),
            Load::Answer { outcome: Err(error), .. } => format!("answers: {error}"),
            Load::Http { request, .. } => format!("{} {}", request.method(), request.uri()),
            Load::HttpAnswer { answer: Ok(answer), .. } => answer.status().to_string(),
            Load::HttpAnswer { answer: Err(loss), .. } => format!("{loss:?}"),
            Load::Piece { bytes: Some(bytes), .. } => format!("a piece ({} bytes)", bytes.len()),
            Load::Piece { bytes: None, .. } => "the end of the stream".to_owned(),
            Load::Gone { .. } => "waits no more".to_owned(),
        }
    }
}

impl Packet {
    /// The same, to be handled without its sender hearing of it: no call has the number 0.
    #[must_use]
    pub fn unanswered(&self) -> Packet {
        let mut packet = self.clone();
        if let Load::Request { call, .. } = &mut packet.load {
            *call = 0;
        }
        packet
    }

    /// One line for people.
    #[must_use]
    pub fn describe(&self, names: &[String]) -> String {
        let name = |host: HostId| names.get(usize::from(host.0)).map_or("?", String::as_str);
        let call = self.load.call();
        format!("{} to {}: #{call} {}", name(self.from.host), name(self.to), self.load.words())
    }
}
