//! What must hold in the end, read from both databases without the example's help.

use std::path::Path;

use anyhow::{Context, Result};
use kerolox_harness::properties::{BankBooks, BankCredit, BankDebit};
use kerolox_harness::verdict::{CheckedProperty, none_of};
use rusqlite::{Connection, OpenFlags};

use super::CENTS;
use super::parts::Said;

pub(super) fn verify(folder: &Path, said: &Said) -> Result<Vec<CheckedProperty>> {
    let banks = open(folder)?;
    let books = read(&banks)?;
    let called_off: i64 =
        banks.query_row("SELECT COUNT(*) FROM main.transfers WHERE state = 'called off'", [], |row| {
            row.get(0)
        })?;
    Ok(vec![
        ("no cent is lost or created", books.total_is_kept()),
        ("what was debited was credited, once and to its account", books.debits_are_credited()),
        ("nothing else was credited", books.credits_are_debited()),
        ("every account is right", books.accounts_are_right()),
        ("what could go wrong did happen", everything_happened(said, u64::try_from(called_off)?)),
    ])
}

fn everything_happened(said: &Said, called_off: u64) -> Result<String, String> {
    let happened = [
        ("a transfer that came twice", said.credited_before),
        ("a transfer that was refused", said.refused),
        ("a transfer that was called off", called_off),
        ("a commit without an answer", said.left_to_check_back),
    ];
    let missing: Vec<_> = happened.iter().filter(|(_, times)| *times == 0).map(|(what, _)| what).collect();
    none_of(&missing, "did not happen")?;
    Ok(format!(
        "{} came twice, {} were refused, {called_off} called off, {} commits had no answer",
        said.credited_before, said.refused, said.left_to_check_back
    ))
}

/// How many transfers bank A has debited and bank B not credited yet.
pub(super) fn on_its_way(folder: &Path) -> Result<usize> {
    Ok(read(&open(folder)?)?.not_credited().len())
}

/// Bank A as `main`, bank B as `b`.
fn open(folder: &Path) -> Result<Connection> {
    let banks = Connection::open_with_flags(folder.join("a.sqlite"), OpenFlags::SQLITE_OPEN_READ_WRITE)
        .context("opening bank A")?;
    let b = folder.join("b.sqlite");
    banks.execute("ATTACH ?1 AS b", [b.to_str().context("a folder in UTF-8")?]).context("opening bank B")?;
    banks.busy_timeout(super::PROGRESS_LIMIT)?;
    Ok(banks)
}

fn read(banks: &Connection) -> Result<BankBooks> {
    let mut books = BankBooks { opening_cents: CENTS, ..BankBooks::default() };
    for (bank, accounts) in [("main", &mut books.accounts_a), ("b", &mut books.accounts_b)] {
        let mut statement = banks.prepare(&format!("SELECT account, cents FROM {bank}.accounts"))?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        *accounts = rows.collect::<rusqlite::Result<_>>()?;
    }
    let mut statement = banks
        .prepare("SELECT transfer, account, to_account, cents FROM main.transfers WHERE state = 'debited'")?;
    let rows = statement.query_map([], |row| {
        Ok((row.get(0)?, BankDebit { from: row.get(1)?, to: row.get(2)?, cents: row.get(3)? }))
    })?;
    books.debits = rows.collect::<rusqlite::Result<_>>()?;
    let mut statement = banks.prepare("SELECT transfer, account, cents FROM b.credits")?;
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, BankCredit { to: row.get(1)?, cents: row.get(2)? })))?;
    books.credits = rows.collect::<rusqlite::Result<_>>()?;
    Ok(books)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_are_read_as_the_example_writes_them() {
        let folder = tempfile::tempdir().unwrap();
        for (bank, table) in [
            (
                "a",
                "transfers (transfer TEXT PRIMARY KEY, state TEXT, account INTEGER, to_account INTEGER, cents INTEGER)",
            ),
            ("b", "credits (transfer TEXT PRIMARY KEY, account INTEGER, cents INTEGER)"),
        ] {
            let file = Connection::open(folder.path().join(format!("{bank}.sqlite"))).unwrap();
            let tables =
                format!("CREATE TABLE {table}; CREATE TABLE accounts (account INTEGER, cents INTEGER);");
            file.execute_batch(&tables).unwrap();
        }
        let banks = open(folder.path()).unwrap();
        banks
            .execute_batch(
                "INSERT INTO main.transfers VALUES ('x', 'debited', 1, 2, 30), ('y', 'called off', NULL, NULL, NULL);
                 INSERT INTO main.accounts VALUES (1, 99999970);
                 INSERT INTO b.accounts VALUES (2, 100000030);",
            )
            .unwrap();
        assert_eq!(on_its_way(folder.path()).unwrap(), 1);
        banks.execute_batch("INSERT INTO b.credits VALUES ('x', 2, 30);").unwrap();
        assert_eq!(on_its_way(folder.path()).unwrap(), 0);
        let said = Said { credited: 1, credited_before: 1, refused: 1, left_to_check_back: 1 };
        let checks = verify(folder.path(), &said).unwrap();
        assert!(checks.iter().all(|(_, outcome)| outcome.is_ok()), "{checks:?}");
        banks.execute_batch("DELETE FROM main.transfers WHERE transfer = 'y'").unwrap();
        let checks = verify(folder.path(), &said).unwrap();
        assert!(checks[4].1.is_err(), "{checks:?}");
    }
}
