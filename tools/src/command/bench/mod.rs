//! `bench`: how fast brokers are.

mod load;
mod modes;
mod place;
mod recorder;

use crate::target::Common;
use clap::{Args, ValueEnum};
use kerolox_model::units::TimeSpan;
use kerolox_report::outcome::{CommandFailure, ExitStatus, Result};
use kerolox_report::output::{CommandReport, print_error};
use load::Pace;
use modes::Job;
use place::{Place, PlaceArgs, Usage};
use recorder::{Measured, Recorder};
use serde_json::json;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the live view shows something new.
const LIVE: Duration = Duration::from_secs(1);

/// The subject of a measurement, from the command's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Produce,
    Consume,
    E2e,
    Transaction,
    Delay,
    ManyQueues,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Consume => "consume",
            Self::E2e => "e2e",
            Self::Transaction => "transaction",
            Self::Delay => "delay",
            Self::ManyQueues => "many-queues",
        }
    }

    /// The span that its latencies measure.
    fn latency(self) -> &'static str {
        match self {
            Self::Produce | Self::ManyQueues => "from when a message was to be sent to its acknowledgement",
            Self::Consume => "from the end of a receive to the acknowledgement of each of its messages",
            Self::E2e => "from when a message was to be sent to when the listener of a push consumer has it",
            Self::Transaction => "from when a half message was to be sent to when its commit is confirmed",
            Self::Delay => "by how much messages reach a listener after their delivery time",
        }
    }

    fn message_type(self) -> &'static str {
        match self {
            Self::Transaction => "TRANSACTION",
            Self::Delay => "DELAY",
            _ => "NORMAL",
        }
    }
}

/// What all modes take.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    place: PlaceArgs,
    /// Size of a body, in bytes
    #[arg(long, default_value_t = 100, value_name = "BYTES")]
    size: usize,
    /// Requests at the same time
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    in_flight: u32,
    /// Messages a second, of all together [default: as many as can be]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Messages of one request
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// How long is measured
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    duration: TimeSpan,
    /// How long it runs before that, which does not count
    #[arg(long, default_value = "2s", value_name = "DURATION")]
    warmup: TimeSpan,
    /// Show each second what happens, also where there is no terminal
    #[arg(long)]
    live: bool,
}

macro_rules! modes {
    ($($(#[$doc:meta])* $name:ident $mode:ident { $($(#[$arg:meta])* $field:ident: $type:ty,)* })+) => {$(
        $(#[$doc])*
        #[derive(Debug, Args)]
        pub(crate) struct $name {
            #[command(flatten)]
            pub(crate) bench: Bench,
            $($(#[$arg])* $field: $type,)*
        }
    )+};
}

modes! {
    /// Measure sending: requests that are acknowledged
    Produce Produce {}
    /// Measure receiving and acknowledging existing messages
    Consume Consume {
        /// How many there are
        #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        messages: u64,
    }
    /// Measure the time from a producer to a push consumer
    E2e E2e {}
    /// Measure transactions: half message and commit
    Transaction Transaction {}
    /// Measure by how much scheduled messages come late
    Delay Delay {
        /// How far ahead messages are scheduled
        #[arg(long, default_value = "2s", value_name = "DURATION")]
        ahead: TimeSpan,
    }
    /// Measure sending to a topic with many queues
    ManyQueues ManyQueues {
        /// Queues in all, on each broker
        #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        many: u32,
    }
}

/// Messages a second where time counts and not throughput, unless something else is asked for.
const MODEST_RATE: u32 = 1_000;

impl Produce {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        self.bench.measure(Mode::Produce, async |job| modes::produce(job).await).await
    }
}

impl Consume {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let messages = self.messages;
        // Each receives 32 messages at a time.
        let bench =
            Bench { in_flight: self.bench.in_flight.min(16), warmup: TimeSpan::from_millis(0), ..self.bench };
        bench.measure(Mode::Consume, async |job| modes::consume(job, messages).await).await
    }
}

impl E2e {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let bench = Bench { rate: self.bench.rate.or(Some(MODEST_RATE)), batch: 1, ..self.bench };
        bench.measure(Mode::E2e, async |job| modes::end_to_end(job).await).await
    }
}

impl Transaction {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        Bench { batch: 1, ..self.bench }
            .measure(Mode::Transaction, async |job| modes::transaction(job).await)
            .await
    }
}

impl Delay {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let ahead = self.ahead.duration();
        let bench = Bench { rate: self.bench.rate.or(Some(MODEST_RATE)), batch: 1, ..self.bench };
        bench.measure(Mode::Delay, async |job| modes::delay(job, ahead).await).await
    }
}

impl ManyQueues {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let mut bench = self.bench;
        bench.place.queues = self.many;
        bench.measure(Mode::ManyQueues, async |job| modes::produce(job).await).await
    }
}

/// The result of a measurement.
struct Outcome {
    measured: Measured,
    took: Duration,
    before: Usage,
    after: Usage,
}

