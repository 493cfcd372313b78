//! The grammar.

use kerolox_model::limits::SELECTOR_DEPTH_MAX;
use winnow::ascii::{digit0, digit1};
use winnow::combinator::{
    alt, cut_err, delimited, eof, not, opt, peek, preceded, repeat, separated, terminated,
};
use winnow::error::{ContextError, ErrMode};
use winnow::stream::{Stateful, Stream as _};
use winnow::token::{one_of, take_till, take_until, take_while};
use winnow::{ModalResult, Parser};

use super::SelectorError;
use super::ast::{Expr, Order, Place, Test};

const CONDITION: &str = "a condition, such as a comparison";
const NUMERIC: &str = "a number or a property (text can be compared with = and <> only)";
const OPERAND: &str = "a property, a number, a string in single quotes, TRUE, FALSE, NULL or '('";
const STRING: &str = "a string in single quotes";
const IN_RANGE: &str = "a number that fits into 64 bits";
const BOUNDS: &str = "a lower bound that is not above the upper one";
const AFTER_NOT: &str = "BETWEEN, IN, CONTAINS, STARTSWITH or ENDSWITH";
const END: &str =
    "an operator (=, <>, <, <=, >, >=, BETWEEN, IN, CONTAINS, STARTSWITH, ENDSWITH, IS), AND, OR, or the end";
/// Marks the one error that does not concern the text at its position.
const TOO_DEEP: &str = "fewer levels";

const KEYWORDS: [&str; 12] = [
    "AND",
    "BETWEEN",
    "CONTAINS",
    "ENDSWITH",
    "FALSE",
    "IN",
    "IS",
    "NOT",
    "NULL",
    "OR",
    "STARTSWITH",
    "TRUE",
];

type Input<'a> = Stateful<&'a str, Depth>;
type Error = ErrMode<ContextError<&'static str>>;
type Parsed<T> = ModalResult<T, ContextError<&'static str>>;

/// Counters that bound the depth of the tree.
#[derive(Debug, Clone, Copy, Default)]
struct Depth {
    /// Levels around the current place.
    levels: usize,
    /// Tests that are chained on results of other tests, in the whole text so far.
    chained: usize,
}

impl Depth {
    fn check(self) -> Parsed<()> {
        if self.levels + self.chained > SELECTOR_DEPTH_MAX { Err(wrong(TOO_DEEP)) } else { Ok(()) }
    }
}

/// Reads a whole selector.
pub(super) fn condition(text: &str) -> Result<Expr, SelectorError> {
    let whole = delimited(blanks, required(or, Expr::is_condition, CONDITION), eof.context(END));
    let input = Stateful { input: text, state: Depth::default() };
    cut_err(whole).parse(input).map_err(|error| {
        let offset = error.offset();
        match error.inner().context().next() {
            Some(&TOO_DEEP) => SelectorError::TooDeep { offset },
            expected => SelectorError::Syntax {
                offset,
                found: found(&text[offset..]),
                expected: expected.copied().unwrap_or(END),
            },
        }
    })
}

/// The beginning of the text at the position of an error.
fn found(rest: &str) -> String {
    const SHOWN: usize = 20;
    match rest.char_indices().nth(SHOWN) {
        _ if rest.is_empty() => "its end".to_owned(),
        Some((end, _)) => format!("{:?}…", &rest[..end]),
        None => format!("{rest:?}"),
    }
}

fn or(input: &mut Input<'_>) -> Parsed<Expr> {
    chain(input, and, "OR", Expr::Or)
}

fn and(input: &mut Input<'_>) -> Parsed<Expr> {
    chain(input, negation, "AND", Expr::And)
}

/// One item, or several conditions with `word` between them.
fn chain<'a>(
    input: &mut Input<'a>,
    item: fn(&mut Input<'a>) -> Parsed<Expr>,
    word: &'static str,
    join: fn(Vec<Expr>) -> Expr,
) -> Parsed<Expr> {
    let start = input.checkpoint();
    let first = item(input)?;
    if opt(peek(keyword(word))).parse_next(input)?.is_none() {
        return Ok(first);
    }
    if !first.is_condition() {
        input.reset(&start);
        return Err(wrong(CONDITION));
    }
    let mut all = vec![first];
    while opt(keyword(word)).parse_next(input)?.is_some() {
        all.push(required(item, Expr::is_condition, CONDITION).parse_next(input)?);
    }
    Ok(join(all))
}

fn negation(input: &mut Input<'_>) -> Parsed<Expr> {
    let operand = nested(required(negation, Expr::is_condition, CONDITION));
    alt((preceded(keyword("NOT"), operand).map(not_of), equality)).parse_next(input)
}

