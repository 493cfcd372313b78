//! The command line: which commands there are.

use crate::command::{
    audit, cluster, config, controller, dead_letters, group, lites, message, moving, offset, query,
    replication, store, timers, topic, transaction,
};
use crate::outcome::Result;
use crate::output::{Format, Report};
use clap::{CommandFactory, Parser, Subcommand};
use std::ffi::OsString;

/// Administration of Kerolox, with the command names and flags of RocketMQ's mqadmin.
///
/// Exit codes: 0 done, 1 failed, 2 wrong command line, 3 done on some brokers only, 4 not found, 5 denied, 6 unreachable.
#[derive(Debug, Parser)]
#[command(name = "mqadmin", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Declares the commands once: name, arguments with their `run`, and dispatch.
macro_rules! commands {
    ($($name:literal $variant:ident ($arguments:ty)),+ $(,)?) => {
        #[derive(Debug, Subcommand)]
        pub(crate) enum Command {
            $(#[command(name = $name)] $variant($arguments),)+
            #[command(name = "transaction")]
            Transaction(transaction::Transaction),
            /// The one command that talks to no server.
            #[command(name = "store")]
            Store(store::Store),
        }

        impl Command {
            /// How the command is asked to print its result.
            pub(crate) fn format(&self) -> Format {
                match self {
                    $(Command::$variant(arguments) => arguments.common.output,)+
                    Command::Transaction(transaction) => transaction.format(),
                    Command::Store(store) => store.format(),
                }
            }

            /// Carries the command out.
            pub(crate) async fn run(self) -> Result<Report> {
                match self {
                    $(Command::$variant(arguments) => arguments.run().await,)+
                    Command::Transaction(transaction) => transaction.run().await,
                    Command::Store(store) => store.run(),
                }
            }
        }
    };
}

commands!(
    "updateTopic" UpdateTopic(topic::UpdateTopic),
    "deleteTopic" DeleteTopic(topic::DeleteTopic),
    "topicList" TopicList(topic::TopicList),
    "topicStatus" TopicStatus(topic::TopicStatus),
    "topicRoute" TopicRoute(topic::TopicRoute),
    "clusterList" ClusterList(cluster::ClusterList),
    "sendMessage" SendMessage(message::SendMessage),
    "consumeMessage" ConsumeMessage(message::ConsumeMessage),
    "queryMsgById" QueryMsgById(query::QueryMsgById),
    "queryMsgByUniqueKey" QueryMsgByUniqueKey(query::QueryMsgById),
    "queryMsgByKey" QueryMsgByKey(query::QueryMsgByKey),
    "queryMsgByOffset" QueryMsgByOffset(query::QueryMsgByOffset),
    "printMsgByQueue" PrintMsgByQueue(query::PrintMsgByQueue),
    "updateSubGroup" UpdateSubGroup(group::UpdateSubGroup),
    "deleteSubGroup" DeleteSubGroup(group::DeleteSubGroup),
    "consumerProgress" ConsumerProgress(offset::ConsumerProgress),
    "resetOffset" ResetOffset(offset::ResetOffset),
    "resetOffsetByTime" ResetOffsetByTime(offset::ResetOffsetByTime),
    "dlqList" DlqList(dead_letters::DlqList),
    "dlqRedrive" DlqRedrive(dead_letters::DlqRedrive),
    "timerList" TimerList(timers::TimerList),
    "timerCancel" TimerCancel(timers::TimerCancel),
    "timerDeliver" TimerDeliver(timers::TimerDeliver),
    "liteList" LiteList(lites::LiteList),
    "blockedList" BlockedList(dead_letters::BlockedList),
    "blockedSettle" BlockedSettle(dead_letters::BlockedSettle),
    "apply" Apply(config::Apply),
    "configExport" ConfigExport(config::ConfigExport),
    "auditList" AuditList(audit::AuditList),
    "getSyncStateSet" GetSyncStateSet(controller::GetSyncStateSet),
    "haStatus" HaStatus(replication::HaStatus),
    "brokerDrain" BrokerDrain(replication::BrokerDrain),
    "brokerRestartSafe" BrokerRestartSafe(replication::BrokerRestartSafe),
    "electMaster" ElectMaster(controller::ElectMaster),
    "removeBrokerMember" RemoveBrokerMember(controller::RemoveBrokerMember),
    "addBrokerGroup" AddBrokerGroup(config::AddBrokerGroup),
    "wipeWritePerm" WipeWritePerm(moving::WipeWritePerm),
    "addWritePerm" AddWritePerm(moving::AddWritePerm),
    "brokerLeaveStatus" BrokerLeaveStatus(moving::BrokerLeaveStatus),
    "removeBrokerGroup" RemoveBrokerGroup(moving::RemoveBrokerGroup),
    "controllerStatus" ControllerStatus(controller::ControllerStatus),
    "controllerAdd" ControllerAdd(controller::ControllerAdd),
    "controllerRemove" ControllerRemove(controller::ControllerRemove),
);

/// The arguments with the command's name spelt as we spell it: RocketMQ's tool does not regard case.
pub(crate) fn with_known_spelling(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    let command = Cli::command();
    let is_help = arguments.get(1).is_some_and(|word| word == "help");
    if let Some(word) = arguments.get_mut(if is_help { 2 } else { 1 }) {
        let known = command.get_subcommands().map(clap::Command::get_name);
        let given = word.to_string_lossy().to_lowercase();
        if let Some(name) = { known }.find(|name| name.to_lowercase() == given) {
            *word = name.into();
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> std::result::Result<Command, clap::Error> {
        let words = std::iter::once("mqadmin").chain(line.split_whitespace()).map(OsString::from);
        Cli::try_parse_from(with_known_spelling(words)).map(|cli| cli.command)
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
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
            "store verify /data --online",
            "store dump /data --from 64 --to 999 --kind message --limit 3 --body=hex --output json",
            "STORE dump /data --body",
            "store stats /data --progress",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn senseless_command_lines_are_usage_errors() {
        for line in [
            "",
            "noSuchCommand",
            "updateTopic -n h:1 -t orders",
            "updateTopic -c C -b h:1 -t orders",
            "updateTopic -b not-an-address -t orders",
            "updateTopic -b h:1 -t orders -p 5",
            "updateTopic -b h:1",
            "deleteTopic -t orders",
            "sendMessage -n h:1 -t orders -p body -i 3",
            "updateSubGroup -b h:1 -g billing -s perhaps",
            "consumerProgress -n h:1 -t orders",
            "resetOffset -n h:1 -g billing -t orders",
            "resetOffset -n h:1 -g billing -t orders --to yesterday",
            "resetOffsetByTime -n h:1 -g billing -t orders -s now -o 12",
            "store",
            "dlqRedrive -b h:1 -g billing --rate 0",
            "dlqList -b h:1 -g billing --tags a --sql b",
            "apply -b h:1",
            "apply -f topics.yaml",
            "transaction",
            "transaction show -n h:1",
            "transaction show -n h:1 AAAA -i 01F2",
            "transaction commit -n h:1",
            "transaction rollback -n h:1 --all AAAA",
            "transaction list -n h:1 -s undecided",
            "electMaster -n h:1",
            "removeBrokerMember -n h:1 -b broker-a --member 0",
            "removeBrokerGroup -n h:1 -b broker-a --timeout 10m",
            "wipeWritePerm -n h:1",
            "controllerAdd -n h:1 --id 4 --address h",
            "store verify",
            "store dump /data --kind massage",
        ] {
            assert_eq!(
                parse(line).map(|command| format!("{command:?}")).unwrap_err().exit_code(),
                2,
                "{line}"
            );
        }
    }

    #[test]
    fn help_is_no_error() {
        for line in ["-h", "--help", "updateTopic -h", "help UPDATETOPIC"] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 0, "{line}");
        }
    }

    #[test]
    fn values_arrive() {
        let Ok(Command::UpdateTopic(update)) =
            parse("updateTopic -b h:1 -t orders -a +message.type=FIFO,-reserve.time -w 3")
        else {
            panic!("not an updateTopic")
        };
        let request = update.request();
        assert_eq!(request.attributes, ["+message.type=FIFO", "-reserve.time"]);
        assert_eq!((request.read_queues, request.write_queues, request.perm), (None, Some(3), None));

        let Ok(Command::UpdateSubGroup(update)) = parse(
            "updateSubGroup -b h:1 -g billing -o true -r 5 -m false -d true --attributes +consume.from=latest",
        ) else {
            panic!("not an updateSubGroup")
        };
        let request = update.request();
        assert_eq!(request.attributes, ["+consume.from=latest", "+broadcast=true"]);
        assert_eq!(
            (request.fifo, request.retry_max_times, request.consume_from_min, request.consume_enable),
            (Some(true), Some(5), Some(false), None)
        );
    }
}
