//! The page of limits that no setting changes, from the constants of the protocol.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use syn::{BinOp, Expr, Lit};

use crate::source::{about, parsed};

const SOURCE: &str = "proto/model/src/limits.rs";

/// The value of a constant, in terms of literals and of constants before it.
fn value(expression: &Expr, known: &BTreeMap<String, u64>) -> u64 {
    match expression {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Int(number) => number.base10_parse().unwrap(),
            _ => panic!("a limit is a number"),
        },
        Expr::Path(path) => known[&path.path.segments.last().unwrap().ident.to_string()],
        Expr::Binary(sides) => {
            let (left, right) = (value(&sides.left, known), value(&sides.right, known));
            match sides.op {
                BinOp::Mul(_) => left * right,
                BinOp::Shl(_) => left << right,
                _ => panic!("teach this test the operator"),
            }
        }
        _ => panic!("teach this test the expression"),
    }
}

pub(crate) fn page() -> String {
    let mut page = "# Limits

Limits that an operator may change are [settings](settings.md) (`limits.*`, `connections.*`, `memory.*`, `*-max`) and
[attributes](attributes.md) of a topic or group. Those below belong to the protocol or protect a server, and are fixed.
A request beyond a limit fails with the [error code](errors.md) of its field and changes nothing.

| limit | value | what it bounds |
|---|---|---|
"
    .to_owned();
    let mut known = BTreeMap::new();
    for item in parsed(SOURCE).items {
        let syn::Item::Const(item) = item else { continue };
        let (name, meaning) = (item.ident.to_string(), about(&item.attrs));
        let number = value(&item.expr, &known);
        assert!(!meaning.is_empty() && !meaning.starts_with("See"), "{name} has no description of its own");
        writeln!(page, "| `{name}` | {number} | {meaning} |").unwrap();
        known.insert(name, number);
    }
    assert!(known.len() > 30, "only {} limits: is {SOURCE} still read right?", known.len());
    page
}
