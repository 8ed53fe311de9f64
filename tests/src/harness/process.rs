//! A child process: started, killed, stopped, paused, restarted, by its id; its output in a file.
//!
//! * Invariant: it ends with this value (SIGKILL on drop), and with the test process, which holds its lifeline.
//! * What it wrote is kept over restarts and shown when a test fails.

use duramen_common::planted::PLANTED_VARIABLE;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The binary under test, as cargo built it for the running tests.
static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// Says where the binary is; the tests' crate knows it from cargo.
pub fn set_binary(path: &str) {
    let _ = BINARY.set(PathBuf::from(path));
}

/// Says that it is next to the program that runs.
pub fn set_binary_beside() -> Result<(), String> {
    let binary = std::env::current_exe().map_err(|error| error.to_string())?.with_file_name("duramen-under-test");
    let binary = binary.to_str().filter(|_| binary.exists());
    set_binary(binary.ok_or("duramen-under-test is not next to this program: build the whole package")?);
    Ok(())
}

/// Where the binary is.
#[must_use]
pub fn binary() -> &'static Path {
    BINARY.get().expect("a test calls set_binary first")
}

/// Variables that would change what the binary does, but the one that is there to: it plants a bug.
fn own_environment() -> impl Iterator<Item = OsString> {
    let names = std::env::vars_os().map(|(name, _)| name);
    names.filter(|name| name.to_string_lossy().starts_with("DURAMEN_") && name != PLANTED_VARIABLE)
}

/// One process of a cluster.
pub struct Process {
    /// For messages.
    pub name: String,
    launcher: Vec<OsString>,
    args: Vec<OsString>,
    directory: PathBuf,
    output: PathBuf,
    child: Option<Child>,
    /// Variables of every run.
    variables: Vec<(OsString, OsString)>,
    /// What the next runs differ in.
    manner: Manner,
}

/// How a process is run, beyond its arguments. Takes effect at the next start; the default changes nothing.
#[derive(Debug, Default)]
pub struct Manner {
    /// A program that starts everything else, with its arguments; it must become what it starts, as `prlimit` does.
    pub wrapper: Vec<OsString>,
    /// Further variables.
    pub variables: Vec<(OsString, OsString)>,
    /// Where standard output and standard error go. `None`: the process's file.
    pub sink: Option<File>,
}

impl Process {
    /// A process that is not started yet. It runs in `directory`, where its output goes too.
    #[must_use]
    pub fn new(name: &str, directory: &Path, args: Vec<OsString>) -> Process {
        let output = directory.join(format!("{name}.output"));
        let launcher = vec![binary().into()];
        let (name, directory, manner) = (name.to_owned(), directory.to_owned(), Manner::default());
        Process { name, launcher, args, directory, output, child: None, variables: Vec::new(), manner }
    }

    /// Sets a variable for every run from the next one on.
    pub fn set_variable(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        self.variables.push((name.into(), value.into()));
    }

    /// Runs with the variables of another process, as a second process of the same node would.
    pub fn copy_variables(&mut self, other: &Process) {
        self.variables.clone_from(&other.variables);
    }

    /// The same, started by another program, which gets the binary and its arguments behind its own and becomes it:
    /// the process id stays.
    #[must_use]
    pub fn launched_by(mut self, launcher: &[OsString]) -> Process {
        self.launcher.splice(0..0, launcher.iter().cloned());
        self
    }

    /// Starts it. Panics when it runs already.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let copied = |sink: &File| sink.try_clone().expect("a file can be opened twice");
        let output = self.manner.sink.as_ref().map_or_else(|| self.open_output(), copied);
        let mut whole = self.manner.wrapper.iter().chain(&self.launcher);
        let mut command = Command::new(whole.next().expect("the binary at least"));
        own_environment().for_each(|name| {
            command.env_remove(name);
        });
        let child = command
            .args(whole)
            .args(&self.args)
            // Ctrl-C is for whoever runs the tests; nodes end with their lifeline.
            .process_group(0)
            .current_dir(&self.directory)
            .env("DURAMEN_TEST_LIFELINE", "1")
            .env("NO_COLOR", "1")
            .envs(self.variables.iter().chain(&self.manner.variables).map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(copied(&output))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", self.name));
        self.child = Some(child);
    }

