//! Field numbers of the protocol, for messages that are read and written without generated code.

/// Fields of `apache.rocketmq.v2.Message`.
pub(super) mod message {
    pub(crate) const TOPIC: u32 = 1;
    pub(crate) const USER_PROPERTIES: u32 = 2;
    pub(crate) const SYSTEM_PROPERTIES: u32 = 3;
    pub(crate) const BODY: u32 = 4;
}

/// Fields of `apache.rocketmq.v2.SystemProperties`.
pub(super) mod system {
    pub(crate) const TAG: u32 = 1;
    pub(crate) const KEYS: u32 = 2;
    pub(crate) const MESSAGE_ID: u32 = 3;
    pub(crate) const BODY_DIGEST: u32 = 4;
    pub(crate) const BODY_ENCODING: u32 = 5;
    pub(crate) const MESSAGE_TYPE: u32 = 6;
    pub(crate) const BORN_TIMESTAMP: u32 = 7;
    pub(crate) const BORN_HOST: u32 = 8;
    pub(crate) const STORE_TIMESTAMP: u32 = 9;
    pub(crate) const STORE_HOST: u32 = 10;
    pub(crate) const DELIVERY_TIMESTAMP: u32 = 11;
    pub(crate) const RECEIPT_HANDLE: u32 = 12;
    pub(crate) const QUEUE_ID: u32 = 13;
    pub(crate) const QUEUE_OFFSET: u32 = 14;
    pub(crate) const INVISIBLE_DURATION: u32 = 15;
    pub(crate) const DELIVERY_ATTEMPT: u32 = 16;
    pub(crate) const MESSAGE_GROUP: u32 = 17;
    pub(crate) const TRACE_CONTEXT: u32 = 18;
    pub(crate) const ORPHANED_TRANSACTION_RECOVERY_DURATION: u32 = 19;
    pub(crate) const DEAD_LETTER_QUEUE: u32 = 20;
    pub(crate) const LITE_TOPIC: u32 = 21;
    pub(crate) const PRIORITY: u32 = 22;
    /// The highest number that this version knows.
    pub(crate) const LAST: u32 = PRIORITY;
}
