//! The operator's world: what happens to nodes that run on machines which people look after. Nothing here is a crash or a
//! broken network; each fault is a mistake, a shortage or a client that misbehaves.
//!
//! * Each fault has an expectation of its own, beside those of every round: a node that lives, an answer in time, a refusal
//!   that names what is wrong. `Err` says what was seen instead.
//! * Source: reports of what broke similar systems in the field (docs/proof.md lists the faults).

pub(super) mod address;
pub(super) mod clock;
pub(super) mod connections;
pub(super) mod files;
pub(super) mod index;
pub(super) mod locks;
pub(super) mod output;
pub(super) mod readers;
pub(super) mod strangers;

use crate::chaos::stage::{Node, Stage};
use crate::harness::poll;
use crate::harness::process::Process;
use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

/// How long the cluster may take to serve while an operator's fault is there.
const SERVED_WITHIN: Duration = Duration::from_secs(60);

/// How long a node may take to say what is wrong.
const TOLD_WITHIN: Duration = Duration::from_secs(40);

/// All serving nodes.
const BOTH: [usize; 2] = [0, 1];

/// Waits until a node's output since `said_before` has a line with all of these in it.
async fn says(process: &Process, said_before: usize, wanted: &[&str]) -> Result<String, String> {
    let what = format!("{} to say {}", process.name, wanted.join(" and "));
    poll(&what, TOLD_WITHIN, || async { said(process, said_before, wanted) }).await
}

/// The line that has all of these in it; `Err` is what it said instead.
fn said(process: &Process, said_before: usize, wanted: &[&str]) -> Result<String, String> {
    let said = process.output().split_off(said_before);
    let line = said.lines().find(|line| wanted.iter().all(|part| line.contains(part)));
    line.map(str::to_owned).ok_or_else(|| end_of(&said))
}

/// The last lines, for a message.
fn end_of(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(4)..].join(" | ")
}

/// Starts a node once more, at other addresses, on the same folder or on one of its own, and waits until it has refused;
/// gives what it said.
async fn second_refused(stage: &Stage, victim: Node, own_folder: Option<&Path>, what: &str) -> Result<String, String> {
    let host = stage.host_of(victim);
    let mut changes: Vec<(&str, String)> =
        ["rpc", "http"].map(|name| (name, format!("\"{}\"", stage.spare_address(&host)))).to_vec();
    changes.extend(own_folder.map(|folder| ("data-dir", format!("{folder:?}"))));
    let lines: Vec<String> = stage.config(victim).lines().map(|line| changed(line, &changes)).collect();
    let folder = stage.aside(&format!("second-{victim}"));
    let file = folder.join("second.toml");
    let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, lines.join("\n")));
    written.map_err(|error| format!("{}: {error}", file.display()))?;
    let role = match victim {
        Node::Log(_) => "log-node",
        Node::Serving(_) => "serving-node",
    };
    let args = vec![role.into(), "--config".into(), file.into()];
    let mut second = Process::new("second", &folder, args).launched_by(&host.launcher);
    second.copy_variables(match victim {
        Node::Log(number) => &stage.cluster.log[number],
        Node::Serving(number) => &stage.cluster.serving[number],
    });
    let said_before = second.output().len();
    second.start();
    let ended = {
        let process = RefCell::new(&mut second);
        poll(&format!("{what} to be refused"), TOLD_WITHIN, || async {
            process.borrow_mut().try_end().ok_or_else(|| "it runs".to_owned())
        })
        .await
    };
    // It must not go on while the first is looked at.
    second.kill();
    let said = second.output().split_off(said_before);
    match ended? {
        status if status.success() => Err(format!("{what} ended as if all were well: {}", end_of(&said))),
        _ => Ok(said),
    }
}

/// A line of a configuration file, with another value where its name is among these.
fn changed(line: &str, changes: &[(&str, String)]) -> String {
    let change = changes.iter().find(|(name, _)| line.starts_with(&format!("{name} = ")));
    change.map_or_else(|| line.to_owned(), |(name, value)| format!("{name} = {value}"))
}

/// Restarts nodes one after the other as they are configured now; each must end cleanly and be ready.
async fn roll(stage: &mut Stage, nodes: &[Node]) -> Result<(), String> {
    for &node in nodes {
        stage.restart(node).await?;
        stage.ready(node).await?;
    }
    Ok(())
}
