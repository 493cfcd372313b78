//! `transaction`: which transactions wait for their decision, what happened to each, and deciding by hand.

pub(crate) mod list;
pub(crate) mod settle;
pub(crate) mod show;
pub(crate) mod stats;

use crate::target::{Common, Where};
use clap::ValueEnum;
use kerolox_client::admin::{Admin, Master, wire};
use kerolox_model::token::TransactionId;
use kerolox_report::outcome::{CommandFailure, Result};
use wire::TransactionState;

/// The broker that owns a transaction; one that is named by its address is taken at its word.
async fn owner(place: &Where, common: &Common, id: &str) -> Result<(Admin, Master)> {
    let token =
        TransactionId::from_text(id).map_err(|error| CommandFailure::usage(format!("{id}: {error}")))?;
    let (admin, masters) = place.brokers(common, None).await?;
    let is_owner = |master: &Master| place.is_one_broker() || master.info.group == token.broker;
    let owner = masters.into_iter().find(is_owner);
    let missing = || {
        CommandFailure::not_found(format!(
            "transaction {id} belongs to broker group {}, which is not registered at the moment",
            token.broker
        ))
    };
    Ok((admin, owner.ok_or_else(missing)?))
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
