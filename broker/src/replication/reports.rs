//! Signs of life to the controller, and the group's state in return.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kerolox_proto::errors::RpcError;
use kerolox_proto::kerolox::{ErrorKind, ReportRequest, ReportResponse, StateMark, TenureState};
use kerolox_replication::{StateMemory, StateVerdict};
use kerolox_runtime::reminder::LogReminder;
use tonic::Status;

use super::{Group, Seen, Standing};

/// Pause after a report that did not get through.
const RETRY: Duration = Duration::from_millis(100);
/// Reports for ever: at once when something is to be said, otherwise at every interval.
pub(crate) async fn run(group: Arc<Group>) {
    let mut standing = group.standing.subscribe();
    let mut reporter = Reporter { group: &group, log: Log::default() };
    loop {
        let now = standing.borrow_and_update().clone();
        let request = request(&group, &now);
        let answer = tokio::select! {
            answer = group.controller.report(request) => answer,
            // News does not wait for the answer to the last report.
            changed = wait_for_news(&mut standing, &now) => {
                if changed.is_err() {
                    return;
                }
                continue;
            }
        };
        tokio::time::sleep(reporter.on_answer(answer)).await;
    }
}

/// Waits until there is more to say than that the log has grown.
async fn wait_for_news(
    standing: &mut tokio::sync::watch::Receiver<Standing>,
    said: &Standing,
) -> Result<(), tokio::sync::watch::error::RecvError> {
    let is_news = |now: &Standing| {
        now.promised != said.promised || now.unfit != said.unfit || now.followers != said.followers
    };
    standing.wait_for(is_news).await.map(drop)
}

fn request(group: &Group, standing: &Standing) -> ReportRequest {
    let (record, known) = {
        let member = group.member();
        (member.record().clone(), member.known())
    };
    ReportRequest {
        cluster: group.cluster.clone(),
        group: group.name.clone(),
        incarnation: record.incarnation,
        process: group.process.clone(),
        host: group.host.clone(),
        port: group.port,
        replication_address: group.replication_address.clone(),
        promised: standing.promised,
        last_epoch: standing.last_epoch,
        end: standing.end,
        unfit: standing.unfit.clone(),
        known_members: record.members.into_iter().collect(),
        known_version: group.version(),
        confirmed: known.position,
        confirmed_epoch: known.epoch,
        wait_ms: u32::try_from(group.config.report_interval.as_millis()).unwrap_or(u32::MAX),
        mark: record.memory.as_ref().map(mark),
        followers: standing.followers.clone(),
    }
}

fn mark(last: &StateMemory) -> StateMark {
    StateMark {
        cluster_id: last.name.cluster_id.clone(),
        lineage: last.name.lineage.clone(),
        tenure: last.tenure.clone(),
        version: last.name.version,
        set_epoch: last.set_epoch,
        set_version: last.set_version,
        in_sync: last.in_sync.iter().cloned().collect(),
        set_tenure: last.set_tenure.clone(),
        origins: last
            .origins
            .iter()
            .cloned()
            .map(|(tenure, version)| TenureState { tenure, version })
            .collect(),
    }
}

/// Conditions that are logged again and again while they last.
#[derive(Default)]
struct Log {
    waiting: LogReminder,
    silence: LogReminder,
    disowned: LogReminder,
}

/// What this member makes of the answers.
struct Reporter<'a> {
    group: &'a Group,
    log: Log,
}

impl Reporter<'_> {
    /// Takes over what the controller says. Gives the pause before the next report.
    fn on_answer(&mut self, answer: Result<ReportResponse, Status>) -> Duration {
        let status = match answer {
            Ok(answer) => return self.on_state(answer),
            Err(status) => status,
        };
        match RpcError::read(&status) {
            Some(RpcError { kind: ErrorKind::Foreign | ErrorKind::NotAllowed, message }) => {
                self.disowned(&message);
                return self.group.config.report_interval.duration();
            }
            Some(RpcError { kind: ErrorKind::Stale, message }) => {
                tracing::info!(reason = message, "reporting again");
                return RETRY;
            }
            _ => {}
        }
        // Why it does not answer may sound another way each time.
        if self.log.silence.is_due("", Instant::now()) {
            let reason = status.message();
            tracing::warn!(reason, "the controller does not answer; no master is elected until it does");
        }
        RETRY
    }

    fn on_state(&mut self, answer: ReportResponse) -> Duration {
        if self.log.silence.end() {
            tracing::info!("the controller answers again");
        }
        self.tell_waiting(&answer.waiting_for);
        let verdict =
            answer.state.as_ref().map_or(StateVerdict::Take, |state| self.group.hear_state(answer.id, state));
        match verdict {
            StateVerdict::Foreign => {
                let told = answer.state.map(|state| state.cluster_id).unwrap_or_default();
                self.disowned(&format!(
                    "the nameservers have the cluster id {told}, this data folder belongs to nameservers with another one, \
                     see controller in its member.json; give the nameservers their own data back"
                ));
                return self.group.config.report_interval.duration();
            }
            StateVerdict::Overtaken => return RETRY,
            StateVerdict::Doubted => {
                self.group.controller.turn_to_next();
                let is_patient = self.group.doubt_limits().patience_ms > 0;
                return if is_patient {
                    self.group.config.report_interval.duration()
                } else {
                    Duration::ZERO
                };
            }
            StateVerdict::Take => {}
        }
        if self.log.disowned.end() {
            tracing::info!("the controller takes this broker for a member again");
        }
        self.group.set_disowned(None);
        if answer.state.as_ref().is_some_and(|state| !self.group.goes_by(state)) {
            // What cannot be remembered is not acted upon; it comes again with the next report.
            return RETRY;
        }
        take(self.group, answer);
        Duration::ZERO
    }

    fn tell_waiting(&mut self, waiting_for: &str) {
        if waiting_for.is_empty() {
            self.log.waiting.end();
        } else if self.log.waiting.is_due(waiting_for, Instant::now()) {
            tracing::warn!("no master is elected: {waiting_for}");
        }
    }

    fn disowned(&mut self, reason: &str) {
        self.group.set_disowned(Some(reason.to_owned()));
        if self.log.disowned.is_due(reason, Instant::now()) {
            tracing::error!(reason, "the controller does not take this broker for a member of its group");
        }
    }
}

fn take(group: &Group, answer: ReportResponse) {
    let ReportResponse { id: me, state, waiting_for } = answer;
    group.seen.send_if_modified(|seen| {
        let state = state.or_else(|| seen.as_ref().map(|seen| seen.state.clone()));
        let Some(state) = state else { return false };
        let then = Some(Seen { me, state, waiting_for });
        let is_news = *seen != then;
        *seen = then;
        is_news
    });
}
