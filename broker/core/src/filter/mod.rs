//! A consumer's choice of messages in a topic: all, those with certain tags, or those whose properties satisfy an
//! SQL-92 condition.
//!
//! # Filters
//!
//! `core::filter` parses tag expressions and SQL-92 conditions once per request; `wire/labels.rs` looks up the
//! properties of a stored message for a condition.
//!
//! The broker evaluates them. A message that a receiver does not want is kept for members that do
//! (`core/src/delivery/members.rs`), and is done only if there is none.

mod selector;
mod tags;

use std::borrow::Cow;
use std::sync::Arc;

pub use selector::{Selector, SelectorError};
pub use tags::TagFilter;

/// Which messages a consumer wants. Two filters are equal when they are written alike, apart from blanks, superfluous
/// parentheses, the case of keywords and the order of tags.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Filter {
    /// Every message.
    #[default]
    All,
    /// Messages with one of these tags.
    Tags(TagFilter),
    /// Messages whose properties satisfy a condition.
    Sql(Arc<Selector>),
}

impl Filter {
    /// Reads a tag expression such as `*` or `created || paid`. A blank one means `*`, as in RocketMQ.
    ///
    /// # Errors
    /// A sentence that describes the error.
    pub fn tags(expression: &str) -> Result<Self, String> {
        Ok(TagFilter::parse(expression)?.map_or(Self::All, Self::Tags))
    }

    /// Reads an SQL-92 condition; see [`Selector`].
    ///
    /// # Errors
    /// [`SelectorError`] says where it is wrong.
    pub fn sql(expression: &str) -> Result<Self, SelectorError> {
        Selector::parse(expression).map(|selector| Self::Sql(Arc::new(selector)))
    }

    /// Whether a message with this tag and these properties is wanted. Only an SQL condition asks for properties; the
    /// tag is the property `TAGS` to it.
    pub fn matches<'a>(&self, tag: Option<&str>, property: impl Fn(&str) -> Option<Cow<'a, str>>) -> bool {
        match self {
            Self::All => true,
            Self::Tags(tags) => tags.matches(tag),
            Self::Sql(selector) => selector.matches(property),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_that_mean_the_same_by_their_looks_are_equal() {
        let sql = |text| Filter::sql(text).unwrap();
        assert_eq!(sql("a > 5 and (b is null)"), sql(" ( a>5 ) AND b IS NULL -- comment"));
        assert_ne!(sql("a > 5"), sql("A > 5"));
        assert_eq!(Filter::tags("b||a"), Filter::tags(" a || b || a"));
        assert_eq!(Filter::tags("a || *"), Ok(Filter::All));
    }

    #[test]
    fn each_kind_looks_at_its_own() {
        let none = |_: &str| None;
        let blue = |name: &str| (name == "colour").then_some(Cow::Borrowed("blue"));
        assert!(Filter::All.matches(None, none));
        assert!(Filter::tags("a").unwrap().matches(Some("a"), none));
        assert!(!Filter::tags("a").unwrap().matches(None, blue));
        assert!(Filter::sql("colour = 'blue'").unwrap().matches(None, blue));
        assert!(!Filter::sql("colour = 'blue'").unwrap().matches(Some("blue"), none));
    }
}
