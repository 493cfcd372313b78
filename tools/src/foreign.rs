//! RocketMQ's commands that nothing here answers to: why, and what to use.

use crate::catalog::Started;
use clap::{Arg, ArgAction, Command};
use kerolox_report::outcome::CommandFailure;
use kerolox_report::output::OutputFormat;
use std::ffi::OsString;

/// What RocketMQ's mqadmin calls its commands, in the order of its sources (release 5.4): those that are registered, and four that
/// are not.
pub(crate) const ROCKETMQ: &[&str] = &[
    "updateTopic",
    "updateTopicList",
    "deleteTopic",
    "updateSubGroup",
    "setConsumeMode",
    "updateSubGroupList",
    "deleteSubGroup",
    "updateBrokerConfig",
    "updateTopicPerm",
    "topicRoute",
    "topicStatus",
    "topicClusterList",
    "addBroker",
    "removeBroker",
    "resetMasterFlushOffset",
    "brokerStatus",
    "queryMsgById",
    "queryMsgByKey",
    "queryMsgByUniqueKey",
    "queryMsgByOffset",
    "queryMsgTraceById",
    "printMsg",
    "printMsgByQueue",
    "sendMsgStatus",
    "brokerConsumeStats",
    "updateColdDataFlowCtrGroupConfig",
    "removeColdDataFlowCtrGroupConfig",
    "getColdDataFlowCtrInfo",
    "setCommitLogReadAheadMode",
    "producerConnection",
    "consumerConnection",
    "consumerProgress",
    "consumerStatus",
    "consumer",
    "producer",
    "cloneGroupOffset",
    "getConsumerStatus",
    "clusterList",
    "topicList",
    "updateKvConfig",
    "deleteKvConfig",
    "wipeWritePerm",
    "addWritePerm",
    "resetOffsetByTime",
    "resetOffsetByTimeOld",
    "skipAccumulatedMessage",
    "updateOrderConf",
    "cleanExpiredCQ",
    "deleteExpiredCommitLog",
    "cleanUnusedTopic",
    "startMonitoring",
    "statsAll",
    "allocateMQ",
    "checkMsgSendRT",
    "clusterRT",
    "getNamesrvConfig",
    "updateNamesrvConfig",
    "getBrokerConfig",
    "getConsumerConfig",
    "queryCq",
    "sendMessage",
    "consumeMessage",
    "updateStaticTopic",
    "remappingStaticTopic",
    "exportMetadata",
    "exportMetadataInRocksDB",
    "exportConfigs",
    "exportMetrics",
    "exportPopRecord",
    "haStatus",
    "getSyncStateSet",
    "getBrokerEpoch",
    "getControllerMetaData",
    "getControllerConfig",
    "updateControllerConfig",
    "electMaster",
    "cleanBrokerMetadata",
    "dumpCompactionLog",
    "createUser",
    "updateUser",
    "deleteUser",
    "getUser",
    "listUser",
    "copyUser",
    "createAcl",
    "updateAcl",
    "deleteAcl",
    "getAcl",
    "listAcl",
    "copyAcl",
    "rocksDBConfigToJson",
    "checkRocksdbCqWriteProgress",
    "DecodeMessageId",
];

const NO_USERS: &str = "brokers keep no users and no access rules; restrict who reaches their ports";
const NO_COLD_DATA: &str =
    "reads of old messages are not throttled, so there is nothing to set; limit the consumers instead";
const NO_CONTAINER: &str =
    "there are no broker containers; start one broker process for each member of a group";
const NO_STATIC_TOPIC: &str =
    "queues belong to brokers, there are no static topics; spread a topic with `mqadmin broker add-group`";
const NO_KV: &str =
    "nameservers keep no key-value pairs; topics and groups have attributes (`mqadmin topic create -a`)";

