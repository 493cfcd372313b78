//! Flags of RocketMQ's mqadmin that ours spells otherwise, or that have no meaning here. They are understood where a command is
//! called by RocketMQ's name, so that scripts go on working; what has no meaning is said on the standard error.

use clap::{Arg, Command};
use std::ffi::OsString;

/// What becomes of a flag.
#[derive(Debug, Clone, Copy)]
enum Becomes {
    /// This flag of ours.
    Ours(&'static str),
    /// Nothing, for this reason.
    Nothing(&'static str),
}

/// A flag of some commands.
#[derive(Debug)]
struct Flag {
    commands: &'static [&'static str],
    /// Empty if there is none.
    short: &'static str,
    long: &'static str,
    takes_value: bool,
    becomes: Becomes,
    /// Its short name means this only beside this other one.
    beside: Option<&'static str>,
}

use Becomes::{Nothing, Ours};

/// A flag that takes a value.
const fn valued(
    commands: &'static [&'static str],
    short: &'static str,
    long: &'static str,
    becomes: Becomes,
) -> Flag {
    Flag { commands, short, long, takes_value: true, becomes, beside: None }
}

/// A flag without a value.
const fn bare(
    commands: &'static [&'static str],
    short: &'static str,
    long: &'static str,
    becomes: Becomes,
) -> Flag {
    Flag { takes_value: false, ..valued(commands, short, long, becomes) }
}

const BY_ID: &[&str] = &["queryMsgById", "queryMsgByUniqueKey"];
const OF_CONTROLLERS: &[&str] = &[
    "electMaster",
    "getControllerConfig",
    "getControllerMetaData",
    "getSyncStateSet",
    "updateControllerConfig",
];
const CHARSET: Becomes = Nothing("bodies are taken for UTF-8");
const UNITS: Becomes = Nothing("there are no units");

const FLAGS: &[Flag] = &[
    bare(&["clusterList"], "m", "moreStats", Nothing("all that brokers count is shown")),
    valued(&["deleteSubGroup"], "r", "removeOffset", Nothing("a group's progress goes with it")),
    valued(BY_ID, "u", "unitName", UNITS),
    valued(&["queryMsgById", "queryMsgByOffset"], "f", "bodyFormat", CHARSET),
    bare(&["queryMsgByUniqueKey"], "a", "showAll", Nothing("all messages with the id are shown")),
    bare(
        &["resetOffsetByTime", "resetOffsetByTimeOld"],
        "",
        "cplus",
        Nothing("clients of all languages are alike"),
    ),
    valued(
        &["sendMessage"],
        "m",
        "msgTraceEnable",
        Nothing("`mqadmin message why` tells the life of each message"),
    ),
    bare(&["topicRoute"], "l", "list", Nothing("it is a list")),
    valued(
        &["updateTopic"],
        "o",
        "order",
        Nothing("-a +message.type=FIFO makes a topic for ordered messages"),
    ),
    valued(&["updateTopic"], "u", "unit", UNITS),
    valued(&["updateTopic"], "s", "hasUnitSub", UNITS),
    valued(
        &["updateSubGroup"],
        "q",
        "retryQueueNums",
        Nothing("messages are retried from the queue that they are in"),
    ),
    valued(
        &["updateSubGroup"],
        "i",
        "brokerId",
        Nothing("the setting replication.slave-reads has slaves read from"),
    ),
    valued(
        &["updateSubGroup"],
        "w",
        "whichBrokerWhenConsumeSlowly",
        Nothing("the setting replication.slave-reads has slaves read from"),
    ),
    valued(
        &["updateSubGroup"],
        "a",
        "notifyConsumerIdsChanged",
        Nothing("all consumers of a group may receive from all queues"),
    ),
    valued(OF_CONTROLLERS, "a", "controllerAddress", Ours("--namesrv-addr")),
    valued(&["electMaster"], "bn", "brokerName", Ours("--broker-name")),
    Flag { beside: Some("bn"), ..valued(&["electMaster"], "b", "brokerId", Ours("--member")) },
    valued(&["haStatus"], "", "brokerAddr", Ours("--broker-name")),
    valued(&["printMsgByQueue"], "c", "charsetName", CHARSET),
    valued(
        &["queryMsgTraceById"],
        "t",
        "traceTopic",
        Nothing("there are no trace topics: brokers know the life of each message"),
    ),
    valued(&["queryMsgTraceById"], "b", "beginTimestamp", Nothing("the message is found by its id")),
    valued(&["queryMsgTraceById"], "e", "endTimestamp", Nothing("the message is found by its id")),
    valued(&["queryMsgTraceById"], "c", "maxNum", Nothing("the message is found by its id")),
    valued(
        &["updateBrokerConfig"],
        "a",
        "updateAllBroker",
        Nothing("all brokers are meant without -b and -c"),
    ),
];

impl Flag {
    fn is_of(&self, command: &str) -> bool {
        self.commands.contains(&command)
    }

    /// `-u`, or `--unitName`.
    fn shown(&self) -> String {
        if self.short.is_empty() { format!("--{}", self.long) } else { format!("-{}", self.short) }
    }

