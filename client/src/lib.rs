//! Rust SDK: producers, consumers, transactions.
