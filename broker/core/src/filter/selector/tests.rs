use std::borrow::Cow;

use proptest::prelude::*;

use super::ast::{Expr, Order, Place, Test};
use super::*;

const MESSAGE: &[(&str, &str)] = &[
    ("TAGS", "created"),
    ("colour", "blue"),
    ("empty", ""),
    ("five", "5"),
    ("float", "5.50"),
    ("huge", "9007199254740993"),
    ("in_$1", "x"),
    ("no", "False"),
    ("quote", "it's"),
    ("spaced", " 7 "),
    ("yes", "true"),
];

fn property(name: &str) -> Option<Cow<'static, str>> {
    MESSAGE.iter().find(|(known, _)| *known == name).map(|(_, value)| Cow::Borrowed(*value))
}

/// The three-valued result, found with the two-valued one: an unknown is neither true nor false.
fn truth(expression: &str) -> Option<bool> {
    let is_true = |text: &str| {
        let selector = Selector::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        selector.matches(property)
    };
    match (is_true(expression), is_true(&format!("NOT ({expression})"))) {
        (true, false) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
        (true, true) => panic!("{expression:?} and its opposite are true"),
    }
}

#[track_caller]
fn expect(cases: &[(&str, Option<bool>)]) {
    for (expression, expected) in cases {
        assert_eq!(truth(expression), *expected, "{expression:?}");
    }
}

const TRUE: Option<bool> = Some(true);
const FALSE: Option<bool> = Some(false);
const UNKNOWN: Option<bool> = None;

#[test]
fn texts_are_equal_or_not() {
    expect(&[
        ("colour = 'blue'", TRUE),
        ("colour = 'Blue'", FALSE),
        ("colour <> 'red'", TRUE),
        ("colour != 'blue'", FALSE),
        ("'blue' = colour", TRUE),
        ("colour = colour", TRUE),
        ("colour = TAGS", FALSE),
        ("empty = ''", TRUE),
        ("quote = 'it''s'", TRUE),
        ("in_$1 = 'x'", TRUE),
        ("float = '5.5'", FALSE),
        ("Colour = 'blue'", UNKNOWN),
    ]);
}

#[test]
fn numbers_are_compared_by_size() {
    expect(&[
        ("five = 5", TRUE),
        ("five = 5L", TRUE),
        ("five = 5.0", TRUE),
        ("five <> 0.0", TRUE),
        ("float = 5.5", TRUE),
        ("float > 5 AND float < 6", TRUE),
        ("float >= 55e-1 AND float <= .55e1", TRUE),
        ("five < float", TRUE),
        ("5 > five", FALSE),
        ("spaced = 7", TRUE),
        ("- five = -5", TRUE),
        ("-five < - - 5", TRUE),
        ("+five = + 5", TRUE),
        ("huge > 9007199254740992", TRUE),
        ("huge = 9007199254740992", FALSE),
        ("-9223372036854775808 < 9223372036854775807", TRUE),
        ("colour = 5", UNKNOWN),
        ("colour > 5", UNKNOWN),
        ("empty >= 0", UNKNOWN),
        ("colour < TAGS", UNKNOWN),
        ("-colour = 5", UNKNOWN),
    ]);
}

#[test]
fn only_decimal_texts_are_numbers() {
    for text in ["NaN", "inf", "Infinity", "1e999", "0x10", "1_000", "5d", "--5", "1e", ".", "٣"] {
        let selector = Selector::parse("n = n AND n > -1").unwrap();
        assert!(!selector.matches(|_| Some(Cow::Borrowed(text))), "{text:?}");
    }
    for text in ["0", "+7", "007", ".5", "5.", "1E3", "9223372036854775808"] {
        let selector = Selector::parse("n > -1").unwrap();
        assert!(selector.matches(|_| Some(Cow::Borrowed(text))), "{text:?}");
    }
}

