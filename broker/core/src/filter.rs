//! Tag filters: `*`, or tags separated by `||`.

use std::collections::BTreeSet;

/// Which messages a consumer wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagFilter {
    /// Every message.
    All,
    /// Messages with one of these tags.
    AnyOf(BTreeSet<String>),
}

impl TagFilter {
    /// Reads an expression such as `*` or `created || paid`. A blank one means `*`, as in RocketMQ.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(expression: &str) -> Result<Self, String> {
        let expression = expression.trim();
        if expression.is_empty() || expression == "*" {
            return Ok(Self::All);
        }
        let tags: BTreeSet<String> = expression.split("||").map(|tag| tag.trim().to_owned()).collect();
        if tags.iter().any(|tag| tag.is_empty() || tag.contains('|')) {
            return Err(format!(
                "tag expression {expression:?} has an empty tag or a single '|'; write \"*\" or \"tagA || tagB\""
            ));
        }
        if tags.contains("*") {
            return Ok(Self::All);
        }
        Ok(Self::AnyOf(tags))
    }

    /// Whether a message with this tag is wanted.
    pub fn matches(&self, tag: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::AnyOf(tags) => tag.is_some_and(|tag| tags.contains(tag)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_matched_whole() {
        let filter = TagFilter::parse(" a || bb ").expect("legal");
        assert!(filter.matches(Some("a")) && filter.matches(Some("bb")));
        assert!(!filter.matches(Some("b")) && !filter.matches(None));
        for all in ["*", "", "  ", "a || *"] {
            assert_eq!(TagFilter::parse(all), Ok(TagFilter::All), "{all:?}");
        }
        for bad in ["a ||", "|| a", "a | b", "||"] {
            assert!(TagFilter::parse(bad).is_err(), "{bad:?}");
        }
    }
}