    fn open_output(&self) -> File {
        let file = OpenOptions::new().create(true).append(true).open(&self.output);
        file.unwrap_or_else(|error| panic!("cannot open {}: {error}", self.output.display()))
    }

    /// Replaces its arguments; takes effect at the next start.
    pub fn set_args(&mut self, args: Vec<OsString>) {
        self.args = args;
    }

    /// Replaces the way in which it is run; takes effect at the next start.
    pub fn set_manner(&mut self, manner: Manner) {
        self.manner = manner;
    }

    /// Its process id. Panics when it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)).id()
    }

    /// Whether it was started and not ended by us.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only when it is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and waits for a clean end within `limit`.
    pub async fn stop(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_end(limit).await
    }

    /// Waits until it ends by itself.
    pub async fn wait_end(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.try_end() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} did not end within {limit:?}", self.name);
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// How it ended, once it has. Panics when it does not run.
    pub fn try_end(&mut self) -> Option<ExitStatus> {
        let child = self.child.as_mut().unwrap_or_else(|| panic!("{} does not run", self.name));
        let status = child.try_wait().expect("a child can be waited for")?;
        self.child = None;
        Some(status)
    }

    /// SIGSTOP: it keeps its sockets and does nothing.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.raw_pid(), signal).unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    fn raw_pid(&self) -> Pid {
        i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a child has a process id")
    }

    /// Sets how many descriptors it may have open while it runs (the soft limit; the hard one stays); gives the limit before.
    pub fn limit_files(&self, soft: u64) -> Result<u64, String> {
        let wrong = |error: &dyn std::fmt::Display| format!("the limit of files of {}: {error}", self.name);
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", self.pid())).map_err(|error| wrong(&error))?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
        let hard = line.split_whitespace().nth(1).and_then(|hard| hard.parse().ok());
        let limit = Rlimit { current: Some(soft), maximum: hard };
        let before = prlimit(Some(self.raw_pid()), Resource::Nofile, limit).map_err(|error| wrong(&error))?;
        Ok(before.current.unwrap_or(u64::MAX))
    }

    /// Closes its standard input, as the end of this process would.
    pub fn cut_lifeline(&mut self) {
        if let Some(child) = self.child.as_mut() {
            drop(child.stdin.take());
        }
    }

    /// Whether it still runs; what it said last when it does not.
    pub fn check_alive(&mut self) -> Result<(), String> {
        let Some(child) = self.child.as_mut() else { return Err(format!("{} is not started", self.name)) };
        match child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("{} ended with {status}: {}", self.name, self.last_lines(3).join(" | "))),
            Err(error) => Err(format!("{}: {error}", self.name)),
        }
    }

    /// Everything that it wrote so far, over all its runs.
    #[must_use]
    pub fn output(&self) -> String {
        std::fs::read(&self.output).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Its last lines.
    #[must_use]
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(count)).map(|&line| line.to_owned()).collect()
    }

    /// A figure of `/proc/PID/status`, in KiB: `VmRSS`, `VmHWM`.
    #[must_use]
    pub fn memory_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// How many file descriptors it has open.
    #[must_use]
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a short run of the binary gave.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs the binary to its end, with these arguments and this input.
pub async fn run(args: &[&str], input: &[u8]) -> Ran {
    run_in(None, args, input).await
}

/// The same in a folder.
pub async fn run_in(directory: Option<&Path>, args: &[&str], input: &[u8]) -> Ran {
    use tokio::io::AsyncWriteExt as _;
    let mut command = tokio::process::Command::new(binary());
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    own_environment().for_each(|name| {
        command.env_remove(name);
    });
    command.args(args).env("NO_COLOR", "1").kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot run duramen {args:?}: {error}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    let write = async {
        // A command that does not read its input closes it.
        let _ = stdin.write_all(input).await;
        drop(stdin);
    };
    let ended = async { tokio::join!(write, child.wait_with_output()).1 };
    let output = tokio::time::timeout(Duration::from_secs(240), ended).await;
    let output = output.unwrap_or_else(|_| panic!("duramen {args:?} did not end")).expect("its output can be read");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Ran {
    /// Panics unless it ended with this code.
    #[must_use]
    pub fn expect_code(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Panics unless standard error is one clear line.
    pub fn expect_one_line(&self) {
        let lines: Vec<&str> = self.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
        assert!(lines.len() == 1 && lines[0].len() > 15, "not one clear line: {:?}", self.stderr);
    }
}
