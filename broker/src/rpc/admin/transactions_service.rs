//! The Transactions service of `kerolox.v1`.

use std::sync::Arc;

use kerolox_proto::kerolox as pb;
use kerolox_proto::kerolox::transactions_server::{Transactions, TransactionsServer};
use tonic::{Request, Response, Status};

use super::admin_error::AdminError;
use super::transactions::TransactionAdmin;
use crate::log_client::LogClient;
use crate::pace::{Caller, Lookups};
use crate::tasks::check_back::WebhookCounts;

/// The service behind `mqadmin transaction`.
pub(crate) struct TransactionsService {
    admin: TransactionAdmin,
    lookups: Lookups,
}

impl TransactionsService {
    /// The service of the broker group `broker`.
    pub(crate) fn server(
        broker: String,
        log: LogClient,
        webhooks: Arc<WebhookCounts>,
        lookups: Lookups,
    ) -> TransactionsServer<Self> {
        TransactionsServer::new(Self { admin: TransactionAdmin { broker, log, webhooks }, lookups })
    }

    /// Looks things up where waiting for the disk holds no other call up.
    async fn look<R, T>(
        &self,
        request: Request<R>,
        look: impl FnOnce(&TransactionAdmin, &R, &Caller) -> Result<T, AdminError> + Send + 'static,
    ) -> Result<Response<T>, Status>
    where
        R: Send + 'static,
        T: Send + 'static,
    {
        let (admin, request) = (self.admin.clone(), request.into_inner());
        let looked = self.lookups.run(move |caller| look(&admin, &request, caller)).await?;
        Ok(Response::new(looked?))
    }
}

#[tonic::async_trait]
impl Transactions for TransactionsService {
    async fn list_transactions(
        &self,
        request: Request<pb::ListTransactionsRequest>,
    ) -> Result<Response<pb::ListTransactionsResponse>, Status> {
        self.look(request, |admin, request, _| admin.list(request)).await
    }

    async fn describe_transaction(
        &self,
        request: Request<pb::DescribeTransactionRequest>,
    ) -> Result<Response<pb::DescribeTransactionResponse>, Status> {
        self.look(request, TransactionAdmin::describe).await
    }

    async fn settle_transaction(
        &self,
        request: Request<pb::SettleTransactionRequest>,
    ) -> Result<Response<pb::SettleTransactionResponse>, Status> {
        let request = request.into_inner();
        let settled = self.admin.settle(&request).await;
        tracing::info!(
            transaction = request.transaction_id,
            action = request.action().as_str_name(),
            by = request.by,
            reason = request.reason,
            ?settled,
            "an administrator decided about a transaction"
        );
        Ok(Response::new(settled?))
    }

    async fn count_transactions(
        &self,
        request: Request<pb::CountTransactionsRequest>,
    ) -> Result<Response<pb::CountTransactionsResponse>, Status> {
        self.look(request, TransactionAdmin::count).await
    }

    async fn list_audit(
        &self,
        request: Request<pb::ListAuditRequest>,
    ) -> Result<Response<pb::ListAuditResponse>, Status> {
        self.look(request, |admin, request, _| admin.audit(request)).await
    }
}
