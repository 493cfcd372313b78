//! Telling the brokers what members of consumer groups subscribe to that are connected here.

use std::time::Duration;

use futures_util::future::join_all;
use kerolox_model::limits::GRPC_DECODE_BYTES_MAX;
use kerolox_proto::kerolox::AnnounceRequest;
use kerolox_proto::kerolox::producers_client::ProducersClient;

use super::CallRelay;
use crate::clients::NewlyAnnounced;
use crate::routes::BrokerAddress;

/// How long a broker may take: the member waits. A broker that takes longer asks by itself.
const PATIENCE: Duration = Duration::from_secs(1);

impl CallRelay {
    /// Tells all masters the new filters; returns when they know, or have taken too long.
    pub async fn announce(&self, announced: NewlyAnnounced) {
        if announced.filters.is_empty() {
            return;
        }
        let request = AnnounceRequest {
            incarnation: self.clients.incarnation().to_owned(),
            version: announced.version,
            filters: announced.filters.into_iter().map(Into::into).collect(),
        };
        let masters = self.routes.masters();
        join_all(masters.iter().map(|master| self.announce_to(master, &request))).await;
    }

    async fn announce_to(&self, master: &BrokerAddress, request: &AnnounceRequest) {
        let Ok(channel) = self.channels.channel(master, &self.routes) else { return };
        let mut client = ProducersClient::new(channel).max_encoding_message_size(GRPC_DECODE_BYTES_MAX);
        match tokio::time::timeout(PATIENCE, client.announce(request.clone())).await {
            Ok(Ok(_)) => {}
            Ok(Err(status)) => {
                tracing::debug!(%master, reason = status.message(), "announcement failed; the broker will ask");
            }
            Err(_) => tracing::debug!(%master, "announcement timed out; the broker will ask"),
        }
    }
}
