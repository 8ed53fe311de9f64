//! One role in a process of its own: from the settings to a clean end.
//!
//! Exit: 0 when it was told to stop; 1, with one line, when it could not start or cannot go on.

use super::files;
use super::log_node::LogNodePlan;
use super::preflight::{check_folder, take_serving_folder};
use super::running::{RunningLogNode, RunningServingNode, ending, first_failure};
use super::serving_node::ServingNodePlan;
use crate::failure::Failure;
use crate::signals::{HangUp, Stop};
use duramen_common::seams::Seams;

/// Runs a log node until it is told to stop or cannot go on.
pub async fn run_log_node(plan: LogNodePlan, seams: Seams) -> Result<(), Failure> {
    let mut stop = Stop::listen_as_node(HangUp::IsIgnored)?;
    check_folder(&plan.data_dir)?;
    tracing::info!(node = plan.node, rpc = plan.rpc, http = plan.http, "log node starts");
    let node = tokio::select! {
        started = RunningLogNode::start(plan, seams, files::share(1)) => started?,
        () = stop.asked() => return Ok(()),
    };
    let ended = tokio::select! {
        () = stop.asked() => Ok(()),
        failure = first_failure(std::slice::from_ref(&node), &[]) => Err(failure),
    };
    tracing::info!("stopping");
    stop.exit_at_next();
    ending(node.shutdown()).await;
    ended
}

/// Runs a serving node until it is told to stop or cannot go on.
pub async fn run_serving_node(plan: ServingNodePlan, seams: Seams) -> Result<(), Failure> {
    let mut stop = Stop::listen_as_node(HangUp::IsIgnored)?;
    let _folder = plan.data_dir.as_deref().map(take_serving_folder).transpose()?;
    tracing::info!(name = plan.name, http = %plan.http, "serving node starts");
    let node = RunningServingNode::start(plan, seams, files::share(1)).await?;
    let ended = tokio::select! {
        () = stop.asked() => Ok(()),
        failure = first_failure(&[], std::slice::from_ref(&node)) => Err(failure),
        never = say_when_ready(&node) => match never {},
    };
    tracing::info!("stopping");
    stop.exit_at_next();
    ending(node.shutdown()).await;
    ended
}

async fn say_when_ready(node: &RunningServingNode) -> std::convert::Infallible {
    node.ready().await;
    tracing::info!("ready: caught up with the log");
    std::future::pending().await
}
