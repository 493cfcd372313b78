//! `transaction`: which transactions wait for their decision, what happened to each, and deciding by hand.

pub(crate) mod list;
pub(crate) mod settle;
pub(crate) mod show;
pub(crate) mod stats;

use crate::outcome::{Failure, Result};
use crate::target::Common;
use clap::{Args, ValueEnum};
use kerolox_client::Address;
use kerolox_client::admin::{Admin, Master, wire};
use kerolox_model::token::TransactionId;
use wire::TransactionState;

/// Brokers that are asked: all masters that the nameservers know, or one.
#[derive(Debug, Clone, Args)]
pub(crate) struct Brokers {
    /// Only the master brokers of this cluster
    #[arg(short = 'c', long = "cluster-name", alias = "clusterName", value_name = "CLUSTER")]
    cluster: Option<String>,
    /// Only this broker, HOST:PORT; needs no nameserver
    #[arg(
        short = 'b',
        long = "broker-addr",
        alias = "brokerAddr",
        value_name = "BROKER_ADDR",
        conflicts_with = "cluster"
    )]
    broker: Option<Address>,
}

impl Brokers {
    /// The brokers, and the interface to them.
    pub(crate) async fn all(&self, common: &Common) -> Result<(Admin, Vec<Master>)> {
        if let Some(address) = &self.broker {
            let client = common.client_of(address)?;
            return Ok((client.admin(), vec![crate::target::alone(address)]));
        }
        let client = common.client()?;
        let masters = client.admin().masters(self.cluster.as_deref()).await?;
        if masters.is_empty() {
            return Err(Failure::not_found(
                "no master broker is registered; check -n and -c, or name one with -b",
            ));
        }
        Ok((client.admin(), masters))
    }

    /// The broker that owns a transaction.
    async fn owner(&self, common: &Common, id: &str) -> Result<(Admin, Master)> {
        let token = TransactionId::from_text(id).map_err(|error| Failure::usage(format!("{id}: {error}")))?;
        let (admin, masters) = self.all(common).await?;
        let is_owner = |master: &Master| self.broker.is_some() || master.info.group == token.broker;
        let owner = masters.into_iter().find(is_owner);
        let missing = || {
            Failure::not_found(format!(
                "transaction {id} belongs to broker group {}, which is not registered at the moment",
                token.broker
            ))
        };
        Ok((admin, owner.ok_or_else(missing)?))
    }
}

/// Where a transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    /// Undecided, checked back from time to time
    Prepared,
    /// Undecided after its last check
    Parked,
    /// Committed
    Committed,
    /// Rolled back
    RolledBack,
    /// Committed, and delivered from its delivery time on
    Scheduled,
}

impl State {
    fn to_wire(self) -> TransactionState {
        match self {
            Self::Prepared => TransactionState::Prepared,
            Self::Parked => TransactionState::Parked,
            Self::Committed => TransactionState::Committed,
            Self::RolledBack => TransactionState::RolledBack,
            Self::Scheduled => TransactionState::Scheduled,
        }
    }
}

/// The word for a state.
fn word(state: TransactionState) -> &'static str {
    match state {
        TransactionState::Unspecified => "unknown",
        TransactionState::Prepared => "prepared",
        TransactionState::Parked => "parked",
        TransactionState::Committed => "committed",
        TransactionState::RolledBack => "rolled-back",
        TransactionState::Scheduled => "scheduled",
    }
}
