//! What is on the other end of a node's output is never the node's affair: no reader, a reader that does not read, a full
//! disk, nothing at all.
//!
//! The binary under test unwinds where a release aborts; that the process goes on serving decides in both.

use crate::e2e;
use duramen_tests::harness::cluster::PATIENCE;
use duramen_tests::harness::http::{Http, kv};
use duramen_tests::harness::ports::free_run;
use duramen_tests::harness::process::{Manner, Process};
use duramen_tests::harness::until;
use rustix::process::Signal;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use tempfile::TempDir;

/// A dev cluster that is not started yet.
struct Dev {
    folder: TempDir,
    process: Process,
    ports: SocketAddr,
}

impl Dev {
    fn new(log: &str) -> Dev {
        let folder = TempDir::with_prefix("duramen-output-").expect("a temporary folder");
        let ports = free_run(8);
        let port = ports.port();
        let data = folder.path().join("data");
        let mut args: Vec<OsString> =
            ["--log", log, "dev", "--partitions", "2", "--data-dir"].map(OsString::from).into();
        args.push(data.into());
        for (name, port) in [("--http-port", port), ("--log-http-port", port + 2), ("--log-port", port + 5)] {
            args.extend([name.into(), port.to_string().into()]);
        }
        let process = Process::new("dev", folder.path(), args);
        Dev { folder, process, ports }
    }

    fn http(&self, number: u16) -> Http {
        Http::new(SocketAddr::from((self.ports.ip(), self.ports.port() + number)))
    }

    async fn start(&mut self) {
        self.process.start();
        let http = self.http(1);
        let process = std::cell::RefCell::new(&mut self.process);
        until("both serving nodes to be ready", PATIENCE, || async {
            process.borrow_mut().check_alive().unwrap_or_else(|ended| panic!("{ended}"));
            match http.get("/readyz").send().await {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Puts and gets, each of which must succeed, at both serving nodes.
    async fn serves(&mut self, rounds: usize) {
        for round in 0..rounds {
            let key = format!("{round}");
            let written = self.http(0).put(kv(&key), key.clone()).expect(204).await;
            let read = self.http(1).get(kv(&key)).after(written.timestamp()).expect(200).await;
            assert_eq!(read.text(), key);
        }
        self.process.check_alive().unwrap_or_else(|ended| panic!("{ended}"));
    }

    /// Log lines that the process dropped, as node `number` of its ports publishes it.
    async fn dropped(&self, number: u16) -> u64 {
        let metrics = self.http(number).get("/metrics").expect(200).await.text();
        let line = metrics.lines().find_map(|line| line.strip_prefix("duramen_log_lines_dropped_total "));
        line.unwrap_or_else(|| panic!("no such metric:\n{metrics}")).parse().expect("a number")
    }

    /// Standard output and standard error go there.
    fn writes_to(mut self, sink: impl Into<OwnedFd>) -> Dev {
        self.process.set_manner(Manner { sink: Some(File::from(sink.into())), ..Manner::default() });
        self
    }

    async fn stops(mut self) {
        let status = self.process.stop(PATIENCE).await;
        assert_eq!(status.code(), Some(0), "{status}");
    }
}

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").expect("Linux has it")
}

/// Starts the program with a redirection of the shell, which becomes it.
fn redirected(dev: Dev, redirection: &str) -> Dev {
    let Dev { folder, process, ports } = dev;
    let script = format!("exec \"$@\" {redirection}");
    let launcher = ["sh", "-c", &script, "sh"].map(OsString::from);
    Dev { folder, process: process.launched_by(&launcher), ports }
}

e2e! {
    /// Goal: a log collector that went away, or a log on a full disk, costs log lines. Method: `dev` at a level that logs
    /// each request, its outputs where each write fails, from the first line on.
    async fn output_that_cannot_be_written_is_dropped(places: 1, seconds: 120) {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        for mut dev in [Dev::new("debug").writes_to(writer), Dev::new("debug").writes_to(full())] {
            dev.start().await;
            dev.serves(20).await;
            // A serving node and a log node say so.
            assert!(dev.dropped(0).await > 0 && dev.dropped(2).await > 0);
            dev.stops().await;
        }
    }
}

e2e! {
    /// Goal: a collector that lives and does not read must not stop the database. Method: pipes that nobody reads, full
    /// after 64 KiB; requests until far more has been logged; then a stop, which does not wait for the reader either.
    async fn a_reader_that_does_not_read_stops_nobody(places: 1, seconds: 120) {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut dev = Dev::new("trace").writes_to(writer);
        dev.start().await;
        dev.serves(100).await;
        assert!(dev.dropped(0).await > 0, "the queue never filled: this shows nothing");
        dev.stops().await;
        drop(reader);
    }
}

e2e! {
    /// Goal: with stdout and stderr closed at the start, no file of the database gets their numbers, into which log lines
    /// would then go. Method: start so; 0, 1 and 2 must be /dev/null.
    async fn outputs_that_are_closed_at_the_start_are_not_taken_by_files(places: 1, seconds: 60) {
        let mut dev = redirected(Dev::new("debug"), ">&- 2>&-");
        dev.start().await;
        dev.serves(20).await;
        for number in 1..=2 {
            let link = std::fs::read_link(format!("/proc/{}/fd/{number}", dev.process.pid())).expect("it is open");
            assert_eq!(link.to_str(), Some("/dev/null"));
        }
        dev.stops().await;
    }
}

e2e! {
    /// Goal: signals that ask for nothing do not end a node: it says so and goes on. Method: each to `dev`, then requests.
    async fn a_signal_that_means_nothing_here_is_said_and_survived(places: 1, seconds: 60) {
        let mut dev = Dev::new("warn");
        dev.start().await;
        let signals = [(Signal::HUP, "SIGHUP"), (Signal::USR1, "SIGUSR1"), (Signal::USR2, "SIGUSR2"), (Signal::XFSZ, "SIGXFSZ")];
        for (signal, name) in signals {
            dev.process.signal(signal);
            let process = &dev.process;
            until("the signal to be named in a log line", PATIENCE, || async {
                let said = process.output();
                if said.contains(name) { Ok(()) } else { Err(said) }
            })
            .await;
        }
        dev.serves(1).await;
        dev.stops().await;
    }
}
