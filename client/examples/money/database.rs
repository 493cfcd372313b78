//! A bank's database: accounts, and SQLite transactions one after the other.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};

/// How long to wait for another process that is writing.
const BUSY: Duration = Duration::from_secs(30);

pub(crate) struct Database(Mutex<Connection>);

impl Database {
    /// Makes the file, with the same on each account, and what `tables` makes.
    pub(crate) fn create(file: &Path, tables: &str, accounts: u32, cents: u32) -> Result<()> {
        ensure!(!file.exists(), "{} is there already: set up in another folder", file.display());
        let connection = Connection::open(file)?;
        // A writer that dies leaves the file as it was before its transaction; a transaction that ended is on disk.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.execute_batch(
            "CREATE TABLE accounts (account INTEGER PRIMARY KEY, cents INTEGER NOT NULL CHECK (cents >= 0));
             CREATE TABLE at_first (cents INTEGER NOT NULL);",
        )?;
        connection.execute_batch(tables)?;
        for account in 0..accounts {
            connection.execute("INSERT INTO accounts VALUES (?1, ?2)", params![account, cents])?;
        }
        connection.execute("INSERT INTO at_first SELECT SUM(cents) FROM accounts", [])?;
        Ok(())
    }

    pub(crate) fn open(file: &Path) -> Result<Self> {
        ensure!(file.exists(), "{} is not there: set up first", file.display());
        let connection = Connection::open(file)?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        Ok(Self(Mutex::new(connection)))
    }

    /// Runs `work` as one SQLite transaction: all of it happens when it returns `Ok`, and nothing otherwise.
    pub(crate) fn transaction<T>(&self, work: impl FnOnce(&Transaction) -> Result<T>) -> Result<T> {
        // SQLite blocks; the other tasks of the runtime go on meanwhile.
        tokio::task::block_in_place(|| {
            let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Immediate: the values that it reads stay true until it ends.
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        })
    }

    pub(crate) fn cents_at_first(&self) -> Result<i64> {
        self.transaction(|sql| Ok(sql.query_row("SELECT cents FROM at_first", [], |row| row.get(0))?))
    }

    pub(crate) fn accounts(&self) -> Result<u32> {
        self.transaction(|sql| Ok(sql.query_row("SELECT COUNT(*) FROM accounts", [], |row| row.get(0))?))
    }
}

/// The sum of all accounts, and the rows of a query for transfers and their cents.
pub(crate) fn books<T: FromIterator<(String, i64)>>(sql: &Transaction, transfers: &str) -> Result<(i64, T)> {
    let cents = sql.query_row("SELECT SUM(cents) FROM accounts", [], |row| row.get(0))?;
    let mut statement = sql.prepare(transfers)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((cents, rows.collect::<rusqlite::Result<T>>()?))
}