fn not_of(condition: Expr) -> Expr {
    Expr::Not(Box::new(condition))
}

fn equality(input: &mut Input<'_>) -> Parsed<Expr> {
    tested(input, order, equality_test)
}

fn order(input: &mut Input<'_>) -> Parsed<Expr> {
    tested(input, operand, order_test)
}

/// A value, a test of it, a test of that result, and so on.
fn tested<'a>(
    input: &mut Input<'a>,
    value: fn(&mut Input<'a>) -> Parsed<Expr>,
    test: fn(&mut Input<'a>) -> Parsed<Test>,
) -> Parsed<Expr> {
    let start = input.checkpoint();
    let mut value = value(input)?;
    let mut is_first = true;
    while let Some(test) = opt(test).parse_next(input)? {
        if test.needs_number() && !value.is_numeric() {
            input.reset(&start);
            return Err(wrong(NUMERIC));
        }
        input.state.chained += usize::from(!is_first);
        input.state.check()?;
        is_first = false;
        value = Expr::Test(Box::new(value), test);
    }
    Ok(value)
}

fn equality_test(input: &mut Input<'_>) -> Parsed<Test> {
    let differs = alt((symbol("=").value(false), symbol("<>").value(true), symbol("!=").value(true)));
    let equal = (differs, cut_err(order)).map(|(negated, right)| Test::Equal(negated, Box::new(right)));
    let null = cut_err(terminated(negated, keyword("NULL")).context("NULL or NOT NULL"));
    alt((equal, preceded(keyword("IS"), null).map(Test::IsNull))).parse_next(input)
}

fn order_test(input: &mut Input<'_>) -> Parsed<Test> {
    let orders = alt((
        symbol("<=").value(Order::LessOrEqual),
        symbol(">=").value(Order::GreaterOrEqual),
        preceded(not("<>"), symbol("<")).value(Order::Less),
        symbol(">").value(Order::Greater),
    ));
    let order = (orders, numeric).map(|(order, right)| Test::Order(order, Box::new(right)));
    alt((order, word_test)).parse_next(input)
}

/// `[NOT] BETWEEN` and so on.
fn word_test(input: &mut Input<'_>) -> Parsed<Test> {
    let negated = negated(input)?;
    let between = preceded(keyword("BETWEEN"), bounds)
        .map(|(low, high)| Test::Between(negated, Box::new(low), Box::new(high)));
    let list = delimited(
        cut_err(symbol("(")).context("strings in parentheses"),
        separated(1.., cut_err(string).context(STRING), symbol(",")),
        cut_err(symbol(")")).context("',' or ')'"),
    );
    let places = alt((
        keyword("CONTAINS").value(Place::Anywhere),
        keyword("STARTSWITH").value(Place::Start),
        keyword("ENDSWITH").value(Place::End),
    ));
    let find = (places, cut_err(string).context(STRING));
    let mut test = alt((
        between,
        preceded(keyword("IN"), list).map(|list| Test::In(negated, list)),
        find.map(|(place, text)| Test::Find(negated, place, text)),
    ));
    if negated { cut_err(test).context(AFTER_NOT).parse_next(input) } else { test.parse_next(input) }
}

fn bounds(input: &mut Input<'_>) -> Parsed<(Expr, Expr)> {
    let start = input.checkpoint();
    let and = cut_err(keyword("AND")).context("AND and the upper bound");
    let (low, high) = (terminated(numeric, and), numeric).parse_next(input)?;
    if low.is_above(&high) {
        input.reset(&start);
        return Err(wrong(BOUNDS));
    }
    Ok((low, high))
}

fn numeric(input: &mut Input<'_>) -> Parsed<Expr> {
    required(operand, Expr::is_numeric, NUMERIC).parse_next(input)
}

fn operand(input: &mut Input<'_>) -> Parsed<Expr> {
    let group =
        delimited(symbol("("), nested(cut_err(or)), cut_err(symbol(")")).context("')' or an operator"));
    let negative = preceded(symbol("-"), nested(numeric)).map(|operand| Expr::Negative(Box::new(operand)));
    let opposite = nested(required(operand, Expr::is_condition, CONDITION));
    alt((
        name,
        string.map(Expr::Text),
        group,
        |input: &mut Input<'_>| number(input, ""),
        preceded(symbol("-"), |input: &mut Input<'_>| number(input, "-")),
        negative,
        preceded(symbol("+"), nested(numeric)),
        preceded(keyword("NOT"), opposite).map(not_of),
    ))
    .context(OPERAND)
    .parse_next(input)
}

/// A property, or a word that stands for a value.
fn name(input: &mut Input<'_>) -> Parsed<Expr> {
    let value = |word: &str| match word {
        _ if word.eq_ignore_ascii_case("TRUE") => Some(Expr::Bool(true)),
        _ if word.eq_ignore_ascii_case("FALSE") => Some(Expr::Bool(false)),
        _ if word.eq_ignore_ascii_case("NULL") => Some(Expr::Null),
        _ if KEYWORDS.iter().any(|keyword| word.eq_ignore_ascii_case(keyword)) => None,
        _ => Some(Expr::Property(word.to_owned())),
    };
    lexeme(word.verify_map(value)).parse_next(input)
}

/// A number; its `sign` was read already.
fn number(input: &mut Input<'_>, sign: &str) -> Parsed<Expr> {
    let start = input.checkpoint();
    let float = alt((
        (digit1, '.', digit0, opt(exponent)).void(),
        ('.', digit1, opt(exponent)).void(),
        (digit1, exponent).void(),
    ));
    let float = float.take().map(|digits: &str| {
        let float = format!("{sign}{digits}").parse().ok().filter(|float: &f64| float.is_finite());
        float.map(Expr::Float)
    });
    let int = terminated(digit1, opt(one_of(['l', 'L'])));
    let int = int.map(|digits: &str| format!("{sign}{digits}").parse().ok().map(Expr::Int));
    let end = not(one_of(is_in_word));
    let number = lexeme(terminated(alt((float, int)), end)).parse_next(input)?;
    number.ok_or_else(|| {
        input.reset(&start);
        wrong(IN_RANGE)
    })
}

fn exponent(input: &mut Input<'_>) -> Parsed<()> {
    (one_of(['e', 'E']), opt(one_of(['+', '-'])), digit1).void().parse_next(input)
}

/// The text between quotes; a doubled quote is one of its characters.
fn string(input: &mut Input<'_>) -> Parsed<String> {
    let part = alt((take_till(1.., '\''), "''".value("'")));
    let text = repeat(0.., part).fold(String::new, |mut text: String, part: &str| {
        text.push_str(part);
        text
    });
    lexeme(delimited('\'', text, cut_err('\'').context("the closing quote of the string"))).parse_next(input)
}

fn negated(input: &mut Input<'_>) -> Parsed<bool> {
    opt(keyword("NOT")).map(|found| found.is_some()).parse_next(input)
}

fn keyword<'a>(keyword: &'static str) -> impl Parser<Input<'a>, (), Error> {
    lexeme(word.verify(move |word: &str| word.eq_ignore_ascii_case(keyword)).void())
}

