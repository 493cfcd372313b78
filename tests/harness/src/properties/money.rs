//! Money that moves from accounts of bank A to accounts of bank B.

use std::collections::BTreeMap;

use super::PropertyOutcome;
use crate::verdict::none_of;

/// A transfer as bank A booked it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BankDebit {
    /// Account of bank A that paid.
    pub from: u32,
    /// Account of bank B to be credited.
    pub to: u32,
    /// Amount of the transfer.
    pub cents: i64,
}

/// A transfer as bank B booked it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BankCredit {
    /// Account of bank B that was credited.
    pub to: u32,
    /// Amount of the transfer.
    pub cents: i64,
}

/// The books of both banks, with transfers by their ids.
#[derive(Debug, Clone, Default)]
pub struct BankBooks {
    /// Opening balance of every account of both banks.
    pub opening_cents: i64,
    /// Balances of the accounts of bank A in cents, by account number.
    pub accounts_a: BTreeMap<u32, i64>,
    /// Balances of the accounts of bank B in cents, by account number.
    pub accounts_b: BTreeMap<u32, i64>,
    /// Debits of bank A.
    pub debits: BTreeMap<String, BankDebit>,
    /// Credits of bank B.
    pub credits: BTreeMap<String, BankCredit>,
}

impl BankBooks {
    /// Transfers that bank A has debited and bank B has not credited as they were debited.
    pub fn not_credited(&self) -> Vec<&String> {
        let is_credited = |id: &String, debit: &BankDebit| {
            let expected = BankCredit { to: debit.to, cents: debit.cents };
            self.credits.get(id) == Some(&expected)
        };
        self.debits.iter().filter(|(id, debit)| !is_credited(id, debit)).map(|(id, _)| id).collect()
    }

    /// No cent is lost or created.
    ///
    /// # Errors
    /// With the difference.
    pub fn total_is_kept(&self) -> PropertyOutcome {
        let (a, b): (i64, i64) = (self.accounts_a.values().sum(), self.accounts_b.values().sum());
        let accounts = i64::try_from(self.accounts_a.len() + self.accounts_b.len()).expect("some accounts");
        let difference = a + b - accounts * self.opening_cents;
        if difference != 0 {
            return Err(format!("{difference} cents too many"));
        }
        Ok(format!("{a} in A + {b} in B = {}", a + b))
    }

    /// Every debit was credited, once and to its account.
    ///
    /// # Errors
    /// With debits that were not credited.
    pub fn debits_are_credited(&self) -> PropertyOutcome {
        none_of(&self.not_credited(), "debited and not credited as they should be")?;
        Ok(format!("{} transfers", self.credits.len()))
    }

    /// Nothing else was credited.
    ///
    /// # Errors
    /// With credits without a debit.
    pub fn credits_are_debited(&self) -> PropertyOutcome {
        let wrong: Vec<&String> = self.credits.keys().filter(|id| !self.debits.contains_key(*id)).collect();
        none_of(&wrong, "credited and never debited")?;
        Ok(format!("{} transfers", self.credits.len()))
    }

    /// The balance of every account is its opening balance and the sum of its transfers.
    ///
    /// # Errors
    /// With accounts of another balance.
    pub fn accounts_are_right(&self) -> PropertyOutcome {
        let mut a: BTreeMap<u32, i64> = self.accounts_a.keys().map(|id| (*id, self.opening_cents)).collect();
        let mut b: BTreeMap<u32, i64> = self.accounts_b.keys().map(|id| (*id, self.opening_cents)).collect();
        self.debits.values().for_each(|debit| *a.entry(debit.from).or_default() -= debit.cents);
        self.credits.values().for_each(|credit| *b.entry(credit.to).or_default() += credit.cents);
        let mut wrong = Vec::new();
        for (bank, expected, found) in [("A", a, &self.accounts_a), ("B", b, &self.accounts_b)] {
            let differs = expected.into_iter().filter(|(id, cents)| found.get(id) != Some(cents));
            wrong.extend(differs.map(|(id, _)| format!("{bank}{id}")));
        }
        none_of(&wrong, "accounts are wrong")?;
        Ok(format!("{} accounts", self.accounts_a.len() + self.accounts_b.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One transfer that arrived.
    fn books() -> BankBooks {
        BankBooks {
            opening_cents: 100,
            accounts_a: BTreeMap::from([(1, 70), (2, 100)]),
            accounts_b: BTreeMap::from([(1, 100), (2, 130)]),
            debits: BTreeMap::from([("x".to_owned(), BankDebit { from: 1, to: 2, cents: 30 })]),
            credits: BTreeMap::from([("x".to_owned(), BankCredit { to: 2, cents: 30 })]),
        }
    }

    /// Whether each property holds: total, debits, credits, accounts.
    fn outcomes(change: impl FnOnce(&mut BankBooks)) -> [bool; 4] {
        let mut books = books();
        change(&mut books);
        [
            books.total_is_kept(),
            books.debits_are_credited(),
            books.credits_are_debited(),
            books.accounts_are_right(),
        ]
        .map(|outcome| outcome.is_ok())
    }

    #[test]
    fn every_way_to_lose_or_make_money_is_noticed() {
        assert_eq!(outcomes(|_| {}), [true; 4]);
        let lost = |books: &mut BankBooks| {
            books.credits.clear();
            books.accounts_b.insert(2, 100);
        };
        assert_eq!(outcomes(lost), [false, false, true, true], "lost on the way");
        let twice = |books: &mut BankBooks| books.accounts_b = BTreeMap::from([(1, 100), (2, 160)]);
        assert_eq!(outcomes(twice), [false, true, true, false], "added twice");
        let astray = |books: &mut BankBooks| {
            books.credits.insert("x".to_owned(), BankCredit { to: 1, cents: 30 });
            books.accounts_b = BTreeMap::from([(1, 130), (2, 100)]);
        };
        assert_eq!(outcomes(astray), [true, false, true, true], "to another account");
        let never_debited = |books: &mut BankBooks| {
            books.credits.insert("y".to_owned(), BankCredit { to: 2, cents: 5 });
            books.accounts_b.insert(2, 135);
        };
        assert_eq!(outcomes(never_debited), [false, true, false, true], "never debited");
    }
}
