//! The Rust client with Apache's own servers: everything that both sides know. `tests/run.sh client` runs it, with
//! `tests/apache/with_apache.py`, which starts these servers and makes the topics and groups named here.

use std::collections::BTreeSet;
use std::future::Future;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kerolox_client::{
    Batcher, Batching, Client, Credentials, Error, FilterExpression, Message, MessageQueue, Position,
    Resolution, SimpleConsumer, Tls, TransactionError, Verdict,
};
use kerolox_harness::verdict;
use tokio::sync::mpsc;

/// The time limit of one check: these servers sometimes wait for each other.
const PATIENCE: Duration = Duration::from_secs(90);
const INVISIBLE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let proxy = std::env::var("APACHE_PROXY").context("APACHE_PROXY names no proxy; see tests/apache")?;
    let client = || Client::builder(&proxy).build();
    let tls = Client::builder(&proxy).tls(Tls::unverified()).credentials(Credentials::new("AK", "SK"));
    // At the same time: most of it is waiting.
    let knows_lite = std::env::var_os("APACHE_LITE").is_some();
    let (sent, batches, ordered, delayed, transactions, pushed, unknown, encrypted, lite) = tokio::join!(
        check(send_and_receive(client()?)),
        check(send_batches(client()?)),
        check(keep_order(client()?)),
        check(delay_and_recall(client()?)),
        check(transact(client()?)),
        check(push(client()?)),
        check(ask_too_much(client()?)),
        check(send_and_receive_encrypted(tls.build()?)),
        check(async { if knows_lite { hear_lite(client()?).await } else { Ok(String::new()) } }),
    );
    let mut checks = vec![
        ("messages are sent, filtered, received and acknowledged", sent),
        ("batches, compressed bodies", batches),
        ("message groups in order", ordered),
        ("scheduled messages", delayed),
        ("transactions and their check-backs", transactions),
        ("a push consumer, with a failure that comes again", pushed),
        ("what the proxy does not know is told by its code", unknown),
        ("TLS and signed requests", encrypted),
    ];
    if knows_lite {
        checks.push(("lite topics", lite));
    }
    let (passed, failed) = verdict::show(checks.iter().map(|(name, outcome)| (*name, outcome)));
    println!("apache: the Rust client with Apache's proxy: {passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn check(running: impl Future<Output = Result<String>>) -> Result<String, String> {
    match tokio::time::timeout(PATIENCE, running).await {
        Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
        Err(_) => Err(format!("not within {PATIENCE:?}")),
    }
}

async fn consumer(
    client: &Client,
    group: &str,
    topic: &str,
    filter: FilterExpression,
) -> Result<SimpleConsumer> {
    let consumer = client.simple_consumer(group).subscribe(topic, filter);
    Ok(consumer.await_duration(Duration::from_secs(5)).start().await?)
}

/// Receives and acknowledges until all of `expected` have come; ignores other messages.
async fn receive(consumer: &SimpleConsumer, mut expected: BTreeSet<String>) -> Result<()> {
    while !expected.is_empty() {
        for delivery in consumer.receive(16, INVISIBLE).await? {
            ensure!(delivery.damage().is_none(), "damaged: {delivery:?}");
            expected.remove(&text(delivery.message()));
            consumer.ack(&delivery).await?;
        }
    }
    Ok(())
}

async fn send_and_receive(client: Client) -> Result<String> {
    let producer = client.producer().topic("Normal").start().await?;
    let mut expected = BTreeSet::new();
    for number in 0..20 {
        let tag = if number % 2 == 0 { "even" } else { "odd" };
        let body = format!("message {number}");
        let message = Message::builder("Normal").body(body.clone()).tag(tag).key("k").property("p", "v");
        let receipt = producer.send(message.build()).await?;
        ensure!(!receipt.message_id.is_empty());
        if tag == "even" {
            expected.insert(body);
        }
    }
    let consumer = consumer(&client, "readers", "Normal", FilterExpression::tag("even")).await?;
    let mut first = Vec::new();
    while first.is_empty() {
        first = consumer.receive(1, INVISIBLE).await?;
    }
    let mut first = first.remove(0);
    ensure!(first.message().properties().get("p").is_some_and(|value| value == "v"), "{first:?}");
    consumer.change_invisible(&mut first, INVISIBLE).await.context("change_invisible")?;
    consumer.ack(&first).await.context("with the new handle")?;
    expected.remove(&text(first.message()));
    receive(&consumer, expected).await?;
    consumer.shutdown().await;
    producer.shutdown().await;
    Ok("20 sent, 10 wanted".to_owned())
}

