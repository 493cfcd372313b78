//! The history of a half message since it was stored: its check-backs and their answers.

use prost::Message;

use super::HalfMessage;

/// Checks that are remembered of one half message; beyond that, the oldest are forgotten.
pub const STORY_MAX: usize = 32;

/// Where a decision came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum DecisionSource {
    /// The producer, by itself.
    Producer = 0,
    /// A producer's answer to a check-back.
    Check = 1,
    /// An administrator.
    Admin = 2,
    /// A webhook's answer to a check-back.
    Webhook = 3,
}

impl DecisionSource {
    /// The word that administrators see.
    pub fn word(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::Check => "check-back",
            Self::Admin => "administrator",
            Self::Webhook => "webhook",
        }
    }
}

/// A producer's answer to a check-back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum CheckAnswer {
    /// No answer so far.
    None = 0,
    /// It does not know either.
    Unknown = 1,
    /// Commit.
    Commit = 2,
    /// Rollback.
    Rollback = 3,
}

impl CheckAnswer {
    /// The word that administrators see.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Unknown => "unknown",
            Self::Commit => "commit",
            Self::Rollback => "rollback",
        }
    }
}

/// One check-back; field numbers are part of the index format and of snapshots.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CheckNote {
    /// When a producer was asked, milliseconds since the Unix epoch.
    #[prost(int64, tag = "1")]
    pub at_ms: i64,
    /// Client id of the producer.
    #[prost(string, tag = "2")]
    pub asked: String,
    /// The answer.
    #[prost(enumeration = "CheckAnswer", tag = "3")]
    pub answer: i32,
    /// When the answer came, milliseconds since the Unix epoch; 0 without an answer.
    #[prost(int64, tag = "4")]
    pub answered_ms: i64,
    /// Client id of the producer that answered: not always the one that was asked.
    #[prost(string, tag = "5")]
    pub answered_by: String,
}

/// A producer was asked about a half message and does not know the outcome of its transaction.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UndecidedTransaction {
    /// Position of the half message.
    #[prost(uint64, tag = "1")]
    pub held: u64,
    /// Client id of the producer.
    #[prost(string, tag = "2")]
    pub by: String,
}

impl HalfMessage {
    /// Records that a producer was asked.
    pub fn note_check(&mut self, at_ms: i64, asked: &str) {
        let surplus = (self.story.len() + 1).saturating_sub(STORY_MAX);
        self.story.drain(..surplus);
        self.story.push(CheckNote { at_ms, asked: asked.to_owned(), ..CheckNote::default() });
        assert!(self.story.len() <= STORY_MAX, "the recorded checks are bounded");
    }

    /// Records the answer to the newest check, unless it has one or there was no check.
    pub fn note_answer(&mut self, at_ms: i64, by: &str, answer: CheckAnswer) {
        if let Some(note) = self.story.last_mut().filter(|note| note.answer() == CheckAnswer::None) {
            note.set_answer(answer);
            note.answered_ms = at_ms;
            by.clone_into(&mut note.answered_by);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_belongs_to_the_newest_check() {
        let mut half = HalfMessage::default();
        half.note_answer(1, "early", CheckAnswer::Commit);
        half.note_check(10, "a");
        half.note_answer(11, "a", CheckAnswer::Unknown);
        half.note_answer(12, "late", CheckAnswer::Commit);
        half.note_check(20, "b");
        half.note_answer(21, "c", CheckAnswer::Rollback);
        let told: Vec<_> = half
            .story
            .iter()
            .map(|note| (note.at_ms, &*note.asked, note.answer(), &*note.answered_by))
            .collect();
        assert_eq!(told, [(10, "a", CheckAnswer::Unknown, "a"), (20, "b", CheckAnswer::Rollback, "c")]);
    }

    #[test]
    fn the_story_is_bounded() {
        let mut half = HalfMessage::default();
        for at_ms in 0..100 {
            half.note_check(at_ms, "a");
        }
        assert_eq!((half.story.len(), half.story[0].at_ms), (STORY_MAX, 100 - 32));
    }
}
