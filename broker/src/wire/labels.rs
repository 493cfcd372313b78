//! The selectors of stored messages: tag, keys and properties, read in place.

use std::borrow::Cow;

use kerolox_core::filter::Filter;
use kerolox_core::record::MessageRecord;

use super::fields::{Fields, Irregular};
use super::numbers::{message, system};

/// Names of RocketMQ's system properties for SQL filters; user properties may not have them.
mod property {
    pub(super) const TAG: &str = "TAGS";
    /// All keys, with blanks between them.
    pub(super) const KEYS: &str = "KEYS";
    pub(super) const MESSAGE_ID: &str = "UNIQ_KEY";
    pub(super) const MESSAGE_GROUP: &str = "__SHARDINGKEY";
}

/// Whether a stored message passes a filter. Reads only the fields that the filter needs.
///
/// # Errors
/// [`Irregular`] when the stored bytes are no message.
pub(crate) fn is_wanted(record: &MessageRecord, filter: &Filter) -> Result<bool, Irregular> {
    match filter {
        Filter::All => Ok(true),
        Filter::Tags(_) => Ok(filter.matches(tag(record)?, |_| None)),
        Filter::Sql(_) => {
            let properties = properties(record)?;
            Ok(filter.matches(None, |name| {
                let found = properties.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| Cow::Borrowed(value.as_ref()))
            }))
        }
    }
}

/// The tag of a stored message.
pub(super) fn tag(record: &MessageRecord) -> Result<Option<&str>, Irregular> {
    label(record, system::TAG)
}

/// All properties of a stored message that SQL filters see, with their names.
fn properties(record: &MessageRecord) -> Result<Vec<(&str, Cow<'_, str>)>, Irregular> {
    let mut properties = vec![(property::MESSAGE_ID, Cow::Borrowed(record.header.message_id.as_str()))];
    let mut keys: Vec<&str> = Vec::new();
    let mut fields = Fields::of(&record.system);
    while let Some(field) = fields.next()? {
        match field.number {
            system::TAG => properties.push((property::TAG, Cow::Borrowed(field.text()?))),
            system::MESSAGE_GROUP => properties.push((property::MESSAGE_GROUP, Cow::Borrowed(field.text()?))),
            system::KEYS => keys.push(field.text()?),
            _ => {}
        }
    }
    if !keys.is_empty() {
        properties.push((property::KEYS, Cow::Owned(keys.join(" "))));
    }
    let mut fields = Fields::of(&record.content);
    while let Some(field) = fields.next()? {
        if field.number == message::USER_PROPERTIES {
            let (name, value) = field.pair()?;
            properties.push((name, Cow::Borrowed(value)));
        }
    }
    Ok(properties)
}

/// The keys of a stored message.
///
/// # Errors
/// See [`is_wanted`].
pub(super) fn keys(record: &MessageRecord) -> Result<Vec<&str>, Irregular> {
    let mut keys = Vec::new();
    let mut fields = Fields::of(&record.system);
    while let Some(field) = fields.next()? {
        if field.number == system::KEYS {
            keys.push(field.text()?);
        }
    }
    Ok(keys)
}

/// The message group of a stored message.
///
/// # Errors
/// See [`is_wanted`].
pub(crate) fn message_group(record: &MessageRecord) -> Result<Option<&str>, Irregular> {
    label(record, system::MESSAGE_GROUP)
}

/// The texts by which people tell messages apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    pub(crate) tag: Option<String>,
    pub(crate) keys: Vec<String>,
    pub(crate) message_group: Option<String>,
}

/// The labels of a stored message; for a malformed one, those that can be read.
pub(crate) fn labels(record: &MessageRecord) -> Labels {
    let mut labels = Labels::default();
    let mut fields = Fields::of(&record.system);
    while let Ok(Some(field)) = fields.next() {
        let text = || field.text().ok().map(str::to_owned);
        match field.number {
            system::TAG => labels.tag = text(),
            system::KEYS => labels.keys.extend(text()),
            system::MESSAGE_GROUP => labels.message_group = text(),
            _ => {}
        }
    }
    labels
}

/// A singular text of the system properties.
fn label(record: &MessageRecord, number: u32) -> Result<Option<&str>, Irregular> {
    let mut fields = Fields::of(&record.system);
    while let Some(field) = fields.next()? {
        if field.number == number {
            return field.text().map(Some);
        }
    }
    Ok(None)
}

/// Whether a stored message has this key.
pub(crate) fn has_key(record: &MessageRecord, key: &str) -> bool {
    let mut fields = Fields::of(&record.system);
    while let Ok(Some(field)) = fields.next() {
        if field.number == system::KEYS && field.text() == Ok(key) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use kerolox_proto::v2::{self, SystemProperties};
    use prost::Message as _;

    use super::*;

    #[test]
    fn filters_see_user_properties_and_labels() {
        let mut content = v2::Message { body: vec![1; 300].into(), ..Default::default() };
        content.user_properties.insert("amount".to_owned(), "12".to_owned());
        let labels = SystemProperties {
            tag: Some("paid".to_owned()),
            keys: vec!["k1".to_owned(), "k2".to_owned()],
            message_group: Some("customer".to_owned()),
            ..Default::default()
        };
        let record = MessageRecord {
            header: kerolox_core::record::MessageHeader { message_id: "id".to_owned(), ..Default::default() },
            system: labels.encode_to_vec().into(),
            content: content.encode_to_vec().into(),
        };
        let wanted = |filter: &Filter| is_wanted(&record, filter);
        for sql in [
            "amount > 11 AND TAGS = 'paid' AND UNIQ_KEY = 'id'",
            "KEYS = 'k1 k2' AND __SHARDINGKEY = 'customer'",
            "other IS NULL",
        ] {
            assert_eq!(wanted(&Filter::sql(sql).unwrap()), Ok(true), "{sql}");
        }
        assert_eq!(wanted(&Filter::sql("amount > 12").unwrap()), Ok(false));
        assert_eq!(wanted(&Filter::tags("new || paid").unwrap()), Ok(true));
        assert_eq!(wanted(&Filter::tags("new").unwrap()), Ok(false));
        let bare = MessageRecord { system: bytes::Bytes::new(), content: bytes::Bytes::new(), ..record };
        assert_eq!(is_wanted(&bare, &Filter::sql("KEYS IS NULL AND TAGS IS NULL").unwrap()), Ok(true));
    }
}
