//! `NodeProcess`: one node's process: started, killed, started again with the same disk.
//!
//! * In: lines for its standard input. Out: its lines, to the router; what it says on standard error, in a file.
//! * Invariant: it ends with this value (SIGKILL), and with the workbench, whose pipe it reads.
//! * One that ends unasked is noted: under Maelstrom that ends the test.

use super::network::NodeIndex;
use super::router::{INBOX_MAX, Router};
use super::settings::Settings;
use duramen_common::planted::PLANTED_VARIABLE;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

/// Lines in one write at most.
const LINES_A_WRITE: usize = 256;
const READ_BYTES: usize = 256 * 1024;

/// A node.
pub struct NodeProcess {
    node: NodeIndex,
    binary: PathBuf,
    planted: Option<String>,
    folder: PathBuf,
    router: Router,
    child: Option<Child>,
}

impl NodeProcess {
    /// A node that is not started yet, with its files in `folder`.
    #[must_use]
    pub fn new(node: NodeIndex, settings: &Settings, folder: &Path, router: Router) -> NodeProcess {
        let (binary, planted) = (settings.binary.clone(), settings.planted.clone());
        NodeProcess { node, binary, planted, folder: folder.to_owned(), router, child: None }
    }

    /// Where it says what troubles it.
    #[must_use]
    pub fn stderr_path(&self) -> PathBuf {
        self.folder.join(format!("n{}.stderr", self.node + 1))
    }

    /// Starts it.
    pub fn start(&mut self) -> io::Result<()> {
        let stderr = OpenOptions::new().create(true).append(true).open(self.stderr_path())?;
        let mut command = Command::new(&self.binary);
        command.arg("--data-dir").arg(self.folder.join("data"));
        command.env_remove(PLANTED_VARIABLE);
        if let Some(planted) = &self.planted {
            command.env(PLANTED_VARIABLE, planted);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr).kill_on_drop(true);
        let mut child = command.spawn()?;
        let (inbox, lines) = mpsc::channel(INBOX_MAX);
        if let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) {
            tokio::spawn(write(stdin, lines));
            tokio::spawn(read(stdout, self.node, self.router.clone()));
        }
        self.router.set_inbox(self.node, Some(inbox));
        self.child = Some(child);
        Ok(())
    }

    /// Whether it was started and not killed.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// How it ended, if it did so unasked.
    pub fn ended_unasked(&mut self) -> Option<String> {
        let ended = self.child.as_mut()?.try_wait().ok()??;
        Some(format!("n{} ended by itself: {ended}", self.node + 1))
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&mut self) {
        self.router.set_inbox(self.node, None);
        if let Some(mut child) = self.child.take() {
            // Fails only when it is gone already.
            let _ = child.kill().await;
        }
    }
}

async fn write(mut stdin: ChildStdin, mut lines: mpsc::Receiver<Vec<u8>>) {
    let mut some = Vec::new();
    let mut together = Vec::new();
    while lines.recv_many(&mut some, LINES_A_WRITE).await > 0 {
        some.drain(..).for_each(|line| together.extend(line));
        if stdin.write_all(&together).await.is_err() {
            return;
        }
        together.clear();
    }
}

async fn read(stdout: ChildStdout, node: NodeIndex, router: Router) {
    let mut stdout = BufReader::with_capacity(READ_BYTES, stdout);
    loop {
        let mut line = Vec::new();
        match stdout.read_until(b'\n', &mut line).await {
            // The last line of a killed process may be half a line.
            Ok(_) if !line.ends_with(b"\n") => return,
            Ok(_) => router.take(node, line).await,
            Err(_) => return,
        }
    }
}