/// Commands that have no meaning here, with what to use.
pub(crate) const FOREIGN: &[(&str, &str)] = &[
    ("addBroker", NO_CONTAINER),
    ("removeBroker", NO_CONTAINER),
    ("updateColdDataFlowCtrGroupConfig", NO_COLD_DATA),
    ("removeColdDataFlowCtrGroupConfig", NO_COLD_DATA),
    ("getColdDataFlowCtrInfo", NO_COLD_DATA),
    (
        "resetMasterFlushOffset",
        "slaves find out by themselves where to go on; see `mqadmin broker replication`",
    ),
    ("setCommitLogReadAheadMode", "the operating system reads ahead; there is no mode to set"),
    ("updateKvConfig", NO_KV),
    ("deleteKvConfig", NO_KV),
    (
        "updateOrderConf",
        "message groups are in order without it; make a topic with `mqadmin topic create -a +message.type=FIFO`",
    ),
    (
        "cleanExpiredCQ",
        "queues are trimmed with the log; set retention with `mqadmin topic create -a +retention.time=12h`",
    ),
    ("updateStaticTopic", NO_STATIC_TOPIC),
    ("remappingStaticTopic", NO_STATIC_TOPIC),
    (
        "exportPopRecord",
        "deliveries in flight are part of the log; see `mqadmin group progress` and `kerolox-inspect dump`",
    ),
    ("dumpCompactionLog", "there is one log for all topics; see `kerolox-inspect dump`"),
    (
        "rocksDBConfigToJson",
        "topics and groups are in the log; see `mqadmin config export` and `kerolox-inspect dump`",
    ),
    (
        "exportMetadataInRocksDB",
        "topics and groups are in the log; see `mqadmin config export` and `kerolox-inspect dump`",
    ),
    ("checkRocksdbCqWriteProgress", "there is one index; `kerolox-inspect verify` holds it against the log"),
    (
        "deleteExpiredCommitLog",
        "brokers delete expired messages by themselves; see retention in their settings",
    ),
    ("cleanUnusedTopic", "topics stay until they are deleted: `mqadmin topic delete`"),
    ("cleanBrokerMetadata", "take a dead member out with `mqadmin broker remove-member`"),
    ("allocateMQ", "any consumer of a group may receive from any queue, so there is nothing to allocate"),
    ("setConsumeMode", "all groups receive by pop; only `mqadmin group create -o true` changes how"),
    (
        "startMonitoring",
        "monitor with `mqadmin check`, whose exit code tells, and the health checks of the servers",
    ),
    (
        "queryCq",
        "see the messages of a queue with `mqadmin message by-queue`, and the index with `kerolox-inspect verify`",
    ),
    (
        "getConsumerStatus",
        "see where a group stands with `mqadmin group progress`, and a client with `mqadmin client show`",
    ),
    ("createUser", NO_USERS),
    ("updateUser", NO_USERS),
    ("deleteUser", NO_USERS),
    ("getUser", NO_USERS),
    ("listUser", NO_USERS),
    ("copyUser", NO_USERS),
    ("createAcl", NO_USERS),
    ("updateAcl", NO_USERS),
    ("deleteAcl", NO_USERS),
    ("getAcl", NO_USERS),
    ("listAcl", NO_USERS),
    ("copyAcl", NO_USERS),
];

/// Commands that are another program's, and what to use. Hidden: the help shows what this program does.
const ELSEWHERE: &[(&str, &str)] = &[(
    "store",
    "mqadmin talks to servers and reads no data folders; use `kerolox-inspect verify|dump|stats DIR` on the broker's host",
)];

/// The answer to a command that does nothing here.
fn answer(name: &str) -> Option<String> {
    let elsewhere = ELSEWHERE.iter().find(|(known, _)| *known == name).map(|(_, why)| (*why).to_owned());
    let foreign = || FOREIGN.iter().find(|(known, _)| *known == name);
    elsewhere.or_else(|| foreign().map(|(name, why)| format!("{name} has no meaning here: {why}")))
}

/// Commands of these names, which take every argument.
pub(crate) fn add_to(root: Command) -> Command {
    let foreign =
        FOREIGN.iter().map(|(name, why)| taking_anything(name, format!("Has no meaning here: {why}")));
    let elsewhere = ELSEWHERE.iter().map(|(name, why)| taking_anything(name, (*why).to_owned()));
    root.subcommands(foreign).subcommands(elsewhere)
}

fn taking_anything(name: &'static str, about: String) -> Command {
    let anything = Arg::new("anything")
        .num_args(0..)
        .action(ArgAction::Append)
        .trailing_var_arg(true)
        .allow_hyphen_values(true)
        .value_parser(clap::value_parser!(OsString))
        .hide(true);
    Command::new(name).about(about).hide(true).arg(anything)
}

/// Says why a command does nothing here.
pub(crate) fn explain(name: &str) -> Started {
    let failure = CommandFailure::usage(answer(name).unwrap_or_else(|| format!("{name} is unknown")));
    Started {
        format: OutputFormat::Table,
        running: Box::pin(async { Err(failure) }),
        notes: Vec::new(),
        again: None,
    }
}