async fn send_batches(client: Client) -> Result<String> {
    let producer = client.producer().topic("Normal").compress_from(1000).start().await?;
    let producer = Arc::new(producer);
    let batcher = Batcher::new(Arc::clone(&producer), Batching::default().max_messages(32))?;
    let mut expected = BTreeSet::new();
    let mut pending = Vec::new();
    for number in 0..200 {
        let body = format!("batched {number} {}", "x".repeat(number * 10));
        pending.push(batcher.send(Message::builder("Normal").body(body.clone()).tag("batch").build()).await?);
        expected.insert(body);
    }
    for answer in pending {
        answer.await?;
    }
    // Alone in its request, it is compressed.
    let large = "compressed ".repeat(1000);
    producer.send(Message::builder("Normal").body(large.clone()).tag("batch").build()).await?;
    expected.insert(large);
    receive(&consumer(&client, "batches", "Normal", FilterExpression::tag("batch")).await?, expected).await?;
    Ok("200 in batches and a compressed one sent and received".to_owned())
}

async fn keep_order(client: Client) -> Result<String> {
    let (heard, mut hearing) = mpsc::unbounded_channel();
    let consumer = client
        .push_consumer("ordered")
        .subscribe("Fifo", FilterExpression::all())
        .await_duration(Duration::from_secs(5))
        .start(move |delivery| {
            let heard = heard.clone();
            async move {
                let text = text(delivery.message());
                if text == "a 2" && delivery.attempt() == 1 {
                    return Verdict::AgainIn(Duration::from_millis(300));
                }
                // The receiver is gone once the test has heard enough.
                let _ = heard.send(text);
                Verdict::Done
            }
        })
        .await?;
    let producer = client.producer().topic("Fifo").start().await?;
    for number in 0..5 {
        for group in ["a", "b"] {
            let message = Message::builder("Fifo").body(format!("{group} {number}")).message_group(group);
            producer.send(message.build()).await?;
        }
    }
    let mut of_a = Vec::new();
    let mut count = 0;
    while count < 10 {
        let text = hearing.recv().await.context("the listener is gone")?;
        count += 1;
        if text.starts_with('a') {
            of_a.push(text);
        }
    }
    consumer.shutdown(PATIENCE).await;
    ensure!(of_a == ["a 0", "a 1", "a 2", "a 3", "a 4"], "{of_a:?}");
    Ok("two groups of five".to_owned())
}

async fn delay_and_recall(client: Client) -> Result<String> {
    let producer = client.producer().topic("Delay").start().await?;
    let started = Instant::now();
    let later = |text: &str, seconds| {
        Message::builder("Delay").body(text.to_owned()).deliver_after(Duration::from_secs(seconds)).build()
    };
    let receipt = producer.send(later("recalled", 4)).await?;
    producer.send(later("soon", 3)).await?;
    let recalled = match receipt.recall_handle {
        Some(handle) => producer.recall("Delay", &handle).await.map(|_| "one of them recalled"),
        None => Ok("it gives no recall handle"),
    };
    let consumer = consumer(&client, "delayed", "Delay", FilterExpression::all()).await?;
    receive(&consumer, BTreeSet::from(["soon".to_owned()])).await?;
    let elapsed = started.elapsed();
    ensure!(elapsed > Duration::from_millis(1900), "delivered after {elapsed:?}");
    Ok(format!("delivered after {elapsed:.1?}; {}", recalled.context("recall")?))
}

async fn transact(client: Client) -> Result<String> {
    let asked: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let asking = Arc::clone(&asked);
    let producer = client
        .producer()
        .topic("Tx")
        .transaction_checker_sync(move |half| {
            let text = text(half.message());
            asking.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(text.clone());
            if text.ends_with("stands") { Resolution::Commit } else { Resolution::Rollback }
        })
        .start()
        .await?;
    let message = |text: &str| Message::builder("Tx").body(text.to_owned()).build();
    producer.in_transaction(message("committed"), async |_| Ok::<_, std::io::Error>(())).await?;
    let failed = producer
        .in_transaction(message("rolled back"), async |_| Err::<(), _>(std::io::Error::other("no")))
        .await;
    ensure!(matches!(failed, Err(TransactionError::Failed { rollback: Ok(()), .. })), "{failed:?}");
    for text in ["forgotten, stands", "forgotten, does not"] {
        drop(producer.send_in_transaction(message(text)).await?);
    }
    let consumer = consumer(&client, "transactions", "Tx", FilterExpression::all()).await?;
    let mut expected = BTreeSet::from(["committed", "forgotten, stands"].map(str::to_owned));
    while !expected.is_empty() {
        for delivery in consumer.receive(16, INVISIBLE).await? {
            let text = text(delivery.message());
            ensure!(expected.remove(&text), "{text:?} came");
            consumer.ack(&delivery).await?;
        }
    }
    let asked = asked.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    ensure!(asked.contains("forgotten, stands"), "{asked:?}");
    Ok(format!("committed, rolled back, and {} decided by check-back", asked.len()))
}

