//! Lock files that somebody removed, as left-overs of a crash, while their node runs; and a second process on its folder.
//!
//! * Expected: the second one is refused all the same, and the first goes on.

use super::{BOTH, SERVED_WITHIN, end_of};
use crate::chaos::faults::Hold;
use crate::chaos::stage::{Node, Stage};
use crate::harness::files::files;
use crate::harness::process::Process;
use crate::harness::{Rng, poll};
use std::cell::RefCell;
use std::path::{Path, PathBuf};

pub(in crate::chaos::faults) async fn removed(stage: &mut Stage, rng: &mut Rng, hold: &Hold) -> Result<String, String> {
    let victim = match rng.below(3) {
        0 => Node::Serving(rng.below(stage.cluster.serving.len())),
        _ => stage.some_leader(rng).await,
    };
    let folder = match victim {
        Node::Log(number) => stage.data(number),
        Node::Serving(number) => stage.cluster.serving_data(number),
    };
    let removed = remove_locks(&folder)?;
    let mut second = second(stage, victim)?;
    second.start();
    let ended = {
        let process = RefCell::new(&mut second);
        poll(&format!("a second process on the folder of {victim} to be refused"), SERVED_WITHIN / 2, || async {
            process.borrow_mut().try_end().ok_or_else(|| "it runs".to_owned())
        })
        .await
    };
    hold.wait().await;
    let said = second.output();
    // It must not go on writing while the first is looked at.
    second.kill();
    let status = ended?;
    if status.success() {
        return Err(format!("a second process on the folder of {victim} ended as if all were well: {}", end_of(&said)));
    }
    if !said.contains(&folder.display().to_string()) {
        return Err(format!("a second process on the folder of {victim} does not name it: {}", end_of(&said)));
    }
    stage.check_alive(&[victim])?;
    stage.serves(&BOTH, SERVED_WITHIN).await?;
    Ok(format!("{victim}, {removed} lock files; the second process was refused"))
}

/// Removes what looks like a lock file; says how many there were.
fn remove_locks(folder: &Path) -> Result<usize, String> {
    let is_lock = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        name == "lock" || name.ends_with(".lock") || name.ends_with(".pid")
    };
    let locks: Vec<PathBuf> = files(folder).into_iter().filter(is_lock).collect();
    for lock in &locks {
        std::fs::remove_file(lock).map_err(|error| format!("{}: {error}", lock.display()))?;
    }
    Ok(locks.len())
}

/// The same node once more, at other addresses.
fn second(stage: &Stage, victim: Node) -> Result<Process, String> {
    let host = stage.host_of(victim);
    let mut text = stage.config(victim);
    for name in ["rpc", "http"] {
        let prefix = format!("{name} = ");
        let own = format!("{prefix}\"{}\"", stage.spare_address(&host));
        text =
            text.lines().map(|line| if line.starts_with(&prefix) { &own } else { line }).collect::<Vec<_>>().join("\n");
    }
    let folder = stage.aside(&format!("second-{victim}"));
    let file = folder.join("second.toml");
    let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, text));
    written.map_err(|error| format!("{}: {error}", file.display()))?;
    let _ = std::fs::remove_file(folder.join("second.output"));
    let role = match victim {
        Node::Log(_) => "log-node",
        Node::Serving(_) => "serving-node",
    };
    let args = vec![role.into(), "--config".into(), file.into()];
    Ok(Process::new("second", &folder, args).launched_by(&host.launcher))
}