    /// Whether a word is this flag, and a value that hangs on it; `is_given` says which other short names are there.
    fn matches<'a>(&self, word: &'a str, is_given: impl Fn(&str) -> bool) -> Option<Option<&'a str>> {
        let flag = word.strip_prefix('-')?;
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (flag, None),
        };
        let is_long = name.strip_prefix('-').unwrap_or(name) == self.long;
        let is_short = !self.short.is_empty() && name == self.short && self.beside.is_none_or(is_given);
        (is_long || is_short).then_some(value)
    }
}

/// What the help of a command says of such flags; nothing if it has none.
pub(crate) fn help(command: &str) -> Option<String> {
    let lines: Vec<String> = FLAGS
        .iter()
        .filter(|flag| flag.is_of(command))
        .map(|flag| {
            let beside = flag.beside.map(|other| format!(" beside -{other}")).unwrap_or_default();
            match flag.becomes {
                Ours(ours) => format!("  {}, --{}{beside}: as {ours}", flag.shown(), flag.long),
                Nothing(why) => format!("  {}, --{}: without meaning; {why}", flag.shown(), flag.long),
            }
        })
        .collect();
    (!lines.is_empty()).then(|| format!("RocketMQ's flags under this name:\n{}", lines.join("\n")))
}

/// Rewrites the arguments behind the name of a command, and says what had no meaning. `ours` is the definition of the command.
pub(crate) fn rewrite(ours: &Command, arguments: &mut Vec<OsString>) -> Vec<String> {
    let name = ours.get_name();
    let flags: Vec<&Flag> = FLAGS.iter().filter(|flag| flag.is_of(name)).collect();
    let mut notes = Vec::new();
    if flags.is_empty() {
        return notes;
    }
    let given = std::mem::take(arguments);
    let is_given = |short: &str| given.iter().any(|word| word.to_string_lossy() == format!("-{short}"));
    let mut words = given.iter().cloned();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        let found = flags.iter().find_map(|flag| Some((flag, flag.matches(&text, is_given)?)));
        let Some((flag, hanging)) = found else {
            let has_value = takes_value(ours, &text);
            arguments.push(word);
            // A value is never taken for a flag.
            arguments.extend(has_value.then(|| words.next()).flatten());
            continue;
        };
        let value = match hanging {
            Some(value) => Some(OsString::from(value)),
            None if flag.takes_value => words.next(),
            None => None,
        };
        match flag.becomes {
            Ours(spelt) => {
                arguments.push(spelt.into());
                arguments.extend(value);
            }
            Nothing(why) => notes.push(format!("note: {} has no meaning here: {why}", flag.shown())),
        }
    }
    notes
}

/// Whether the word behind this one is its value.
fn takes_value(command: &Command, word: &str) -> bool {
    let Some(flag) = word.strip_prefix('-') else { return false };
    let name = flag.strip_prefix('-').unwrap_or(flag);
    let is_it = |argument: &&Arg| {
        argument.get_long() == Some(name)
            || argument.get_all_aliases().unwrap_or_default().contains(&name)
            || argument.get_short().is_some_and(|short| name.chars().eq([short]))
    };
    let found = command.get_arguments().find(is_it);
    found.is_some_and(|argument| {
        let most = argument.get_num_args().map_or(1, |count| count.min_values());
        argument.get_action().takes_values() && most > 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::command;

    fn rewritten(line: &str) -> (String, usize) {
        let (name, rest) = line.split_once(' ').unwrap();
        let root = command();
        let ours = root.get_subcommands().find(|known| known.get_name() == name).unwrap();
        let mut arguments: Vec<OsString> = rest.split(' ').map(OsString::from).collect();
        let notes = rewrite(ours, &mut arguments);
        let words: Vec<String> = arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        (words.join(" "), notes.len())
    }

    #[test]
    fn flags_become_ours_or_nothing() {
        for (line, wanted, notes) in [
            ("updateTopic -t a -o true --unit=false -s false -c C", "-t a -c C", 3),
            ("updateTopic -t -o -c C", "-t -o -c C", 0),
            (
                "electMaster -a h:1 -bn broker-a -b 2 -c C",
                "--namesrv-addr h:1 --broker-name broker-a --member 2 -c C",
                0,
            ),
            ("electMaster --brokerId 2 -b broker-a", "--member 2 -b broker-a", 0),
            ("electMaster -b broker-a", "-b broker-a", 0),
            ("clusterList -m -n h:1", "-n h:1", 1),
            ("sendMessage -t a -p -m -m true", "-t a -p -m", 1),
            ("queryMsgTraceById -i ID -traceTopic T -b 1 -e 2 -c 3", "-i ID", 4),
        ] {
            assert_eq!(rewritten(line), (wanted.to_owned(), notes), "{line}");
        }
    }

    #[test]
    fn only_names_of_rocketmq_are_in_the_table() {
        for flag in FLAGS {
            for name in flag.commands {
                assert!(crate::foreign::ROCKETMQ.contains(name), "{name}");
            }
        }
        assert!(help("updateTopic").unwrap().contains("-o, --order: without meaning"));
        assert_eq!(help("topicList"), None);
    }
}