async fn push(client: Client) -> Result<String> {
    let (heard, mut hearing) = mpsc::unbounded_channel();
    let consumer = client
        .push_consumer("pushers")
        .subscribe("Normal", FilterExpression::tag("push"))
        .await_duration(Duration::from_secs(5))
        .start(move |delivery| {
            let heard = heard.clone();
            async move {
                let text = text(delivery.message());
                if text == "push 7" && delivery.attempt() == 1 {
                    return Verdict::AgainIn(Duration::from_secs(1));
                }
                // The receiver is gone once the test has heard enough.
                let _ = heard.send((text, delivery.attempt()));
                Verdict::Done
            }
        })
        .await?;
    let producer = client.producer().topic("Normal").start().await?;
    let mut expected: BTreeSet<String> = (0..20).map(|number| format!("push {number}")).collect();
    for body in &expected {
        producer.send(Message::builder("Normal").body(body.clone()).tag("push").build()).await?;
    }
    let mut again = 0;
    while !expected.is_empty() {
        let (text, attempt) = hearing.recv().await.context("the listener is gone")?;
        expected.remove(&text);
        again = again.max(attempt);
    }
    let left = consumer.shutdown(PATIENCE).await;
    ensure!(left == 0 && again == 2, "{left} left, attempt {again}");
    Ok("20 heard, one of them at its second attempt".to_owned())
}

/// Calls that these servers do not know fail at once, and say so.
async fn ask_too_much(client: Client) -> Result<String> {
    let mut told = Vec::new();
    let producer = client.producer().start().await?;
    let missing = producer.send(Message::builder("NoSuchTopic").body("x").build()).await;
    told.push(code("a topic that is not there", missing)?);
    let consumer = client.pull_consumer("pullers").start().await?;
    match consumer.queues("Normal").await?.first() {
        Some(queue) => told.push(pulled(&consumer, queue).await?),
        None => bail!("Normal has no queue"),
    }
    let lite = client.lite_simple_consumer("readers", "Normal").start().await;
    match lite {
        Ok(lite) => told.push(code("a lite topic", lite.topics().subscribe("a").await)?),
        Err(error) => told.push(code::<()>("a lite consumer", Err(error))?),
    }
    Ok(told.join("; "))
}

async fn pulled(consumer: &kerolox_client::PullConsumer, queue: &MessageQueue) -> Result<String> {
    match consumer.offset(queue, Position::Earliest).await {
        Ok(offset) => Ok(format!("{queue} begins at {offset}")),
        error => code("an offset", error),
    }
}

fn code<T: std::fmt::Debug>(what: &str, result: Result<T, Error>) -> Result<String> {
    match result {
        Err(Error::Server { code, .. }) if !code.is_retryable() => Ok(format!("{what}: {code}")),
        other => bail!("{what}: {other:?}"),
    }
}

async fn send_and_receive_encrypted(client: Client) -> Result<String> {
    let producer = client.producer().topic("Normal").start().await?;
    producer.send(Message::builder("Normal").body("secret").tag("tls").build()).await?;
    let consumer = consumer(&client, "encrypted", "Normal", FilterExpression::tag("tls")).await?;
    receive(&consumer, BTreeSet::from(["secret".to_owned()])).await?;
    Ok("sent and received".to_owned())
}

/// With the push consumer: the proxy does not know the other one.
async fn hear_lite(client: Client) -> Result<String> {
    let (heard, mut hears) = mpsc::unbounded_channel();
    let consumer = client
        .lite_push_consumer("lites", "Lite")
        .await_duration(Duration::from_secs(5))
        .start(move |delivery| {
            let lite = delivery.message().lite_topic().map(str::to_owned);
            // The receiver is gone once the test has heard enough.
            let _ = heard.send((lite, text(delivery.message())));
            async { Verdict::Done }
        })
        .await?;
    consumer.topics().subscribe("mine").await?;
    let producer = client.producer().topic("Lite").start().await?;
    for (name, body) in [("mine", "a"), ("other", "b"), ("mine", "c")] {
        producer.send(Message::builder("Lite").body(body).lite_topic(name).build()).await?;
    }
    for body in ["a", "c"] {
        let next = hears.recv().await.context("the consumer has ended")?;
        ensure!(next == (Some("mine".to_owned()), body.to_owned()), "{next:?} instead of {body}");
    }
    consumer.shutdown(PATIENCE).await;
    Ok("those of one of two heard, in order".to_owned())
}

fn text(message: &Message) -> String {
    String::from_utf8_lossy(message.body()).into_owned()
}