#[test]
fn ranges_lists_and_parts() {
    expect(&[
        ("five BETWEEN 5 AND 6", TRUE),
        ("five BETWEEN 4 AND 5", TRUE),
        ("five BETWEEN 5.5 AND 6", FALSE),
        ("five NOT BETWEEN 6 AND 7", TRUE),
        ("five BETWEEN five AND float AND yes", TRUE),
        ("five BETWEEN float AND five", FALSE),
        ("missing BETWEEN 1 AND 2", UNKNOWN),
        ("five BETWEEN missing AND 9", UNKNOWN),
        ("five BETWEEN missing AND 4", FALSE),
        ("five NOT BETWEEN missing AND 4", TRUE),
        ("colour IN ('red', 'blue')", TRUE),
        ("colour IN ('red')", FALSE),
        ("colour NOT IN ('red', 'green')", TRUE),
        ("missing IN ('red')", UNKNOWN),
        ("missing NOT IN ('red')", UNKNOWN),
        ("colour CONTAINS 'lu'", TRUE),
        ("colour NOT CONTAINS 'lu'", FALSE),
        ("colour CONTAINS ''", TRUE),
        ("colour STARTSWITH 'bl'", TRUE),
        ("colour STARTSWITH 'lue'", FALSE),
        ("colour NOT STARTSWITH 'lue'", TRUE),
        ("colour ENDSWITH 'lue'", TRUE),
        ("colour NOT ENDSWITH 'lue'", FALSE),
        ("missing CONTAINS 'x'", UNKNOWN),
        ("missing NOT CONTAINS 'x'", UNKNOWN),
        ("5 CONTAINS '5'", UNKNOWN),
    ]);
}

#[test]
fn conditions_are_values() {
    expect(&[
        ("yes", TRUE),
        ("no", FALSE),
        ("colour", UNKNOWN),
        ("missing", UNKNOWN),
        ("yes = TRUE", TRUE),
        ("TRUE = yes", TRUE),
        ("no = FALSE", TRUE),
        ("no <> TRUE", TRUE),
        ("colour = TRUE", UNKNOWN),
        ("TRUE = 1", UNKNOWN),
        ("(five > 4) = TRUE", TRUE),
        ("five > 4 = yes", TRUE),
        ("five = 5 = TRUE", TRUE),
        ("yes = NOT no", TRUE),
        ("colour IS NULL = FALSE", TRUE),
    ]);
}

#[test]
fn null_is_unknown() {
    expect(&[
        ("missing IS NULL", TRUE),
        ("missing IS NOT NULL", FALSE),
        ("empty IS NULL", FALSE),
        ("colour IS NOT NULL", TRUE),
        ("(missing = 1) IS NULL", TRUE),
        ("NULL IS NULL", TRUE),
        ("NULL", UNKNOWN),
        ("missing = NULL", UNKNOWN),
        ("missing = missing", UNKNOWN),
        ("missing <> 'x'", UNKNOWN),
        ("5 < missing", UNKNOWN),
        ("missing > 5", UNKNOWN),
        ("NOT missing", UNKNOWN),
    ]);
}

/// SQL-92, tables of AND, OR, NOT and IS.
#[test]
fn three_valued_logic() {
    let words = [("TRUE", TRUE), ("FALSE", FALSE), ("NULL", UNKNOWN)];
    for (left, a) in words {
        assert_eq!(truth(&format!("NOT {left}")), a.map(|a| !a));
        for (right, b) in words {
            let and = match (a, b) {
                (FALSE, _) | (_, FALSE) => FALSE,
                (TRUE, TRUE) => TRUE,
                _ => UNKNOWN,
            };
            let or = match (a, b) {
                (TRUE, _) | (_, TRUE) => TRUE,
                (FALSE, FALSE) => FALSE,
                _ => UNKNOWN,
            };
            assert_eq!(truth(&format!("{left} AND {right}")), and, "{left} AND {right}");
            assert_eq!(truth(&format!("{left} OR {right}")), or, "{left} OR {right}");
            let equal = a.zip(b).map(|(a, b)| a == b);
            assert_eq!(truth(&format!("{left} = {right}")), equal, "{left} = {right}");
        }
    }
}

#[test]
fn precedence() {
    for (short, long) in [
        ("a OR b AND c", "a OR (b AND c)"),
        ("NOT a AND b", "(NOT a) AND b"),
        ("NOT a = 1", "NOT (a = 1)"),
        ("NOT a IN ('x') OR b", "(NOT (a IN ('x'))) OR b"),
        ("NOT NOT a", "NOT (NOT a)"),
        ("a = b > c", "a = (b > c)"),
        ("a = b = c", "(a = b) = c"),
        ("a <> b IS NULL", "(a <> b) IS NULL"),
        ("a > b IS NOT NULL", "(a > b) IS NOT NULL"),
        ("- a > 1", "(-a) > 1"),
        ("a BETWEEN 1 AND 2 AND b", "(a BETWEEN 1 AND 2) AND b"),
        ("a AND b AND c OR d", "(a AND b AND c) OR d"),
    ] {
        assert_eq!(Selector::parse(short), Selector::parse(long), "{short:?}");
        Selector::parse(short).unwrap();
    }
    assert_ne!(Selector::parse("(a OR b) AND c"), Selector::parse("a OR b AND c"));
}

