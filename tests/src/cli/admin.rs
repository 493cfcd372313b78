//! `apache.rocketmq.v2.Admin`, at a nameserver, a master and a slave.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use kerolox_client::{Delivery, FilterExpression, Message};
use kerolox_proto::v2::admin_client::AdminClient;
use kerolox_proto::v2::list_message_request::SearchKey;
use kerolox_proto::v2::{self, Code};
use tonic::transport::Channel;

use super::cluster::CliCluster;
use kerolox_harness::raw_calls::{connect, resource};

const TOPIC: &str = "asked";
const GROUP: &str = "askers";
/// How long something may take to show.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn ask(cluster: &CliCluster) -> Result<String> {
    for name in [TOPIC, "asked-alone"] {
        cluster.ok(&format!("updateTopic -c DefaultCluster -t {name} -w 1 -r 1"))?;
    }
    cluster.ok(&format!("updateSubGroup -c DefaultCluster -g {GROUP}"))?;
    cluster.ok("updateSubGroup -c DefaultCluster -g asked-alone")?;
    let members = cluster.servers.client().admin().cluster().await?;
    let addresses = members.brokers.iter().filter_map(|broker| broker.broker.as_ref());
    let mut servers: Vec<String> = addresses.map(|info| format!("{}:{}", info.host, info.port)).collect();
    servers.push(cluster.address()?.to_owned());
    let mut calls = 0;
    for server in &servers {
        let admin = AdminClient::new(connect(server).await?);
        calls += everything(cluster, admin).await.with_context(|| format!("at {server}"))?;
    }
    Ok(format!("{calls} calls at {} servers", servers.len()))
}

fn good(status: Option<v2::Status>, what: &str) -> Result<()> {
    let status = status.unwrap_or_default();
    ensure!(status.code == i32::from(Code::Ok), "{what}: {} {}", status.code, status.message);
    Ok(())
}

