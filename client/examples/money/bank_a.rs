//! Bank A: where money comes from. Its database is what decides about every transfer.

use std::collections::HashMap;
use std::ops::Deref;
use std::path::Path;

use anyhow::{Result, ensure};
use rusqlite::{OptionalExtension as _, Transaction, params};

use crate::database::{Database, books};
use crate::step::step;

/// A transfer is in here once, as the one thing or as the other: the primary key sees to it.
const TABLES: &str = "CREATE TABLE transfers (
    transfer TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('debited', 'called off')),
    account INTEGER,
    to_account INTEGER,
    cents INTEGER);";

pub(crate) struct BankA(Database);

/// What became of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Debited,
    CalledOff,
    Unknown,
}

pub(crate) struct Transfer {
    pub(crate) id: String,
    pub(crate) account: u32,
    pub(crate) to_account: u32,
    pub(crate) cents: u32,
}

impl BankA {
    pub(crate) fn create(folder: &Path, accounts: u32, cents: u32) -> Result<()> {
        Database::create(&folder.join("a.sqlite"), TABLES, accounts, cents)
    }

    pub(crate) fn open(folder: &Path) -> Result<Self> {
        Ok(Self(Database::open(&folder.join("a.sqlite"))?))
    }

    /// The local transaction: takes the money and writes down that it did, both or neither.
    pub(crate) fn debit(&self, transfer: &Transfer) -> Result<()> {
        let Transfer { id, account, to_account, cents } = transfer;
        self.0.transaction(|sql| {
            // Fails when the transfer was called off.
            sql.execute(
                "INSERT INTO transfers VALUES (?1, 'debited', ?2, ?3, ?4)",
                params![id, account, to_account, cents],
            )?;
            // Fails when there is not enough on the account.
            let sum = "UPDATE accounts SET cents = cents - ?2 WHERE account = ?1";
            ensure!(sql.execute(sum, params![account, cents])? == 1, "bank A has no account {account}");
            step("debiting");
            Ok(())
        })
    }

    /// What the transaction checker looks up.
    pub(crate) fn fate(&self, transfer: &str) -> Result<Fate> {
        self.0.transaction(|sql| fate(sql, transfer))
    }

    /// Makes sure that a transfer that was not debited yet never will be, and says what became of it.
    ///
    /// That nothing is there is not enough to roll back: a slow sender may be about to debit. Now it would fail.
    pub(crate) fn call_off(&self, transfer: &str) -> Result<Fate> {
        self.0.transaction(|sql| {
            let row = "INSERT OR IGNORE INTO transfers (transfer, state) VALUES (?1, 'called off')";
            sql.execute(row, [transfer])?;
            fate(sql, transfer)
        })
    }

    /// The sum of all accounts, and all debited transfers.
    pub(crate) fn books(&self) -> Result<(i64, HashMap<String, i64>)> {
        let debited = "SELECT transfer, cents FROM transfers WHERE state = 'debited'";
        self.0.transaction(|sql| books(sql, debited))
    }
}

fn fate(sql: &Transaction, transfer: &str) -> Result<Fate> {
    let query = "SELECT state = 'debited' FROM transfers WHERE transfer = ?1";
    let debited = sql.query_row(query, [transfer], |row| row.get(0)).optional()?;
    Ok(debited.map_or(Fate::Unknown, |debited| if debited { Fate::Debited } else { Fate::CalledOff }))
}

impl Deref for BankA {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.0
    }
}
