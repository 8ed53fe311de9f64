//! Few open files: connections never take those that the log needs, too few are refused by name, a shortage is waited for.

use crate::e2e;
use duramen_tests::harness::cluster::{PATIENCE, Plan};
use duramen_tests::harness::http::{Http, kv};
use duramen_tests::harness::process::Process;
use duramen_tests::harness::{Cluster, until};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// Files that each node of these tests may open.
const FILES: u64 = 256;
/// Idle connections held at each port.
const IDLE_A_PORT: usize = 150;

/// Has every process start under `ulimit -n`.
fn with_files(cluster: &mut Cluster, files: u64) {
    let folder = cluster.folder();
    let launcher = ["sh", "-c", &format!("ulimit -n {files}; exec \"$@\""), "sh"].map(Into::into);
    for process in cluster.log.iter_mut().chain(&mut cluster.serving) {
        let taken = std::mem::replace(process, Process::new("nobody", &folder, Vec::new()));
        *process = taken.launched_by(&launcher);
    }
}

/// This process holds the other ends.
fn raise_own_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .expect("the soft limit may be raised to the hard one");
}

fn open_files(process: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.pid())).map_or(0, Iterator::count)
}

/// Puts values so large that each partition's segments roll.
async fn roll_segments(http: &Http, round: &str) {
    for number in 0..24 {
        http.put(kv(format!("{round}/{number}")), vec![b'x'; 512 << 10]).wait(20).expect(204).await;
    }
}

async fn all_live(cluster: &mut Cluster) {
    for process in cluster.log.iter_mut().chain(&mut cluster.serving) {
        process.check_alive().unwrap_or_else(|ended| panic!("{ended}"));
    }
}

fn small() -> Plan {
    let log_extra = "segment-mib = 1".to_owned();
    Plan { partitions: 2, serving_nodes: 1, log_extra, proxied: false, ..Plan::default() }
}

e2e! {
    /// Goal: idle connections at every port take nothing from the log, and keep no probe out; afterwards the files are back.
    /// Method: 256 files per process, 150 silent connections at each of the seven ports, values that roll segments.
    async fn idle_connections_take_no_file_from_the_log(places: 1, seconds: 120) {
        raise_own_limit();
        let mut cluster = Cluster::prepare(&small()).await;
        with_files(&mut cluster, FILES);
        cluster.start_all();
        cluster.wait_ready().await;
        let before: Vec<usize> = cluster.log.iter().map(open_files).collect();
        let mut ports: Vec<SocketAddr> = vec![cluster.http(0).addr()];
        ports.extend((0..3).flat_map(|number| [cluster.log_http(number).addr(), cluster.log_rpc(number)]));
        let mut held = Vec::new();
        for _ in 0..IDLE_A_PORT {
            for port in &ports {
                held.push(TcpStream::connect(port).await.expect("the kernel takes it"));
            }
        }
        roll_segments(&cluster.http(0), "held").await;
        for number in 0..3 {
            cluster.log_http(number).get("/readyz").limit(PATIENCE).expect(200).await;
            assert!(open_files(&cluster.log[number]) < FILES as usize - 8, "some are spare");
        }
        cluster.http(0).get("/readyz").limit(PATIENCE).expect(200).await;
        all_live(&mut cluster).await;
        drop(held);
        until("the files to come back", PATIENCE, || async {
            let now: Vec<usize> = cluster.log.iter().map(open_files).collect();
            // Closed segments that were read stay open, within their limit.
            match now.iter().zip(&before).all(|(now, before)| *now < before + 70) {
                true => Ok(()),
                false => Err(format!("{before:?} before, {now:?} now")),
            }
        })
        .await;
        roll_segments(&cluster.http(0), "after").await;
    }
}

