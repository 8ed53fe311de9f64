//! The contract of `Transport` and `Service`, over every implementation: TCP and memory.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use bytes::Bytes;
use common::*;
use duramen_common::limits::FRAME_BYTES_MAX;
use duramen_common::{HistoryId, NodeId};
use duramen_transport::{
    CallError, MemoryNetwork, Peer, TcpServer, TcpServerConfig, TcpTransport, TcpTransportConfig, Transport, serve,
};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A network under test.
enum Net {
    Tcp(HashMap<String, TcpServer>),
    Memory(MemoryNetwork),
}

impl Net {
    async fn start(&mut self, service: Arc<Scripted>) -> String {
        match self {
            Net::Tcp(servers) => {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let server = serve(listener, service, TcpServerConfig::default());
                let addr = server.local_addr().to_string();
                servers.insert(addr.clone(), server);
                addr
            }
            Net::Memory(network) => {
                let addr = format!("memory:{}", service.welcome.node);
                network.register(&addr, service);
                addr
            }
        }
    }

    async fn stop(&mut self, addr: &str) {
        match self {
            Net::Tcp(servers) => servers.remove(addr).unwrap().shutdown().await,
            Net::Memory(network) => network.crash(addr),
        }
    }

    async fn stop_all(self) {
        if let Net::Tcp(servers) = self {
            for server in servers.into_values() {
                server.shutdown().await;
            }
        }
    }

    fn transport(&self, name: &str, history: Option<HistoryId>) -> Arc<dyn Transport> {
        match self {
            Net::Tcp(_) => Arc::new(TcpTransport::new(TcpTransportConfig::default(), hello(name, history))),
            Net::Memory(network) => Arc::new(network.transport("memory:caller", hello(name, history))),
        }
    }
}