#[test]
fn keywords_have_no_case_and_comments_are_blanks() {
    for (expression, normal) in [
        ("a is Not nuLL", "a IS NOT NULL"),
        ("a between 1 and 2", "a BETWEEN 1 AND 2"),
        ("a not in('x','y')", "a NOT IN ('x', 'y')"),
        ("a startsWith 'x'", "a STARTSWITH 'x'"),
        ("\t-- what\r\na/* why */=/**/1.50-- end", "a = 1.5"),
        ("notes = true", "notes = TRUE"),
        ("$and<>_or", "$and <> _or"),
        ("a=-1", "a = -1"),
        ("-a=1", "(-(a)) = 1"),
        ("((a))", "a"),
    ] {
        assert_eq!(Selector::parse(expression).unwrap().text(), normal);
    }
}

#[test]
fn errors_say_where_and_what() {
    for (expression, offset, expected) in [
        ("", 0, "a property"),
        ("a >", 3, "a property"),
        ("a > 'x'", 4, "a number"),
        ("'x' < a", 0, "a number"),
        ("a > TRUE", 4, "a number"),
        ("a = 5 junk", 6, "an operator"),
        ("a LIKE 'x%'", 2, "an operator"),
        ("a AND", 5, "a property"),
        ("a AND 5", 6, "a condition"),
        ("5 OR a", 0, "a condition"),
        ("5", 0, "a condition"),
        ("'text'", 0, "a condition"),
        ("NOT 5", 4, "a condition"),
        ("a = - 'x'", 6, "a number"),
        ("(a = 1", 6, "')'"),
        ("a = 1)", 5, "an operator"),
        ("()", 1, "a property"),
        ("a = 'open", 9, "the closing quote"),
        ("a = 1 /* open", 8, "the end of the comment"),
        ("a NOT = 1", 6, "BETWEEN"),
        ("a IS 5", 5, "NULL"),
        ("a IN 'x'", 5, "strings in parentheses"),
        ("a IN ()", 6, "a string"),
        ("a IN (1)", 6, "a string"),
        ("a IN ('x' 'y')", 10, "','"),
        ("a CONTAINS b", 11, "a string"),
        ("a BETWEEN 1", 11, "AND"),
        ("a BETWEEN 5 AND 1", 10, "a lower bound"),
        ("a BETWEEN 'a' AND 'b'", 10, "a number"),
        ("a = 9223372036854775808", 4, "a number that fits"),
        ("a = 1e999", 4, "a number that fits"),
        ("a = 5abc", 4, "a property"),
        ("a-b = 1", 1, "an operator"),
        ("ä = 1", 0, "a property"),
        ("a = \"x\"", 4, "a property"),
        ("a = 'ä' AND ?", 13, "a property"),
    ] {
        match Selector::parse(expression) {
            Err(SelectorError::Syntax { offset: at, expected: what, .. }) => {
                assert_eq!(at, offset, "{expression:?} expected {what}");
                assert!(what.starts_with(expected), "{expression:?} expected {what}");
            }
            other => panic!("{expression:?}: {other:?}"),
        }
    }
    assert_eq!(
        Selector::parse("a = 5 junk").unwrap_err().to_string(),
        "the SQL filter is wrong at position 6. There is \"junk\", expected an operator (=, <>, <, <=, >, >=, \
         BETWEEN, IN, CONTAINS, STARTSWITH, ENDSWITH, IS), AND, OR, or the end"
    );
}

#[test]
fn limits() {
    let nested = |prefix: &str, open: &str, levels: usize, close: &str| {
        Selector::parse(&format!("{prefix}{}a{}", open.repeat(levels), close.repeat(levels)))
    };
    for (prefix, open, close) in
        [("", "(", ")"), ("", "NOT ", ""), ("", "a AND (", ")"), ("0 = ", "- ", ""), ("0 = ", "NOT ", "")]
    {
        nested(prefix, open, SELECTOR_DEPTH_MAX, close).unwrap();
        let most = (SELECTOR_BYTES_MAX - 9) / (open.len() + close.len());
        for levels in [SELECTOR_DEPTH_MAX + 1, most] {
            let refused = nested(prefix, open, levels, close);
            assert!(matches!(refused, Err(SelectorError::TooDeep { .. })), "{prefix}{open}: {refused:?}");
        }
    }
    let chained = |tests: usize| Selector::parse(&format!("a{}", " = a".repeat(tests)));
    chained(SELECTOR_DEPTH_MAX + 1).unwrap();
    assert!(matches!(chained(SELECTOR_DEPTH_MAX + 2), Err(SelectorError::TooDeep { .. })));

    let wide = format!("a{}", " OR a".repeat((SELECTOR_BYTES_MAX - 1) / 5));
    Selector::parse(&wide).unwrap();
    let long = format!("{wide}{}", " ".repeat(SELECTOR_BYTES_MAX));
    assert_eq!(Selector::parse(&long), Err(SelectorError::TooLong { len: long.len() }));
}

