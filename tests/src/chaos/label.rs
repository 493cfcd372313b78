//! Labels of messages say what must become of them, and what their bodies are: `KIND-SENDER-NUMBER`.

use kerolox_client::Resolution;
use kerolox_harness::{MessageIntent, SentMessage};

/// Bodies are at most so much longer than their labels, in bytes.
const FILLING_MAX: usize = 1500;

/// What kind of message a label names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    /// One of a message group; the sender is the group.
    Ordered,
    /// A half message that its sender commits.
    Commit,
    /// A half message that its sender rolls back.
    Rollback,
    /// A half message about which its sender says nothing until it is asked; it commits then.
    Late,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Normal, Self::Ordered, Self::Commit, Self::Rollback, Self::Late];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Ordered => "ordered",
            Self::Commit => "commit",
            Self::Rollback => "rollback",
            Self::Late => "late",
        }
    }

    pub(super) fn label(self, sender: usize, number: u64) -> String {
        format!("{}-{sender}-{number}", self.word())
    }

    pub(super) fn is_transaction(self) -> bool {
        matches!(self, Self::Commit | Self::Rollback | Self::Late)
    }
}

/// The kind that a label begins with.
pub(super) fn kind(label: &str) -> Option<Kind> {
    let word = label.split('-').next()?;
    Kind::ALL.into_iter().find(|kind| kind.word() == word)
}

/// The message with a label, not acknowledged yet.
pub(super) fn message(label: &str, topic: &'static str) -> SentMessage {
    let is_visible = kind(label).is_some_and(|kind| kind != Kind::Rollback);
    let intent = if is_visible { MessageIntent::Deliver } else { MessageIntent::Withhold };
    let message = SentMessage::new(topic, intent);
    match place(label) {
        Some((group, number)) => message.in_group(group, number),
        None => message,
    }
}

/// What producers say when they are asked about a transaction.
pub(super) fn resolution(label: &str) -> Resolution {
    match kind(label) {
        Some(Kind::Commit | Kind::Late) => Resolution::Commit,
        Some(Kind::Rollback) => Resolution::Rollback,
        _ => Resolution::Unknown,
    }
}

/// The message group and the number in it of an ordered message.
fn place(label: &str) -> Option<(&str, u64)> {
    if kind(label) != Some(Kind::Ordered) {
        return None;
    }
    let (group, number) = label.rsplit_once('-')?;
    Some((group, number.parse().ok()?))
}

/// The body of the message with a label: the label, a blank, and a filling that only this label has.
pub(super) fn body(label: &str) -> Vec<u8> {
    let mut hash = label.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let filling = usize::try_from(hash >> 40).expect("24 bits") % FILLING_MAX;
    let mut body = format!("{label} ").into_bytes();
    body.extend(
        std::iter::repeat_with(|| {
            hash = hash.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            hash.to_be_bytes()[0]
        })
        .take(filling),
    );
    body
}

/// The label that a body begins with.
pub(super) fn of(body: &[u8]) -> String {
    let label = body.split(|&byte| byte == b' ').next().unwrap_or_default();
    String::from_utf8_lossy(label).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_says_what_becomes_of_its_message() {
        for kind in Kind::ALL {
            assert_eq!(super::kind(&kind.label(1, 2)), Some(kind));
        }
        let intents = ["late-1-1", "rollback-1-1", "other"].map(|label| message(label, "t").intent);
        assert_eq!(intents, [MessageIntent::Deliver, MessageIntent::Withhold, MessageIntent::Withhold]);
        assert_eq!(resolution("late-1-1"), Resolution::Commit);
        assert_eq!(place("ordered-3-17"), Some(("ordered-3", 17)));
        assert_eq!(place("normal-3-17"), None);
    }

    #[test]
    fn bodies_differ_and_lead_back_to_their_labels() {
        assert_eq!(of(&body("normal-1-2")), "normal-1-2");
        assert_ne!(body("normal-1-2")[11..], body("normal-1-3")[11..]);
    }
}
