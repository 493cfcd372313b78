//! Expressions as a tree, and their normalized text.

use std::fmt;

/// A selector or a part of one.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expr {
    Null,
    Bool(bool),
    Int(i64),
    /// A finite number.
    Float(f64),
    Text(String),
    Property(String),
    /// Negation of a [`numeric`](Expr::is_numeric) expression.
    Negative(Box<Expr>),
    /// Negation of a [`condition`](Expr::is_condition).
    Not(Box<Expr>),
    /// Conjunction of two conditions or more.
    And(Vec<Expr>),
    /// Disjunction of two conditions or more.
    Or(Vec<Expr>),
    /// A test of a value.
    Test(Box<Expr>, Test),
}

/// A condition on the value in front of it. The flags say whether it is negated.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Test {
    Equal(bool, Box<Expr>),
    /// Comparison of numeric expressions.
    Order(Order, Box<Expr>),
    IsNull(bool),
    /// Range test of numeric expressions, bounds included.
    Between(bool, Box<Expr>, Box<Expr>),
    In(bool, Vec<String>),
    Find(bool, Place, String),
}

/// The comparisons by size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The part of a text that a test searches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Anywhere,
    Start,
    End,
}

impl Expr {
    /// Whether it may be a number; properties may be anything.
    pub(super) fn is_numeric(&self) -> bool {
        matches!(self, Self::Int(_) | Self::Float(_) | Self::Property(_) | Self::Negative(_))
    }

    /// Whether it may be true, false or unknown.
    pub(super) fn is_condition(&self) -> bool {
        !matches!(self, Self::Int(_) | Self::Float(_) | Self::Text(_) | Self::Negative(_))
    }

    /// Whether both are written as numbers, and this one is the larger.
    pub(super) fn is_above(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Int(low), Self::Int(high)) => low > high,
            (Self::Int(low), Self::Float(high)) => *low as f64 > *high,
            (Self::Float(low), Self::Int(high)) => *low > *high as f64,
            (Self::Float(low), Self::Float(high)) => low > high,
            _ => false,
        }
    }

    /// Whether it is written in one word.
    fn is_word(&self) -> bool {
        matches!(
            self,
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::Float(_) | Self::Text(_) | Self::Property(_)
        )
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => out.write_str("NULL"),
            Self::Bool(true) => out.write_str("TRUE"),
            Self::Bool(false) => out.write_str("FALSE"),
            Self::Int(number) => write!(out, "{number}"),
            // With a point or an exponent, and with all digits that matter.
            Self::Float(number) => write!(out, "{number:?}"),
            Self::Text(text) => write!(out, "{}", Quoted(text)),
            Self::Property(name) => out.write_str(name),
            Self::Negative(operand) => write!(out, "-({operand})"),
            Self::Not(operand) => write!(out, "NOT ({operand})"),
            Self::And(operands) => joined(out, operands, " AND "),
            Self::Or(operands) => joined(out, operands, " OR "),
            Self::Test(value, test) => write!(out, "{} {test}", Operand(value)),
        }
    }
}

impl Test {
    pub(super) fn needs_number(&self) -> bool {
        matches!(self, Self::Order(..) | Self::Between(..))
    }
}

impl fmt::Display for Test {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |negated: &bool| if *negated { "NOT " } else { "" };
        match self {
            Self::Equal(negated, other) => {
                write!(out, "{} {}", if *negated { "<>" } else { "=" }, Operand(other))
            }
            Self::Order(order, other) => write!(out, "{} {}", order.symbol(), Operand(other)),
            Self::IsNull(negated) => write!(out, "IS {}NULL", not(negated)),
            Self::Between(negated, low, high) => {
                write!(out, "{}BETWEEN {} AND {}", not(negated), Operand(low), Operand(high))
            }
            Self::In(negated, list) => {
                write!(out, "{}IN (", not(negated))?;
                for (place, text) in list.iter().enumerate() {
                    write!(out, "{}{}", if place == 0 { "" } else { ", " }, Quoted(text))?;
                }
                out.write_str(")")
            }
            Self::Find(negated, place, text) => {
                write!(out, "{}{} {}", not(negated), place.keyword(), Quoted(text))
            }
        }
    }
}

impl Order {
    pub(super) fn symbol(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

impl Place {
    pub(super) fn keyword(self) -> &'static str {
        match self {
            Self::Anywhere => "CONTAINS",
            Self::Start => "STARTSWITH",
            Self::End => "ENDSWITH",
        }
    }
}

fn joined(out: &mut fmt::Formatter<'_>, operands: &[Expr], by: &str) -> fmt::Result {
    for (place, operand) in operands.iter().enumerate() {
        write!(out, "{}{}", if place == 0 { "" } else { by }, Operand(operand))?;
    }
    Ok(())
}

/// In parentheses unless it is a single word.
struct Operand<'a>(&'a Expr);

impl fmt::Display for Operand<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_word() { write!(out, "{}", self.0) } else { write!(out, "({})", self.0) }
    }
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "'{}'", self.0.replace('\'', "''"))
    }
}