fn symbol<'a>(symbol: &'static str) -> impl Parser<Input<'a>, (), Error> {
    lexeme(symbol.void())
}

fn word<'a>(input: &mut Input<'a>) -> Parsed<&'a str> {
    let first = one_of(|letter: char| is_in_word(letter) && !letter.is_ascii_digit());
    (first, take_while(0.., is_in_word)).take().parse_next(input)
}

fn is_in_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_' || letter == '$'
}

fn lexeme<'a, T>(parser: impl Parser<Input<'a>, T, Error>) -> impl Parser<Input<'a>, T, Error> {
    terminated(parser, blanks)
}

/// Blanks and comments.
fn blanks(input: &mut Input<'_>) -> Parsed<()> {
    let blank = take_while(1.., [' ', '\t', '\r', '\n', '\x0c']).void();
    let line = ("--", take_till(0.., ['\r', '\n'])).void();
    let block = ("/*", cut_err((take_until(0.., "*/"), "*/")).context("the end of the comment, '*/'")).void();
    repeat(0.., alt((blank, line, block))).parse_next(input)
}

/// Fails for good unless `parser` succeeds and its result fits.
fn required<'a>(
    parser: fn(&mut Input<'a>) -> Parsed<Expr>,
    fits: fn(&Expr) -> bool,
    what: &'static str,
) -> impl Parser<Input<'a>, Expr, Error> {
    cut_err(parser.verify(fits).context(what))
}

/// `parser` one level deeper.
fn nested<'a>(mut parser: impl Parser<Input<'a>, Expr, Error>) -> impl Parser<Input<'a>, Expr, Error> {
    move |input: &mut Input<'a>| {
        input.state.levels += 1;
        let read = input.state.check().and_then(|()| parser.parse_next(input));
        input.state.levels -= 1;
        read
    }
}

/// The error that something else was expected at the current place.
fn wrong(expected: &'static str) -> Error {
    let mut error = ContextError::new();
    error.push(expected);
    ErrMode::Cut(error)
}
