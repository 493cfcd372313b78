//! The page of error codes: every code that a server answers with, its cause, and what helps.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use kerolox_proto::v2::Code;

use crate::source::{read, sources_below};

/// A code that servers answer with.
struct Answer {
    code: Code,
    /// Why a server answers so.
    cause: &'static str,
    /// What a client or an operator does about it.
    remedy: &'static str,
}

const fn answer(code: Code, cause: &'static str, remedy: &'static str) -> Answer {
    Answer { code, cause, remedy }
}

const ANSWERS: &[Answer] = &[
    answer(Code::Ok, "The call is done.", "Nothing."),
    answer(
        Code::MultipleResults,
        "Entries of one request had different outcomes.",
        "Look at the status of each entry, and repeat those that failed.",
    ),
    answer(
        Code::BadRequest,
        "A field is missing or wrong that has no code of its own: no endpoints, no group, a malformed duration, an unknown setting.",
        "Correct the field that the message names.",
    ),
    answer(
        Code::IllegalTopic,
        "The topic's name is empty, too long, reserved or has other characters than letters, digits, `%`, `|`, `-` and `_`.",
        "Use another name; see [limits](limits.md).",
    ),
    answer(
        Code::IllegalConsumerGroup,
        "The group's name breaks the rules for topics' names.",
        "Use another name.",
    ),
    answer(
        Code::IllegalMessageTag,
        "The tag is blank, or contains `|` or control characters.",
        "Use another tag.",
    ),
    answer(Code::IllegalMessageKey, "A key is blank or contains control characters.", "Use another key."),
    answer(
        Code::IllegalMessageGroup,
        "The message group is blank or too long, or the message also has what its type excludes.",
        "Use another message group; see [limits](limits.md).",
    ),
    answer(
        Code::IllegalMessagePropertyKey,
        "A property's key is reserved, blank or contains control characters.",
        "Rename the property.",
    ),
    answer(
        Code::InvalidTransactionId,
        "The broker has no such transaction: the id is blank or malformed, of another topic or cluster, or too old.",
        "Commit with the id of the half message's own receipt; `mqadmin transaction list` shows undecided ones.",
    ),
    answer(
        Code::IllegalMessageId,
        "The message id is blank, too long or contains control characters.",
        "Let the SDK make the id.",
    ),
    answer(
        Code::IllegalFilterExpression,
        "The tag expression or SQL-92 condition cannot be parsed; the message shows where.",
        "Correct the expression. The member that sent it receives nothing until then.",
    ),
    answer(
        Code::IllegalInvisibleTime,
        "The invisible duration is outside its bounds: 10 s to 12 h on receive, up to 12 h on change.",
        "Ask for a duration within the bounds.",
    ),
    answer(
        Code::IllegalDeliveryTime,
        "The delivery time lies further ahead than `limits.max-delay` of the broker or topic.",
        "Deliver earlier, or raise the limit.",
    ),
    answer(
        Code::InvalidReceiptHandle,
        "The receipt handle is malformed, expired or superseded: another attempt of the message is under way or done.",
        "Drop the message and wait for its next delivery. Finish work within the invisible duration, or extend it.",
    ),
    answer(
        Code::MessagePropertyConflictWithType,
        "The topic does not take messages of this type.",
        "Send to a topic with a fitting `message.type`, or change it (`mqadmin updateTopic -a +message.type=…`).",
    ),
    answer(
        Code::MessageCorrupted,
        "The request has no message, messages of several topics, or a body whose checksum or encoding is wrong.",
        "Send anew; a proxy or a faulty client changed the bytes.",
    ),
    answer(
        Code::ClientIdRequired,
        "The header `x-mq-client-id` is missing or blank.",
        "Use an SDK, or set the header.",
    ),
    answer(
        Code::IllegalOffset,
        "The offset is outside the queue or negative.",
        "Ask for the queue's bounds first (`QueryOffset`, `mqadmin topicStatus`).",
    ),
    answer(
        Code::IllegalLiteTopic,
        "The lite topic's name is blank, too long or has characters that are not allowed.",
        "Use another name; see [limits](limits.md).",
    ),
    answer(
        Code::InvalidClientProperties,
        "The client tells more about itself, or longer texts, than a server keeps.",
        "Set fewer or shorter client properties; see [limits](limits.md).",
    ),
    answer(
        Code::Forbidden,
        "No queue of the topic may be read (or written), the group may not consume, or the server does not allow the action.",
        "Look at `perm` of the topic, `consumeEnable` of the group, and withheld permissions (`mqadmin brokerLeaveStatus`).",
    ),
    answer(
        Code::NotFound,
        "The client, message or object that the call names does not exist (any more).",
        "Check the id. Scheduled messages that became visible cannot be recalled.",
    ),
    answer(
        Code::MessageNotFound,
        "On receive: no message arrived within the polling time. On a query: no message has this id.",
        "Poll again; SDKs do so by themselves.",
    ),
    answer(
        Code::TopicNotFound,
        "No broker serves the topic.",
        "Create it (`mqadmin updateTopic -t TOPIC`), or let brokers create topics (`topics.auto-create`).",
    ),
    answer(
        Code::ConsumerGroupNotFound,
        "The group does not exist, and `groups.auto-create` is off.",
        "Create it (`mqadmin updateSubGroup -g GROUP`).",
    ),
    answer(
        Code::OffsetNotFound,
        "The group has finished nothing in this queue, or no message has the time.",
        "Begin at the queue's first or last offset.",
    ),
    answer(
        Code::RequestTimeout,
        "The request did not arrive completely within `connections.request`.",
        "Send less at once, or over a faster line.",
    ),
    answer(
        Code::PayloadTooLarge,
        "The request has more bytes or messages than a call may have.",
        "Send fewer or smaller messages per call; see [limits](limits.md).",
    ),
    answer(
        Code::MessageBodyTooLarge,
        "The body exceeds `limits.max-body-bytes` of the broker or topic.",
        "Send less, store the body elsewhere, or raise the limit.",
    ),
    answer(Code::MessageBodyEmpty, "The message has no body.", "Send a body of at least one byte."),
    answer(
        Code::PreconditionFailed,
        "The state does not allow the call: the transaction is already decided the other way, or the subscription is in use.",
        "Look at the state (`mqadmin transaction show ID`); do not repeat the call.",
    ),
    answer(
        Code::TooManyRequests,
        "The server has no room: memory for callers, waiting bytes of the log, free disk space, automatic topics.",
        "Wait and repeat, as SDKs do. If it lasts, `mqadmin check readiness` names the reason.",
    ),
    answer(
        Code::LiteTopicQuotaExceeded,
        "The topic has `lite.max-topics` lite topics.",
        "Let lite topics expire (`lite.topic.expiration`), or raise the setting.",
    ),
    answer(
        Code::LiteSubscriptionQuotaExceeded,
        "The client or all clients together subscribe to too many lite topics.",
        "Unsubscribe, or raise `lite.sub.client.quota` of the group or `lite.max-subscriptions`.",
    ),
    answer(
        Code::MessagePropertiesTooLarge,
        "Keys and values of the properties exceed `limits.max-properties-bytes`.",
        "Send fewer or shorter properties.",
    ),
    answer(
        Code::InternalServerError,
        "The server failed: its log is read-only, data is damaged, or an index is being rebuilt.",
        "Repeat the call. `mqadmin check` and the server's log name the cause.",
    ),
    answer(
        Code::HaNotAvailable,
        "The broker group has no master right now, or fewer members in sync than `replication.min-in-sync`.",
        "Repeat: an election takes two to three seconds. Start missing members (`mqadmin haStatus`).",
    ),
    answer(
        Code::NotImplemented,
        "The server does not offer the operation.",
        "Use another one; the message names it if there is one.",
    ),
    answer(
        Code::ProxyTimeout,
        "The server that the call was passed on to did not answer in time, or cannot be reached.",
        "Repeat the call. A send may have taken effect.",
    ),
    answer(
        Code::SlavePersistenceTimeout,
        "The message is on the master's disk, and the in-sync members did not confirm it in time.",
        "The outcome is unknown: repeat with deduplication, or query the message. It may exist twice.",
    ),
];

