//! Tag filters: `*`, or tags separated by `||`.

use std::collections::BTreeSet;

use kerolox_model::limits::FILTER_BYTES_MAX;

/// Tags, one of which a message must have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TagFilter(BTreeSet<String>);

impl TagFilter {
    /// Reads an expression such as `*` or `created || paid`; `None` when it means every message. As RocketMQ does, empty parts
    /// are left out, and a single `|` belongs to a tag.
    ///
    /// # Errors
    /// A sentence that describes the error.
    pub fn parse(expression: &str) -> Result<Option<Self>, String> {
        if expression.len() > FILTER_BYTES_MAX {
            let len = expression.len();
            return Err(format!(
                "the tag expression has {len} bytes, the limit is {FILTER_BYTES_MAX}; shorten it, or subscribe to all with \"*\""
            ));
        }
        let expression = expression.trim();
        if expression.is_empty() || expression == "*" {
            return Ok(None);
        }
        let parts = expression.split("||").map(str::trim);
        let tags: BTreeSet<String> = parts.filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
        if tags.is_empty() {
            return Err(format!(
                "tag expression {expression:?} holds no tag; write \"*\" or \"tagA || tagB\""
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
        for bad in ["||", "|| ||", " ||||"] {
            assert!(TagFilter::parse(bad).is_err(), "{bad:?}");
        }
        let long = "t".repeat(FILTER_BYTES_MAX);
        assert!(TagFilter::parse(&long).is_ok());
        assert!(TagFilter::parse(&format!("{long}t")).is_err_and(|text| text.contains("16385 bytes")));
    }

    #[test]
    fn empty_parts_are_left_out_and_a_single_bar_belongs_to_a_tag() {
        let parsed = |expression| TagFilter::parse(expression).expect("legal").expect("not all");
        for expression in ["a||||b", "a||b||", "|| a || b", "||||a||b||||"] {
            assert_eq!(parsed(expression), parsed("a || b"), "{expression:?}");
        }
        assert_eq!(parsed("a||"), parsed("a"));
        let one = parsed("a | b");
        assert!(one.matches(Some("a | b")) && !one.matches(Some("a")) && !one.matches(Some("b")));
        assert!(parsed("a|||b").matches(Some("|b")));
    }
}
