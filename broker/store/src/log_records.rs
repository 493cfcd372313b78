//! What the handshake of a leader and a follower looks up in a log.

use kerolox_log::{LogEpochEnd, LogError, LogReader};
use kerolox_replication::handshake::{EpochEnd, HandshakeRecords, RecordMark};

/// The log of a leader, or of a follower.
pub struct LogRecords<'a>(pub &'a LogReader);

impl LogRecords<'_> {
    /// The last record of the log; `None` without one, or when it is damaged.
    ///
    /// # Errors
    /// [`LogError`]
    pub fn last_record(&self) -> Result<Option<RecordMark>, LogError> {
        match self.end_of_epoch(u32::MAX) {
            Ok(end) => Ok(end.last),
            Err(LogError::Damaged(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl HandshakeRecords for LogRecords<'_> {
    type Error = LogError;

    fn end_of_epoch(&self, epoch: u32) -> Result<EpochEnd, LogError> {
        let LogEpochEnd { epoch, end, begin } = self.0.end_of_epoch(epoch)?;
        let checksum = begin.map(|begin| self.0.checksum(begin)).transpose()?.flatten();
        let last = begin.zip(checksum).map(|(position, checksum)| RecordMark { position, checksum });
        Ok(EpochEnd { epoch, end, last })
    }

    fn may_hold(&self, record: RecordMark) -> Result<bool, LogError> {
        self.0.may_hold(record.position, record.checksum)
    }
}
