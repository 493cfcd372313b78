//! A master's side of the handshake over a real log.

use kerolox_log::LogError;
use kerolox_proto::errors::RpcError;
use kerolox_proto::kerolox::{self as wire, Diverged, ResetLog, Segment, Start, from_leader};
use kerolox_replication::handshake::{self, EpochEnd, FollowRequest, HandshakeAnswer, LeaderLog, RecordMark};
use kerolox_store::{LogRecords, Store};

pub(super) fn read_mark(mark: &wire::RecordMark) -> RecordMark {
    RecordMark { position: mark.position, checksum: mark.checksum }
}

pub(super) fn wire_mark(mark: RecordMark) -> wire::RecordMark {
    wire::RecordMark { position: mark.position, checksum: mark.checksum }
}

/// The master's answer to a slave. Reads the log; blocks.
pub(super) fn answer(
    store: &Store,
    salt: u64,
    asked: &wire::FollowRequest,
) -> Result<from_leader::Kind, RpcError> {
    let reader = store.reader();
    let failed = |error: LogError| RpcError::internal(format!("the master's log: {error}"));
    let first = reader.segments().first().map(|segment| segment.base).unwrap_or_default();
    let last = asked.last.as_ref().map(read_mark);
    let theirs = FollowRequest { salt: asked.salt, end: asked.end, last_epoch: asked.last_epoch, last };
    let own = LeaderLog { salt, base: first };
    let answer = handshake::answer(&theirs, &own, &LogRecords(reader)).map_err(failed)?;
    match answer {
        HandshakeAnswer::Start => Ok(from_leader::Kind::Start(Start {})),
        HandshakeAnswer::Diverged(EpochEnd { epoch, end, last }) => {
            Ok(from_leader::Kind::Diverged(Diverged { epoch, end, last: last.map(wire_mark) }))
        }
        HandshakeAnswer::Begin => match reader.copy(first, 0).map_err(failed)? {
            kerolox_log::Piece::Segment { base, capacity } => {
                let segment = Some(Segment { base, capacity });
                Ok(from_leader::Kind::Reset(ResetLog { salt, segment }))
            }
            _ => Err(RpcError::internal("the master's log does not begin with a segment")),
        },
        HandshakeAnswer::Foreign => Err(RpcError::foreign(
            "this slave's data folder holds the log of another broker group, or another log of this one; start it with an empty --data folder, or the right one",
        )),
    }
}
