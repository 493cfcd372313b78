//! Tag filters: `*`, or tags separated by `||`.

use std::collections::BTreeSet;

/// Tags, one of which a message must have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TagFilter(BTreeSet<String>);

impl TagFilter {
    /// Reads an expression such as `*` or `created || paid`; `None` when it means every message.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(expression: &str) -> Result<Option<Self>, String> {
        let expression = expression.trim();
        if expression.is_empty() || expression == "*" {
            return Ok(None);
        }
        let tags: BTreeSet<String> = expression.split("||").map(|tag| tag.trim().to_owned()).collect();
        if tags.iter().any(|tag| tag.is_empty() || tag.contains('|')) {
            return Err(format!(
                "tag expression {expression:?} has an empty tag or a single '|'; write \"*\" or \"tagA || tagB\""
            ));
        }
        Ok((!tags.contains("*")).then_some(Self(tags)))
    }

    /// Whether a message with this tag is wanted.
    pub fn matches(&self, tag: Option<&str>) -> bool {
        tag.is_some_and(|tag| self.0.contains(tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_matched_whole() {
        let filter = TagFilter::parse(" a || bb ").expect("legal").expect("not all");
        assert!(filter.matches(Some("a")) && filter.matches(Some("bb")));
        assert!(!filter.matches(Some("b")) && !filter.matches(None));
        for all in ["*", "", "  ", "a || *"] {
            assert_eq!(TagFilter::parse(all), Ok(None), "{all:?}");
        }
        for bad in ["a ||", "|| a", "a | b", "||"] {
            assert!(TagFilter::parse(bad).is_err(), "{bad:?}");
        }
    }
}
