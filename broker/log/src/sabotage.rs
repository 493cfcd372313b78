//! Breaking the engine on purpose, to see whether the tests notice.
//!
//! Only with the feature `sabotage`, which no shipped build has: the environment variable `KEROLOX_SABOTAGE` names one
//! of [`SWITCHES`], and the code behind that switch misbehaves from then on. Without the feature every switch is a
//! constant `false`. `tests/run.sh sabotage` goes through all of them.

/// The switches, each with the fault that it causes.
pub const SWITCHES: &[(&str, &str)] = &[
    ("skip-fsync", "appended records count as durable without a sync of their file"),
    ("skip-seal-sync", "a segment is sealed without a sync of its last records"),
    ("skip-directory-fsync", "the name of a new segment is not made durable"),
    ("ack-before-sync", "records are answered before the sync that they asked for"),
    ("retry-failed-sync", "a sync that failed is tried again, and the second answer is believed"),
    ("go-on-after-failure", "a failed write or sync does not make the log read-only"),
    ("no-crc-on-read", "the checksum of a frame is not checked"),
    ("no-salt", "the checksum of a frame begins with nothing that clients do not know"),
    ("no-position-on-read", "a frame is believed wherever it lies"),
    ("truncate-at-first-bad-record", "recovery cuts at the first bad record, whatever follows"),
    ("tail-not-zeroed", "bytes of a torn write behind the end stay there"),
    ("no-rewrite-at-recovery", "recovery believes that everything it reads is durable"),
    ("checkpoint-before-sync", "the checkpoint says that records are durable before they are"),
    ("index-ahead-of-log", "an index that knows more than the log is kept"),
    ("forget-applied", "the index is brought up to date from the beginning of the log"),
    ("reuse-offsets", "a restarted queue gives its newest offset once more"),
    ("last-decision-wins", "a transaction that has ended can end the other way"),
    ("no-carry-forward", "retention does not carry needed records forward"),
    ("meta-without-sync", "changes of topics, and trims, need not be durable to take effect"),
    ("flush-before-sync", "the index is flushed with records that a power cut can still take"),
    ("trim-without-mark", "a trim that a power cut interrupts is not finished later"),
    ("trim-before-persist", "segments go before the index is durable"),
    ("truncation-not-durable", "records that a slave cuts to follow another master stay in its file"),
    ("ack-before-slaves", "the master does not wait for its slaves"),
    ("no-lease", "a master is sure of its leadership for good"),
    ("slave-acks-before-sync", "a slave acknowledges records that it has only written"),
    ("lease-on-wall-clock", "a master counts its lease on the wall clock"),
    ("ignore-epoch", "a slave keeps helping its master after it has promised a later epoch"),
    ("elect-outside-set", "a member is elected that is not in the in-sync set"),
    ("blank-disk-counts", "a member that lost its disk keeps its identity"),
    ("blank-identity-not-kept", "a member that was started and has no log yet comes back as another one"),
    ("promise-not-persisted", "a promise is forgotten when the process ends"),
    ("skip-truncation-check", "a slave keeps records that its master lacks"),
    (
        "confirm-without-epoch-record",
        "records of earlier epochs are confirmed without the record that opens the epoch",
    ),
    ("newcomer-without-barrier", "a slave joins the in-sync set without the newest confirmed records"),
    ("fold-unconfirmed", "a slave applies unconfirmed records"),
    ("resume-old-epoch", "a restarted master continues in its old epoch"),
    ("empty-segment-counts", "a slave says that it holds the header of an empty segment"),
    ("believe-clock-leaps", "removal by age accepts a leap of the wall clock at once"),
    ("announced-does-not-count", "a member of a group counts from its first receive on only"),
    ("forget-members", "a member forgets the members of its group and the controller's state"),
    ("cut-confirmed", "a member cuts records that it knows to be confirmed for a master that lacks them"),
    ("trust-any-copy", "a nameserver ignores members that know later states than its own"),
    ("one-lineage-for-good", "a member ignores a controller whose record began anew"),
    ("no-snapshot", "a segment does not begin with the state"),
];

/// Whether this fault is switched on.
///
/// # Panics
/// When `KEROLOX_SABOTAGE` names no switch: a sabotage that does not take place proves nothing.
#[cfg(feature = "sabotage")]
pub fn is(switch: &str) -> bool {
    static ASKED: std::sync::LazyLock<Option<String>> = std::sync::LazyLock::new(|| {
        let asked = std::env::var("KEROLOX_SABOTAGE").ok().filter(|asked| !asked.is_empty())?;
        assert!(
            SWITCHES.iter().any(|(name, _)| *name == asked),
            "KEROLOX_SABOTAGE={asked} is no switch; see kerolox_log::sabotage::SWITCHES"
        );
        Some(asked)
    });
    debug_assert!(SWITCHES.iter().any(|(name, _)| *name == switch), "{switch} is not listed");
    ASKED.as_deref() == Some(switch)
}

/// Never: this build cannot be broken.
#[cfg(not(feature = "sabotage"))]
#[inline]
pub const fn is(_switch: &str) -> bool {
    false
}
