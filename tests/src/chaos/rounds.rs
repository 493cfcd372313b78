//! The rounds: faults begin and end while clients are at work; then everything is mended, comes to rest, and is checked.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kerolox_client::Client;
use kerolox_client::admin::wire;
use kerolox_harness::{ClusterNetwork, MessageLedger};

use super::clients::{Clients, PATIENCE};
use super::cluster::{ChaosCluster, brokers, nameservers};
use super::faults::Running;
use super::official::Official;
use super::plan::{Fault, Plan, Planned};
use super::polls::PollNotes;
use super::{
    BROKERS, ChaosOptions, ChaosReport, NAMESERVERS, ORDERED_GROUP, ORDERED_TOPIC, READERS_GROUP, TOPIC,
    TX_TOPIC,
};
use super::{logs, missing, pauses, queues, verify};

/// How long clients are at work in a round before everything is mended.
const ROUND: Duration = Duration::from_secs(12);
/// How long the group may take to be whole, at the start and after everything was mended.
const WHOLE_LIMIT: Duration = Duration::from_secs(20);
/// Messages that must be acknowledged after that, and how long it may take.
const PROGRESS: usize = 50;
const PROGRESS_LIMIT: Duration = Duration::from_secs(20);
/// How long consumers may go without one of the messages that are owed to them: longer than one that an unheard answer took with it stays
/// invisible. There is no limit to all of it: fast senders leave thousands of messages behind, and slow disks take long for them.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// Nothing more comes when nothing came for so long.
const SILENCE: Duration = Duration::from_secs(2);
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// Deliveries of a message before it would become a dead letter: faults cost many.
const DELIVERIES_MAX: u32 = 1000;

/// What happens at a moment of a round.
#[derive(Debug, Clone, Copy)]
enum Moment {
    Begin(usize),
    End(usize),
}

/// Everything that a round needs.
struct Run {
    cluster: ChaosCluster,
    client: Client,
    ledger: MessageLedger,
    clients: Clients,
    polls: PollNotes,
    report: ChaosReport,
    /// Messages of the official SDK that were acknowledged before this round, if it takes part.
    official: Option<usize>,
    /// When faults hit the master.
    hits: Vec<Instant>,
}

/// Runs the rounds, inside the network.
///
/// # Errors
/// When the test itself cannot go on: the group does not become whole again, or takes no messages. The servers' last words are
/// part of the error.
pub async fn run(options: &ChaosOptions) -> Result<ChaosReport> {
    let network = ClusterNetwork::of(options.owner, NAMESERVERS, BROKERS);
    let mut cluster = ChaosCluster::start(network, &options.folder)?;
    cluster.wait_until_whole(2 * WHOLE_LIMIT).await.context("at the start")?;
    cluster.copy_nameservers()?;
    let whole = cluster.wait_until_whole(2 * WHOLE_LIMIT).await.context("at the start")?;
    let polls = PollNotes::default();
    let client = Client::builder(cluster.servers.access_points()).request_timeout(PATIENCE);
    let client = client.observer(polls.clone()).build()?;
    create_topics(&mut cluster, &client).await?;
    let ledger = MessageLedger::default();
    let official = match &options.python {
        Some(python) => {
            Some(Official::start(python, &options.folder, cluster.servers.nameservers[0].address()?).await?)
        }
        None => None,
    };
    let mut run = Run {
        cluster,
        official: official.as_ref().map(|_| 0),
        clients: Clients::start(&client, &ledger, official).await?,
        client,
        ledger,
        polls,
        report: ChaosReport::default(),
        hits: Vec::new(),
    };
    run.progress().await.context("at the start")?;
    let mut plan = Plan::new(options.seed, &options.only)?;
    let first_epoch = whole.epoch;
    for number in 1..=options.rounds {
        let epoch = run.round(number, &plan.round()).await.with_context(|| format!("round {number}"))?;
        run.report.failovers = epoch - first_epoch;
        if run.report.checks.iter().any(|(_, outcome)| outcome.is_err()) {
            println!(
                "{}\nlast error of a client: {}",
                run.cluster.servers.log_tails(),
                run.ledger.last_error()
            );
            break;
        }
    }
    Ok(run.finish())
}

