//! The whole bench against a small server that counts.

use super::*;
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::atomic::AtomicUsize;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    bench: BenchArgs,
}

#[derive(Default)]
struct Counts {
    loaded: AtomicUsize,
    puts: AtomicUsize,
    gets: AtomicUsize,
    sessions: AtomicUsize,
    stale: AtomicUsize,
    refuse_every: usize,
}

impl Counts {
    /// Gets and puts that came in.
    fn served(&self) -> usize {
        self.puts.load(Ordering::Relaxed) + self.gets.load(Ordering::Relaxed)
    }
}

struct Server {
    url: String,
    counts: Arc<Counts>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server that refuses one in `refuse_every` gets and puts (0: none).
async fn start(refuse_every: usize) -> Server {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let counts = Arc::new(Counts { refuse_every, ..Counts::default() });
    let shared = Arc::clone(&counts);
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let counts = Arc::clone(&shared);
            let service = service_fn(move |request| answer(request, Arc::clone(&counts)));
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            connections.spawn(connection);
        }
    });
    Server { url, counts, task }
}

async fn answer(request: Request<Incoming>, counts: Arc<Counts>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let is_session = request.headers().contains_key("read-after");
    let is_stale = request.uri().query() == Some("consistency=stale");
    let is_put = request.method() == "PUT";
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let response = Response::builder().header("Log-Timestamp", "c7f3a1.0:1").header("ETag", "\"c7f3a1.0:1\"");
    if path == "/v1/batch" {
        let ops = serde_json::from_slice::<serde_json::Value>(&body).unwrap()["ops"].as_array().unwrap().len();
        counts.loaded.fetch_add(ops, Ordering::Relaxed);
        let results = vec![serde_json::json!({"status": 204, "timestamp": "c7f3a1.0:1"}); ops];
        let body = serde_json::json!({ "results": results }).to_string();
        return Ok(response.body(Full::from(body)).unwrap());
    }
    if path == "/v1/kv" {
        return Ok(response.body(Full::from("{\"items\":[],\"cursor\":null,\"timestamp\":\"c7f3a1.0:1\"}")).unwrap());
    }
    let counter = if is_put { &counts.puts } else { &counts.gets };
    let number = counter.fetch_add(1, Ordering::Relaxed) + 1;
    counts.sessions.fetch_add(usize::from(is_session), Ordering::Relaxed);
    counts.stale.fetch_add(usize::from(is_stale), Ordering::Relaxed);
    if counts.refuse_every > 0 && number.is_multiple_of(counts.refuse_every) {
        let problem = "{\"type\":\"behind\",\"status\":503,\"detail\":\"\"}";
        return Ok(response.status(503).body(Full::from(problem)).unwrap());
    }
    if is_put {
        assert_eq!(body.len(), 256);
        return Ok(response.status(204).body(Full::default()).unwrap());
    }
    Ok(response.body(Full::from(vec![b'v'; 256])).unwrap())
}

fn args(words: &[&str]) -> BenchArgs {
    Program::parse_from([&["bench"], words].concat()).bench
}

/// Loads, and measures as `run` does until `is_enough` or an hour has passed.
async fn measure(args: &BenchArgs, is_enough: impl Fn() -> bool) -> Tally {
    let token = prepare::prepare(args).await.unwrap();
    let target = Arc::new(Target::new(args, token, 1));
    let begin = Instant::now();
    let (stop, stopped) = watch::channel(false);
    let plan = Plan {
        target,
        clients: (0..usize::from(args.clients)).collect(),
        window: Window { begin, end: begin + Duration::from_hours(1) },
        stopped,
        answered: Arc::new(AtomicU64::new(0)),
    };
    let measured = tokio::task::spawn_blocking(move || generator::run(plan));
    while !is_enough() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.send_replace(true);
    measured.await.unwrap().unwrap()
}

/// Goal: what is reported is what the server answered. Method: compare with the server's own counts; at most one answer a
/// client can be on its way at the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_agree_with_the_servers() {
    let server = start(10).await;
    let args = args(&["--url", &server.url, "--workload", "mixed", "--clients", "8", "--keys", "1234"]);
    let counts = &server.counts;
    let tally = measure(&args, || counts.served() >= 2000).await;
    assert_eq!(counts.loaded.load(Ordering::Relaxed), 1234);
    let refused = tally.errors["503 behind"];
    assert_eq!(tally.errors.len(), 1, "{:?}", tally.errors);
    let counted = tally.all().len() + refused;
    let served = counts.served() as u64;
    assert!(counted <= served && served <= counted + 8, "{counted} counted, {served} served");
    assert!(refused >= 8, "{refused} of {served} refused");
    let gets = tally.latencies(tally::OpKind::Get).len() as f64 / tally.all().len() as f64;
    assert!((0.8..0.98).contains(&gets), "{gets} gets, wanted 0.9");
    let report = Report::new(&args, &tally, Duration::from_millis(300));
    assert_eq!(report.most_common_error(), Some("503 behind"));
    let text = report.for_people();
    assert!(text.contains("ops/s") && text.contains("p99.9"), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["settings"]["gets_percent"], 90);
    println!("{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_workload_asks_for_what_it_is_named_after() {
    let server = start(0).await;
    for (workload, sessions, stale, puts) in
        [("put", 0, 0, 1), ("get", 0, 0, 0), ("get-session", 1, 0, 0), ("get-stale", 0, 1, 0)]
    {
        let counts = &server.counts;
        let counters = [&counts.sessions, &counts.stale, &counts.puts];
        counters.iter().chain([&&counts.gets]).for_each(|counter| counter.store(0, Ordering::Relaxed));
        let args = args(&["--url", &server.url, "--workload", workload, "--clients", "2", "--keys", "10"]);
        let tally = measure(&args, || counts.served() >= 20).await;
        let ops = tally.all().len() as usize;
        assert!(ops > 0 && tally.errors.is_empty(), "{workload}: {:?}", tally.errors);
        for (counter, wanted) in counters.iter().zip([sessions, stale, puts]) {
            let counted = counter.load(Ordering::Relaxed);
            assert_eq!(counted >= ops && counted > 0, wanted == 1, "{workload}: {counted} of {ops}");
        }
        println!("{workload}: {:.1} µs of CPU each", tally.cpu.as_secs_f64() * 1e6 / ops as f64);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_gone_is_an_error_by_name() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let args = args(&["--url", &url, "--workload", "put", "--clients", "2", "--skip-load"]);
    let mut refused = 0;
    while refused <= 2 {
        let begun = Instant::now();
        let tally = measure(&args, || begun.elapsed() > Duration::from_millis(50)).await;
        assert_eq!(tally.all().len(), 0);
        assert!(tally.errors.keys().all(|reason| reason == "cannot connect: connection refused"), "{:?}", tally.errors);
        refused += tally.errors.values().sum::<u64>();
    }
}
