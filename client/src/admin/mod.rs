//! Administration of Kerolox: the cluster as a nameserver sees it, topics and groups of each broker.
//!
//! This speaks `kerolox.v1`, which other RocketMQ servers do not know; they answer `NOT_IMPLEMENTED`.
//!
//! ```no_run
//! # async fn example() -> kerolox_client::Result<()> {
//! use kerolox_client::{Client, admin::wire};
//!
//! let admin = Client::builder("127.0.0.1:9876").build()?.admin();
//! let request = wire::UpdateTopicRequest {
//!     name: "orders".to_owned(),
//!     attributes: vec!["+message.type=TRANSACTION".to_owned()],
//!     ..Default::default()
//! };
//! for broker in admin.masters(Some("DefaultCluster")).await? {
//!     admin.broker(&broker.address).update_topic(request.clone()).await?;
//! }
//! # Ok(())
//! # }
//! ```

pub mod controller;

use crate::address::{Address, Endpoints};
use crate::error::{Error, Result};
use crate::rpc::{Caller, Link, within};
pub use kerolox_proto::kerolox as wire;
use kerolox_proto::kerolox::broker_admin_client::BrokerAdminClient;
use kerolox_proto::kerolox::registry_client::RegistryClient;
use kerolox_proto::kerolox::server_client::ServerClient;
use kerolox_proto::kerolox::transactions_client::TransactionsClient;
use std::future::Future;
use std::sync::Arc;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// Administration through the access points of a [`Client`](crate::Client). Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admin {
    caller: Arc<Caller>,
}

/// A broker that serves as master of its group.
#[derive(Debug, Clone)]
pub struct Master {
    /// Its address.
    pub address: Address,
    /// Its registration.
    pub info: wire::BrokerInfo,
}

impl Admin {
    pub(crate) fn new(caller: Caller) -> Self {
        Self { caller: Arc::new(caller) }
    }

    /// All brokers with their topics, as the first nameserver that answers sees them.
    ///
    /// # Errors
    /// When none answers.
    pub async fn cluster(&self) -> Result<wire::ClusterSnapshot> {
        let link = self.caller.pool.link(&self.caller.access_points);
        let mut remaining = link.len();
        loop {
            remaining -= 1;
            let result =
                call(&self.caller, &link, wire::DescribeClusterRequest {}, |channel, request| async move {
                    RegistryClient::new(channel)
                        .max_decoding_message_size(SNAPSHOT_BYTES_MAX)
                        .describe_cluster(request)
                        .await
                })
                .await;
            match result {
                Err(error) if error.is_transport() && remaining > 0 => {
                    tracing::debug!(%error, "trying the next nameserver");
                }
                result => return result,
            }
        }
    }

    /// The masters of the cluster named `cluster`, of all clusters without a name; sorted by broker group.
    ///
    /// # Errors
    /// When no nameserver answers, or one lists a broker without a usable address.
    pub async fn masters(&self, cluster: Option<&str>) -> Result<Vec<Master>> {
        masters_of(&self.cluster().await?, cluster)
    }

    /// Administration of the broker at `address`.
    pub fn broker(&self, address: &Address) -> BrokerAdmin {
        let endpoints = Endpoints::new(vec![address.clone()]).expect("one address is not none");
        BrokerAdmin { caller: Arc::clone(&self.caller), link: self.caller.pool.link(&endpoints) }
    }
}

/// The masters in `snapshot`; see [`Admin::masters`].
///
/// # Errors
/// [`Error::Invalid`] when a broker has no usable address.
pub fn masters_of(snapshot: &wire::ClusterSnapshot, cluster: Option<&str>) -> Result<Vec<Master>> {
    let mut masters = snapshot
        .brokers
        .iter()
        .filter_map(|registered| registered.broker.as_ref())
        .filter(|info| info.role() == wire::BrokerRole::Master)
        .filter(|info| cluster.is_none_or(|cluster| info.cluster == cluster))
        .map(|info| Ok(Master { address: address_of(info)?, info: info.clone() }))
        .collect::<Result<Vec<_>>>()?;
    masters.sort_by(|a, b| (&a.info.cluster, &a.info.group).cmp(&(&b.info.cluster, &b.info.group)));
    Ok(masters)
}

