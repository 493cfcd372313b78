//! Connections to brokers, one per address, shared by all relayed calls.

use std::collections::HashMap;
use std::time::Duration;

use kerolox_model::limits::{GRPC_DECODE_BYTES_MAX, HTTP2_CONNECTION_WINDOW, HTTP2_STREAM_WINDOW};
use kerolox_proto::v2::Code;
use parking_lot::Mutex;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};

use crate::refusal::Refusal;
use crate::routes::{BrokerAddress, ClusterRoutes};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The connections, made when they are first needed.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    by_address: Mutex<HashMap<BrokerAddress, Channel>>,
}

impl Channels {
    /// A client on the shared connection to `address`.
    pub(super) fn client(
        &self,
        address: &BrokerAddress,
        routes: &ClusterRoutes,
    ) -> Result<Grpc<Channel>, Refusal> {
        Ok(Grpc::new(self.channel(address, routes)?)
            .max_decoding_message_size(GRPC_DECODE_BYTES_MAX)
            .max_encoding_message_size(GRPC_DECODE_BYTES_MAX))
    }

    /// The shared connection to `address`, which is made on first use and again after it broke.
    pub(crate) fn channel(
        &self,
        address: &BrokerAddress,
        routes: &ClusterRoutes,
    ) -> Result<Channel, Refusal> {
        let mut by_address = self.by_address.lock();
        if let Some(channel) = by_address.get(address) {
            return Ok(channel.clone());
        }
        let channel = connect(address)?;
        // A new address is the moment to forget those that brokers have left.
        let known = routes.addresses();
        by_address.retain(|address, _| known.contains(address));
        by_address.insert(address.clone(), channel.clone());
        Ok(channel)
    }
}

fn connect(address: &BrokerAddress) -> Result<Channel, Refusal> {
    let endpoint = Endpoint::from_shared(address.uri()).map_err(|error| {
        Refusal::new(
            Code::InternalServerError,
            format!("the broker advertises the address {address}, which cannot be used ({error}); correct it there"),
        )
    })?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    Ok(endpoint.connect_lazy())
}