/// One test a network.
macro_rules! over_all {
    ($($(#[$doc:meta])* $name:ident => $check:ident;)*) => {
        mod tcp {
            use super::*;
            $($(#[$doc])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { $check(Net::Tcp(HashMap::new())).await; })*
        }
        mod memory {
            use super::*;
            $($(#[$doc])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { $check(Net::Memory(MemoryNetwork::new())).await; })*
        }
    };
}

over_all! {
    answers_find_their_callers => check_answers;
    requests_of_one_caller_run_at_the_same_time => check_concurrency;
    bodies_up_to_the_limit_pass_and_longer_ones_are_not_sent => check_sizes;
    nobody_there_is_not_sent => check_nobody;
    a_request_without_an_answer_in_time_is_lost_and_harms_nobody => check_deadline;
    a_peer_that_goes_away_loses_what_was_under_way_and_is_found_again => check_restart;
    another_node_than_the_one_wanted_is_refused => check_node;
    another_history_is_refused_and_none_is_not => check_history;
    a_caller_that_is_not_welcome_is_told_why => check_unwelcome;
}

async fn check_answers(mut net: Net) {
    let addr = net.start(Scripted::new(1, None)).await;
    let transport = net.transport("test", None);
    assert_eq!(transport.welcome(&peer(&addr)), None);
    let calls: Vec<_> = (0..500u32)
        .map(|number| {
            let (transport, to) = (Arc::clone(&transport), peer(&addr));
            tokio::spawn(async move {
                let body = Bytes::from(vec![number as u8; number as usize * 7]);
                let answer = transport.call(&to, ECHO, body.clone(), LONG).await.unwrap();
                assert_eq!(answer[0], ECHO);
                assert_eq!(answer[1..], body[..]);
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(transport.welcome(&peer(&addr)).unwrap().node, NodeId::new(1));
    net.stop_all().await;
}

/// Method: a hundred requests each of which is answered only when all are there.
async fn check_concurrency(mut net: Net) {
    let addr = net.start(Scripted::new(1, None)).await;
    let transport = net.transport("test", None);
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let (transport, to) = (Arc::clone(&transport), peer(&addr));
            let body = Bytes::copy_from_slice(&100u32.to_le_bytes());
            tokio::spawn(async move { transport.call(&to, MEET, body, LONG).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    net.stop_all().await;
}

async fn check_sizes(mut net: Net) {
    let service = Scripted::new(1, None);
    let addr = net.start(Arc::clone(&service)).await;
    let transport = net.transport("test", None);
    for size in [0, 1, 8 << 10, 8 << 20, FRAME_BYTES_MAX - 1] {
        let body = Bytes::from((0..size).map(|at| (at % 251) as u8).collect::<Vec<u8>>());
        let answer = transport.call(&peer(&addr), ECHO, body.clone(), LONG).await.unwrap();
        assert_eq!(answer.len(), size + 1);
        assert!(answer[1..] == body[..], "{size} bytes came back changed");
    }
    let begun = service.begun.load(Ordering::SeqCst);
    let error = transport.call(&peer(&addr), ECHO, Bytes::from(vec![0; FRAME_BYTES_MAX + 1]), LONG).await.unwrap_err();
    assert!(error.is_definite() && error.to_string().contains("limit"), "{error}");
    assert_eq!(service.begun.load(Ordering::SeqCst), begun);
    // An answer over the limit was handled: that is no definite failure.
    let size = Bytes::copy_from_slice(&(FRAME_BYTES_MAX as u32 + 1).to_le_bytes());
    let error = transport.call(&peer(&addr), SIZED, size, LONG).await.unwrap_err();
    assert!(!error.is_definite() && error.to_string().contains("limit"), "{error}");
    transport.call(&peer(&addr), ECHO, Bytes::new(), LONG).await.unwrap();
    net.stop_all().await;
}

async fn check_nobody(mut net: Net) {
    let addr = net.start(Scripted::new(1, None)).await;
    net.stop(&addr).await;
    let transport = net.transport("test", None);
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let (transport, to) = (Arc::clone(&transport), peer(&addr));
            tokio::spawn(async move { transport.call(&to, ECHO, Bytes::new(), LONG).await })
        })
        .collect();
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, CallError::NotSent { .. }), "{error:?}");
    }
    net.stop_all().await;
}

async fn check_deadline(mut net: Net) {
    let service = Scripted::new(1, None);
    let addr = net.start(Arc::clone(&service)).await;
    let transport = net.transport("test", None);
    transport.call(&peer(&addr), ECHO, Bytes::new(), LONG).await.unwrap();
    let error = transport.call(&peer(&addr), GATED, Bytes::new(), Duration::from_millis(30)).await.unwrap_err();
    assert!(matches!(error, CallError::Lost { .. }), "{error:?}");
    // It was handled all the same, and its late answer is nobody's.
    assert_eq!(service.begun.load(Ordering::SeqCst), 2);
    service.gate.add_permits(1);
    let ended = Arc::clone(&service.ended);
    eventually("the request ends", move || ended.load(Ordering::SeqCst) == 2).await;
    let answer = transport.call(&peer(&addr), ECHO, Bytes::from_static(b"x"), LONG).await.unwrap();
    assert_eq!(&answer[..], [ECHO, b'x']);
    net.stop_all().await;
}

async fn check_restart(mut net: Net) {
    let service = Scripted::new(1, None);
    let addr = net.start(Arc::clone(&service)).await;
    let transport = net.transport("test", None);
    let waiting = {
        let (transport, to) = (Arc::clone(&transport), peer(&addr));
        tokio::spawn(async move { transport.call(&to, GATED, Bytes::new(), LONG).await })
    };
    let begun = Arc::clone(&service.begun);
    eventually("the request begins", move || begun.load(Ordering::SeqCst) == 1).await;
    net.stop(&addr).await;
    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Lost { .. }), "{error:?}");
    let again = Scripted::new(1, None);
    match &mut net {
        Net::Tcp(servers) => {
            let listener = tokio::net::TcpListener::bind(&addr).await.unwrap();
            servers.insert(addr.clone(), serve(listener, again, TcpServerConfig::default()));
        }
        Net::Memory(network) => network.register(&addr, again),
    }
    let deadline = tokio::time::Instant::now() + LONG;
    while let Err(error) = transport.call(&peer(&addr), ECHO, Bytes::new(), LONG).await {
        assert!(error.is_definite() && tokio::time::Instant::now() < deadline, "{error:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    net.stop_all().await;
}

async fn check_node(mut net: Net) {
    let service = Scripted::new(1, None);
    let addr = net.start(Arc::clone(&service)).await;
    let transport = net.transport("test", None);
    let wanted = |node| Peer { addr: addr.clone(), node: Some(NodeId::new(node)) };
    let error = transport.call(&wanted(2), ECHO, Bytes::new(), LONG).await.unwrap_err();
    assert!(matches!(&error, CallError::Refused { reason, .. } if reason.contains("node 1 answers")), "{error:?}");
    assert_eq!(service.begun.load(Ordering::SeqCst), 0);
    transport.call(&wanted(1), ECHO, Bytes::new(), LONG).await.unwrap();
    net.stop_all().await;
}

async fn check_history(mut net: Net) {
    let service = Scripted::new(1, Some(history(7)));
    let addr = net.start(Arc::clone(&service)).await;
    let error = net.transport("test", Some(history(8))).call(&peer(&addr), ECHO, Bytes::new(), LONG).await.unwrap_err();
    assert!(matches!(&error, CallError::Refused { reason, .. } if reason.contains("history 000007")), "{error:?}");
    // By either side's judgement, the caller learns which history it has met.
    for name in ["test", "judged"] {
        let error =
            net.transport(name, Some(history(8))).call(&peer(&addr), ECHO, Bytes::new(), LONG).await.unwrap_err();
        assert!(matches!(&error, CallError::Refused { history: met, .. } if *met == Some(history(7))), "{error:?}");
    }
    assert_eq!(service.begun.load(Ordering::SeqCst), 0);
    for ours in [None, Some(history(7))] {
        net.transport("test", ours).call(&peer(&addr), ECHO, Bytes::new(), LONG).await.unwrap();
    }
    net.stop_all().await;
}

async fn check_unwelcome(mut net: Net) {
    let addr = net.start(Scripted::new(1, None)).await;
    let error = net.transport("unwanted", None).call(&peer(&addr), ECHO, Bytes::new(), LONG).await.unwrap_err();
    assert!(matches!(&error, CallError::Refused { reason, .. } if reason.contains("not wanted")), "{error:?}");
    net.stop_all().await;
}
