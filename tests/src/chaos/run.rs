//! A run: round after round, each with one fault under all workloads, until there were enough; then everything once more.
//!
//! * A round: clients start; once all of them are served, the fault breaks, holds, mends; the cluster must be well again,
//!   and every workload go on; clients stop; the log is read from every node and compared; followers see all of it; every
//!   workload judges what it was told; serving nodes must agree.
//! * Faults come in an order that is shuffled anew whenever all of them have been there.
//! * A seed decides on order, victims and times; processes and kernel do what they like, so that the same seed is the same
//!   plan, not the same run.

use super::book::{Book, Slice};
use super::faults::{Fault, Hold};
use super::options::{Options, Until};
use super::report::{Column, Report, Row};
use super::stage::{Ground, NODES, Node, Stage};
use super::workloads::{Field, Kind, Workload};
use crate::harness::writers::everything;
use crate::harness::{Http, Rng, poll};
use duramen_common::HistoryId;
use duramen_common::batch::RecordBody;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long a workload may take to be served again.
const SERVED_WITHIN: Duration = Duration::from_secs(60);
/// So many operations show that a workload is served.
const SERVED: u64 = 15;
/// How long serving nodes may take to agree.
const AGREED_WITHIN: Duration = Duration::from_secs(60);
/// Payloads that are remembered for damage.
const OLD_PAYLOADS_MAX: usize = 512;

/// Runs. `cancelled` becomes true when it is to end early: then the fault that is there is mended, its round judged, and
/// the report is about what was done. `Err`: there was nothing to run on.
pub async fn run(options: &Options, ground: Ground, cancelled: watch::Receiver<bool>) -> Result<Report, String> {
    let began = Instant::now();
    let mut report = Report::new(format!("reproduce: {options}"));
    let mut faults = Vec::new();
    for &fault in &options.faults {
        match fault.skipped(&ground.missing) {
            None => faults.push(fault),
            Some(why) => {
                eprintln!("skipped: {fault}: {why}");
                report.skipped.insert(fault, why);
            }
        }
    }
    if faults.is_empty() {
        return Err("none of the faults is possible here".to_owned());
    }
    let stage = Stage::start(ground).await?;
    let history = history_of(&stage).await?;
    let book = Book::new(history, stage.cluster.partitions);
    let mut run = Run { options, stage, book, history, report, cancelled };
    run.warm_up().await?;
    run.rounds(faults, began).await;
    run.finish().await;
    run.report.records = run.book.records();
    run.report.elapsed = began.elapsed();
    Ok(run.report)
}

async fn history_of(stage: &Stage) -> Result<HistoryId, String> {
    let answer = stage.cluster.log_http(0).get("/v1/cluster").send().await.map_err(|error| error.to_string())?;
    let history = answer.json()["history"].as_str().and_then(|text| text.parse().ok());
    history.ok_or_else(|| format!("no history: {answer}"))
}

struct Run<'a> {
    options: &'a Options,
    stage: Stage,
    book: Book,
    history: HistoryId,
    report: Report,
    cancelled: watch::Receiver<bool>,
}

