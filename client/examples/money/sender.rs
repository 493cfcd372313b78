//! Bank A at work.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use kerolox_client::{Client, HalfMessage, Message, Resolution, RetryPolicy, TransactionError};
use uuid::Uuid;

use crate::TOPIC;
use crate::bank_a::{BankA, Fate, Transfer};
use crate::step::step;

/// Largest transfer, in cents.
const MOST: u32 = 500;
/// Pause after a failure, so that a broker that is away is not run over.
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) struct Manners {
    /// How long a transfer may be on its way to bank A before it is called off.
    pub(crate) grace: Duration,
    /// How long a broker that does not answer is asked again.
    pub(crate) patience: Duration,
}

pub(crate) async fn run(
    client: &Client,
    bank: BankA,
    manners: Manners,
    transfers: Option<u64>,
) -> Result<()> {
    let Manners { grace, patience } = manners;
    let (accounts, bank) = (bank.accounts()?, Arc::new(bank));
    let checked = Arc::clone(&bank);
    let producer = client
        .producer()
        .topic(TOPIC)
        .retry_policy(RetryPolicy::default().within(patience))
        .transaction_checker(move |half| {
            let bank = Arc::clone(&checked);
            async move { resolution(&bank, &half, grace) }
        })
        .start()
        .await?;
    for _ in 0..transfers.unwrap_or(u64::MAX) {
        let transfer = random_transfer(accounts);
        // All that bank B has to know, and the business key, which is the same however often the message is sent or delivered.
        let message = Message::builder(TOPIC)
            .key(&transfer.id)
            .body(format!("{} {}", transfer.to_account, transfer.cents))
            .build();
        let local = async |_half| {
            step("sent");
            bank.debit(&transfer)?;
            step("debited");
            anyhow::Ok(())
        };
        match producer.in_transaction(message, local).await {
            Ok(done) => println!("{} debited, {}", transfer.id, done.commit),
            // Not enough money, or called off: bank B never hears of this transfer.
            Err(TransactionError::Failed { error, .. }) => println!("{} refused: {error}", transfer.id),
            Err(error) => {
                eprintln!("{} {error}", transfer.id);
                tokio::time::sleep(PAUSE).await;
            }
        }
        step("committed");
    }
    // Other senders may have left transfers undecided.
    std::future::pending().await
}

/// The broker asks what became of a transfer, perhaps one of a sender that is dead. The database knows.
fn resolution(bank: &BankA, half: &HalfMessage, grace: Duration) -> Resolution {
    let Some(id) = half.message().keys().first() else { return Resolution::Rollback };
    let age = half.born_timestamp().and_then(|born| SystemTime::now().duration_since(born).ok());
    let fate = match bank.fate(id) {
        // It may be on its way: calling it off would be right, but rude.
        Ok(Fate::Unknown) if age.is_none_or(|age| age < grace) => Ok(Fate::Unknown),
        Ok(Fate::Unknown) => bank.call_off(id),
        known => known,
    };
    match fate {
        Ok(Fate::Debited) => Resolution::Commit,
        Ok(Fate::CalledOff) => Resolution::Rollback,
        Ok(Fate::Unknown) => Resolution::Unknown,
        Err(error) => {
            eprintln!("{id} cannot be looked up, the broker will ask again: {error}");
            Resolution::Unknown
        }
    }
}

fn random_transfer(accounts: u32) -> Transfer {
    let id = Uuid::new_v4();
    let part = |at: usize| u32::from(u16::from_be_bytes([id.as_bytes()[at], id.as_bytes()[at + 1]]));
    Transfer {
        id: id.to_string(),
        account: part(0) % accounts,
        to_account: part(2) % accounts,
        // Some want more than there is, and are refused.
        cents: if part(4) % 16 == 0 { u32::MAX } else { part(10) % MOST + 1 },
    }
}