/// Something that may be a number.
fn numeric() -> impl Strategy<Value = Expr> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(Expr::Int),
        any::<f64>().prop_filter("finite", |float| float.is_finite()).prop_map(Expr::Float),
        name().prop_map(Expr::Property),
    ];
    leaf.prop_recursive(2, 4, 1, |inner| inner.prop_map(|operand| Expr::Negative(Box::new(operand))))
}

fn name() -> impl Strategy<Value = String> {
    "[a-z_$][A-Za-z0-9_$]{0,3}"
        .prop_filter("no keyword", |name| Selector::parse(name).is_ok_and(|read| read.text() == name))
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![".*", "['a ]{0,4}"]
}

fn expression() -> impl Strategy<Value = Expr> {
    let leaf = prop_oneof![
        Just(Expr::Null),
        any::<bool>().prop_map(Expr::Bool),
        name().prop_map(Expr::Property),
        (numeric(), test(numeric().boxed())).prop_map(|(value, test)| Expr::Test(Box::new(value), test)),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let several = || prop::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            inner.clone().prop_map(|operand| Expr::Not(Box::new(operand))),
            several().prop_map(Expr::And),
            several().prop_map(Expr::Or),
            (inner.clone(), test(inner.clone().boxed()))
                .prop_filter("numbers only", |(value, test)| value.is_numeric() || !test.needs_number())
                .prop_map(|(value, test)| Expr::Test(Box::new(value), test)),
        ]
    })
}

fn test(other: BoxedStrategy<Expr>) -> impl Strategy<Value = Test> {
    let number = || numeric().prop_map(Box::new);
    let orders = [Order::Less, Order::LessOrEqual, Order::Greater, Order::GreaterOrEqual];
    let places = [Place::Anywhere, Place::Start, Place::End];
    let equal_to = prop_oneof![other, text().prop_map(Expr::Text)];
    prop_oneof![
        (any::<bool>(), equal_to.prop_map(Box::new)).prop_map(|(negated, other)| Test::Equal(negated, other)),
        (prop::sample::select(orders.to_vec()), number())
            .prop_map(|(order, other)| Test::Order(order, other)),
        any::<bool>().prop_map(Test::IsNull),
        (any::<bool>(), number(), number())
            .prop_filter("in order", |(_, low, high)| !low.is_above(high))
            .prop_map(|(negated, low, high)| Test::Between(negated, low, high)),
        (any::<bool>(), prop::collection::vec(text(), 1..4))
            .prop_map(|(negated, list)| Test::In(negated, list)),
        (any::<bool>(), prop::sample::select(places.to_vec()), text())
            .prop_map(|(negated, place, text)| Test::Find(negated, place, text)),
    ]
}

/// Pieces of the language, in any order.
fn jumble() -> impl Strategy<Value = String> {
    let pieces = "NOT AND OR BETWEEN IN IS NULL TRUE CONTAINS ( ) , + - * = < > <> != 'x' ' a $b 5 5. .5 1e9 -- /* */ \n ä";
    let pieces: Vec<&str> = pieces.split(' ').collect();
    prop::collection::vec(prop::sample::select(pieces), 0..12).prop_map(|pieces| pieces.join(" "))
}

proptest! {
    #[test]
    fn what_is_printed_is_parsed_alike(expression in expression()) {
        let text = expression.to_string();
        let parsed = parse::condition(&text);
        prop_assert_eq!(parsed.as_ref(), Ok(&expression), "{}", text);
    }

    #[test]
    fn nothing_makes_it_panic(text in prop_oneof![jumble().boxed(), any::<String>().boxed()]) {
        match Selector::parse(&text) {
            Ok(selector) => {
                selector.matches(property);
                prop_assert_eq!(&Selector::parse(selector.text()), &Ok(selector));
            }
            Err(SelectorError::Syntax { offset, .. }) => prop_assert!(text.is_char_boundary(offset)),
            Err(error) => prop_assert!(false, "{:?}", error),
        }
    }
}
