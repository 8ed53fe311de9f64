//! `GET /v1/feed`: the log as a stream of server-sent events.
//!
//! * In: prefix, a position (`from`, or `Last-Event-ID`). Out: `put`, `delete`, `progress` events. An id is the token of
//!   everything given up to there; only a record's last event carries one, so that a record that was cut off repeats
//!   whole.
//! * One reader per partition (`feed_reader`), and one line to the consumer (`feed_line`) that takes one piece at a time: a consumer
//!   that does not read holds one piece and slows nobody else. All pieces together have a budget (`feeding`).
//! * Invariant: no gap and no repeat across reconnects with `Last-Event-ID`.
//! * Source: DESIGN §4; the HTML standard, "Server-sent events".

use super::body::ResponseBody;
use super::errors::Failure;
use super::extract::{self, Query};
use super::feed_line::FeedLine;
use super::feed_reader::Reader;
use super::headers::{LAST_EVENT_ID, LOG_TIMESTAMP, X_ACCEL_BUFFERING, token_value};
use super::reads::{past_the_end, see};
use super::{Api, stopped};
use crate::partitions::Partitions;
use crate::view::PartitionView;
use bytes::Bytes;
use duramen_common::planted::{Plant, is_planted};
use duramen_common::{Offset, ProblemKind, SessionToken};
use hyper::Response;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long a feed is silent before it says how far it has come.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The handler.
pub(crate) async fn get(api: &Api, partitions: &Partitions, parts: &Parts) -> Result<Response<ResponseBody>, Failure> {
    let query = Query::parse(parts.uri.query(), &["prefix", "from"])?;
    let prefix = Bytes::copy_from_slice(query.bound("prefix")?);
    let from = from_of(parts, &query)?;
    let wait = extract::wait(&parts.headers, api.config.wait_default, api.config.wait_max)?;
    let permit = api.feeds.clone().try_acquire_owned().map_err(|_| {
        Failure::new(ProblemKind::Overloaded, "too many feeds are open here: close one, or ask another node")
            .with("limit", api.config.feeds_max)
    })?;
    let deadline = Instant::now() + wait;
    let token = match from {
        None => now(partitions, deadline).await?,
        Some(token) => {
            extract::check_token(&token, partitions.history(), partitions.count())?;
            check_positions(partitions, &token, deadline).await?;
            token
        }
    };
    let position = token_value(&token);
    let starts: Vec<Offset> =
        partitions.iter().map(|view| token.position(view.partition()).map_or(Offset::ZERO, behind)).collect();
    let (line, body) = FeedLine::new(token);
    let mut readers = JoinSet::new();
    for (view, from) in partitions.iter().zip(starts) {
        let (log, feeding, history) = (api.log.clone(), api.feeding.clone(), partitions.history());
        let reader = Reader::new(log, view.clone(), feeding, history, prefix.clone(), from);
        readers.spawn(reader.run(line.clone()));
    }
    tokio::spawn(attend(line, readers, permit, api.stopping.clone()));
    let mut response = Response::new(ResponseBody::Stream(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would hold events back otherwise.
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    headers.insert(LOG_TIMESTAMP, position);
    Ok(response)
}

/// The first record that is not given, where the last one that was is known.
fn behind(given: Offset) -> Offset {
    if is_planted(Plant::FeedResumesEarly) {
        return given;
    }
    if is_planted(Plant::FeedResumesLate) {
        return given.plus(2);
    }
    given.next()
}

/// `Last-Event-ID`, else `from`.
fn from_of(parts: &Parts, query: &Query<'_>) -> Result<Option<SessionToken>, Failure> {
    let last_event_id = parts.headers.get(LAST_EVENT_ID).map(HeaderValue::as_bytes).filter(|id| !id.is_empty());
    last_event_id.or(query.one("from")?).map(extract::token).transpose()
}

/// The end of every partition, as its leader says.
async fn now(partitions: &Partitions, deadline: Instant) -> Result<SessionToken, Failure> {
    let ends = partitions.iter().map(|view| async move {
        let end = view.linearizable_end(deadline).await.map_err(|error| Failure::of_tail(&error))?;
        Ok::<_, Failure>((view.partition(), end))
    });
    let mut token = SessionToken::new(partitions.history());
    for (partition, end) in futures_util::future::try_join_all(ends).await? {
        see(&mut token, partition, end);
    }
    Ok(token)
}

/// Refuses positions that are compacted away, and such as no log has reached.
async fn check_positions(partitions: &Partitions, token: &SessionToken, deadline: Instant) -> Result<(), Failure> {
    let mut earliest = token.clone();
    let mut compacted = None;
    for view in partitions.iter() {
        let Some(position) = token.position(view.partition()) else { continue };
        let horizon = view.status().horizon;
        if position.next() < horizon {
            see(&mut earliest, view.partition(), horizon);
            compacted = Some((view.partition(), horizon));
        }
        check_end(view, position.next(), deadline).await?;
    }
    match compacted {
        None => Ok(()),
        Some((partition, horizon)) => Err(Failure::new(
            ProblemKind::Compacted,
            format!(
                "partition {partition} is compacted up to {horizon}: read the state anew and go on from its timestamp, \
                 or leave the partition out of the token to start at 0"
            ),
        )
        .with("earliest", earliest.to_string())),
    }
}

async fn check_end(view: &PartitionView, from: Offset, deadline: Instant) -> Result<(), Failure> {
    if from <= view.committed_end_hint() || view.status().applied_end.is_some_and(|applied| from <= applied) {
        return Ok(());
    }
    let end = view.linearizable_end(deadline).await.map_err(|error| Failure::of_tail(&error))?;
    if from > end { Err(past_the_end(view.partition(), from, end)) } else { Ok(()) }
}

/// Runs until the consumer is gone, a reader cannot go on, or the node stops; the consumer then comes back with the last
/// id that it saw. Dropping the readers ends them. Says meanwhile how far the feed has come, where there is nothing else.
async fn attend(
    line: FeedLine,
    mut readers: JoinSet<()>,
    _permit: OwnedSemaphorePermit,
    mut stopping: watch::Receiver<bool>,
) {
    let mut next_progress = Instant::now() + PROGRESS_INTERVAL;
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = line.gone() => return,
            _ = readers.join_next() => return,
            () = tokio::time::sleep_until(next_progress) => {}
        }
        next_progress = Instant::now() + PROGRESS_INTERVAL;
        // Without the turn, something else is being said, or the consumer has not taken what was said last.
        let Some(turn) = line.try_turn() else { continue };
        if turn.last + PROGRESS_INTERVAL > Instant::now() {
            next_progress = turn.last + PROGRESS_INTERVAL;
            continue;
        }
        let token = turn.token.clone();
        let text = format!("event: progress\nid: {token}\ndata: {{\"timestamp\":\"{token}\"}}\n\n");
        if !line.say(turn, text.into_bytes(), token, None).await {
            return;
        }
    }
}