impl Run {
    /// One round; the epoch of the group at its end.
    async fn round(&mut self, number: u32, planned: &[Planned]) -> Result<u32> {
        let started = Instant::now();
        let gone = self.faults(number, planned, started).await?;
        let mended = Instant::now();
        for (cluster, member) in gone {
            self.remove(&cluster, member, mended).await?;
        }
        let state = self.cluster.wait_until_whole(WHOLE_LIMIT.saturating_sub(mended.elapsed())).await?;
        let whole = mended.elapsed();
        self.progress().await?;
        let silence = self.clients.silence().await;
        self.polls.clear();
        let (owed, drained) = self.drain().await;
        self.check().await?;
        drop(silence);
        println!(
            "round {number}: whole {} ms after it was mended, {owed} messages drained in {} ms, epoch {}, {} acknowledged, {} lost",
            whole.as_millis(),
            drained.as_millis(),
            state.epoch,
            self.report.acknowledged,
            self.report.lost
        );
        Ok(state.epoch)
    }

    /// Lets the faults of a round begin and end; the members that are gone for good.
    async fn faults(
        &mut self,
        round: u32,
        planned: &[Planned],
        started: Instant,
    ) -> Result<Vec<(String, u64)>> {
        let mut moments: Vec<(Duration, Moment)> = (0..planned.len())
            .flat_map(|number| {
                let Planned { begins, ends, .. } = planned[number];
                [(begins, Moment::Begin(number)), (ends.min(ROUND), Moment::End(number))]
            })
            .collect();
        moments.sort_by_key(|(at, _)| *at);
        let mut running: Vec<Option<Running>> = planned.iter().map(|_| None).collect();
        let mut gone = Vec::new();
        for (at, moment) in moments {
            tokio::time::sleep(at.saturating_sub(started.elapsed())).await;
            match moment {
                Moment::Begin(number) => {
                    let Planned { fault, begins, ends, chance } = planned[number];
                    running[number] = self.begin(fault, chance).await?;
                    let victims = running[number].as_ref().map_or_else(Vec::new, |at_work| {
                        at_work.victims.iter().map(|node| node.name()).collect()
                    });
                    let lasts = (ends.min(ROUND) - begins).as_millis();
                    println!("round {round}: {} ({}) for {lasts} ms", fault.words(), victims.join(", "));
                }
                Moment::End(number) => {
                    let Some(over) = running[number].take() else { continue };
                    for remedy in &over.remedies {
                        self.cluster.remedy(remedy).await.with_context(|| format!("{remedy:?}"))?;
                    }
                    gone.extend(over.gone);
                }
            }
        }
        tokio::time::sleep(ROUND.saturating_sub(started.elapsed())).await;
        // A fault may have met a process that an earlier one had killed, and that is not started yet.
        for node in nameservers().chain(brokers()) {
            self.cluster.begin(node)?;
        }
        Ok(gone)
    }

    async fn begin(&mut self, fault: Fault, chance: u64) -> Result<Option<Running>> {
        let begun = Instant::now();
        let running =
            self.cluster.inflict(fault, chance).await.with_context(|| format!("to {}", fault.words()))?;
        if running.is_some() {
            *self.report.faults.entry(fault.words()).or_default() += 1;
            if fault.hits_master() {
                self.hits.push(begun);
            }
        }
        Ok(running)
    }

    /// Takes a member out that lost its disk. Its broker is another member by then.
    async fn remove(&mut self, cluster: &str, member: u64, mended: Instant) -> Result<()> {
        loop {
            match self.cluster.remove_member(cluster, member).await {
                Ok(()) => return Ok(()),
                Err(error) if mended.elapsed() > WHOLE_LIMIT => {
                    return Err(error).context(format!("removing member {member}, which lost its disk"));
                }
                Err(_) => tokio::time::sleep(LOOK_PAUSE).await,
            }
        }
    }

