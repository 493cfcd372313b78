//! The measurements: one function for each mode.

use super::load::{Pace, run};
use super::place::Place;
use super::recorder::Recorder;
use kerolox_client::{Batcher, Batching, FilterExpression, Message, PushConsumer, Verdict};
use kerolox_report::outcome::{CommandFailure, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Property of a message that says when it was to be sent, or delivered: nanoseconds since the Unix epoch.
const STAMP: &str = "bench-time";
/// How long messages may take to arrive after the last one was sent.
const ARRIVAL: Duration = Duration::from_secs(30);
/// Longer than a measurement.
const INVISIBLE: Duration = Duration::from_secs(600);
/// Messages of a receive: the protocol's limit.
const RECEIVE: usize = 32;

/// What a mode needs.
pub(super) struct Job {
    pub(super) place: Arc<Place>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) pace: Pace,
    pub(super) size: usize,
}

impl Job {
    fn message(&self) -> impl Fn() -> kerolox_client::MessageBuilder + Clone + Send + Sync + 'static {
        let (topic, size) = (self.place.topic.clone(), self.size);
        // Nothing that a disk or a network could make smaller.
        let body: Vec<u8> = (0..size as u64).map(|at| (at.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
        move || Message::builder(topic.clone()).body(body.clone())
    }
}

/// Messages are sent, each batch a request.
pub(super) async fn produce(job: &Job) -> Result<()> {
    let producer = Arc::new(job.place.client.producer().topic(&job.place.topic).start().await?);
    let (message, batch) = (job.message(), job.pace.batch);
    run(job.pace, &job.recorder, move |_| {
        let (producer, message) = (Arc::clone(&producer), message.clone());
        async move {
            if batch == 1 {
                return producer.send(message().build()).await.map(drop).map_err(|error| error.to_string());
            }
            let messages = (0..batch).map(|_| message().build()).collect();
            let sent = producer.send_batch(messages).await;
            sent.into_iter().find_map(std::result::Result::err).map_or(Ok(()), |error| Err(error.to_string()))
        }
    })
    .await;
    Ok(())
}

/// Messages that are there already are received and acknowledged; the latency is that of an acknowledgement after its receive.
pub(super) async fn consume(job: &Job, messages: u64) -> Result<()> {
    fill(job, messages).await?;
    let consumer = job.place.client.simple_consumer(&job.place.group);
    let consumer =
        consumer.subscribe(&job.place.topic, FilterExpression::all()).await_duration(Duration::from_secs(1));
    let consumer = Arc::new(consumer.start().await?);
    let left = Arc::new(AtomicU64::new(messages));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..job.pace.in_flight {
        let (consumer, left, recorder) =
            (Arc::clone(&consumer), Arc::clone(&left), Arc::clone(&job.recorder));
        let end = Instant::now() + ARRIVAL + Duration::from_secs(messages / 1_000);
        tasks.spawn(async move {
            while left.load(Ordering::Relaxed) > 0 && Instant::now() < end {
                let received = match consumer.receive(RECEIVE, INVISIBLE).await {
                    Ok(received) => received,
                    Err(error) => {
                        recorder.fail(Instant::now(), 1, &error.to_string());
                        continue;
                    }
                };
                let begun = Instant::now();
                let acks = received.iter().map(|delivery| consumer.ack(delivery));
                for acked in futures_util::future::join_all(acks).await {
                    match acked {
                        Ok(()) => {
                            left.fetch_sub(1, Ordering::Relaxed);
                            recorder.note(begun, begun.elapsed(), 1);
                        }
                        Err(error) => recorder.fail(begun, 1, &error.to_string()),
                    }
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    match left.load(Ordering::Relaxed) {
        0 => Ok(()),
        left => Err(CommandFailure::failed(format!("{left} of {messages} messages did not come"))),
    }
}

/// Sends messages as fast as that goes.
async fn fill(job: &Job, messages: u64) -> Result<()> {
    let producer = Arc::new(job.place.client.producer().topic(&job.place.topic).start().await?);
    let batcher = Batcher::new(producer, Batching::default())?;
    let message = job.message();
    let mut pending = Vec::new();
    for number in 0..messages {
        pending.push(batcher.send(message().build()).await?);
        if number % 10_000 == 9_999 || number + 1 == messages {
            batcher.flush().await;
            for each in pending.drain(..) {
                each.await?;
            }
        }
    }
    Ok(())
}

/// From when a message was to be sent to when a consumer's listener has it.
pub(super) async fn end_to_end(job: &Job) -> Result<()> {
    let consumer = listen(job, Duration::ZERO).await?;
    let producer = Arc::new(job.place.client.producer().topic(&job.place.topic).start().await?);
    let (message, pace, sent) = (job.message(), job.pace, Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&sent);
    // Successful sends are not measured here; failed ones are counted.
    let sends = Arc::new(Recorder::new(pace.start));
    run(pace, &sends, move |_| {
        let (producer, message, counted) = (Arc::clone(&producer), message.clone(), Arc::clone(&counted));
        async move {
            let message = message().property(STAMP, nanos(SystemTime::now()).to_string()).build();
            producer.send(message).await.map_err(|error| error.to_string())?;
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    })
    .await;
    await_arrival(job, consumer, &sends, sent.load(Ordering::Relaxed)).await
}

/// By how much scheduled messages come after their time.
pub(super) async fn delay(job: &Job, delay: Duration) -> Result<()> {
    let consumer = listen(job, delay).await?;
    let producer = Arc::new(job.place.client.producer().topic(&job.place.topic).start().await?);
    let (message, pace, sent) = (job.message(), job.pace, Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&sent);
    let sends = Arc::new(Recorder::new(pace.start));
    run(pace, &sends, move |_| {
        let (producer, message, counted) = (Arc::clone(&producer), message.clone(), Arc::clone(&counted));
        async move {
            let due = SystemTime::now() + delay;
            let message = message().delivery_timestamp(due).property(STAMP, nanos(due).to_string()).build();
            producer.send(message).await.map_err(|error| error.to_string())?;
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    })
    .await;
    tokio::time::sleep(delay).await;
    await_arrival(job, consumer, &sends, sent.load(Ordering::Relaxed)).await
}

/// Half messages are sent and committed.
pub(super) async fn transaction(job: &Job) -> Result<()> {
    let producer = job.place.client.producer().topic(&job.place.topic);
    let producer = producer.transaction_checker(|_| async { kerolox_client::Resolution::Commit });
    let producer = Arc::new(producer.start().await?);
    let message = job.message();
    run(job.pace, &job.recorder, move |_| {
        let (producer, message) = (Arc::clone(&producer), message.clone());
        async move {
            let half =
                producer.send_in_transaction(message().build()).await.map_err(|error| error.to_string())?;
            half.commit().await.map_err(|error| error.to_string())
        }
    })
    .await;
    Ok(())
}

/// A consumer that notes how long after its stamp each message came; that was sent `ahead` of its stamp.
async fn listen(job: &Job, ahead: Duration) -> Result<Listening> {
    let (recorder, received) = (Arc::clone(&job.recorder), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&received);
    let consumer = job.place.client.push_consumer(&job.place.group);
    let consumer = consumer.subscribe(&job.place.topic, FilterExpression::all());
    let consumer = consumer
        .start(move |delivery| {
            let now = SystemTime::now();
            let stamp =
                delivery.message().properties().get(STAMP).and_then(|stamp| stamp.parse::<u128>().ok());
            if let Some(stamp) = stamp {
                let late =
                    Duration::from_nanos(u64::try_from(nanos(now).saturating_sub(stamp)).unwrap_or(u64::MAX));
                // When the message was begun, as near as two clocks tell.
                let begun = Instant::now().checked_sub(late + ahead).unwrap_or_else(Instant::now);
                recorder.note(begun, late, 1);
                counted.fetch_add(1, Ordering::Relaxed);
            }
            async { Verdict::Done }
        })
        .await?;
    Ok(Listening { consumer, received })
}

struct Listening {
    consumer: PushConsumer,
    received: Arc<AtomicU64>,
}

async fn await_arrival(job: &Job, listening: Listening, sends: &Recorder, sent: u64) -> Result<()> {
    let limit = Instant::now() + ARRIVAL;
    while listening.received.load(Ordering::Relaxed) < sent && Instant::now() < limit {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let failed = sends.all();
    if failed.failures > 0 {
        job.recorder.fail(job.pace.end, failed.failures, &failed.first_failure.unwrap_or_default());
    }
    let received = listening.received.load(Ordering::Relaxed);
    listening.consumer.shutdown(Duration::from_secs(5)).await;
    if received < sent {
        return Err(CommandFailure::failed(format!(
            "{} of {sent} messages did not come within {ARRIVAL:?}",
            sent - received
        )));
    }
    Ok(())
}

fn nanos(time: SystemTime) -> u128 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}
