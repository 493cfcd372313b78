//! `transaction`: which transactions wait for their decision, what happened to each, and deciding by hand.

mod list;
mod settle;
mod show;
mod stats;

use crate::outcome::{Failure, Result};
use crate::output::{Format, Report};
use crate::target::Common;
use clap::{Args, Subcommand, ValueEnum};
use kerolox_client::Address;
use kerolox_client::admin::{Admin, Master, wire};
use kerolox_model::token::TransactionId;
use wire::TransactionState;

/// See transactions, and settle them by hand
#[derive(Debug, Args)]
pub(crate) struct Transaction {
    #[command(subcommand)]
    command: TransactionCommand,
}

#[derive(Debug, Subcommand)]
enum TransactionCommand {
    List(list::List),
    Show(show::Show),
    Commit(settle::Commit),
    Rollback(settle::Rollback),
    Recheck(settle::Recheck),
    Stats(stats::Stats),
}

impl Transaction {
    /// How the command is asked to print its result.
    pub(crate) fn format(&self) -> Format {
        match &self.command {
            TransactionCommand::List(list) => list.common.output,
            TransactionCommand::Show(show) => show.common.output,
            TransactionCommand::Commit(commit) => commit.settle.common.output,
            TransactionCommand::Rollback(rollback) => rollback.settle.common.output,
            TransactionCommand::Recheck(recheck) => recheck.settle.common.output,
            TransactionCommand::Stats(stats) => stats.common.output,
        }
    }

    /// Carries the command out.
    pub(crate) async fn run(self) -> Result<Report> {
        match self.command {
            TransactionCommand::List(list) => list.run().await,
            TransactionCommand::Show(show) => show.run().await,
            TransactionCommand::Commit(commit) => commit.run().await,
            TransactionCommand::Rollback(rollback) => rollback.run().await,
            TransactionCommand::Recheck(recheck) => recheck.run().await,
            TransactionCommand::Stats(stats) => stats.run().await,
        }
    }
}

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
            let client = kerolox_client::Client::builder(address.to_string()).build()?;
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
