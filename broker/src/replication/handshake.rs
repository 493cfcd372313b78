//! A master's side of the handshake over a real log.

use kerolox_proto::errors::RpcError;
use kerolox_proto::kerolox::{self as wire, Diverged, ResetLog, Segment, Start, from_leader};
use kerolox_replication::handshake::{self, FollowRequest, HandshakeAnswer, LeaderLog};
use kerolox_store::Store;

/// The master's answer to a slave. Reads the log; blocks.
pub(super) fn answer(
    store: &Store,
    salt: u64,
    asked: &wire::FollowRequest,
) -> Result<from_leader::Kind, RpcError> {
    let reader = store.reader();
    let failed = |error: kerolox_log::LogError| RpcError::internal(format!("the master's log: {error}"));
    let first = reader.segments().first().map(|segment| segment.base).unwrap_or_default();
    let theirs = FollowRequest { salt: asked.salt, end: asked.end, last_epoch: asked.last_epoch };
    let own = LeaderLog { salt, base: first };
    let answer = handshake::answer(&theirs, &own, |epoch| reader.end_of_epoch(epoch)).map_err(failed)?;
    match answer {
        HandshakeAnswer::Start => Ok(from_leader::Kind::Start(Start {})),
        HandshakeAnswer::Diverged { epoch, end } => Ok(from_leader::Kind::Diverged(Diverged { epoch, end })),
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
