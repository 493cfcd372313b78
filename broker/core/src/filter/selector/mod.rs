//! SQL-92 selectors over message properties: RocketMQ's language, and its meaning where that is sound.
//!
//! The grammar is written with winnow, because it has no generator step, says where it failed, and is in the tree already.
//!
//! ```text
//! or       := and (OR and)*
//! and      := not (AND not)*
//! not      := NOT not | equality
//! equality := order ( ('=' | '<>' | '!=') order | IS [NOT] NULL )*
//! order    := operand ( ('<' | '<=' | '>' | '>=') operand
//!                     | [NOT] BETWEEN operand AND operand
//!                     | [NOT] IN '(' string (',' string)* ')'
//!                     | [NOT] (CONTAINS | STARTSWITH | ENDSWITH) string )*
//! operand  := ('+' | '-' | NOT) operand | TRUE | FALSE | NULL | number | string | property | '(' or ')'
//! ```
//!
//! Keywords have no case, properties do: `[A-Za-z_$][A-Za-z0-9_$]*`. A quote in a string is doubled. Comments are `-- …` to
//! the end of the line and `/* … */`.
//!
//! **Values.** A property is text, or NULL when the message does not have it. Compared with a number it is read as one,
//! compared with TRUE or FALSE as `true` or `false` in any case. Texts are equal or not; for `<` and its like both sides must
//! be numbers. Whole numbers are compared exactly, all others as 64-bit floats.
//!
//! **Logic** has three values. A comparison with NULL, or with a text that is no number where a number is needed, is
//! unknown; AND, OR and NOT carry that on as SQL does, and a message matches only when the whole condition is true.
//!
//! Differences from RocketMQ, where expressions mean less or something surprising: NOT binds weaker than comparisons
//! (`NOT a = 1`); `5 < missing` is unknown instead of false; a property that is no number spoils its comparison, not the whole
//! expression; nothing may follow the expression; `0.0`, `TRUE = a` and `!=` are understood.

mod ast;
mod eval;
mod parse;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::hash::{Hash, Hasher};

use kerolox_model::limits::{SELECTOR_BYTES_MAX, SELECTOR_DEPTH_MAX};

use ast::Expr;

/// An SQL-92 condition on the properties of a message, ready to be evaluated. Equality, hash and [`Self::text`] use its
/// normalized text.
#[derive(Debug, Clone)]
pub struct Selector {
    text: String,
    condition: Expr,
}

/// Why an expression cannot be used as a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// It is no expression of the language.
    #[error("the SQL filter is wrong at position {offset}. There is {found}, expected {expected}")]
    Syntax {
        /// Bytes before the error.
        offset: usize,
        /// Text found there.
        found: String,
        /// Text expected there.
        expected: &'static str,
    },
    /// It nests deeper than [`SELECTOR_DEPTH_MAX`].
    #[error(
        "the SQL filter nests deeper than {SELECTOR_DEPTH_MAX} levels at position {offset}; write it with fewer parentheses"
    )]
    TooDeep {
        /// Bytes before the place where it becomes too deep.
        offset: usize,
    },
    /// It is longer than [`SELECTOR_BYTES_MAX`].
    #[error("the SQL filter has {len} bytes, the limit is {SELECTOR_BYTES_MAX}; shorten it")]
    TooLong {
        /// Length of the expression in bytes.
        len: usize,
    },
}

impl Selector {
    /// Reads an expression.
    ///
    /// # Errors
    /// [`SelectorError`]
    pub fn parse(expression: &str) -> Result<Self, SelectorError> {
        if expression.len() > SELECTOR_BYTES_MAX {
            return Err(SelectorError::TooLong { len: expression.len() });
        }
        let condition = parse::condition(expression)?;
        Ok(Self { text: condition.to_string(), condition })
    }

    /// The expression with keywords in capitals and no more blanks and parentheses than its printer needs.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the properties that `property` finds by name satisfy the condition.
    pub fn matches<'p>(&self, property: impl Fn(&str) -> Option<Cow<'p, str>>) -> bool {
        // Wrapped, so that values live no longer than needed.
        self.condition.is_true(&|name| property(name))
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Selector {}

impl Hash for Selector {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}
