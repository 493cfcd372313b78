//! The administration of `kerolox.v1`: BrokerAdmin and Transactions, one file for each family of calls.

mod admin_error;
mod broker_admin;
mod counters;
mod dead_letters;
mod explain;
mod groups;
mod lite_topics;
mod query;
mod rates;
mod settlement;
mod timers;
mod topics;
mod transactions;
mod transactions_service;

pub(crate) use broker_admin::Admin;
pub(crate) use counters::Counters;
pub(crate) use transactions_service::TransactionsService;
