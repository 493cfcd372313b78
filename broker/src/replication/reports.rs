//! Signs of life to the controller, and the group's state in return.

use std::sync::Arc;
use std::time::Duration;

use kerolox_proto::kerolox::ReportRequest;

use super::{Group, Seen, Standing};

/// Pause after a report that did not get through.
const RETRY: Duration = Duration::from_millis(100);

/// Reports for ever: at once when something is to be said, otherwise at every interval.
pub(crate) async fn run(group: Arc<Group>) {
    let mut standing = group.standing.subscribe();
    let mut is_silent = false;
    loop {
        let now = standing.borrow_and_update().clone();
        let request = request(&group, &now);
        let answer = tokio::select! {
            answer = group.controller.report(request) => answer,
            // What is to be said should not wait for the answer to what was said before.
            changed = wait_for_news(&mut standing, &now) => {
                if changed.is_err() {
                    return;
                }
                continue;
            }
        };
        match answer {
            Ok(answer) => {
                if std::mem::take(&mut is_silent) {
                    tracing::info!("the controller answers again");
                }
                let is_old = answer.state.as_ref().is_some_and(|state| state.version < group.version());
                take(&group, answer.id, answer.state, answer.waiting_for);
                if is_old {
                    // Of another controller, which answers at once whatever it is asked.
                    tokio::time::sleep(group.config.report_interval.duration()).await;
                }
            }
            Err(status) => {
                if !std::mem::replace(&mut is_silent, true) {
                    let reason = status.message();
                    tracing::warn!(reason, "the controller does not answer; nobody is elected until it does");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Waits until there is more to say than that the log has grown.
async fn wait_for_news(
    standing: &mut tokio::sync::watch::Receiver<Standing>,
    said: &Standing,
) -> Result<(), tokio::sync::watch::error::RecvError> {
    let is_news = |now: &Standing| now.promised != said.promised || now.unfit != said.unfit;
    standing.wait_for(is_news).await.map(drop)
}

fn request(group: &Group, standing: &Standing) -> ReportRequest {
    let known = group.known();
    let (incarnation, members) = {
        let file = group.file();
        (file.now().incarnation.clone(), file.now().members.clone())
    };
    ReportRequest {
        cluster: group.cluster.clone(),
        group: group.name.clone(),
        incarnation,
        process: group.process.clone(),
        host: group.host.clone(),
        port: group.port,
        replication_address: group.replication_address.clone(),
        promised: standing.promised,
        last_epoch: standing.last_epoch,
        end: standing.end,
        unfit: standing.unfit.clone(),
        known_members: members,
        known_version: group.version(),
        confirmed: known.position,
        confirmed_epoch: known.epoch,
        wait_ms: u32::try_from(group.config.report_interval.as_millis()).unwrap_or(u32::MAX),
    }
}

fn take(group: &Group, me: u64, state: Option<kerolox_proto::kerolox::GroupState>, waiting_for: String) {
    if !waiting_for.is_empty()
        && group.seen.borrow().as_ref().is_none_or(|seen| seen.waiting_for != waiting_for)
    {
        tracing::warn!("no master is elected: {waiting_for}");
    }
    if let Some(state) = state.as_ref().filter(|state| state.version > group.version())
        && let Err(error) = group.note_members(state)
    {
        // What cannot be remembered is not acted upon; it comes again with the next report.
        tracing::error!(%error, "member.json cannot be written; the group's state is not taken over");
        return;
    }
    group.seen.send_if_modified(|seen| {
        let state = state.or_else(|| seen.as_ref().map(|seen| seen.state.clone()));
        let Some(state) = state else { return false };
        // An answer that was overtaken says nothing.
        if seen.as_ref().is_some_and(|seen| seen.me == me && seen.state.version > state.version) {
            return false;
        }
        let then = Some(Seen { me, state, waiting_for });
        let is_news = *seen != then;
        *seen = then;
        is_news
    });
}
