//! The Rust client and `mqadmin` against the real programs. Run by `tests/run.sh e2e`, which builds them first.
//!
//! Every test has servers of its own, on free ports and in a temporary folder, so all of them can run at the same time;
//! most of their time is waiting.
#![allow(clippy::unwrap_used, reason = "tests panic when something is wrong")]

mod auto_create;
mod batching;
mod broadcast;
mod check;
mod cluster;
mod config;
mod connections;
mod controller;
mod cpp;
mod damage;
mod data_folder;
mod dead_letters;
mod dedup;
mod delivery;
mod desk;
mod elsewhere;
mod examples;
mod fifo;
mod filters;
mod forgotten;
mod health;
mod index_damage;
mod interrupted;
mod leaps;
mod lite;
mod local;
mod lost;
mod members;
mod memory;
mod messages;
mod moving;
mod mqadmin;
mod neighbours;
mod offsets;
mod operators;
mod other_groups;
mod priorities;
mod pull;
mod push;
mod query;
mod rebuild;
mod relay;
mod replication;
mod retention;
mod scans;
mod settings;
mod startup;
mod stored;
mod strict;
mod support;
mod timers;
mod transactions;
mod webhook;
