//! When a record counts as stored.

/// The durability that an acknowledgement of the broker waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlushRequirement {
    /// The record is on disk: it survives a power cut.
    #[default]
    Sync,
    /// The record is in the system's page cache: it survives a crash of the broker, but a power cut may take everything
    /// written since the last sync.
    Async,
}

impl FlushRequirement {
    /// Reads `sync` or `async`, in any case; RocketMQ's `SYNC_FLUSH` and `ASYNC_FLUSH` are understood too.
    ///
    /// # Errors
    /// A sentence that names the accepted words.
    pub fn parse(word: &str) -> Result<Self, String> {
        match word.to_ascii_lowercase().as_str() {
            "sync" | "sync_flush" => Ok(Self::Sync),
            "async" | "async_flush" => Ok(Self::Async),
            _ => Err(format!("flush mode {word:?} is unknown; use sync or async")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_rocketmq_are_understood() {
        for (word, flush) in [
            ("sync", FlushRequirement::Sync),
            ("ASYNC", FlushRequirement::Async),
            ("ASYNC_FLUSH", FlushRequirement::Async),
        ] {
            assert_eq!(FlushRequirement::parse(word), Ok(flush));
        }
        assert!(FlushRequirement::parse("never").is_err_and(|text| text.contains("never")));
    }
}
