//! `duramen dev`: a cluster from one command, and what it says when it cannot be one.

use crate::e2e;
use duramen_tests::harness::cluster::PATIENCE;
use duramen_tests::harness::http::{Http, kv};
use duramen_tests::harness::ports::free_run;
use duramen_tests::harness::process::{Process, run};
use duramen_tests::harness::until;
use rustix::process::Signal;
use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// A dev cluster's folder and ports.
struct Dev {
    folder: TempDir,
    process: Process,
    ports: SocketAddr,
    args: Vec<String>,
}

/// The options that choose these ports.
fn options(data: &Path, ports: SocketAddr) -> Vec<String> {
    let port = ports.port();
    let data = data.to_str().expect("a path in UTF-8").to_owned();
    let options = [
        ("--data-dir", data),
        ("--http-port", port.to_string()),
        ("--log-http-port", (port + 2).to_string()),
        ("--log-port", (port + 5).to_string()),
    ];
    options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
}

impl Dev {
    fn new(more: &[&str]) -> Dev {
        let folder = TempDir::with_prefix("duramen-dev-").expect("a temporary folder");
        let ports = free_run(8);
        let mut args = vec!["dev".to_owned()];
        args.extend(options(&folder.path().join("data"), ports));
        args.extend(more.iter().map(|&more| more.to_owned()));
        let process = Process::new("dev", folder.path(), args.iter().map(OsString::from).collect());
        Dev { folder, process, ports, args }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn http(&self, number: u16) -> Http {
        Http::new(SocketAddr::from((self.ports.ip(), self.ports.port() + number)))
    }

    /// Starts it and waits until it says that it is ready; gives what it said in this run.
    async fn start(&mut self) -> String {
        let before = self.process.output().len();
        self.process.start();
        let process = std::cell::RefCell::new(&mut self.process);
        until("duramen dev to say that it is ready", PATIENCE, || async {
            process.borrow_mut().check_alive().unwrap_or_else(|ended| panic!("{ended}"));
            let said = process.borrow().output().split_off(before);
            if said.contains("Ctrl-C") { Ok(said) } else { Err(said) }
        })
        .await
    }
}

e2e! {
    /// Goal: one command is a whole cluster; Ctrl-C, SIGTERM or SIGKILL, everything is there again. Method: the tour's
    /// requests, then each way to end, each followed by a start on the same folder.
    async fn dev_is_a_whole_cluster_and_keeps_everything(places: 1, seconds: 120) {
        let mut dev = Dev::new(&["--lag-ms", "300"]);
        let said = dev.start().await;
        assert!(said.contains("curl") && said.contains(&dev.ports.to_string()), "it says what to try: {said}");
        let chiefs = [("microsoft", "Satya Nadella"), ("apple", "Tim Cook"), ("google", "Sundar Pichai"), ("yahoo", "?")];
        let mut last = None;
        for (key, value) in chiefs {
            last = Some(dev.http(0).put(kv(key), value).expect(204).await);
        }
        let last = last.expect("there were some").timestamp();
        let behind = dev.http(1).get(kv("yahoo")).after(&last).wait(0).ok().await;
        assert!(behind.status == 503 || behind.status == 200, "{behind}");
        let waited = dev.http(1).get(kv("yahoo")).after(&last).expect(200).await;
        assert_eq!(waited.text(), "?");
        assert!(waited.header("server-timing").is_some(), "{waited}");
        for round in 0..3 {
            match round {
                0 => {
                    dev.process.signal(Signal::INT);
                    assert_eq!(dev.process.wait_end(PATIENCE).await.code(), Some(0), "Ctrl-C is a clean end");
                }
                1 => assert_eq!(dev.process.stop(PATIENCE).await.code(), Some(0), "SIGTERM is a clean end"),
                _ => dev.process.kill(),
            }
            dev.start().await;
            for (key, value) in chiefs {
                for node in 0..2 {
                    assert_eq!(dev.http(node).get(kv(key)).expect(200).await.text(), value, "round {round}");
                }
            }
            dev.http(round % 2).put(kv("yahoo"), "?").ok().await;
        }
    }
}

e2e! {
    /// Goal: what a newcomer gets wrong ends in one clear line and exit code 1. Method: a second instance on the same
    /// folder, each taken port, a folder that cannot be made; the running one is not disturbed.
    async fn what_cannot_start_says_why_in_one_line(places: 1, seconds: 90) {
        let mut dev = Dev::new(&[]);
        dev.start().await;
        let line = |options: Vec<String>| async move {
            let args = [vec!["dev".to_owned()], options].concat();
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let ran = run(&args, b"").await.expect_code(1);
            ran.expect_one_line();
            ran.stderr
        };
        let second = line(options(&dev.data(), free_run(8))).await;
        assert!(second.contains("another duramen") && second.contains("data"), "{second}");
        let other = TempDir::with_prefix("duramen-dev-").expect("a temporary folder");
        let same_ports = line(options(&other.path().join("data"), dev.ports)).await;
        assert!(same_ports.contains("taken") && same_ports.contains(&dev.ports.to_string()), "{same_ports}");
        for taken in [1u16, 2, 4, 5, 7] {
            let ports = free_run(8);
            let addr = SocketAddr::from((ports.ip(), ports.port() + taken));
            let holder = TcpListener::bind(addr).expect("a free port");
            let told = line(options(&other.path().join("data"), ports)).await;
            assert!(told.contains(&addr.to_string()), "{told}");
            drop(holder);
        }
        let file = other.path().join("file");
        std::fs::write(&file, "not a folder").expect("a writable folder");
        let unwritable = line(options(&file.join("data"), free_run(8))).await;
        assert!(unwritable.contains("file"), "{unwritable}");
        let _ = dev.http(0).get("/readyz").expect(200).await;
        assert!(dev.args.len() > 4);
    }
}

e2e! {
    /// Goal: a node of an own process says the same about the same mistakes, and usage errors exit with 2.
    async fn node_roles_refuse_what_cannot_work(places: 1, seconds: 60) {
        let folder = TempDir::with_prefix("duramen-role-").expect("a temporary folder");
        let config = folder.path().join("node.toml");
        std::fs::write(&config, "node = 1\ncolour = \"red\"\n").expect("a writable folder");
        let path = config.to_str().expect("a path in UTF-8");
        for role in ["log-node", "serving-node"] {
            let unknown = run(&[role, "--config", path], b"").await.expect_code(2);
            assert!(unknown.stderr.contains("node.toml"), "{}", unknown.stderr);
            let _ = run(&[role], b"").await.expect_code(2);
            let missing = run(&[role, "--config", "/nowhere/at/all.toml"], b"").await.expect_code(2);
            assert!(missing.stderr.contains("/nowhere/at/all.toml"), "{}", missing.stderr);
        }
        let ports = free_run(2);
        let holder = TcpListener::bind(ports).expect("a free port");
        let data = folder.path().join("data");
        let args = ["log-node", "--node", "1", "--data-dir", data.to_str().expect("UTF-8"), "--rpc", &ports.to_string(),
                    "--http", &format!("127.0.0.1:{}", ports.port() + 1), "--members", &format!("1={ports}/{}", ports.port() + 1)];
        let taken = run(&args, b"").await.expect_code(1);
        let errors: Vec<&str> = taken.stderr.lines().filter(|line| line.starts_with("duramen: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(&ports.to_string()), "{}", taken.stderr);
        drop(holder);
    }
}

e2e! {
    /// Goal: no test leaves a server behind. Method: a child whose lifeline is cut ends by itself.
    async fn a_child_ends_when_its_lifeline_is_cut(places: 1, seconds: 60) {
        let mut dev = Dev::new(&[]);
        dev.start().await;
        dev.process.cut_lifeline();
        assert_eq!(dev.process.wait_end(Duration::from_secs(10)).await.code(), Some(101));
    }
}
