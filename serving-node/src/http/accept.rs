//! The one place where a connection is accepted: its limits, its timeouts, its end.
//!
//! * In: a listener. Out: a task a connection, none of them left when `run` returns.
//! * Invariant: no more connections than configured; what is over waits in the kernel's queue.

use super::body::RequestBody;
use super::wire::Wire;
use super::{Api, router, stopped};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// hyper reads no more of a request's head than this; `router` refuses less with a reason. Unit: bytes.
pub(super) const HEAD_BYTES_MAX: usize = 128 * 1024;
/// As above, in number.
const HEADERS_PARSED_MAX: usize = 256;
/// How long requests under way may take after a stop was asked for.
const STOP_TIME_MAX: Duration = Duration::from_secs(3);
/// How long to pause when the operating system gives no more connections.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until the node stops; then lets requests under way end, for a while.
pub(crate) async fn run(api: Arc<Api>, listener: TcpListener) {
    let permits = Arc::new(Semaphore::new(api.config.connections_max));
    let mut connections = JoinSet::new();
    let mut stopping = api.stopping.clone();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = async {
            let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            () = stopped(&mut stopping) => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let api = api.clone();
                connections.spawn(async move {
                    serve(api, stream).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection: is the limit of open files too low?");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let ending = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(STOP_TIME_MAX, ending).await;
    connections.shutdown().await;
}

/// Serves one connection.
async fn serve(api: Arc<Api>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    api.metrics.connections.inc();
    let service = service_fn(|request| {
        let api = api.clone();
        async move { Ok::<_, Infallible>(router::answer(&api, request.map(RequestBody::Incoming)).await) }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(api.config.idle_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_PARSED_MAX)
        .serve_connection(TokioIo::new(Wire::new(stream)), service);
    let mut stopping = api.stopping.clone();
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stopped(&mut stopping) => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
        connection.into_parts().io.into_inner().drain().await;
    }
    api.metrics.connections.dec();
}