/// Where a registered broker is reached.
///
/// # Errors
/// [`Error::Invalid`] when it has no host or no port.
pub fn address_of(info: &wire::BrokerInfo) -> Result<Address> {
    match u16::try_from(info.port) {
        Ok(port) if port > 0 && !info.host.is_empty() => Ok(Address::new(info.host.clone(), port)),
        _ => Err(Error::invalid(format!(
            "broker {} is registered without a usable address ({:?} port {}); set its advertised address",
            info.group, info.host, info.port
        ))),
    }
}

/// Largest cluster snapshot that is read, in bytes: some hundred thousand topics.
const SNAPSHOT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Administration of one broker.
#[derive(Debug, Clone)]
pub struct BrokerAdmin {
    caller: Arc<Caller>,
    link: Arc<Link>,
}

/// One method of [`BrokerAdmin`].
macro_rules! broker_call {
    (@$stub:ident, $(#[$doc:meta])* $name:ident, $request:ident, $response:ident) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// When the broker refuses, with its explanation, or cannot be reached.
        pub async fn $name(&self, request: wire::$request) -> Result<wire::$response> {
            self.call(request, |channel, request| async move {
                $stub::new(channel).max_decoding_message_size(SNAPSHOT_BYTES_MAX).$name(request).await
            })
            .await
        }
    };
    ($(#[$doc:meta])* $name:ident, $($rest:tt)+) => {
        broker_call!(@BrokerAdminClient, $(#[$doc])* $name, $($rest)+);
    };
}

impl BrokerAdmin {
    broker_call!(
        /// Creates a topic or changes it; durable when answered.
        update_topic, UpdateTopicRequest, UpdateTopicResponse
    );
    broker_call!(
        /// Deletes a topic with its queues and the progress of its groups.
        delete_topic, DeleteTopicRequest, DeleteTopicResponse
    );
    broker_call!(
        /// All topics of the broker.
        list_topics, ListTopicsRequest, ListTopicsResponse
    );
    broker_call!(
        /// Offsets of every queue of a topic.
        describe_topic, DescribeTopicRequest, DescribeTopicResponse
    );
    broker_call!(
        /// Creates a consumer group or changes it; durable when answered.
        update_group, UpdateGroupRequest, UpdateGroupResponse
    );
    broker_call!(
        /// Deletes a consumer group with its progress.
        delete_group, DeleteGroupRequest, DeleteGroupResponse
    );
    broker_call!(
        /// All consumer groups of the broker.
        list_groups, ListGroupsRequest, ListGroupsResponse
    );
    broker_call!(
        /// Where a consumer group stands in each queue.
        describe_group, DescribeGroupRequest, DescribeGroupResponse
    );
    broker_call!(
        /// Sets offsets of a consumer group; durable when answered.
        reset_offsets, ResetOffsetsRequest, ResetOffsetsResponse
    );
    broker_call!(
        /// Takes permissions from all topics of the broker group, or gives them back; durable when answered.
        withhold_perm, WithholdPermRequest, WithholdPermResponse
    );
    broker_call!(
        /// State and counters of the broker.
        describe_broker, DescribeBrokerRequest, DescribeBrokerResponse
    );

    broker_call!(
        /// Stored messages by id, key, offset or time, without consuming them.
        query_messages, QueryMessagesRequest, QueryMessagesResponse
    );
    broker_call!(
        /// Dead letters of a consumer group, oldest first.
        list_dead_letters, ListDeadLettersRequest, ListDeadLettersResponse
    );
    broker_call!(
        /// Sends dead letters back to their group; durable when answered.
        redrive_dead_letters, RedriveDeadLettersRequest, RedriveDeadLettersResponse
    );
    broker_call!(
        /// Scheduled messages that wait, earliest delivery time first.
        list_timers, ListTimersRequest, ListTimersResponse
    );
    broker_call!(
        /// Recalls or delivers a scheduled message before its time; durable when answered.
        end_timer, EndTimerRequest, EndTimerResponse
    );
    broker_call!(
        /// Lite topics of a topic, by name.
        list_lites, ListLitesRequest, ListLitesResponse
    );
    broker_call!(
        /// Messages that used up their attempts and block their message group.
        list_blocked, ListBlockedRequest, ListBlockedResponse
    );
    broker_call!(
        /// Messages that a group has failed with and that wait for another attempt.
        list_retries, ListRetriesRequest, ListRetriesResponse
    );
    broker_call!(
        /// Retries a blocked message, or makes it a dead letter; durable when answered.
        settle_blocked, SettleBlockedRequest, SettleBlockedResponse
    );

    broker_call!(
        @TransactionsClient,
        /// Transactions in the order in which their half messages were stored.
        list_transactions, ListTransactionsRequest, ListTransactionsResponse
    );
    broker_call!(
        @TransactionsClient,
        /// Everything that is known of one transaction.
        describe_transaction, DescribeTransactionRequest, DescribeTransactionResponse
    );
    broker_call!(
        @TransactionsClient,
        /// Decides about a transaction by hand, or has it checked back at once; durable when answered.
        settle_transaction, SettleTransactionRequest, SettleTransactionResponse
    );
    broker_call!(
        @TransactionsClient,
        /// Numbers of transactions by topic.
        count_transactions, CountTransactionsRequest, CountTransactionsResponse
    );
    broker_call!(
        @TransactionsClient,
        /// Decisions of administrators, newest first.
        list_audit, ListAuditRequest, ListAuditResponse
    );

    broker_call!(
        /// Explains what became of a message, and why a consumer group does or does not get it.
        explain_message, ExplainMessageRequest, ExplainMessageResponse
    );

    broker_call!(
        @ServerClient,
        /// What a server says about itself. Nameservers and slaves answer as well.
        describe_server, DescribeServerRequest, DescribeServerResponse
    );
    broker_call!(
        @ServerClient,
        /// Changes what a server logs, until its process ends. Nameservers and slaves answer as well.
        set_log_filter, SetLogFilterRequest, SetLogFilterResponse
    );
    broker_call!(
        @ServerClient,
        /// Clients that are connected to a server. Nameservers and slaves answer as well.
        list_clients, ListClientsRequest, ListClientsResponse
    );
    broker_call!(
        @ServerClient,
        /// Puts a command to a client that is connected to a server, and waits for its reply. Nameservers and slaves answer as well.
        ask_client, AskClientRequest, AskClientResponse
    );

    async fn call<Req, Resp, Fut>(
        &self,
        request: Req,
        method: impl FnOnce(Channel, Request<Req>) -> Fut,
    ) -> Result<Resp>
    where
        Fut: Future<Output = Result<Response<Resp>, Status>>,
    {
        call(&self.caller, &self.link, request, method).await
    }
}

async fn call<Req, Resp, Fut>(
    caller: &Caller,
    link: &Link,
    request: Req,
    method: impl FnOnce(Channel, Request<Req>) -> Fut,
) -> Result<Resp>
where
    Fut: Future<Output = Result<Response<Resp>, Status>>,
{
    let (address, channel) = link.current();
    let address = address.to_string();
    let limit = caller.request_timeout;
    let result = within(&address, limit, method(channel, caller.request(request, Some(limit)))).await;
    link.note(&result);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(cluster: &str, group: &str, role: wire::BrokerRole, port: u32) -> wire::RegisteredBroker {
        let info = wire::BrokerInfo {
            cluster: cluster.into(),
            group: group.into(),
            role: role.into(),
            host: "10.0.0.1".into(),
            port,
            ..Default::default()
        };
        wire::RegisteredBroker { broker: Some(info), ..Default::default() }
    }

    #[test]
    fn masters_are_chosen_by_cluster_and_sorted() {
        use wire::BrokerRole::{Master, Slave};
        let snapshot = wire::ClusterSnapshot {
            version: 1,
            brokers: vec![
                broker("c", "b", Master, 2),
                broker("c", "a", Master, 1),
                broker("c", "a", Slave, 3),
                broker("d", "x", Master, 4),
            ],
        };
        let names = |cluster| -> Vec<String> {
            masters_of(&snapshot, cluster)
                .unwrap()
                .iter()
                .map(|m| format!("{}@{}", m.info.group, m.address))
                .collect()
        };
        assert_eq!(names(Some("c")), ["a@10.0.0.1:1", "b@10.0.0.1:2"]);
        assert_eq!(names(None).len(), 3);
        assert!(names(Some("e")).is_empty());
    }

    #[test]
    fn a_broker_without_an_address_is_reported() {
        let snapshot = wire::ClusterSnapshot {
            version: 1,
            brokers: vec![broker("c", "a", wire::BrokerRole::Master, 0)],
        };
        assert!(masters_of(&snapshot, None).unwrap_err().to_string().contains("advertised"));
    }
}
