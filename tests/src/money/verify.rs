//! What must hold after the torture, read from both databases without the example's help.

use std::path::Path;

use anyhow::{Context, Result};
use rusqlite::{Connection, OpenFlags};

use super::parts::Said;
use super::{ACCOUNTS, CENTS};
use crate::transactions::check;

/// Transfers that bank B has not credited as bank A debited them.
const NOT_CREDITED: &str =
    "SELECT transfer FROM main.transfers AS a LEFT JOIN b.credits AS c USING (transfer)
    WHERE state = 'debited' AND (c.cents, c.account) IS NOT (a.cents, a.to_account)";
/// Transfers that bank B has credited, and bank A has not debited.
const NOT_DEBITED: &str = "SELECT transfer FROM b.credits LEFT JOIN main.transfers AS a USING (transfer)
    WHERE a.state IS NOT 'debited'";
/// Accounts of bank A that do not have what its transfers left of ?1.
const WRONG_IN_A: &str = "SELECT 'A' || account FROM main.accounts AS it WHERE cents IS NOT ?1 -
    (SELECT TOTAL(cents) FROM main.transfers WHERE account = it.account AND state = 'debited')";
/// Accounts of bank B that do not have what its credits made of ?1.
const WRONG_IN_B: &str = "SELECT 'B' || account FROM b.accounts AS it WHERE cents IS NOT ?1 +
    (SELECT TOTAL(cents) FROM b.credits WHERE account = it.account)";

pub(super) fn verify(folder: &Path, said: &Said) -> Result<Vec<(&'static str, Result<String, String>)>> {
    let banks = open(folder)?;
    let number = |sql: &str| -> Result<i64> { Ok(banks.query_row(sql, [], |row| row.get(0))?) };
    let texts = |sql: &str, parameter: Option<i64>| -> Result<Vec<String>> {
        let mut statement = banks.prepare(sql)?;
        let rows = statement.query_map(rusqlite::params_from_iter(parameter), |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    };
    let credited = number("SELECT COUNT(*) FROM b.credits")?;
    let called_off = number("SELECT COUNT(*) FROM main.transfers WHERE state = 'called off'")?;
    let (in_a, in_b) =
        (number("SELECT SUM(cents) FROM main.accounts")?, number("SELECT SUM(cents) FROM b.accounts")?);
    let at_first = 2 * i64::from(ACCOUNTS) * CENTS;
    let wrong = [texts(WRONG_IN_A, Some(CENTS))?, texts(WRONG_IN_B, Some(CENTS))?].concat();
    let happened = [
        ("a transfer that came twice", said.credited_before),
        ("a transfer that was refused", said.refused),
        ("a transfer that was called off", u64::try_from(called_off)?),
        ("a commit without an answer", said.left_to_check_back),
    ];
    let missing: Vec<_> = happened.iter().filter(|(_, times)| *times == 0).map(|(what, _)| what).collect();
    Ok(vec![
        (
            "no cent is lost or made",
            check(&Vec::from_iter((in_a + in_b != at_first).then_some(in_a + in_b - at_first)), || {
                format!("{in_a} in A + {in_b} in B = {at_first}")
            }),
        ),
        (
            "what was debited was credited, once and to its account",
            check(&texts(NOT_CREDITED, None)?, || format!("{credited} transfers")),
        ),
        (
            "nothing else was credited",
            check(&texts(NOT_DEBITED, None)?, || format!("{called_off} were called off")),
        ),
        ("every account is right", check(&wrong, || format!("{} accounts", 2 * ACCOUNTS))),
        (
            "what could go wrong did happen",
            check(&missing, || {
                format!(
                    "{} came twice, {} were refused, {called_off} called off, {} commits had no answer",
                    said.credited_before, said.refused, said.left_to_check_back
                )
            }),
        ),
    ])
}

/// How many transfers bank A has debited and bank B not credited yet.
pub(super) fn on_its_way(folder: &Path) -> Result<i64> {
    let sql = format!("SELECT COUNT(*) FROM ({NOT_CREDITED})");
    Ok(open(folder)?.query_row(&sql, [], |row| row.get(0))?)
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

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: Said = Said { credited: 1, credited_before: 1, refused: 1, left_to_check_back: 1 };

    /// Banks with one transfer that arrived and one that was called off, and then what `change` makes of them.
    fn failures(change: &str) -> Vec<&'static str> {
        let folder = tempfile::tempdir().unwrap();
        for (bank, table) in [
            (
                "a",
                "transfers (transfer TEXT PRIMARY KEY, state TEXT, account INTEGER, to_account INTEGER, cents INTEGER)",
            ),
            ("b", "credits (transfer TEXT PRIMARY KEY, account INTEGER, cents INTEGER)"),
        ] {
            let file = Connection::open(folder.path().join(format!("{bank}.sqlite"))).unwrap();
            file.execute_batch(&format!(
                "CREATE TABLE {table}; CREATE TABLE accounts (account INTEGER, cents INTEGER);"
            ))
            .unwrap();
            for account in 0..ACCOUNTS {
                file.execute("INSERT INTO accounts VALUES (?1, ?2)", (account, CENTS)).unwrap();
            }
        }
        let banks = open(folder.path()).unwrap();
        banks
            .execute_batch(
                "INSERT INTO main.transfers VALUES ('x', 'debited', 1, 2, 30), ('y', 'called off', NULL, NULL, NULL);
                 UPDATE main.accounts SET cents = cents - 30 WHERE account = 1;
                 INSERT INTO b.credits VALUES ('x', 2, 30);
                 UPDATE b.accounts SET cents = cents + 30 WHERE account = 2;",
            )
            .unwrap();
        banks.execute_batch(change).unwrap();
        let checks = verify(folder.path(), &SAID).unwrap();
        checks.into_iter().filter(|(_, outcome)| outcome.is_err()).map(|(name, _)| name).collect()
    }

    #[test]
    fn every_way_to_lose_or_make_money_is_noticed() {
        assert_eq!(failures(""), [] as [&str; 0]);
        let (total, credited, else_credited, accounts) = (
            "no cent is lost or made",
            "what was debited was credited, once and to its account",
            "nothing else was credited",
            "every account is right",
        );
        let lost = "DELETE FROM b.credits; UPDATE b.accounts SET cents = cents - 30 WHERE account = 2";
        assert_eq!(failures(lost), [total, credited]);
        let twice = "UPDATE b.accounts SET cents = cents + 30 WHERE account = 2";
        assert_eq!(failures(twice), [total, accounts]);
        let astray =
            "UPDATE b.credits SET account = 3; UPDATE b.accounts SET cents = cents - 30 WHERE account = 2;
                      UPDATE b.accounts SET cents = cents + 30 WHERE account = 3";
        assert_eq!(failures(astray), [credited]);
        let never_debited = "INSERT INTO b.credits VALUES ('y', 2, 5); UPDATE b.accounts SET cents = cents + 5 WHERE account = 2";
        assert_eq!(failures(never_debited), [total, else_credited]);
        assert_eq!(
            failures("DELETE FROM main.transfers WHERE transfer = 'y'"),
            ["what could go wrong did happen"]
        );
    }
}
