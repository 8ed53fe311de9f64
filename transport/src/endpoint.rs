//! `Endpoint`: a process's place in a network, from which it calls and at which it is called.
//!
//! * In: who the process is, what it answers. Out: a transport for its calls, and a server to shut down at the end.
//! * The seam for a whole log node: sockets stand behind it in a real run, a network in memory or Maelstrom's messages
//!   elsewhere.

use crate::memory::{MemoryNetwork, MemoryTransport};
use crate::{Hello, Service, TcpServer, TcpServerConfig, TcpTransport, TcpTransportConfig, Transport, serve};
use futures_util::future::BoxFuture;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Says who calls; asked at each handshake.
pub type HelloFn = Box<dyn Fn() -> Hello + Send + Sync>;

/// A process's place in a network.
pub trait Endpoint: Send + Sync {
    /// What its calls leave through.
    fn transport(&self, hello: HelloFn) -> Arc<dyn Transport>;

    /// Bounds the connections of callers, where there are connections.
    fn limit_connections(&mut self, connections_max: usize) {
        let _ = connections_max;
    }

    /// Answers from now on; once an endpoint. Until then callers find nobody, or wait.
    fn serve(self: Box<Self>, service: Arc<dyn Service>) -> Box<dyn Server>;
}

/// Answers callers until it is shut down; dropping it stops it less gently.
pub trait Server: Send + Sync {
    /// What peers call it by.
    fn addr(&self) -> String;

    /// Takes no more requests and gives up those under way.
    fn shutdown(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// A listening socket, and connections with default settings.
pub struct TcpEndpoint {
    listener: TcpListener,
    addr: SocketAddr,
    config: TcpServerConfig,
}

impl TcpEndpoint {
    /// Around a socket that listens.
    pub fn new(listener: TcpListener) -> io::Result<TcpEndpoint> {
        let addr = listener.local_addr()?;
        Ok(TcpEndpoint { listener, addr, config: TcpServerConfig::default() })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Endpoint for TcpEndpoint {
    fn transport(&self, hello: HelloFn) -> Arc<dyn Transport> {
        Arc::new(TcpTransport::new(TcpTransportConfig::default(), hello))
    }

    fn limit_connections(&mut self, connections_max: usize) {
        self.config.connections_max = connections_max;
    }

    fn serve(self: Box<Self>, service: Arc<dyn Service>) -> Box<dyn Server> {
        Box::new(serve(self.listener, service, self.config))
    }
}

impl Server for TcpServer {
    fn addr(&self) -> String {
        self.local_addr().to_string()
    }

    fn shutdown(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(TcpServer::shutdown(*self))
    }
}

/// An address of a [`MemoryNetwork`].
pub struct MemoryEndpoint {
    network: MemoryNetwork,
    addr: String,
}

impl MemoryEndpoint {
    /// At this address.
    #[must_use]
    pub fn new(network: MemoryNetwork, addr: &str) -> MemoryEndpoint {
        MemoryEndpoint { network, addr: addr.to_owned() }
    }
}

impl Endpoint for MemoryEndpoint {
    fn transport(&self, hello: HelloFn) -> Arc<dyn Transport> {
        let transport: MemoryTransport = self.network.transport(&self.addr, hello);
        Arc::new(transport)
    }

    fn serve(self: Box<Self>, service: Arc<dyn Service>) -> Box<dyn Server> {
        self.network.register(&self.addr, service);
        self
    }
}

impl Server for MemoryEndpoint {
    fn addr(&self) -> String {
        self.addr.clone()
    }

    fn shutdown(self: Box<Self>) -> BoxFuture<'static, ()> {
        self.network.crash(&self.addr);
        Box::pin(async {})
    }
}
