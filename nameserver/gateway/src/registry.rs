//! The Registry service: brokers come and go.

use std::sync::Arc;

use crate::routes::{ClusterRoutes, RouteChange};
use kerolox_proto::errors::RpcError;
use kerolox_proto::kerolox::registry_server::{Registry, RegistryServer};
use kerolox_proto::kerolox::{
    ClusterSnapshot, DescribeClusterRequest, RegisterRequest, RegisterResponse, UnregisterRequest,
    UnregisterResponse,
};
use kerolox_runtime::listen::ConnectionInfo;
use tonic::{Request, Response, Status};

/// Largest registration that is read, in bytes: some ten thousand topics.
const REGISTRATION_BYTES_MAX: usize = 64 << 20;

/// Keeps the routes up to date with what brokers say.
#[derive(Debug)]
pub struct RegistryService {
    routes: Arc<ClusterRoutes>,
}

impl RegistryService {
    /// The gRPC service over `routes`. Its caller also calls [`ClusterRoutes::expire`] now and then.
    pub fn server(routes: Arc<ClusterRoutes>) -> RegistryServer<Self> {
        RegistryServer::new(Self { routes }).max_decoding_message_size(REGISTRATION_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl Registry for RegistryService {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let peer = request.extensions().get::<ConnectionInfo>().map(|connection| connection.peer.ip());
        let request = request.into_inner();
        let known_version = request.known_snapshot_version;
        let group = request.broker.as_ref().map(|broker| broker.group.clone()).unwrap_or_default();
        match self.routes.register(request, peer) {
            Ok(RouteChange::Nothing) => {}
            Ok(change) => tracing::info!(group, ?change, "broker registered"),
            Err(error) => {
                tracing::warn!(group, %error, "registration refused");
                return Err(RpcError::invalid(error.to_string()).into());
            }
        }
        Ok(Response::new(RegisterResponse {
            lease_ms: u64::try_from(self.routes.lease().as_millis()).unwrap_or(u64::MAX),
            snapshot: self.routes.snapshot_after(known_version),
        }))
    }

    async fn unregister(
        &self,
        request: Request<UnregisterRequest>,
    ) -> Result<Response<UnregisterResponse>, Status> {
        let request = request.into_inner();
        if self.routes.unregister(&request) {
            tracing::info!(group = request.group, id = request.id, "broker unregistered");
        }
        Ok(Response::new(UnregisterResponse {}))
    }

    async fn describe_cluster(
        &self,
        _request: Request<DescribeClusterRequest>,
    ) -> Result<Response<ClusterSnapshot>, Status> {
        Ok(Response::new(self.routes.snapshot()))
    }
}
