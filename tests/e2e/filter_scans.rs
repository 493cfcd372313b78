//! Scans over many messages that no filter matches: they end in time, block no other client, and do not start over.

use std::time::{Duration, Instant};

use kerolox_client::Address;
use kerolox_client::admin::wire;
use kerolox_harness::{Cluster, ServerProcess};
use kerolox_proto::v2::{self, Code, FilterType, receive_message_response::Content};
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tonic::Request;

use crate::support::{
    INVISIBLE, PATIENCE, code, create, eventually, from_client, group, master, message, raw, receive_one,
    resource, standalone_with,
};

/// A broker with a single thread for all calls.
const ONE_THREAD: (&str, &str) = ("TOKIO_WORKER_THREADS", "1");
/// The number of messages that no filter matches.
const MANY: usize = 100_000;
/// Messages of one request.
const TOGETHER: usize = 500;
/// Receivers that want none of them.
const RECEIVERS: usize = 6;
/// Longest that a quiet client may wait for an answer, on a slow machine that does other things as well.
const QUIET: Duration = Duration::from_secs(2);

/// A condition that takes its time and is true of nothing.
fn nothing() -> v2::FilterExpression {
    let conditions: Vec<String> =
        (0..300).map(|number| format!("country CONTAINS 'absent{number}'")).collect();
    v2::FilterExpression { r#type: FilterType::Sql.into(), expression: conditions.join(" OR ") }
}

fn to_send(topic: &str, number: usize, country: &str) -> v2::Message {
    v2::Message {
        topic: resource(topic),
        user_properties: [("country".to_owned(), country.to_owned())].into(),
        system_properties: Some(v2::SystemProperties {
            message_id: format!("{topic}-{number}"),
            ..Default::default()
        }),
        body: b"unwanted".as_slice().into(),
    }
}

async fn send(server: &ServerProcess, messages: Vec<v2::Message>) {
    let request = from_client(v2::SendMessageRequest { messages });
    let answer = raw(server).await.send_message(request).await.unwrap().into_inner();
    assert_eq!(code(answer.status), Code::Ok);
}

/// Sends [`MANY`] messages that no filter matches, and `last` behind them.
async fn fill(server: &ServerProcess, topic: &str, last: Option<&str>) {
    for first in (0..MANY).step_by(TOGETHER) {
        let country = "absentee ".repeat(40);
        send(server, (first..first + TOGETHER).map(|number| to_send(topic, number, &country)).collect())
            .await;
    }
    if let Some(country) = last {
        send(server, vec![to_send(topic, MANY, country)]).await;
    }
}

fn receiving(
    group: &str,
    topic: &str,
    filter: v2::FilterExpression,
    wait: Duration,
) -> Request<v2::ReceiveMessageRequest> {
    let mut request = from_client(v2::ReceiveMessageRequest {
        group: resource(group),
        message_queue: Some(v2::MessageQueue {
            topic: resource(topic),
            broker: Some(v2::Broker { name: "broker-a".to_owned(), ..Default::default() }),
            ..Default::default()
        }),
        filter_expression: Some(filter),
        batch_size: 32,
        invisible_duration: Some(INVISIBLE.try_into().unwrap()),
        ..Default::default()
    });
    request.set_timeout(wait);
    request
}

/// Code of the answer, and how many messages came.
async fn poll(server: &ServerProcess, request: Request<v2::ReceiveMessageRequest>) -> (Option<Code>, usize) {
    let Ok(answer) = raw(server).await.receive_message(request).await else { return (None, 0) };
    let (mut items, mut found, mut messages) = (answer.into_inner(), None, 0);
    while let Some(Ok(item)) = items.next().await {
        match item.content {
            Some(Content::Status(status)) => found = Some(status.code()),
            Some(Content::Message(_)) => messages += 1,
            _ => {}
        }
    }
    (found, messages)
}

async fn lag(servers: &Cluster, group: &str) -> u64 {
    let address: Address = servers.brokers[0].address().unwrap().parse().unwrap();
    let request = wire::DescribeGroupRequest { name: group.to_owned(), ..Default::default() };
    let described = servers.client().admin().broker(&address).describe_group(request).await.unwrap();
    described.queues.iter().map(|queue| queue.lag).sum()
}

/// Sends, receives and acknowledges until all `scans` are over; the longest wait for an answer.
async fn be_quiet(servers: &Cluster, scans: &mut JoinSet<(Option<Code>, usize)>) -> Duration {
    let producer = servers.client().producer().topic("quiet").start().await.unwrap();
    let consumer = servers.consumer("quiet", "quiet").await.unwrap();
    let mut longest = Duration::ZERO;
    let mut rounds = 0;
    while !scans.is_empty() || rounds == 0 {
        let started = Instant::now();
        producer.send(message("quiet", "x")).await.unwrap();
        let delivery = receive_one(&consumer).await;
        consumer.ack(&delivery).await.unwrap();
        longest = longest.max(started.elapsed());
        rounds += 1;
        while let Some(over) = scans.try_join_next() {
            // In time: with an answer, not by the client's own deadline.
            assert_eq!(over.unwrap(), (Some(Code::MessageNotFound), 0));
        }
    }
    eprintln!("{rounds} rounds of the quiet client, the longest took {longest:?}");
    longest
}

fn begin_scans(server: &ServerProcess, topic: &'static str) -> JoinSet<(Option<Code>, usize)> {
    let endpoint = server.address().unwrap().to_owned();
    let mut scans = JoinSet::new();
    for number in 0..RECEIVERS {
        let endpoint = endpoint.clone();
        scans.spawn(async move {
            let wait = Duration::from_secs(8);
            let request = receiving(&format!("receiver-{number}"), topic, nothing(), wait);
            let channel = tonic::transport::Endpoint::from_shared(format!("http://{endpoint}")).unwrap();
            let channel = channel.connect().await.unwrap();
            let mut client = v2::messaging_service_client::MessagingServiceClient::new(channel);
            let Ok(answer) = client.receive_message(request).await else { return (None, 0) };
            let first = answer.into_inner().next().await;
            match first {
                Some(Ok(v2::ReceiveMessageResponse { content: Some(Content::Status(status)) })) => {
                    (Some(status.code()), 0)
                }
                _ => (None, 1),
            }
        });
    }
    scans
}

#[tokio::test]
async fn receivers_that_want_nothing_keep_nobody_waiting() {
    let servers = standalone_with(&[], &[ONE_THREAD]);
    for topic in ["many", "quiet"] {
        servers.create_topic(topic, "NORMAL").await.unwrap();
    }
    fill(&servers.brokers[0], "many", None).await;
    let mut scans = begin_scans(&servers.brokers[0], "many");
    let longest = be_quiet(&servers, &mut scans).await;
    assert!(longest < QUIET, "the quiet client waited for {longest:?}");
}

#[tokio::test]
async fn a_scan_ends_with_its_caller_and_the_next_poll_goes_on_there() {
    let servers = standalone_with(&[], &[ONE_THREAD]);
    servers.create_topic("many", "NORMAL").await.unwrap();
    let broker = &servers.brokers[0];
    fill(broker, "many", Some("a7_x")).await;
    // All that is behind is looked at as well, so the group is to have a state before anybody looks at it.
    let wanted = || v2::FilterExpression {
        expression: format!("country = 'a7_x' OR {}", nothing().expression),
        ..nothing()
    };
    let leaving = tokio::time::timeout(
        Duration::from_millis(400),
        poll(broker, receiving("patient", "many", wanted(), PATIENCE)),
    );
    assert!(leaving.await.is_err(), "it was over before its caller left");
    let mut left = 0;
    eventually("the scan ends with its caller", PATIENCE, async || {
        let before = lag(&servers, "patient").await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        left = lag(&servers, "patient").await;
        left == before
    })
    .await;
    assert!(left > MANY as u64 / 4, "the scan went on without its caller: {left} of {MANY} are left");
    assert!(left < MANY as u64, "nothing is remembered of what was looked at");
    let mut polls = 0;
    loop {
        polls += 1;
        assert!(polls < 600, "the message at the end is never reached");
        let (found, messages) =
            poll(broker, receiving("patient", "many", wanted(), Duration::from_millis(700))).await;
        if messages > 0 {
            break;
        }
        let next = lag(&servers, "patient").await;
        if found == Some(Code::MessageNotFound) {
            assert!(next < left, "poll {polls} did not get on: {next} of {left} are left");
        }
        left = next;
    }
    assert!(polls > 1);
}

#[tokio::test]
async fn receivers_that_want_nothing_depose_no_master() {
    let servers = group(3, &[], &[ONE_THREAD]).await;
    for topic in ["many", "quiet"] {
        create(&servers, topic, "NORMAL").await;
    }
    let before = epoch(&servers).await;
    let ruling = master(&servers).await;
    fill(&servers.brokers[ruling], "many", None).await;
    let mut scans = begin_scans(&servers.brokers[ruling], "many");
    let longest = be_quiet(&servers, &mut scans).await;
    assert!(longest < QUIET, "the quiet client waited for {longest:?}");
    assert_eq!(epoch(&servers).await, before, "the master was deposed");
}

async fn epoch(servers: &Cluster) -> u64 {
    crate::support::state(servers).await.epoch.into()
}
