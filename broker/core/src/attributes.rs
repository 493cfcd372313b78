//! RocketMQ's attribute syntax: `+key=value` sets, `-key` removes, several changes separated by commas.

pub mod known;

use std::collections::BTreeMap;

use kerolox_model::limits::{ATTRIBUTE_BYTES_MAX, ATTRIBUTE_CHANGES_MAX};

/// Characters of a malformed change that its error quotes.
const SHOWN_CHARS: usize = 200;

/// One change of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttributeChange {
    /// `+key=value`
    Set(String, String),
    /// `-key`
    Remove(String),
}

/// Reads changes, one or more to an entry.
///
/// # Errors
/// A sentence that says which change is wrong and how it should look.
pub fn parse(entries: &[String]) -> Result<Vec<AttributeChange>, String> {
    let changes = entries.iter().flat_map(|entry| entry.split(',')).map(str::trim);
    let changes = changes.filter(|change| !change.is_empty());
    let count = changes.clone().count();
    if count > ATTRIBUTE_CHANGES_MAX {
        return Err(format!(
            "{count} changes of attributes in one request, the limit is {ATTRIBUTE_CHANGES_MAX}; make several requests"
        ));
    }
    changes.map(parse_one).collect()
}

fn parse_one(change: &str) -> Result<AttributeChange, String> {
    let shown: String = change.chars().take(SHOWN_CHARS).collect();
    let wrong = || format!("attribute change {shown:?} is not of the form +key=value or -key");
    if let Some(key) = change.strip_prefix('-') {
        return if key.is_empty() { Err(wrong()) } else { Ok(AttributeChange::Remove(key.to_owned())) };
    }
    let (key, value) = change.strip_prefix('+').and_then(|rest| rest.split_once('=')).ok_or_else(wrong)?;
    if key.is_empty() {
        return Err(wrong());
    }
    if value.len() > ATTRIBUTE_BYTES_MAX {
        return Err(format!(
            "the value of an attribute has {} bytes, the limit is {ATTRIBUTE_BYTES_MAX}; shorten it",
            value.len()
        ));
    }
    Ok(AttributeChange::Set(key.to_owned(), value.to_owned()))
}

/// Applies changes to a map.
pub fn apply(attributes: &mut BTreeMap<String, String>, changes: Vec<AttributeChange>) {
    for change in changes {
        match change {
            AttributeChange::Set(key, value) => attributes.insert(key, value),
            AttributeChange::Remove(key) => attributes.remove(&key),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rocketmq_syntax_is_understood() {
        let changes = parse(&["+message.type=FIFO,-reserve.time".to_owned(), "+a=b=c".to_owned()]);
        assert_eq!(
            changes,
            Ok(vec![
                AttributeChange::Set("message.type".into(), "FIFO".into()),
                AttributeChange::Remove("reserve.time".into()),
                AttributeChange::Set("a".into(), "b=c".into()),
            ])
        );
    }

    #[test]
    fn changes_are_limited_in_number_and_length() {
        let set = |len: usize| format!("+transaction.webhook={}", "x".repeat(len));
        assert!(parse(&[set(ATTRIBUTE_BYTES_MAX)]).is_ok());
        assert!(parse(&[set(ATTRIBUTE_BYTES_MAX + 1)]).is_err_and(|text| text.contains("2049 bytes")));
        let many = |count: usize| vec!["+a=b,".repeat(count)];
        assert!(parse(&many(ATTRIBUTE_CHANGES_MAX)).is_ok());
        assert!(parse(&many(ATTRIBUTE_CHANGES_MAX + 1)).is_err_and(|text| text.contains("65 changes")));
        assert!(parse(&["x".repeat(1 << 20)]).is_err_and(|text| text.len() < 1_000), "the error is short");
    }

    #[test]
    fn malformed_changes_are_named() {
        for bad in ["message.type=FIFO", "+novalue", "-", "+=x"] {
            assert!(parse(&[bad.to_owned()]).is_err_and(|text| text.contains(bad)), "{bad}");
        }
    }
}
