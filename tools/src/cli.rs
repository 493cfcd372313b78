//! The command line: how the words of it find their command.

use crate::catalog::{CATALOG, Entry, GROUPS, Started};
use crate::{foreign, legacy};
use clap::{ArgMatches, Command};
use kerolox_model::token::TransactionId;
use std::ffi::OsString;

const ABOUT: &str =
    "Administration of Kerolox, in groups of commands, and with all names and flags of RocketMQ's mqadmin";
const LONG_ABOUT: &str = "\
Administration of Kerolox, in groups of commands, and with all names and flags of RocketMQ's mqadmin

Exit codes: 0 done, 1 failed, 2 wrong command line, 3 done on some brokers only, 4 not found, 5 denied, 6 unreachable.";
const AFTER: &str = "\
RocketMQ's names work too, without regard to case: mqadmin updateTopic -n 127.0.0.1:9876 -t orders
`mqadmin commands` lists all of them, with what became of each.";

/// The whole command line. Flat names are hidden: the groups show each command once.
pub(crate) fn command() -> Command {
    let root = Command::new("mqadmin")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .long_about(LONG_ABOUT)
        .after_help(AFTER)
        .subcommand_required(true)
        .arg_required_else_help(true);
    let grouped = GROUPS.iter().fold(root, |root, (name, about)| {
        let members = CATALOG.iter().filter(|entry| entry.group == *name);
        let group = Command::new(*name).about(*about).subcommand_required(true).arg_required_else_help(true);
        root.subcommand(members.fold(group, |group, entry| group.subcommand(named(entry, entry.verb))))
    });
    let alone = CATALOG.iter().filter(|entry| entry.group.is_empty());
    let with_alone = alone.fold(grouped, |root, entry| root.subcommand(named(entry, entry.verb)));
    let flat = CATALOG.iter().flat_map(|entry| entry.flat.iter().map(move |name| (entry, *name)));
    let complete =
        flat.fold(with_alone, |root, (entry, name)| root.subcommand(named(entry, name).hide(true)));
    foreign::add_to(complete)
}

/// A command under one of its names.
fn named(entry: &Entry, name: &'static str) -> Command {
    let command = (entry.augment)(Command::new(name));
    let mut more = vec![format!("Example: mqadmin {} {}", entry.name(), entry.example).trim_end().to_owned()];
    if name != entry.verb {
        more.push(format!("Also called: mqadmin {}", entry.name()));
    } else if !entry.flat.is_empty() {
        more.push(format!("Also called: mqadmin {}", entry.flat.join(", mqadmin ")));
    }
    more.extend(legacy::help(name));
    command.after_help(more.join("\n"))
}

/// The command that a command line asks for.
///
/// # Errors
/// When it makes no sense, and when it asks for help.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Started, clap::Error> {
    let (arguments, notes) = as_we_spell_it(arguments);
    let matches = command().try_get_matches_from(arguments)?;
    let (name, inner) = matches.subcommand().expect("a subcommand is required");
    let started = match inner.subcommand() {
        Some((verb, matches)) => start(|entry| entry.group == name && entry.verb == verb, matches),
        None => start(|entry| answers_to(entry, name), inner),
    }
    .unwrap_or_else(|| Ok(foreign::explain(name)))?;
    Ok(Started { notes, ..started })
}

fn answers_to(entry: &Entry, name: &str) -> bool {
    entry.flat.contains(&name) || (entry.group.is_empty() && entry.verb == name)
}

fn start(wanted: impl Fn(&Entry) -> bool, matches: &ArgMatches) -> Option<Result<Started, clap::Error>> {
    CATALOG.iter().find(|entry| wanted(entry)).map(|entry| (entry.start)(matches))
}

/// The arguments with the names of command and group, and flags of more than one letter, spelt as we spell them: RocketMQ's
/// tool does not regard case, and takes `-topic` for `--topic`. Also remarks about flags that have no meaning here.
fn as_we_spell_it(arguments: impl Iterator<Item = OsString>) -> (Vec<OsString>, Vec<String>) {
    let mut arguments: Vec<OsString> = arguments.collect();
    let root = command();
    let is_help = arguments.get(1).is_some_and(|word| word == "help");
    let mut at = if is_help { 2 } else { 1 };
    let mut known = &root;
    while let Some(found) = arguments.get(at).and_then(|word| find(known, &word.to_string_lossy())) {
        arguments[at] = found.get_name().into();
        known = found;
        at += 1;
    }
    let mut behind = arguments.split_off(at.min(arguments.len()));
    let notes = legacy::rewrite(known, &mut behind);
    shield_ids(&mut behind);
    arguments.append(&mut behind);
    let flags: Vec<&str> = known.get_arguments().flat_map(long_names).collect();
    for word in arguments.iter_mut().skip(at).take_while(|word| *word != "--") {
        if let Some(flag) = word.to_str().and_then(|word| word.strip_prefix('-'))
            && flag.len() > 1
            && flags.contains(&flag.split('=').next().unwrap_or_default())
        {
            *word = format!("--{flag}").into();
        }
    }
    (arguments, notes)
}