impl Bench {
    async fn measure(self, mode: Mode, work: impl AsyncFn(&Job) -> Result<()>) -> Result<CommandReport> {
        let consumes = matches!(mode, Mode::Consume | Mode::E2e | Mode::Delay);
        let place = Arc::new(self.place.prepare(&self.common, mode.message_type(), consumes).await?);
        let outcome = tokio::select! {
            outcome = self.work(&place, work) => outcome,
            _ = tokio::signal::ctrl_c() => Err(CommandFailure::failed("interrupted; what was made for it is deleted")),
        };
        let cleaned = place.clean_up().await;
        let mut report = self.report(mode, &place, &outcome?);
        report.warnings.extend(cleaned.err());
        Ok(report)
    }

    async fn work(&self, place: &Arc<Place>, work: impl AsyncFn(&Job) -> Result<()>) -> Result<Outcome> {
        let start = Instant::now();
        let warm = start + self.warmup.duration();
        let recorder = Arc::new(Recorder::new(warm));
        let pace = Pace {
            in_flight: self.in_flight as usize,
            rate: self.rate.map(f64::from),
            batch: self.batch.into(),
            start,
            end: warm + self.duration.duration(),
        };
        let job = Job { place: Arc::clone(place), recorder: Arc::clone(&recorder), pace, size: self.size };
        let live =
            (self.live || std::io::stderr().is_terminal()).then(|| tokio::spawn(show_live(recorder.clone())));
        let measuring = async {
            tokio::time::sleep_until(warm.into()).await;
            place.usage().await
        };
        let (done, before) = tokio::join!(work(&job), measuring);
        if let Some(live) = live {
            live.abort();
        }
        done?;
        let after = place.usage().await;
        let span = recorder.span().unwrap_or(self.duration.duration());
        Ok(Outcome { measured: recorder.all(), took: span, before, after })
    }

    fn report(&self, mode: Mode, place: &Place, outcome: &Outcome) -> CommandReport {
        let Outcome { measured, took, before, after } = outcome;
        #[allow(clippy::cast_precision_loss, reason = "figures are shown with few digits")]
        let (messages, bytes) = (measured.messages as f64, (measured.messages * self.size as u64) as f64);
        let seconds = took.as_secs_f64().max(f64::EPSILON);
        let (rate, mebibytes) = (messages / seconds, bytes / seconds / f64::from(1 << 20));
        #[allow(clippy::cast_precision_loss, reason = "figures are shown with few digits")]
        let (cpu_ms, resident) =
            (after.cpu_ms.saturating_sub(before.cpu_ms) as f64, after.resident_bytes as f64);
        let cpu_percent = cpu_ms / 10.0 / seconds;
        let micros = if messages > 0.0 { cpu_ms * 1000.0 / messages } else { 0.0 };
        let latency = measured.latencies;
        let queues = place.brokers.len() as u32 * self.place.queues;
        let mut lines = vec![
            format!(
                "{}: {rate:.0} messages/s ({mebibytes:.1} MiB/s), {} messages of {} bytes in {seconds:.1} s, {} failed",
                mode.name(),
                measured.messages,
                self.size,
                measured.failures
            ),
            format!(
                "latency (ms): mean {:.2}  p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2}",
                latency.mean, latency.p50, latency.p90, latency.p99, latency.p999, latency.max
            ),
            format!("  {}", mode.latency()),
            format!(
                "brokers: {} with {queues} queues, CPU {cpu_percent:.0} % ({micros:.1} us a message), memory {:.0} MiB",
                place.brokers.len(),
                resident / f64::from(1 << 20)
            ),
        ];
        if let Some(reason) = &measured.first_failure {
            lines.push(format!("first failure: {reason}"));
        }
        let json = json!({
            "mode": mode.name(), "messages": measured.messages, "failures": measured.failures,
            "firstFailure": measured.first_failure, "seconds": seconds, "messagesPerSecond": rate,
            "bodyBytes": self.size, "batch": self.batch, "inFlight": self.in_flight, "rate": self.rate,
            "latencyMs": latency, "latencyIs": mode.latency(),
            "brokers": {
                "count": place.brokers.len(), "queues": queues, "cpuPercent": cpu_percent, "cpuMicrosPerMessage": micros,
                "residentBytes": after.resident_bytes, "residentBytesBefore": before.resident_bytes,
            },
        });
        let exit = match (measured.failures, measured.messages) {
            (0, _) => ExitStatus::Ok,
            (_, 0) => ExitStatus::Failed,
            _ => ExitStatus::Partial,
        };
        CommandReport { text: lines.join("\n"), json, warnings: Vec::new(), exit }
    }
}

/// A line each second, on the standard error: what happened in it.
async fn show_live(recorder: Arc<Recorder>) {
    let mut ticks = tokio::time::interval(LIVE);
    ticks.tick().await;
    let started = Instant::now();
    loop {
        ticks.tick().await;
        let news = recorder.news();
        print_error(&format!(
            "{:>4.0} s  {:>8} messages/s  p50 {:>8.2} ms  p99 {:>8.2} ms  max {:>8.2} ms  {} failed",
            started.elapsed().as_secs_f64(),
            news.messages,
            news.latencies.p50,
            news.latencies.p99,
            news.latencies.max,
            news.failures
        ));
    }
}
