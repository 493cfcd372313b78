//! All commands: in which group each stands, what RocketMQ's mqadmin calls it, an example, and how it is started.

use crate::command::{
    audit, bench, broker, check, client, cluster, commands, completion, config, context, controller,
    dead_letters, debug, group, lag, lites, message, moving, offset, probe, query, replication, settings,
    timers, top, topic, transaction, transfer,
};
use crate::target::REPEAT_ID;
use clap::{ArgMatches, Args, Command};
use kerolox_report::outcome::Result;
use kerolox_report::output::{CommandReport, OutputFormat};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// The arguments of a command, and what it does.
pub(crate) trait Run: Args + 'static {
    /// How the command is asked to print its result.
    fn format(&self) -> OutputFormat;

    /// Carries the command out.
    fn run(self) -> impl Future<Output = Result<CommandReport>>;
}

/// A command whose arguments were understood.
pub(crate) struct Started {
    pub(crate) format: OutputFormat,
    pub(crate) running: Pin<Box<dyn Future<Output = Result<CommandReport>>>>,
    /// Remarks about the command line.
    pub(crate) notes: Vec<String>,
    /// When it is to be run again.
    pub(crate) again: Option<Again>,
}

/// A command that is run again and again, see [`crate::target::Repeat`].
pub(crate) struct Again {
    pub(crate) pause: Duration,
    matches: ArgMatches,
    start: fn(&ArgMatches) -> std::result::Result<Started, clap::Error>,
}

impl Again {
    /// The next run.
    pub(crate) fn start(&self) -> std::result::Result<Started, clap::Error> {
        (self.start)(&self.matches)
    }
}

/// A command.
pub(crate) struct Entry {
    /// Name of the group of commands; empty for those that stand alone.
    pub(crate) group: &'static str,
    pub(crate) verb: &'static str,
    /// Names under which the command is known without its group: those of RocketMQ's mqadmin, and older ones.
    pub(crate) flat: &'static [&'static str],
    /// Arguments that make sense, for the help.
    pub(crate) example: &'static str,
    pub(crate) augment: fn(Command) -> Command,
    pub(crate) start: fn(&ArgMatches) -> std::result::Result<Started, clap::Error>,
}

impl Entry {
    /// `topic create`, or only the verb of a command that stands alone.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.group, self.verb).trim_start().to_owned()
    }
}

fn start<R: Run>(matches: &ArgMatches) -> std::result::Result<Started, clap::Error> {
    let arguments = R::from_arg_matches(matches)?;
    let seconds = matches.try_get_one::<u64>(REPEAT_ID).ok().flatten();
    let again = seconds.map(|seconds| Again {
        pause: Duration::from_secs(*seconds),
        matches: matches.clone(),
        start: start::<R>,
    });
    Ok(Started { format: arguments.format(), running: Box::pin(arguments.run()), notes: Vec::new(), again })
}

macro_rules! output_of {
    ($arguments:ident) => {
        $arguments.common.output
    };
    ($arguments:ident $($path:ident)+) => {
        $arguments.$($path).+
    };
}

/// Each command with its group, verb, flat names, example, and the type of its arguments; behind that, where these have the output
/// format unless it is `common.output`.
macro_rules! catalog {
    ($($group:literal { $($verb:literal [$($flat:literal)*] $example:literal $type:ty $(=> $($path:ident).+)?;)+ })+) => {
        $($(impl Run for $type {
            fn format(&self) -> OutputFormat {
                output_of!(self $($($path)+)?)
            }

            async fn run(self) -> Result<CommandReport> {
                // The type's own, which takes precedence.
                self.run().await
            }
        })+)+

        /// All commands, in the order of the help.
        pub(crate) const CATALOG: &[Entry] = &[
            $($(Entry {
                group: $group,
                verb: $verb,
                flat: &[$($flat),*],
                example: $example,
                augment: <$type as Args>::augment_args,
                start: start::<$type>,
            },)+)+
        ];
    };
}

