//! Bank B: where money goes to.

use std::ops::Deref;
use std::path::Path;

use anyhow::{Result, ensure};
use rusqlite::params;

use crate::database::{Database, books};
use crate::step::step;

/// The credited transfers. A transfer in this table must not be credited again.
const TABLES: &str = "CREATE TABLE credits (transfer TEXT PRIMARY KEY, account INTEGER, cents INTEGER);";

pub(crate) struct BankB(Database);

impl BankB {
    pub(crate) fn create(folder: &Path, accounts: u32, cents: u32) -> Result<()> {
        Database::create(&folder.join("b.sqlite"), TABLES, accounts, cents)
    }

    pub(crate) fn open(folder: &Path) -> Result<Self> {
        Ok(Self(Database::open(&folder.join("b.sqlite"))?))
    }

    /// Gives the money, unless this transfer was credited before; says whether it did.
    pub(crate) fn credit(&self, transfer: &str, account: u32, cents: u32) -> Result<bool> {
        self.0.transaction(|sql| {
            let row = "INSERT OR IGNORE INTO credits VALUES (?1, ?2, ?3)";
            if sql.execute(row, params![transfer, account, cents])? == 0 {
                return Ok(false);
            }
            let sum = "UPDATE accounts SET cents = cents + ?2 WHERE account = ?1";
            ensure!(sql.execute(sum, params![account, cents])? == 1, "bank B has no account {account}");
            step("crediting");
            Ok(true)
        })
    }

    /// The sum of all accounts, and all credited transfers.
    pub(crate) fn books(&self) -> Result<(i64, Vec<(String, i64)>)> {
        self.0.transaction(|sql| books(sql, "SELECT transfer, cents FROM credits"))
    }
}

impl Deref for BankB {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.0
    }
}