e2e! {
    /// Goal: a log of many segments needs few files. Method: segments of 1 MiB, so many that each with a file would be too
    /// many, read from the beginning by a serving node that starts over, and opened again.
    async fn a_long_log_needs_few_files(places: 1, seconds: 150) {
        let mut cluster = Cluster::prepare(&Plan { partitions: 1, log_nodes: 1, ..small() }).await;
        with_files(&mut cluster, FILES);
        cluster.start_all();
        cluster.wait_ready().await;
        for number in 0..220 {
            cluster.http(0).put(kv(format!("long/{number}")), vec![b'x'; 1 << 20]).wait(30).expect(204).await;
        }
        let segments = std::fs::read_dir(cluster.log_data(0).join("partitions/0")).expect("it is there").count();
        assert!(segments > 200, "{segments} segments");
        assert!(open_files(&cluster.log[0]) < 150, "{} files", open_files(&cluster.log[0]));
        assert!(cluster.log[0].stop(PATIENCE).await.success());
        cluster.serving[0].kill();
        std::fs::remove_dir_all(cluster.serving_data(0)).expect("an index may be removed");
        cluster.start_all();
        cluster.wait_ready().await;
        cluster.http(0).get(kv("long/0")).wait(30).expect(200).await;
        assert!(open_files(&cluster.log[0]) < 150, "{} files", open_files(&cluster.log[0]));
    }
}

e2e! {
    /// Goal: too few files are refused before anything is written, with both numbers and what to do.
    async fn too_few_files_are_refused_by_name(places: 1, seconds: 60) {
        for serving in [false, true] {
            let mut cluster = Cluster::prepare(&small()).await;
            with_files(&mut cluster, 64);
            let process = if serving { &mut cluster.serving[0] } else { &mut cluster.log[0] };
            process.start();
            let status = process.wait_end(PATIENCE).await;
            let told = process.output();
            assert_eq!(status.code(), Some(1), "{told}");
            assert!(told.contains("may open 64 files and needs") && told.contains("LimitNOFILE="), "{told}");
        }
    }
}

e2e! {
    /// Goal: a log node that is short of files for a while is neither damaged nor gone. Method: the limit of all three is
    /// taken below what they have open, values are put until one waits for a new segment, the limit is given back.
    async fn a_shortage_of_files_is_waited_for(places: 1, seconds: 120) {
        let mut cluster = Cluster::start(Plan { partitions: 1, ..small() }).await;
        let limit = |process: &Process, files: Option<u64>| {
            let pid = i32::try_from(process.pid()).ok().and_then(Pid::from_raw);
            let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
            prlimit(pid, Resource::Nofile, Rlimit { current: files.or(maximum), maximum }).expect("a child's limit may be set");
        };
        cluster.log.iter().for_each(|process| limit(process, Some(8)));
        let http = cluster.http(0);
        let mut waits = false;
        for number in 0..12 {
            let answer = http.put(kv(format!("short/{number}")), vec![b'x'; 512 << 10]).wait(2).ok().await;
            match answer.status {
                204 => {}
                503 => waits = true,
                _ => panic!("{answer}"),
            }
            if waits {
                break;
            }
        }
        assert!(waits, "six MiB went into segments of one MiB without a new file");
        all_live(&mut cluster).await;
        cluster.log.iter().for_each(|process| limit(process, None));
        until("writes to go on by themselves", PATIENCE, || async {
            let answer = http.put(kv("again"), "there are files").wait(5).send().await.map_err(|error| error.to_string())?;
            if answer.status == 204 { Ok(()) } else { Err(answer.to_string()) }
        })
        .await;
        roll_segments(&http, "again").await;
        all_live(&mut cluster).await;
        for process in &cluster.log {
            let told = process.output();
            let lines = told.lines().filter(|line| line.contains("waits until the system is less short")).count();
            assert!(lines < 8, "{lines} lines: {told}");
        }
        let metrics = cluster.log_http(0).get("/metrics").expect(200).await.text();
        assert!(metrics.contains("duramen_log_disk_shortages_total"), "{metrics}");
    }
}
