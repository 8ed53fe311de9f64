//! A scripted HTTP/1.1 server over raw TCP, so that tests can also break connections in the middle.

use parking_lot::Mutex;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What came.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }
}

/// What to answer.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A whole answer.
    Whole(u16, Vec<(&'static str, String)>, String),
    /// These bytes, then the end of the connection.
    Cut(String),
    /// Nothing, for ever.
    Hang,
}

impl Reply {
    pub fn written(timestamp: &str) -> Reply {
        Reply::Whole(
            204,
            vec![("Log-Timestamp", timestamp.into()), ("ETag", format!("\"{timestamp}\""))],
            String::new(),
        )
    }

    pub fn value(value: &str, version: &str) -> Reply {
        let headers = vec![("Log-Timestamp", version.into()), ("ETag", format!("\"{version}\""))];
        Reply::Whole(200, headers, value.into())
    }

    pub fn json(body: serde_json::Value) -> Reply {
        Reply::Whole(200, vec![("Content-Type", "application/json".into())], body.to_string())
    }

    pub fn problem(status: u16, kind: &str) -> Reply {
        let body = serde_json::json!({"type": kind, "status": status, "detail": "scripted"});
        Reply::Whole(status, vec![("Content-Type", "application/problem+json".into())], body.to_string())
    }

    pub fn with(self, name: &'static str, value: &str) -> Reply {
        match self {
            Reply::Whole(status, mut headers, body) => {
                headers.push((name, value.to_owned()));
                Reply::Whole(status, headers, body)
            }
            other => other,
        }
    }

    /// A feed that ends after these events.
    pub fn feed(events: &str) -> Reply {
        Reply::Cut(format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n{events}"))
    }
}

/// A server that answers by its script; it stops when it is dropped.
pub struct Server {
    pub url: String,
    received: Arc<Mutex<Vec<Received>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Answers the n-th request (from 0) with `script(n, request)`.
    pub async fn start(script: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let received = Arc::new(Mutex::new(Vec::new()));
        let (log, script) = (Arc::clone(&received), Arc::new(script));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&log), Arc::clone(&script)));
            }
        });
        Server { url, received, task }
    }

    /// One answer after the other; the last for all further requests.
    pub async fn replying(replies: Vec<Reply>) -> Server {
        Server::start(move |number, _| replies[number.min(replies.len() - 1)].clone()).await
    }

    /// An address where nobody listens.
    pub async fn dead_url() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    log: Arc<Mutex<Vec<Received>>>,
    script: Arc<impl Fn(usize, &Received) -> Reply + Send + Sync + 'static>,
) {
    let mut buffer = Vec::new();
    while let Some(request) = receive(&mut stream, &mut buffer).await {
        let number = {
            let mut log = log.lock();
            log.push(request.clone());
            log.len() - 1
        };
        match script(number, &request) {
            Reply::Whole(status, headers, body) => {
                let mut text = format!("HTTP/1.1 {status} X\r\n");
                headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
                if status != 204 {
                    text.push_str(&format!("Content-Length: {}\r\n", body.len()));
                }
                text.push_str("\r\n");
                text.push_str(&body);
                if stream.write_all(text.as_bytes()).await.is_err() {
                    return;
                }
            }
            Reply::Cut(text) => {
                let _ = stream.write_all(text.as_bytes()).await;
                return;
            }
            Reply::Hang => std::future::pending().await,
        }
    }
}

async fn receive(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Received> {
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer[..head_end].to_vec()).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length =
        headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, value)| value.parse().unwrap());
    while buffer.len() < head_end + length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = buffer[head_end..head_end + length].to_vec();
    buffer.drain(..head_end + length);
    Some(Received { method, target, headers, body })
}
