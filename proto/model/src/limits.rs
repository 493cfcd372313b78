//! Limits of the protocol with their defaults; the ones an operator may change are the defaults of configuration keys.
//!
//! Numbers are those of the reference server (RocketMQ 5.3) where it has one.

/// Longest topic name, in characters.
pub const TOPIC_NAME_MAX: usize = 127;
/// Longest consumer group name, in characters.
pub const GROUP_NAME_MAX: usize = 120;
/// Longest client id, in bytes.
pub const CLIENT_ID_MAX: usize = 512;
/// Longest message id, in bytes.
pub const MESSAGE_ID_MAX: usize = 255;
/// Largest message body, in bytes (default of `limits.max-body-bytes`).
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest number of user properties of one message.
pub const USER_PROPERTIES_MAX: usize = 128;
/// Largest sum of the UTF-8 lengths of user property keys and values, tag and keys of one message.
pub const PROPERTIES_BYTES_MAX: usize = 16 * 1024;
/// Message groups are shorter than this, in UTF-8 bytes.
pub const MESSAGE_GROUP_BYTES_MAX: usize = 64;
/// Largest `orphaned_transaction_recovery_duration`, in milliseconds.
pub const TRANSACTION_RECOVERY_MS_MAX: u64 = 3_600_000;
/// Most messages of one transaction: its decision makes them visible in one step, which others wait for.
pub const TRANSACTION_MESSAGES_MAX: usize = 1024;
/// Shortest invisible duration that a simple consumer may ask for, in milliseconds.
pub const INVISIBLE_MS_MIN: u64 = 10_000;
/// Longest invisible duration, in milliseconds.
pub const INVISIBLE_MS_MAX: u64 = 12 * 3_600_000;
/// Most messages that one ReceiveMessage hands out.
pub const RECEIVE_BATCH_MAX: usize = 32;
/// Longest SQL filter, in bytes: as many as all properties of a message may have together.
pub const SELECTOR_BYTES_MAX: usize = 16 * 1024;
/// Most levels in an SQL filter: parentheses, NOT and signs around a place, and comparisons of comparisons. Far above what
/// people write, and far below what a thread's stack holds.
pub const SELECTOR_DEPTH_MAX: usize = 64;
/// Most queues of one topic on one broker.
pub const QUEUES_PER_TOPIC_MAX: u32 = 1024;
/// Largest message that a gRPC server decodes, in bytes: above the 4 MiB body limit plus properties, and what the C++ SDK can send.
pub const GRPC_DECODE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes that an HTTP/2 peer may send on one stream before they are read.
pub const HTTP2_STREAM_WINDOW: u32 = 1 << 20;
/// Bytes that an HTTP/2 peer may send on all streams of a connection before they are read. The HTTP/2 library takes a peer for an
/// attacker that sends very many small frames meanwhile, such as the answers to a few hundred calls, and closes the connection; how
/// many are too many depends on this: at 8 MiB some 16,000, at the protocol's 64 KiB no more than 170.
pub const HTTP2_CONNECTION_WINDOW: u32 = 8 << 20;
/// Bytes that may be in flight on the stream between a master and a slave: a link of 100 ms round trip carries
/// 320 MiB/s with it.
pub const REPLICATION_STREAM_WINDOW: u32 = 32 << 20;
/// Bytes that may be in flight on the connection of that stream.
pub const REPLICATION_CONNECTION_WINDOW: u32 = 32 << 20;

/// Most properties that a client may tell of itself in its settings (RocketMQ's limit, as those below).
pub const CLIENT_PROPERTIES_MAX: usize = 32;
/// Longest key of a client's property, in bytes.
pub const CLIENT_PROPERTY_KEY_MAX: usize = 64;
/// Longest value of a client's property, in bytes.
pub const CLIENT_PROPERTY_VALUE_MAX: usize = 256;
/// Keys and values of a client's properties together, in bytes.
pub const CLIENT_PROPERTIES_BYTES_MAX: usize = 4 << 10;
/// Most topics that one client may publish to or subscribe to, as its settings say.
pub const SETTINGS_TOPICS_MAX: usize = 1_000;
/// Largest settings of one client, in bytes: it may have that many topics with long names and filters.
pub const SETTINGS_BYTES_MAX: usize = 512 << 10;
/// Longest filter expression of any kind, in bytes.
pub const FILTER_BYTES_MAX: usize = SELECTOR_BYTES_MAX;
/// Most changes of attributes in one request.
pub const ATTRIBUTE_CHANGES_MAX: usize = 64;
/// Longest value of an attribute, in bytes.
pub const ATTRIBUTE_BYTES_MAX: usize = 2 << 10;
/// Longest directive for the log of a process, in bytes.
pub const LOG_FILTER_BYTES_MAX: usize = 4 << 10;
/// Longest name in the registration of a broker, in bytes: names of topics and groups with their namespaces, hosts, versions.
pub const REGISTERED_NAME_MAX: usize = 512;
