//! Bank B at work.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kerolox_client::{Client, Delivery, FilterExpression};

use crate::bank_b::BankB;
use crate::step::step;
use crate::{GROUP, TOPIC};

/// For how long no other receiver gets the transfers of one receive: longer than crediting them takes.
const INVISIBLE: Duration = Duration::from_secs(10);
const BATCH: usize = 16;
/// Pause after a failure, so that a broker that is away is not run over.
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) async fn run(client: &Client, bank: BankB) -> Result<()> {
    let consumer = client.simple_consumer(GROUP).subscribe(TOPIC, FilterExpression::all()).start().await?;
    loop {
        let received = match consumer.receive(BATCH, INVISIBLE).await {
            Ok(received) => received,
            Err(error) => {
                eprintln!("no transfers: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        for delivery in received {
            step("received");
            // What cannot be credited is not acknowledged: it comes again, and becomes a dead letter in the end.
            if let Err(error) = credit(&bank, &delivery) {
                eprintln!("{} not credited: {error:#}", delivery.message_id());
                continue;
            }
            step("credited");
            // Only now, because an acknowledged message never comes again. If this fails, or the process dies before,
            // it comes again, and the bank knows it then.
            if let Err(error) = consumer.ack(&delivery).await {
                eprintln!("{} not acknowledged: {error}", delivery.message_id());
            }
            step("acknowledged");
        }
    }
}

fn credit(bank: &BankB, delivery: &Delivery) -> Result<()> {
    let message = delivery.message();
    let transfer = message.keys().first().context("a transfer without its id")?;
    let body = std::str::from_utf8(message.body())?;
    let (account, cents) = body.split_once(' ').context("a transfer is an account and cents")?;
    if bank.credit(transfer, account.parse()?, cents.parse()?)? {
        println!("{transfer} credited");
    } else {
        println!("{transfer} credited before");
    }
    Ok(())
}