    /// Waits until messages are acknowledged.
    async fn progress(&self) -> Result<()> {
        let (before, started) = (self.ledger.acknowledged(), Instant::now());
        while self.ledger.acknowledged() < before + PROGRESS {
            if started.elapsed() > PROGRESS_LIMIT {
                bail!(
                    "only {} messages were acknowledged within {PROGRESS_LIMIT:?}; last error of a client: {}\n{}",
                    self.ledger.acknowledged() - before,
                    self.ledger.last_error(),
                    self.cluster.servers.log_tails()
                );
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Ok(())
    }

    /// Waits until consumers have everything that is owed and nothing more comes, or nothing has come for long. Returns how many
    /// messages were owed, and how long it took.
    async fn drain(&self) -> (usize, Duration) {
        let started = Instant::now();
        let owed = || -> usize {
            let missing = |(consumer, topic): &(&str, &str)| self.ledger.missing(consumer, topic).len();
            verify::READINGS.iter().map(missing).sum()
        };
        let owed_first = owed();
        let (mut seen, mut silent_since) = (self.ledger.receptions(), started);
        // A message that comes again and again is no progress.
        let (mut left, mut stalled_since) = (owed_first, started);
        while silent_since.elapsed() < SILENCE || left > 0 {
            if left > 0 && stalled_since.elapsed() > STALL_LIMIT {
                break;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
            let (receptions, now_left) = (self.ledger.receptions(), owed());
            if receptions != seen {
                (seen, silent_since) = (receptions, Instant::now());
            }
            if now_left != left {
                (left, stalled_since) = (now_left, Instant::now());
            }
        }
        (owed_first, started.elapsed())
    }

    async fn check(&mut self) -> Result<()> {
        let master = self.cluster.master_address().await?;
        let topics = [TOPIC, ORDERED_TOPIC, TX_TOPIC];
        let mut history = self.ledger.history();
        (history.standing, history.ends) = queues::read(&self.client, &master, &topics).await?;
        match missing::explain(&self.client, &master, &history, &self.polls).await {
            Ok(explained) => print!("{explained}"),
            Err(error) => println!("the missing messages cannot be explained: {error:#}"),
        }
        let mut checks = verify::check(&history);
        let folders: Vec<_> = brokers().map(|node| self.cluster.server_of(node).log_folder()).collect();
        let compared = logs::compare(&folders).await.map_err(|error| format!("{error:#}"));
        checks.push(("the members have the same log", compared));
        if let Some(earlier) = &mut self.official {
            checks.push(("the official SDK had messages acknowledged", verify::went_on(&history, *earlier)));
            *earlier = verify::official(&history);
        }
        let report = &mut self.report;
        report.official = self.official;
        report.rounds += 1;
        report.checks = checks;
        report.acknowledged = self.ledger.acknowledged();
        report.committed = history.sent.values().filter(|sent| sent.is_committed).count();
        report.lost =
            verify::READINGS.iter().map(|(consumer, topic)| history.missing(consumer, topic).len()).sum();
        report.duplicates = history.duplicates();
        report.stored_twice = history.stored_again();
        Ok(())
    }

    fn finish(mut self) -> ChaosReport {
        let acknowledgements = self.ledger.acknowledgements();
        let found = self.hits.iter().filter_map(|hit| pauses::after(*hit, &acknowledgements));
        self.report.pauses = found.collect();
        self.report.pauses.sort_unstable();
        self.report
    }
}

async fn create_topics(cluster: &mut ChaosCluster, client: &Client) -> Result<()> {
    let admin = client.admin().broker(&cluster.master_address().await?);
    for (name, kind) in [(TOPIC, "NORMAL"), (ORDERED_TOPIC, "FIFO"), (TX_TOPIC, "TRANSACTION")] {
        let attributes = vec![format!("+message.type={kind}")];
        let request = wire::UpdateTopicRequest { name: name.to_owned(), attributes, ..Default::default() };
        let started = Instant::now();
        // A member that was just elected may have to settle first.
        while let Err(error) = admin.update_topic(request.clone()).await {
            if started.elapsed() > WHOLE_LIMIT {
                return Err(error).context(format!("making topic {name}"));
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
    for (name, is_fifo) in [(READERS_GROUP, false), (ORDERED_GROUP, true)] {
        let request = wire::UpdateGroupRequest {
            name: name.to_owned(),
            fifo: Some(is_fifo),
            consume_from_min: Some(true),
            retry_max_times: Some(DELIVERIES_MAX),
            ..Default::default()
        };
        admin.update_group(request).await.with_context(|| format!("making consumer group {name}"))?;
    }
    Ok(())
}
