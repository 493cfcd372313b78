//! A slave's handling of the stream that it follows: one thread writes and syncs records, another one applies the confirmed ones.

use std::sync::Arc;

use kerolox_proto::kerolox::{self as wire, AppendAck, FromFollower, FromLeader, from_follower, from_leader};
use kerolox_replication::{CommitUpdate, MemberEffect, MemberInput};
use kerolox_store::{Store, StoreError};
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::mpsc;

use super::Group;
use super::follow::FollowError;

/// Bytes that share a sync.
const SYNC_BYTES: usize = 8 << 20;

/// What the threads of a follower share.
pub(super) struct FollowerShared {
    pub(super) group: Arc<Group>,
    pub(super) store: Arc<Store>,
    pub(super) confirmed: ConfirmedEnd,
}

/// The end of the records that are confirmed and durable here, and so may be applied; the thread that applies waits for it.
#[derive(Default)]
pub(super) struct ConfirmedEnd {
    /// Up to where, and whether nothing more is to come.
    now: Mutex<(u64, bool)>,
    changed: Condvar,
}

impl ConfirmedEnd {
    fn lock(&self) -> MutexGuard<'_, (u64, bool)> {
        self.now.lock()
    }

    fn reach(&self, position: u64) {
        let mut now = self.lock();
        if position > now.0 {
            now.0 = position;
            self.changed.notify_one();
        }
    }

    /// Nothing more is to come.
    pub(super) fn end(&self) {
        self.lock().1 = true;
        self.changed.notify_one();
    }

    /// Waits until there is more than `applied`, and says up to where; `None` when nothing more is to come.
    fn beyond(&self, applied: u64) -> Option<u64> {
        let has_nothing = |now: &mut (u64, bool)| now.0 <= applied && !now.1;
        let mut now = self.lock();
        self.changed.wait_while(&mut now, has_nothing);
        (!now.1).then_some(now.0)
    }
}

fn update(commit: wire::CommitUpdate) -> CommitUpdate {
    CommitUpdate { high_watermark: commit.confirmed, ping: commit.ping }
}

impl FollowerShared {
    /// Writes the stream and answers with its durable end; pieces that wait together share a sync. Blocks.
    pub(super) fn copy(
        &self,
        mut queue: mpsc::Receiver<FromLeader>,
        answers: &mpsc::Sender<FromFollower>,
    ) -> Result<(), FollowError> {
        let mut parked =
            self.store.standby_log().ok_or_else(|| FollowError::Stream("this member rules".into()))?;
        while let Some(first) = queue.blocking_recv() {
            self.store.check_allowed()?;
            let mut bytes = 0;
            let mut newest: Option<CommitUpdate> = None;
            let mut next = Some(first);
            while let Some(message) = next {
                match message.kind {
                    Some(from_leader::Kind::Records(records)) => {
                        parked.append_copy(records.position, &records.bytes)?;
                        bytes += records.bytes.len();
                        newest = records.commit.map(update).or(newest);
                    }
                    Some(from_leader::Kind::Segment(segment)) => {
                        parked.begin_copied_segment(segment.base)?;
                    }
                    Some(from_leader::Kind::Commit(commit)) => newest = Some(update(commit)),
                    _ => return Err(FollowError::Stream("the master began the handshake again".into())),
                }
                next = if bytes < SYNC_BYTES { queue.try_recv().ok() } else { None };
            }
            let durable = if bytes > 0 { parked.sync()? } else { parked.held() };
            if newest.is_some() {
                self.group.holds(parked.newest()?.epoch, durable);
            }
            for effect in self.group.tell(MemberInput::Copied { durable, update: newest }) {
                match effect {
                    MemberEffect::SendAck { durable, ping } => {
                        let ack = from_follower::Kind::Ack(AppendAck { durable, ping });
                        // A leader that reads so slowly has newer pings on their way; a stream that is gone shows when it is read.
                        let _ = answers.try_send(FromFollower { kind: Some(ack) });
                    }
                    MemberEffect::Apply(to) => self.confirmed.reach(to),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// A member that cannot apply its log must not be elected.
    fn is_unfit(&self, error: &StoreError) {
        tracing::error!(%error, "this slave cannot apply its log, and is not elected");
        self.group.standing.send_modify(|standing| standing.unfit = error.to_string());
    }

    /// Applies confirmed records. Blocks.
    pub(super) fn fold(&self) -> Result<(), FollowError> {
        let mut reached = 0;
        while let Some(confirmed) = self.confirmed.beyond(reached) {
            self.store.fold_to(confirmed, |_, _| {}).inspect_err(|error| self.is_unfit(error))?;
            reached = self.store.state().applied().max(confirmed);
        }
        Ok(self.store.flush_parked()?)
    }
}