/// The names of the codes that the sources of the servers answer with.
fn answered() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for folder in ["broker/src", "broker/core/src", "nameserver"] {
        for path in sources_below(folder).iter().filter(|path| !path.contains("test")) {
            let text = read(path);
            for rest in text.split("Code::").skip(1) {
                names.insert(rest.chars().take_while(|letter| letter.is_alphanumeric()).collect());
            }
        }
    }
    names
}

/// Codes that servers only pass on or compare with, and names of gRPC's own codes.
const NOT_ANSWERED: [&str; 14] = [
    "Unspecified",
    "Internal",
    "Unavailable",
    "InvalidArgument",
    "FailedPrecondition",
    "DeadlineExceeded",
    "ResourceExhausted",
    "Unimplemented",
    "Cancelled",
    "PermissionDenied",
    "AlreadyExists",
    "Unknown",
    "Aborted",
    "FailedToConsumeMessage",
];

pub(crate) fn page() -> String {
    let known: BTreeSet<String> = ANSWERS.iter().map(|answer| format!("{:?}", answer.code)).collect();
    for name in answered() {
        let is_code = name.chars().any(char::is_lowercase)
            && name.starts_with(char::is_uppercase)
            && !NOT_ANSWERED.contains(&name.as_str());
        assert!(!is_code || known.contains(&name), "servers answer with {name}, which is not explained");
    }
    for name in &known {
        assert!(answered().contains(name), "no server answers with {name}");
    }
    let mut page = "# Error codes

Every answer of the SDKs' protocol has a status: a code and a message that says what was wrong and what to do. 2xxxx is
success, 3xxxx mixed, with 4xxxx the client changes something, with 5xxxx the server failed. SDKs raise an exception with
both. A call that fails changes nothing, except where the table says that the outcome is unknown.

Calls that never reach a service fail with a status of gRPC: `UNAVAILABLE` when the server stops or starts,
`UNIMPLEMENTED` for an unknown call, `RESOURCE_EXHAUSTED` and `DEADLINE_EXCEEDED` for limits of the connection.

| code | name | cause | remedy |
|---|---|---|---|
"
    .to_owned();
    for Answer { code, cause, remedy } in ANSWERS {
        writeln!(page, "| {} | `{}` | {cause} | {remedy} |", i32::from(*code), code.as_str_name()).unwrap();
    }
    page
}