/// Puts transaction ids that begin with a hyphen, as one of 64 does, behind `--`: they are no flags.
fn shield_ids(arguments: &mut Vec<OsString>) {
    let is_id = |word: &OsString| {
        let text = word.to_string_lossy();
        text.starts_with('-') && TransactionId::from_text(&text).is_ok()
    };
    let end = arguments.iter().position(|word| word == "--").unwrap_or(arguments.len());
    let behind = arguments.split_off(end);
    let (ids, others): (Vec<_>, Vec<_>) = arguments.drain(..).partition(is_id);
    arguments.extend(others);
    if !ids.is_empty() && behind.is_empty() {
        arguments.push("--".into());
    }
    arguments.extend(behind);
    arguments.extend(ids);
}

fn find<'a>(command: &'a Command, word: &str) -> Option<&'a Command> {
    command.get_subcommands().find(|known| known.get_name().eq_ignore_ascii_case(word))
}

fn long_names(argument: &clap::Arg) -> Vec<&str> {
    let aliases = argument.get_all_aliases().unwrap_or_default();
    aliases.into_iter().chain(argument.get_long()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kerolox_model::token::RecallHandle;

    fn parse_line(line: &str) -> Result<Started, clap::Error> {
        parse(std::iter::once("mqadmin").chain(line.split_whitespace()).map(OsString::from))
    }

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_command_has_a_group_and_an_example_that_is_understood() {
        for entry in CATALOG {
            assert!(
                entry.group.is_empty() || GROUPS.iter().any(|(name, _)| *name == entry.group),
                "{}",
                entry.name()
            );
            for name in entry.flat.iter().map(|name| (*name).to_owned()).chain([entry.name()]) {
                let line = format!("{name} {}", entry.example);
                assert!(parse_line(&line).is_ok(), "{line}: {}", parse_line(&line).err().unwrap());
            }
        }
    }

    #[test]
    fn every_command_of_rocketmq_is_known() {
        for name in foreign::ROCKETMQ {
            let ours = CATALOG.iter().any(|entry| answers_to(entry, name));
            let not_ours = foreign::FOREIGN.iter().any(|(known, _)| known == name);
            assert!(ours != not_ours, "{name}: answered {ours}, explained {not_ours}");
        }
    }

    #[test]
    fn rocketmq_command_lines_are_understood() {
        for line in [
            "updateTopic -n 127.0.0.1:9876 -c DefaultCluster -t orders -a +message.type=TRANSACTION",
            "updatetopic -n 127.0.0.1:9876 -b 127.0.0.1:8081 -t orders -r 8 -w 8 -p 6",
            "updateTopic --namesrvAddr a:1;b:2 --clusterName C --topic orders --readQueueNums 4 --writeQueueNums 4",
            "UPDATETOPIC -b 127.0.0.1:8081 -t orders -a -reserve.time",
            "deleteTopic -n h:1 -c C -t orders",
            "topicList -n h:1",
            "topicList -n h:1 -c",
            "topicStatus -n h:1 -t orders",
            "topicRoute -n h:1 -t orders",
            "clusterlist -n h:1",
            "sendMessage -n h:1 -t orders -p body -k key -c tag -b broker-a -i 0",
            "consumeMessage -n h:1 -t orders -g billing -c 10",
            "queryMsgById -n h:1 -i 01F2",
            "queryMsgByUniqueKey -n h:1 -t orders -i 01F2",
            "queryMsgByKey -n h:1 -t orders -k order-7 -m 10 -b 1700000000000 -e 1700000001000",
            "queryMsgByOffset -n h:1 -t orders -b broker-a -i 0 -o 12",
            "printMsgByQueue -n h:1 -t orders -a broker-a -i 0 -b 1700000000000 -e 1700000001000",
            "updateSubGroup -n h:1 -c C -g billing -s true -m true -o true -r 3",
            "deleteSubGroup -n h:1 -c C -g billing",
            "deleteSubGroup -b h:1 -g billing --output json",
            "updateSubGroup -b h:1 -g news -d true --attributes +consume.from=latest",
            "consumerProgress -n h:1 -g billing -t orders",
            "liteList -n h:1 -t sessions -g agents --prefix user-7",
            "consumerProgress -n h:1",
            "consumerProgress -b h:1 --groupName billing",
            "resetOffsetByTime -n h:1 -g billing -t orders -s now",
            "resetOffsetByTime -n h:1 -g billing -t orders -s -1 -f true",
            "resetOffsetByTime -n h:1 -g billing -t orders -s 2026-01-31#08:00:00:000 --dry-run",
            "resetOffsetByTime -b h:1 -g billing -t orders -s -1 -q 0 -o 12",
            "resetOffset -c C -n h:1 -g billing -t orders --to offset:7 -q 0,1 --dry-run",
            "resetOffset -n h:1 -g billing -t orders --to id:01F2",
            "dlqList -n h:1 -c C -g billing --all --tags a||b -m 5",
            "dlqRedrive -n h:1 -c C -g billing --rate 10 --dry-run -s 1 -e 2",
            "blockedList -b h:1 -g billing",
            "blockedSettle -b h:1 -g billing -t orders -i 0 -o 7 -a dead-letter",
            "apply -n h:1 -c C -f topics.yaml --dry-run --prune --yes",
            "configExport -b h:1 --language toml",
            "transaction list -n h:1 -t orders -s parked,prepared --older-than 10m",
            "transaction show -n h:1 AAAA",
            "TRANSACTION show -b h:1 -i 01F2 --output json",
            "transaction commit -n h:1 AAAA BBBB -r paid -y",
            "transaction rollback -n h:1 --all -t orders -s parked --dry-run",
            "transaction recheck -n h:1 --all --by me",
            "transaction stats -b h:1",
            "auditList -n h:1 -m 5",
            "getSyncStateSet -n h:1",
            "getSyncStateSet -n h:1 --brokerName broker-a --output json",
            "electMaster -n h:1 -b broker-a",
            "electmaster -n h:1 -b broker-a -c C --member 2 --unclean --yes",
            "electMaster -n h:1 -b broker-a --member 2 --unclean --lose-messages",
            "resetBrokerGroup -n h:1 -b broker-a --lose-all-messages --yes",
            "resetBrokerGroup -n h:1 -b broker-a --dry-run",
            "removeBrokerMember -n h:1 -b broker-a --member 3",
            "haStatus -n h:1 -b broker-a",
            "brokerDrain -n h:1 -b broker-a --member 2 --undo",
            "brokerRestartSafe -n h:1 -b broker-a --member 2",
            "addBrokerGroup -n h:1 -b broker-b --from broker-a -t orders,news --dry-run",
            "wipeWritePerm -n h:1 -b broker-a",
            "wipewriteperm -n h:1 --brokerName broker-a -c C --force",
            "addWritePerm -n h:1 -b broker-a",
            "brokerLeaveStatus -n h:1 -b broker-a --output json",
            "removeBrokerGroup -n h:1 -b broker-a --wait --timeout 10m --leave-behind -y",
            "controllerStatus -n h:1",
            "controllerAdd -n h:1 --id 4 --address h:4",
            "controllerRemove -n h:1 --id 4",
            "updateTopic -n h:1 -b h:2 -topic orders -readQueueNums=4",
            "Topic CREATE -b h:2 -t orders -a -reserve.time",
            "createUser -n h:1 -c C -u alice -p secret",
            "updateTopic -b h:2 -t orders -o true -u false -s false",
            "updateSubGroup -b h:2 -g billing -q 1 -i 0 -w 1 -a true -p {\"type\":\"EXPONENTIAL\"}",
            "electMaster -a h:1 -bn broker-a -b 2 -c C",
            "getSyncStateSet -a h:1 -c C -i 5",
            "haStatus -n h:1 -b h:2 -i 5",
            "clusterList -n h:1 -m -i 10",
            "consumeMessage -n h:1 -t orders -b broker-a -i 0 -o 7 -c 3",
            "printMsgByQueue -n h:1 -t orders -a broker-a -i 0 -s a -p true -d true -f true",
            "queryMsgTraceById -n h:1 -i 01F2 -t TRACE -b 1 -e 2 -c 3",
        ] {
            assert!(parse_line(line).is_ok(), "{line}: {}", parse_line(line).err().unwrap());
        }
    }

    #[test]
    fn ids_may_begin_with_a_hyphen() {
        let mut transactions = (0..).map(|at| TransactionId::new("broker-a", at, "01").to_text());
        let transaction = transactions.find(|id| id.starts_with('-')).unwrap();
        let mut handles = (0..).map(|at| RecallHandle::new("broker-a", at, "01").to_text());
        let handle = handles.find(|id| id.starts_with('-')).unwrap();
        for line in [
            format!("transaction commit -n h:1 {transaction} -r paid --output json"),
            format!("transaction rollback {transaction} -n h:1 -- AAAA"),
            format!("transaction show -n h:1 {transaction}"),
            format!("timerCancel -n h:1 --handle {handle} --output json"),
        ] {
            assert!(parse_line(&line).is_ok(), "{line}: {}", parse_line(&line).err().unwrap());
        }
        assert!(parse_line("transaction commit -n h:1 -AAAA").is_err(), "that is no id");
    }

    /// Each line of the file is a command of RocketMQ with its flags: SHORT/LONG, and `=` if it takes a value.
    #[test]
    fn every_flag_of_rocketmq_is_known() {
        let mut unknown = Vec::new();
        for line in include_str!("../fixtures/rocketmq-flags.txt").lines() {
            let (name, flags) = line.split_once(' ').unwrap_or((line, ""));
            for flag in flags.split_whitespace() {
                let (short, long) = flag.trim_end_matches('=').split_once('/').expect("SHORT/LONG");
                let value = if flag.ends_with('=') { " 1" } else { "" };
                for spelt in
                    [(short, format!("-{short}")), (long, format!("--{long}")), (long, format!("-{long}"))]
                {
                    let kind = parse_line(&format!("{name} {}{value} --help", spelt.1))
                        .err()
                        .map(|error| error.kind());
                    if !spelt.0.is_empty() && kind == Some(clap::error::ErrorKind::UnknownArgument) {
                        unknown.push(format!("{name} {}", spelt.1));
                    }
                }
            }
        }
        assert!(unknown.is_empty(), "{}", unknown.join(", "));
    }

    #[test]
    fn senseless_command_lines_are_usage_errors() {
        for line in [
            "",
            "noSuchCommand",
            "updateTopic -c C -b h:1 -t orders",
            "updateTopic -b not-an-address -t orders",
            "updateTopic -b h:1 -t orders -p 5",
            "updateTopic -b h:1",
            "sendMessage -n h:1 -t orders -p body -i 3",
            "updateSubGroup -b h:1 -g billing -s perhaps",
            "consumerProgress -n h:1 -t orders",
            "resetOffset -n h:1 -g billing -t orders",
            "resetOffset -n h:1 -g billing -t orders --to yesterday",
            "consumeMessage -n h:1 -t orders -g billing -o 7",
            "consumeMessage -n h:1 -t orders -o 7",
            "updateSubGroup -b h:1 -g billing -p {}",
            "resetOffsetByTime -n h:1 -g billing -t orders -s now -o 12",
            "dlqRedrive -b h:1 -g billing --rate 0",
            "dlqList -b h:1 -g billing --tags a --sql b",
            "apply -b h:1",
            "transaction",
            "transaction show -n h:1",
            "transaction show -n h:1 AAAA -i 01F2",
            "transaction commit -n h:1",
            "transaction rollback -n h:1 --all AAAA",
            "transaction list -n h:1 -s undecided",
            "electMaster -n h:1",
            "electMaster -n h:1 -b broker-a --lose-messages",
            "resetBrokerGroup -n h:1 -b broker-a",
            "removeBrokerMember -n h:1 -b broker-a --member 0",
            "removeBrokerGroup -n h:1 -b broker-a --timeout 10m",
            "wipeWritePerm -n h:1",
            "controllerAdd -n h:1 --id 4 --address h",
        ] {
            assert_eq!(parse_line(line).err().map(|error| error.exit_code()), Some(2), "{line}");
        }
    }

    #[test]
    fn help_is_no_error() {
        for line in [
            "-h",
            "--help",
            "updateTopic -h",
            "help UPDATETOPIC",
            "topic -h",
            "help topic Create",
            "createUser -h",
        ] {
            assert_eq!(parse_line(line).err().map(|error| error.exit_code()), Some(0), "{line}");
        }
    }
}
