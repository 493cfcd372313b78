//! How many members of a broker group hold a record before it counts as stored.

use crate::flush::FlushRequirement;

/// Members that must hold a record before its acknowledgement, beside the master's own storage. Ordered from the
/// weakest to the strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum ReplicaRequirement {
    /// The master alone: records that the slaves lack are lost with it.
    Master,
    /// A majority of the in-sync set: survives the loss of a minority of it.
    Quorum,
    /// The whole in-sync set: survives as long as one member of it does.
    #[default]
    All,
}

impl ReplicaRequirement {
    /// Reads `all`, `quorum` or `master`, in any case; RocketMQ's `SYNC_MASTER` and `ASYNC_MASTER` are understood too.
    ///
    /// # Errors
    /// A sentence that names the accepted words.
    pub fn parse(word: &str) -> Result<Self, String> {
        match word.to_ascii_lowercase().as_str() {
            "all" | "sync_master" => Ok(Self::All),
            "quorum" => Ok(Self::Quorum),
            "master" | "async_master" => Ok(Self::Master),
            _ => Err(format!("{word:?} is no choice of replicas; use all, quorum or master")),
        }
    }
}

/// The durability that an acknowledgement waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AckDurability {
    /// Requirement on each counted member.
    pub flush: FlushRequirement,
    /// Which members count.
    pub replicas: ReplicaRequirement,
}

impl From<FlushRequirement> for AckDurability {
    fn from(flush: FlushRequirement) -> Self {
        Self { flush, replicas: ReplicaRequirement::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_their_order() {
        for (word, replicas) in [
            ("all", ReplicaRequirement::All),
            ("Quorum", ReplicaRequirement::Quorum),
            ("ASYNC_MASTER", ReplicaRequirement::Master),
        ] {
            assert_eq!(ReplicaRequirement::parse(word), Ok(replicas));
        }
        assert!(ReplicaRequirement::parse("two").is_err_and(|text| text.contains("two")));
        assert!(
            ReplicaRequirement::Master < ReplicaRequirement::Quorum
                && ReplicaRequirement::Quorum < ReplicaRequirement::All
        );
    }
}