async fn everything(cluster: &CliCluster, mut admin: AdminClient<Channel>) -> Result<u32> {
    let client = cluster.servers.client();
    let topic = || resource(TOPIC);
    let group = || resource(GROUP);
    let begin = SystemTime::now() - Duration::from_secs(2);
    await_route(&mut admin).await?;

    let told = admin
        .describe_topic_status(v2::DescribeTopicStatusRequest { topic: topic(), ..Default::default() })
        .await?
        .into_inner();
    good(told.status, "DescribeTopicStatus")?;
    ensure!(told.topic_message_type == i32::from(v2::MessageType::Normal), "a topic of another type");

    let sent = admin
        .admin_send_message(v2::AdminSendMessageRequest {
            topic: topic(),
            tag: Some("a".into()),
            key: Some("k".into()),
            body: b"hello".to_vec(),
            user_properties: [("p".to_owned(), "v".to_owned())].into(),
            ..Default::default()
        })
        .await?
        .into_inner();
    good(sent.status, "AdminSendMessage")?;
    let id = sent.message_id;

    let consumer = client.simple_consumer(GROUP).subscribe(TOPIC, FilterExpression::tag("a"));
    let consumer = consumer.await_duration(Duration::from_secs(3)).start().await?;
    // What was sent at the servers before may come again, from whichever broker group has it.
    let (mut got, started) = (Vec::new(), Instant::now());
    while !got.iter().any(|delivery: &Delivery| delivery.message_id() == id) {
        ensure!(started.elapsed() < PATIENCE, "it does not come; others did: {got:?}");
        got = consumer.receive(1, Duration::from_secs(60)).await?;
    }
    ensure!(got[0].message().properties()["p"] == "v", "it came without its property: {got:?}");

    let search = |key| v2::ListMessageRequest {
        topic: topic(),
        begin_timestamp: Some(begin.into()),
        search_key: key,
        max_message_nums: 100,
        ..Default::default()
    };
    for key in [
        Some(SearchKey::MessageId(id.clone())),
        Some(SearchKey::MessageKey("k".into())),
        Some(SearchKey::Subscription("a".into())),
        None,
    ] {
        // Ids and keys are indexed a moment later.
        let started = Instant::now();
        loop {
            let found = admin.query_message(search(key.clone())).await?.into_inner();
            good(found.status, "QueryMessage")?;
            let mut ids = found.messages.iter().filter_map(|message| message.system_properties.as_ref());
            if ids.any(|system| system.message_id == id) {
                break;
            }
            ensure!(started.elapsed() < PATIENCE, "not found by {key:?}: {:?}", found.messages);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let other = admin.query_message(search(Some(SearchKey::Subscription("b".into())))).await?.into_inner();
    ensure!(other.messages.is_empty(), "found by another tag");
    // One at a time, each once.
    let mut seen = std::collections::BTreeSet::new();
    let mut page = v2::ListMessageRequest { page_size: Some(1), ..search(None) };
    loop {
        let found = admin.query_message(page.clone()).await?.into_inner();
        for message in &found.messages {
            let system = message.system_properties.clone().unwrap_or_default();
            ensure!(seen.insert(system.message_id), "a page has what another one had");
        }
        if found.scroll_id.is_empty() {
            break;
        }
        page.scroll_id = Some(found.scroll_id);
    }
    ensure!(seen.contains(&id), "no page has it");

    let connected =
        v2::ListConsumerConnectionRequest { group: group(), topic: topic(), ..Default::default() };
    let connected = admin.list_consumer_connection(connected).await?.into_inner();
    good(connected.status, "ListConsumerConnection")?;
    let known = connected.client_info.iter().find(|info| info.client_id == consumer.client_id());
    ensure!(
        known.is_some_and(|info| info.language == "RUST" && info.egress_ip == "127.0.0.1"),
        "{:?}",
        connected.client_info
    );

    let listed = v2::ListSubscriptionRequest { topic: topic(), ..Default::default() };
    let listed = admin.list_subscription(listed).await?.into_inner();
    good(listed.status, "ListSubscription")?;
    let ours = listed.subscription_info.iter().find(|info| info.group == group());
    let filter = ours.and_then(|info| info.expression.clone()).unwrap_or_default();
    ensure!(
        ours.is_some_and(|info| info.online) && filter.expression == "a",
        "{:?}",
        listed.subscription_info
    );

    let described = v2::DescribeSubscriptionRequest { group: group(), ..Default::default() };
    let described = admin.describe_subscription(described).await?.into_inner();
    good(described.status, "DescribeSubscription")?;
    ensure!(!described.client_subscription_info.is_empty(), "no client has the subscription");

    let behind = v2::DescribeGroupAccumulationRequest { group: group(), ..Default::default() };
    let behind = admin.describe_group_accumulation(behind).await?.into_inner();
    good(behind.status, "DescribeGroupAccumulation")?;
    let all = behind.accumulation.unwrap_or_default();
    ensure!(all.inflight_messages >= 1 && all.accumulation >= 1, "{all:?}");

    let spans = v2::QueryTimeSpanRequest {
        group: group(),
        topics: topic().into_iter().collect(),
        ..Default::default()
    };
    let spans = admin.query_time_span(spans).await?.into_inner();
    good(spans.status, "QueryTimeSpan")?;
    ensure!(
        spans.queue_time_span_list.iter().any(|span| span.max_timestamp > 0),
        "{:?}",
        spans.queue_time_span_list
    );

    let info = v2::GetConsumerRunningInfoRequest {
        group: group(),
        client_id: consumer.client_id().to_owned(),
        ..Default::default()
    };
    let info = admin.get_consumer_running_info(info).await?.into_inner();
    good(info.status, "GetConsumerRunningInfo")?;
    let info = info.consumer_running_info.unwrap_or_default();
    ensure!(info.subscriptions.contains_key(TOPIC) && !info.message_queue_table.is_empty(), "{info:?}");

    let route = v2::GetTopicRouteRequest { topic: topic(), ..Default::default() };
    let route = admin.get_topic_route(route).await?.into_inner();
    good(route.status, "GetTopicRoute")?;
    let route: serde_json::Value = serde_json::from_str(&route.topic_route_data)?;
    ensure!(route["brokerDatas"].as_array().is_some_and(|brokers| brokers.len() == 2), "{route}");

    // An unknown client, and an unknown message.
    let unknown = v2::PrintThreadStackTraceRequest { client_id: "absent".into(), ..Default::default() };
    let unknown = admin.print_thread_stack_trace(unknown).await?.into_inner().status.unwrap_or_default();
    ensure!(unknown.code == i32::from(Code::NotFound), "{unknown:?}");
    let missing = v2::VerifyMessageRequest {
        topic: topic(),
        message_id: "none".into(),
        client_id: consumer.client_id().to_owned(),
        ..Default::default()
    };
    let missing = admin.verify_message(missing).await?.into_inner().status.unwrap_or_default();
    ensure!(missing.code == i32::from(Code::MessageNotFound), "{missing:?}");

    consumer.ack(&got[0]).await?;
    let reset = v2::ResetGroupOffsetRequest {
        group: group(),
        topic: topic(),
        reset_timestamp: Some(begin.into()),
        ..Default::default()
    };
    good(admin.reset_group_offset(reset).await?.into_inner().status, "ResetGroupOffset")?;
    let (mut again, started) = (Vec::new(), Instant::now());
    while !again.iter().any(|delivery: &Delivery| delivery.message_id() == id) {
        ensure!(started.elapsed() < PATIENCE, "the reset had no effect: {again:?}");
        again = consumer.receive(16, Duration::from_secs(60)).await?;
    }
    let online = v2::DeleteSubscriptionRequest { group: group(), topic: topic(), ..Default::default() };
    let online = admin.delete_subscription(online).await?.into_inner().status.unwrap_or_default();
    ensure!(online.code == i32::from(Code::PreconditionFailed), "{online:?}");
    consumer.shutdown().await;

    forget(cluster, &mut admin).await?;

    let stats = admin.get_proxy_runtime_stats(v2::GetProxyRuntimeStatsRequest {}).await?.into_inner();
    good(stats.status, "GetProxyRuntimeStats")?;
    ensure!(!stats.version.is_empty() && !stats.proxy_name.is_empty(), "{:?}", stats.proxy_name);
    let changed = v2::ChangeLogLevelRequest { level: v2::change_log_level_request::Level::Info.into() };
    let changed = admin.change_log_level(changed).await?.into_inner();
    ensure!(changed.remark.contains("info"), "{}", changed.remark);
    Ok(16)
}

/// Servers hear of a new topic one after the other.
async fn await_route(admin: &mut AdminClient<Channel>) -> Result<()> {
    let started = Instant::now();
    loop {
        let route = v2::GetTopicRouteRequest { topic: resource(TOPIC), ..Default::default() };
        let route = admin.get_topic_route(route).await?.into_inner().topic_route_data;
        let known = serde_json::from_str::<serde_json::Value>(&route).unwrap_or_default();
        if known["queueDatas"].as_array().is_some_and(|queues| queues.len() == 2) {
            return Ok(());
        }
        ensure!(started.elapsed() < PATIENCE, "the route is not complete: {route}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Deletes the subscription of a group that has no connected client.
async fn forget(cluster: &CliCluster, admin: &mut AdminClient<Channel>) -> Result<()> {
    let alone = "asked-alone";
    let client = cluster.servers.client();
    cluster.ok(&format!("updateSubGroup -c DefaultCluster -g {alone}"))?;
    let producer = client.producer().topic(alone).start().await?;
    producer.send(Message::builder(alone).body("x").build()).await?;
    let consumer = client.simple_consumer(alone).subscribe(alone, FilterExpression::all());
    let consumer = consumer.await_duration(Duration::from_secs(3)).start().await?;
    let mut got = Vec::new();
    while got.is_empty() {
        got = consumer.receive(1, Duration::from_secs(60)).await?;
    }
    consumer.ack(&got[0]).await?;
    consumer.shutdown().await;
    let request = v2::DeleteSubscriptionRequest {
        group: resource(alone),
        topic: resource(alone),
        ..Default::default()
    };
    good(admin.delete_subscription(request).await?.into_inner().status, "DeleteSubscription")
}
