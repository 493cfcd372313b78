//! Moves money from bank A to bank B. Each bank has a database of its own, and no cent is lost or created, whichever process
//! dies, and whenever.
//! README.md beside this file says how to run it and why it works.

mod bank_a;
mod bank_b;
mod database;
mod receiver;
mod sender;
mod step;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use bank_a::BankA;
use bank_b::BankB;
use clap::{Parser, Subcommand};
use kerolox_client::Client;

/// This topic holds the transfers that bank A has debited.
const TOPIC: &str = "transfers";
/// Bank B as a consumer group.
const GROUP: &str = "bank-b";

/// Moves money between two databases.
#[derive(Parser)]
struct Arguments {
    /// Folder with the databases of both banks.
    #[arg(long)]
    folder: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes topic and group, and both banks with their accounts.
    Setup {
        /// A broker, where topic and group are made.
        #[arg(long)]
        broker: String,
        /// Accounts of each bank.
        #[arg(long, default_value_t = 20)]
        accounts: u32,
        /// Cents on each account at first.
        #[arg(long, default_value_t = 1_000_000)]
        cents: u32,
    },
    /// Is bank A: sends transfers, and answers the broker's check-backs.
    Sender {
        /// A nameserver or broker.
        #[arg(long)]
        access_point: String,
        /// Transfers to try; without it the sender goes on until it is stopped. Check-backs are answered until then.
        #[arg(long)]
        transfers: Option<u64>,
        /// How long a transfer that bank A knows nothing of may be on its way there before it is called off.
        #[arg(long, default_value_t = 10_000)]
        grace_ms: u64,
        /// How long a broker that does not answer is asked again; a commit is left to the check-back then.
        #[arg(long, default_value_t = 15_000)]
        patience_ms: u64,
    },
    /// Is bank B: receives transfers and credits them.
    Receiver {
        /// A nameserver or broker.
        #[arg(long)]
        access_point: String,
    },
    /// Adds up the money in both banks and on its way; fails unless it is the sum of the beginning.
    Audit {
        /// Fails also when anything is still on its way.
        #[arg(long)]
        settled: bool,
    },
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let Arguments { folder, command } = Arguments::parse();
    match command {
        Command::Setup { broker, accounts, cents } => {
            make_topic_and_group(&broker).await?;
            BankA::create(&folder, accounts, cents)?;
            BankB::create(&folder, accounts, cents)?;
        }
        Command::Sender { access_point, transfers, grace_ms, patience_ms } => {
            let client = Client::builder(access_point).build()?;
            let manners = sender::Manners {
                grace: Duration::from_millis(grace_ms),
                patience: Duration::from_millis(patience_ms),
            };
            sender::run(&client, BankA::open(&folder)?, manners, transfers).await?;
        }
        Command::Receiver { access_point } => {
            receiver::run(&Client::builder(access_point).build()?, BankB::open(&folder)?).await?;
        }
        Command::Audit { settled } => return audit(&BankA::open(&folder)?, &BankB::open(&folder)?, settled),
    }
    Ok(ExitCode::SUCCESS)
}

async fn make_topic_and_group(broker: &str) -> Result<()> {
    use kerolox_client::admin::wire::{UpdateGroupRequest, UpdateTopicRequest};
    let client = Client::builder(broker).build()?;
    let address = broker.parse()?;
    let (admin, attributes) = (client.admin().broker(&address), vec!["+message.type=TRANSACTION".to_owned()]);
    admin
        .update_topic(UpdateTopicRequest { name: TOPIC.to_owned(), attributes, ..Default::default() })
        .await?;
    // From the first message on, also if bank B begins after bank A.
    let group =
        UpdateGroupRequest { name: GROUP.to_owned(), consume_from_min: Some(true), ..Default::default() };
    admin.update_group(group).await?;
    Ok(())
}

/// Bank B is read first: what it has credited by then, bank A has debited for sure.
fn audit(a: &BankA, b: &BankB, settled: bool) -> Result<ExitCode> {
    let (in_b, credits) = b.books()?;
    let (in_a, mut on_its_way) = a.books()?;
    for (transfer, cents) in credits {
        let debited = on_its_way.remove(&transfer);
        anyhow::ensure!(debited == Some(cents), "B credited {cents} for {transfer}, A debited {debited:?}");
    }
    let moving: i64 = on_its_way.values().sum();
    let (now, first) = (in_a + moving + in_b, a.cents_at_first()? + b.cents_at_first()?);
    println!("A {in_a} + on its way {moving} ({}) + B {in_b} = {now}; at first {first}", on_its_way.len());
    let right = now == first && (on_its_way.is_empty() || !settled);
    Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