catalog! {
    "cluster" {
        "list" ["clusterList"] "-n 127.0.0.1:9876" cluster::ClusterList;
        "probe" ["clusterRT"] "-a 10" probe::ClusterRt;
    }
    "topic" {
        "list" ["topicList"] "-n 127.0.0.1:9876" topic::TopicList;
        "create" ["updateTopic"] "-t payments -a +message.type=TRANSACTION" topic::UpdateTopic;
        "delete" ["deleteTopic"] "-t orders" topic::DeleteTopic;
        "status" ["topicStatus"] "-t orders" topic::TopicStatus;
        "route" ["topicRoute"] "-t orders" topic::TopicRoute;
        "perm" ["updateTopicPerm"] "-t orders -p 6" topic::UpdateTopicPerm;
        "clusters" ["topicClusterList"] "-t orders" topic::TopicClusterList;
        "create-list" ["updateTopicList"] "-f topics.json --dry-run" config::UpdateTopicList;
        "probe" ["checkMsgSendRT"] "-t orders -a 10" probe::CheckMsgSendRt;
        "stats" ["statsAll"] "-a" lag::StatsAll;
    }
    "group" {
        "create" ["updateSubGroup"] "-g billing -o true -r 3" group::UpdateSubGroup;
        "delete" ["deleteSubGroup"] "-g billing" group::DeleteSubGroup;
        "create-list" ["updateSubGroupList"] "-f groups.json --dry-run" config::UpdateSubGroupList;
        "show" ["getConsumerConfig"] "-g billing" group::GetConsumerConfig;
        "progress" ["consumerProgress"] "-g billing" offset::ConsumerProgress;
        "reset" ["resetOffset"] "-g billing -t orders --to earliest --dry-run" offset::ResetOffset;
        "reset-by-time" ["resetOffsetByTime" "resetOffsetByTimeOld"] "-g billing -t orders -s now" offset::ResetOffsetByTime;
        "retries" ["retryList"] "-g billing" dead_letters::RetryList;
        "skip" ["skipAccumulatedMessage"] "-g billing -t orders --dry-run" offset::SkipAccumulated;
        "clone-offsets" ["cloneGroupOffset"] "-s billing -d shipping -t orders" lag::CloneGroupOffset;
        "broker-stats" ["brokerConsumeStats"] "-b 127.0.0.1:8081" lag::BrokerConsumeStats;
    }
    "message" {
        "send" ["sendMessage"] "-t orders -p hello -k order-7" message::SendMessage;
        "consume" ["consumeMessage"] "-t orders -c 10" message::ConsumeMessage;
        "by-id" ["queryMsgById" "queryMsgByUniqueKey"] "-t orders -i 01F2" query::QueryMsgById;
        "by-key" ["queryMsgByKey"] "-t orders -k order-7" query::QueryMsgByKey;
        "by-offset" ["queryMsgByOffset"] "-t orders -b broker-a -i 0 -o 12" query::QueryMsgByOffset;
        "by-queue" ["printMsgByQueue"] "-t orders -a broker-a -i 0" query::PrintMsgByQueue;
        "print" ["printMsg"] "-t orders -s paid" message::PrintMsg;
        "decode-id" ["DecodeMessageId"] "-i 01AABBCCDDEEFF12340000003C00000007" message::DecodeMessageId => output;
        "export" [] "-t orders -f orders.jsonl --verify" transfer::Export;
        "import" [] "-f orders.jsonl --verify" transfer::Import;
        "verify" [] "-d CLIENT_ID 01F2" client::Verify;
        "why" ["queryMsgTraceById"] "-i 01F2 -g billing" message::Why;
    }
    "transaction" {
        "list" [] "-t orders -s parked" transaction::list::List;
        "show" [] "-i 01F2" transaction::show::Show;
        "commit" [] "AAAA -r paid" transaction::settle::Commit => settle.common.output;
        "rollback" [] "AAAA -r cancelled" transaction::settle::Rollback => settle.common.output;
        "recheck" [] "--all -s parked" transaction::settle::Recheck => settle.common.output;
        "stats" [] "" transaction::stats::Stats;
        "audit" ["auditList"] "-m 5" audit::AuditList;
    }
    "dlq" {
        "list" ["dlqList"] "-g billing" dead_letters::DlqList;
        "redrive" ["dlqRedrive"] "-g billing --rate 10 --dry-run" dead_letters::DlqRedrive;
        "blocked" ["blockedList"] "-g billing" dead_letters::BlockedList;
        "settle" ["blockedSettle"] "-b 127.0.0.1:8081 -g billing -t orders -i 0 -o 7 -a retry" dead_letters::BlockedSettle;
    }
    "timer" {
        "list" ["timerList"] "-t orders" timers::TimerList;
        "cancel" ["timerCancel"] "-i 01F2" timers::TimerCancel;
        "deliver" ["timerDeliver"] "-i 01F2" timers::TimerDeliver;
    }
    "lite" {
        "list" ["liteList"] "-t sessions" lites::LiteList;
    }
    "client" {
        "list" [] "-g billing" client::List;
        "consumers" ["consumerConnection"] "-g billing" client::Consumers;
        "producers" ["producerConnection" "producer"] "-t orders" client::Producers;
        "show" ["consumerStatus" "consumer"] "-g billing --stack" client::Show;
    }
    "broker" {
        "status" ["brokerStatus"] "-b 127.0.0.1:8081" broker::BrokerStatus;
        "config" ["getBrokerConfig"] "-b 127.0.0.1:8081" settings::GetBrokerConfig;
        "set" ["updateBrokerConfig"] "-b 127.0.0.1:8081 -k log-level -v debug" settings::UpdateBrokerConfig;
        "probe" ["sendMsgStatus"] "-b broker-a -c 10" probe::SendMsgStatus;
        "epochs" ["getBrokerEpoch"] "-n 127.0.0.1:9876" broker::BrokerEpoch;
        "drain" ["brokerDrain"] "-b broker-a --member 2" replication::BrokerDrain;
        "restart-safe" ["brokerRestartSafe"] "-b broker-a --member 2" replication::BrokerRestartSafe;
        "replication" ["haStatus"] "-b broker-a" replication::HaStatus;
        "in-sync" ["getSyncStateSet"] "-b broker-a" controller::GetSyncStateSet;
        "elect" ["electMaster"] "-b broker-a" controller::ElectMaster;
        "remove-member" ["removeBrokerMember"] "-b broker-a --member 3" controller::RemoveBrokerMember;
        "reset" ["resetBrokerGroup"] "-b broker-a --lose-all-messages --dry-run" controller::ResetBrokerGroup;
        "add-group" ["addBrokerGroup"] "-b broker-b --from broker-a --dry-run" config::AddBrokerGroup;
        "wipe-write-perm" ["wipeWritePerm"] "-b broker-a" moving::WipeWritePerm;
        "add-write-perm" ["addWritePerm"] "-b broker-a" moving::AddWritePerm;
        "leave-status" ["brokerLeaveStatus"] "-b broker-a" moving::BrokerLeaveStatus;
        "remove-group" ["removeBrokerGroup"] "-b broker-a --wait" moving::RemoveBrokerGroup;
    }
    "nameserver" {
        "status" ["controllerStatus" "getControllerMetaData"] "-n 127.0.0.1:9876" controller::ControllerStatus;
        "config" ["getNamesrvConfig" "getControllerConfig"] "-n 127.0.0.1:9876" settings::GetNamesrvConfig;
        "set" ["updateNamesrvConfig" "updateControllerConfig"] "-n 127.0.0.1:9876 -k log-level -v debug" settings::UpdateNamesrvConfig;
        "add" ["controllerAdd"] "--id 4 --address 127.0.0.1:9879" controller::ControllerAdd;
        "remove" ["controllerRemove"] "--id 4" controller::ControllerRemove;
    }
    "config" {
        "apply" ["apply"] "-f topics.yaml --dry-run" config::Apply;
        "export" ["configExport"] "-b 127.0.0.1:8081" config::ConfigExport;
        "backup" ["exportMetadata"] "-f backup.json" config::BackupConfig;
        "restore" [] "-f backup.json --dry-run" config::Restore;
        "servers" ["exportConfigs"] "-f settings.json" config::ExportConfigs;
        "metrics" ["exportMetrics"] "-f metrics.json" config::ExportMetrics;
    }
    "context" {
        "add" [] "prod -n 10.0.0.1:9876 -c DefaultCluster" context::Add => local.output;
        "use" [] "prod" context::Use => local.output;
        "list" [] "" context::List => local.output;
        "show" [] "prod" context::Show => local.output;
        "remove" [] "prod --yes" context::Remove => local.output;
    }
    "bench" {
        "produce" [] "-n 127.0.0.1:9876 --size 1024 --batch 32" bench::Produce => bench.common.output;
        "consume" [] "-n 127.0.0.1:9876 --messages 100000" bench::Consume => bench.common.output;
        "e2e" [] "-n 127.0.0.1:9876 --rate 2000 --duration 30s" bench::E2e => bench.common.output;
        "transaction" [] "-n 127.0.0.1:9876" bench::Transaction => bench.common.output;
        "delay" [] "-n 127.0.0.1:9876 --ahead 5s" bench::Delay => bench.common.output;
        "many-queues" [] "-n 127.0.0.1:9876 --many 10000" bench::ManyQueues => bench.common.output;
    }
    "" {
        "produce" [] "-t orders --key order-7 --property colour=red" transfer::Produce;
        "consume" [] "-t orders -g billing --max-num 10" message::Consume;
        "browse" [] "-t orders --from 2026-01-31T08:00:00Z --tags paid" message::Browse;
        "tail" [] "-t orders --format %i:%b" message::Tail;
        "top" [] "-n 127.0.0.1:9876 --interval 1s" top::Top;
        "check" [] "readiness -n 127.0.0.1:9876" check::Check;
        "commands" [] "" commands::Commands => output;
        "completion" [] "bash" completion::Completion => output;
    }
    "debug" {
        "bundle" [] "-n 127.0.0.1:9876" debug::Bundle;
    }
}

/// What each group of commands is for.
pub(crate) const GROUPS: &[(&str, &str)] = &[
    ("cluster", "See clusters and their brokers"),
    ("topic", "Create, change, see and delete topics"),
    ("group", "Create, change, see and delete consumer groups, and move their offsets"),
    ("message", "Send, consume and find messages"),
    ("transaction", "See transactions, and settle them by hand"),
    ("dlq", "See dead letters and blocked messages, and send them back"),
    ("timer", "See scheduled messages, cancel or deliver them"),
    ("lite", "See lite topics"),
    ("client", "See who is connected"),
    ("broker", "See and change brokers and broker groups"),
    ("nameserver", "See and change the nameservers"),
    ("config", "Keep topics and consumer groups in a file"),
    ("bench", "Measure throughput and latencies"),
    ("context", "Save clusters, so that -n and -c need not be given"),
    ("debug", "Gather data for troubleshooting"),
];
