//! Evaluation of an expression for one message.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::ast::{Expr, Order, Place, Test};

/// Finds a property by its name.
type Properties<'f, 'a> = &'f dyn Fn(&str) -> Option<Cow<'a, str>>;

/// A value of the language. NULL and unknown are the same.
#[derive(Debug, Clone)]
enum Value<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
}

#[derive(Debug, Clone, Copy)]
enum Number {
    Int(i64),
    /// A finite number.
    Float(f64),
}

impl Expr {
    /// Whether the message is wanted.
    pub(super) fn is_true<'a>(&'a self, properties: Properties<'_, 'a>) -> bool {
        self.truth(properties) == Some(true)
    }

    /// `None` is unknown.
    fn truth<'a>(&'a self, properties: Properties<'_, 'a>) -> Option<bool> {
        match self {
            Self::Not(operand) => operand.truth(properties).map(|truth| !truth),
            Self::And(operands) => and(operands.iter().map(|operand| operand.truth(properties))),
            // True when not all are false.
            Self::Or(operands) => {
                let none = and(operands.iter().map(|operand| operand.truth(properties).map(|truth| !truth)));
                none.map(|none| !none)
            }
            Self::Test(value, test) => test.truth(&value.value(properties), properties),
            _ => self.value(properties).truth(),
        }
    }

    fn value<'a>(&'a self, properties: Properties<'_, 'a>) -> Value<'a> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(truth) => Value::Bool(*truth),
            Self::Int(number) => Value::Number(Number::Int(*number)),
            Self::Float(number) => Value::Number(Number::Float(*number)),
            Self::Text(text) => Value::Text(Cow::Borrowed(text)),
            Self::Property(name) => properties(name).map_or(Value::Null, Value::Text),
            Self::Negative(operand) => {
                operand.value(properties).number().map_or(Value::Null, |number| Value::Number(-number))
            }
            _ => self.truth(properties).map_or(Value::Null, Value::Bool),
        }
    }
}

impl Test {
    /// The truth of this test for `value`; `None` is unknown.
    fn truth<'a>(&'a self, value: &Value<'_>, properties: Properties<'_, 'a>) -> Option<bool> {
        match self {
            Self::Equal(negated, other) => Some(value.equals(&other.value(properties))? != *negated),
            Self::Order(order, other) => Some(order.holds(value.compare(&other.value(properties))?)),
            Self::IsNull(negated) => Some(matches!(value, Value::Null) != *negated),
            Self::Between(negated, low, high) => {
                let from = value.compare(&low.value(properties)).map(Ordering::is_ge);
                let to = value.compare(&high.value(properties)).map(Ordering::is_le);
                and([from, to]).map(|inside| inside != *negated)
            }
            Self::In(negated, list) => {
                let text = value.text()?;
                Some(list.iter().any(|one| one == text) != *negated)
            }
            Self::Find(negated, place, text) => Some(place.finds(value.text()?, text) != *negated),
        }
    }
}

/// False decides, and so does unknown unless something is false.
fn and(operands: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    let mut result = Some(true);
    for truth in operands {
        match truth {
            Some(true) => {}
            Some(false) => return truth,
            None => result = None,
        }
    }
    result
}

impl Value<'_> {
    fn truth(&self) -> Option<bool> {
        match self {
            Self::Bool(truth) => Some(*truth),
            Self::Text(text) if text.eq_ignore_ascii_case("true") => Some(true),
            Self::Text(text) if text.eq_ignore_ascii_case("false") => Some(false),
            _ => None,
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    fn number(&self) -> Option<Number> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => Number::from_text(text),
            Self::Null | Self::Bool(_) => None,
        }
    }

    fn equals(&self, other: &Self) -> Option<bool> {
        match (self, other) {
            (Self::Text(left), Self::Text(right)) => Some(left == right),
            (Self::Bool(_), _) | (_, Self::Bool(_)) => Some(self.truth()? == other.truth()?),
            _ => self.compare(other).map(Ordering::is_eq),
        }
    }

    /// Compares two values as numbers.
    fn compare(&self, other: &Self) -> Option<Ordering> {
        self.number()?.compare(other.number()?)
    }
}

impl Number {
    /// Parses decimal digits with an optional sign, point and exponent; rejects forms that only some languages accept.
    fn from_text(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(int) = text.parse() {
            return Some(Self::Int(int));
        }
        let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
        let float: f64 = text.parse().ok().filter(|_| is_decimal)?;
        float.is_finite().then_some(Self::Float(float))
    }

    fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(left), Self::Int(right)) => Some(left.cmp(&right)),
            _ => self.float().partial_cmp(&other.float()),
        }
    }

    fn float(self) -> f64 {
        match self {
            Self::Int(int) => int as f64,
            Self::Float(float) => float,
        }
    }
}

impl std::ops::Neg for Number {
    type Output = Self;

    fn neg(self) -> Self {
        match self {
            Self::Int(int) => int.checked_neg().map_or(Self::Float(-(int as f64)), Self::Int),
            Self::Float(float) => Self::Float(-float),
        }
    }
}

impl Order {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

impl Place {
    fn finds(self, value: &str, text: &str) -> bool {
        match self {
            Self::Anywhere => value.contains(text),
            Self::Start => value.starts_with(text),
            Self::End => value.ends_with(text),
        }
    }
}