impl Run<'_> {
    /// Something to damage, for the first round.
    async fn warm_up(&mut self) -> Result<(), String> {
        for partition in 0..self.stage.cluster.partitions {
            for number in 0..20 {
                let payload = format!("warm-up/{partition}/{number}-{:016x}", self.options.seed);
                let call = self.stage.cluster.log_http(0).call("POST", format!("/v1/log/{partition}"));
                let call = call.header("content-type", "application/octet-stream").body(payload);
                let answer = call.send().await.map_err(|error| error.to_string())?;
                if answer.status != 200 {
                    return Err(answer.to_string());
                }
            }
        }
        let mut slice = self.book.slice();
        self.book.extend(&self.log_nodes(), &mut slice).await.map_err(|wrong| wrong.join("; "))?;
        self.remember(&slice);
        Ok(())
    }

    async fn rounds(&mut self, mut faults: Vec<Fault>, began: Instant) {
        let mut rng = Rng::of_stream(self.options.seed, 0);
        let mut round = 0;
        loop {
            rng.shuffle(&mut faults);
            for &fault in &faults {
                let is_over = match self.options.until {
                    Until::Rounds(rounds) => round >= rounds,
                    Until::Passed(length) => began.elapsed() >= length,
                };
                if is_over || *self.cancelled.borrow() {
                    return;
                }
                round += 1;
                if self.round(round, fault).await.is_err() {
                    return;
                }
            }
        }
    }

    /// One round. `Err`: the cluster does not come back.
    async fn round(&mut self, round: u64, fault: Fault) -> Result<(), String> {
        let violations_before = self.report.violations.len();
        let field = Arc::new(self.field(round));
        let workloads: Vec<_> = self.options.workloads.iter().map(|&kind| (kind, kind.prepare(&field))).collect();
        let back = self.act(round, fault, &field, &workloads).await;
        if let Err(why) = &back {
            let why = format!("the cluster does not come back: {why}");
            self.report.object(Row::Fault(fault), Column::Cluster, [why]);
        }
        self.keep_evidence(round, violations_before, &workloads);
        back
    }

    /// What happens in a round.
    async fn act(
        &mut self,
        round: u64,
        fault: Fault,
        field: &Arc<Field>,
        workloads: &[(Kind, Arc<dyn Workload>)],
    ) -> Result<(), String> {
        let mut rng = Rng::of_stream(self.options.seed, round);
        let began = Instant::now();
        *self.report.rounds.entry(fault).or_default() += 1;
        let (mut askers, mut followers) = (JoinSet::new(), JoinSet::new());
        for (_, workload) in workloads {
            Arc::clone(workload).spawn(field, &mut askers, &mut followers);
        }
        self.served(fault, workloads, "before the fault").await;
        let range = &self.options.hold_ms;
        let length = range.start + rng.below((range.end - range.start) as usize) as u64;
        let hold = Hold { length: Duration::from_millis(length), cancelled: self.cancelled.clone() };
        let broken = Instant::now();
        let told = fault.run(&mut self.stage, &mut rng, &hold).await.unwrap_or_else(|wrong| {
            self.report.object(Row::Fault(fault), Column::Cluster, [wrong.clone()]);
            self.stage.mend();
            wrong
        });
        let (broken_ms, mended) = (broken.elapsed().as_millis(), Instant::now());
        self.well_again(fault).await?;
        let well_ms = mended.elapsed().as_millis();
        self.served(fault, workloads, "after the fault").await;
        let served_ms = mended.elapsed().as_millis();
        field.stop();
        self.join(fault, &mut askers).await;
        if fault.damages_files() {
            self.repaired(fault).await?;
        }
        let mut slice = self.book.slice();
        let mut read = self.book.extend(&self.log_nodes(), &mut slice).await;
        if read.is_ok() {
            field.tell_ends(self.book.ends());
            self.join(fault, &mut followers).await;
            // What was still unknown may have come to be meanwhile, and been followed.
            read = self.book.extend(&self.log_nodes(), &mut slice).await;
        }
        match read {
            Ok(()) => {
                self.judge(fault, field, workloads, &slice).await;
                self.remember(&slice);
            }
            Err(wrong) => self.report.object(Row::Fault(fault), Column::Cluster, wrong),
        }
        let counts = workloads.iter().map(|(_, workload)| workload.counts());
        let (ok, others) =
            counts.fold((0, 0), |(ok, others), counts| (ok + counts.ok, others + counts.failed + counts.unknown));
        eprintln!(
            "round {round}: {fault}, {told}; broken {broken_ms} ms, well after {well_ms} ms, all served after {served_ms} ms; \
             {ok} operations ok, {others} failed or unknown; {} ms in all",
            began.elapsed().as_millis()
        );
        Ok(())
    }

    fn field(&self, round: u64) -> Field {
        let serving = (0..self.stage.cluster.serving.len()).map(|number| self.stage.cluster.http(number)).collect();
        Field::new((serving, self.log_nodes()), round, self.options.seed, self.history, self.book.ends())
    }

    fn log_nodes(&self) -> Vec<Http> {
        (0..self.stage.cluster.log.len()).map(|number| self.stage.cluster.log_http(number)).collect()
    }

    /// Waits until the cluster is well; helps once, when it does not come back by itself, which is a violation.
    async fn well_again(&mut self, fault: Fault) -> Result<(), String> {
        let Err(why) = self.stage.healthy().await else { return Ok(()) };
        self.report.object(Row::Fault(fault), Column::Cluster, [format!("not well again: {why}")]);
        self.stage.mend();
        self.stage.healthy().await
    }

    /// Waits until every workload has been served a while longer.
    async fn served(&mut self, fault: Fault, workloads: &[(Kind, Arc<dyn Workload>)], when: &str) {
        let before: Vec<u64> = workloads.iter().map(|(_, workload)| workload.counts().ok).collect();
        for ((kind, workload), before) in workloads.iter().zip(before) {
            let served = poll(&format!("{SERVED} operations {when}"), SERVED_WITHIN, || async {
                let more = workload.counts().ok - before;
                if more >= SERVED { Ok(()) } else { Err(format!("{more}")) }
            })
            .await;
            if let Err(why) = served {
                self.report.object(Row::Fault(fault), Column::Workload(*kind), [why]);
            }
        }
    }

    async fn join(&mut self, fault: Fault, clients: &mut JoinSet<()>) {
        while let Some(ended) = clients.join_next().await {
            let wrong = ended.err().map(|error| format!("a client ended by itself: {error}"));
            self.report.object(Row::Fault(fault), Column::Cluster, wrong);
        }
    }

    /// Every log node must have what it had. One that met damage while it ran is restarted once, as the manual says.
    async fn repaired(&mut self, fault: Fault) -> Result<(), String> {
        for number in 0..self.stage.cluster.log.len() {
            let node = Node::Log(number);
            let mut verified = self.book.verify(&self.stage.http(node)).await;
            if let Err(why) = &verified {
                eprintln!("{node} met damage and is restarted: {why}");
                self.stage.restart(node).await.unwrap_or_else(|wrong| {
                    self.report.object(Row::Fault(fault), Column::Cluster, [wrong]);
                });
                self.well_again(fault).await?;
                verified = self.book.verify(&self.stage.http(node)).await;
            }
            let wrong = verified.unwrap_or_else(|why| Err(vec![why])).err().unwrap_or_default();
            self.report.object(Row::Fault(fault), Column::Workload(Kind::RawLog), wrong);
        }
        Ok(())
    }

    async fn judge(&mut self, fault: Fault, field: &Field, workloads: &[(Kind, Arc<dyn Workload>)], slice: &Slice) {
        let row = Row::Fault(fault);
        for (kind, workload) in workloads {
            let column = Column::Workload(*kind);
            self.report.count(row, column, workload.counts());
            self.report.object(row, column, workload.check(field, slice));
        }
        self.report.object(row, Column::Cluster, self.disagreement().await);
        if fault.damages_index() {
            // A digest may be kept beside the data: what is read counts.
            for number in 0..self.stage.cluster.serving.len() {
                let wrong = self.unfolded(&self.stage.http(Node::Serving(number))).await;
                self.report.object(row, Column::Cluster, wrong.unwrap_or_default());
            }
        }
    }

    /// What serving nodes do not agree on.
    async fn disagreement(&self) -> Option<String> {
        for partition in 0..self.stage.cluster.partitions {
            let agreed = poll(&format!("equal digests of partition {partition}"), AGREED_WITHIN, || async {
                let mut seen = Vec::new();
                for number in 0..self.stage.cluster.serving.len() {
                    let call = self.stage.cluster.http(number).get(format!("/v1/partitions/{partition}/digest"));
                    let answer = call.send().await.map_err(|error| error.to_string())?;
                    seen.push(answer.text());
                }
                if seen.iter().all(|digest| *digest == seen[0]) { Ok(()) } else { Err(seen.join(" | ")) }
            })
            .await;
            if let Err(why) = agreed {
                return Some(why);
            }
        }
        None
    }

    /// Payloads that are on every log node's disk now.
    fn remember(&mut self, slice: &Slice) {
        let payloads = &mut self.stage.old_payloads;
        for partition in slice.log.partitions() {
            // Not the last ones: a record that is to be damaged has others behind it.
            let records = slice.log.records(partition);
            for logged in &records[..records.len().saturating_sub(8)] {
                if let RecordBody::Event(event) = &logged.record.body {
                    payloads.push((partition.get(), String::from_utf8_lossy(&event.payload).into_owned()));
                }
            }
        }
        payloads.drain(..payloads.len().saturating_sub(OLD_PAYLOADS_MAX));
    }

    /// Looks at all of it once more.
    async fn finish(&mut self) {
        if self.stage.healthy().await.is_err() {
            // Told already.
            return;
        }
        for node in NODES {
            let http = self.stage.http(node);
            let wrong = match node {
                Node::Log(_) => self.book.verify(&http).await.unwrap_or_else(|why| Err(vec![why])).err(),
                Node::Serving(_) => self.unfolded(&http).await,
            };
            self.report.object(Row::End, Column::Cluster, wrong.unwrap_or_default());
        }
    }

    /// What a serving node shows that the log does not fold to.
    async fn unfolded(&mut self, http: &Http) -> Option<Vec<String>> {
        let mut slice = self.book.slice();
        if let Err(wrong) = self.book.extend(&self.log_nodes(), &mut slice).await {
            return Some(wrong);
        }
        // A scan that fails is a finding, not the end of the run.
        let node = http.clone();
        let shown = match tokio::spawn(async move { everything(&node, "").await }).await {
            Ok(shown) => shown,
            Err(error) => return Some(vec![format!("a scan of {}: {error}", http.addr())]),
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let live = || self.book.live().map(|(key, (version, value))| (text(key), format!(":{version}"), text(value)));
        let is_shown = |(key, version, value): &(String, String, String)| {
            shown.get(key).is_some_and(|(there, at)| there == value && at.ends_with(version))
        };
        let missing = live().filter(|entry| !is_shown(entry)).take(3).map(|(key, version, value)| {
            let there = shown.get(&key);
            format!("{} shows {there:?} for {key}, the log folds to {value} at {version}", http.addr())
        });
        let mut wrong: Vec<String> = missing.collect();
        if shown.len() != live().count() {
            wrong.push(format!("{} shows {} keys, the log folds to {}", http.addr(), shown.len(), live().count()));
        }
        (!wrong.is_empty()).then_some(wrong)
    }

    /// Keeps violations, what was asked and answered, and what the nodes said.
    fn keep_evidence(&mut self, round: u64, violations_before: usize, workloads: &[(Kind, Arc<dyn Workload>)]) {
        let violations = &self.report.violations[violations_before..];
        if violations.is_empty() {
            return;
        }
        for violation in violations.iter().take(5) {
            let shown: String = violation.chars().take(1000).collect();
            eprintln!("VIOLATION {shown}");
        }
        let folder = self.options.evidence.join(format!("seed-{}-round-{round}", self.options.seed));
        let kept = self.stage.keep(&folder).and_then(|()| {
            std::fs::write(folder.join("violations.txt"), violations.join("\n\n"))?;
            workloads.iter().try_for_each(|(kind, workload)| {
                std::fs::write(folder.join(format!("{kind}.history")), workload.story())
            })
        });
        match kept {
            Ok(()) => eprintln!("kept in {}", folder.display()),
            Err(error) => eprintln!("nothing kept in {}: {error}", folder.display()),
        }
    }
}
