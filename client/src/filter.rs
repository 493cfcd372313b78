//! What a consumer group wants of a topic.

use kerolox_proto::v2;

/// Which messages of a topic a group wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterExpression(v2::FilterExpression);

impl FilterExpression {
    /// All of them.
    pub fn all() -> Self {
        Self::tag("*")
    }

    /// Those with one of the tags in `expression`, separated by `||`.
    pub fn tag(expression: impl Into<String>) -> Self {
        Self(v2::FilterExpression { r#type: v2::FilterType::Tag.into(), expression: expression.into() })
    }

    /// Those whose properties satisfy an SQL-92 condition.
    pub fn sql(expression: impl Into<String>) -> Self {
        Self(v2::FilterExpression { r#type: v2::FilterType::Sql.into(), expression: expression.into() })
    }

    pub(crate) fn to_wire(&self) -> v2::FilterExpression {
        self.0.clone()
    }
}
