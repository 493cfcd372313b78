//! A wall clock that leaps: nothing that was acknowledged a moment ago is taken for old.

use std::time::Duration;

use kerolox_client::Message;

use crate::mqadmin::{json, table};
use crate::support::{GROUP, NO_CHECKS, PATIENCE, consume, eventually, message, plan};
use crate::transactions::producer;

/// Longer than everything is kept that the test makes.
const LEAP: Duration = Duration::from_secs(4 * 86_400);
/// As long as the clock is wrong; shorter than a leap is doubted by default.
const WRONG: Duration = Duration::from_secs(7);
const SENT: usize = 60;

/// The clock is four days ahead for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_leap_of_the_clock_makes_nothing_old() {
    let settings = [
        ("KEROLOX_BROKER__LOG__SEGMENT_SIZE", "1MiB"),
        ("KEROLOX_BROKER__RETENTION__CHECK_INTERVAL", "200ms"),
        ("KEROLOX_BROKER__LITE__CHECK_INTERVAL", "200ms"),
    ];
    let plan = plan().nameservers(0).group(GROUP, 1).flags(&NO_CHECKS).settings(&settings);
    let servers = plan.leaping_clocks().start().unwrap();
    let clock = servers.clock_of(&servers.brokers[0]).unwrap();
    let ns = servers.access_points();
    for (topic, attributes) in [
        ("orders", "+message.type=NORMAL"),
        ("short", "+message.type=NORMAL,+retention.time=12h"),
        ("once", "+message.type=NORMAL,+dedup=key,+dedup.window=1h"),
        ("payments", "+message.type=TRANSACTION,+transaction.max-age=1h"),
        ("sessions", "+message.type=LITE,+lite.topic.expiration=60"),
    ] {
        table(&format!("updateTopic -n {ns} -t {topic} -a {attributes}"));
    }
    let sender = servers.client().producer().start().await.unwrap();
    // In several segments: only whole ones go by the broker's own time.
    for number in 0..SENT {
        for topic in ["orders", "short"] {
            sender.send(message(topic, &format!("{number:02}{}", "x".repeat(100_000)))).await.unwrap();
        }
    }
    let keyed = || Message::builder("once").key("order-7").body("x").build();
    sender.send(keyed()).await.unwrap();
    sender.send(Message::builder("sessions").lite_topic("one").body("x").build()).await.unwrap();
    let undecided = producer(&servers, |_| kerolox_client::Resolution::Unknown).await;
    let _half = undecided.send_in_transaction(message("payments", "x")).await.unwrap();

    clock.set_ahead(LEAP).unwrap();
    tokio::time::sleep(WRONG / 3).await;
    // A repeat, sent while the clock is wrong.
    sender.send(keyed()).await.unwrap();
    tokio::time::sleep(WRONG - WRONG / 3).await;
    let log = servers.brokers[0].log();
    assert!(log.contains("the wall clock leapt ahead") && !log.contains("removed old segments"), "{log}");
    let listed = json(&format!("transaction list -n {ns} -s prepared"));
    assert_eq!(listed["brokers"][0]["transactions"].as_array().unwrap().len(), 1, "it was parked: {listed}");
    clock.set_ahead(Duration::ZERO).unwrap();

    for topic in ["orders", "short"] {
        let consumer = servers.consumer("late-group", topic).await.unwrap();
        assert_eq!(consume(&consumer, SENT).await.len(), SENT, "{topic}");
    }
    let consumer = servers.consumer("late-group", "once").await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["x"]);
    let lites = json(&format!("lite list -n {ns} -t sessions"));
    assert!(lites.to_string().contains("\"one\""), "{lites}");

    // A clock that stays ahead is believed in the end.
    clock.set_ahead(LEAP).unwrap();
    let broker = &servers.brokers[0];
    eventually("old segments are deleted", PATIENCE * 2, async || {
        broker.log().contains("removed old segments")
    })
    .await;
}
