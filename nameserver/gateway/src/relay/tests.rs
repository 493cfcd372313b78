use std::sync::Arc;
use std::time::Duration;

use kerolox_model::token::ReceiptHandle;
use kerolox_proto::kerolox::{BrokerInfo, BrokerRole, RegisterRequest};
use kerolox_proto::v2::{self, Code};
use tonic::Request;

use super::*;
use crate::clients::DEFAULT_EXPIRY;
use crate::refusal::{Refusable, ok_status};
use crate::routes::DEFAULT_LEASE;

fn handle(broker: &str, offset: u64) -> String {
    ReceiptHandle { broker: broker.into(), offset, ..ReceiptHandle::default() }.to_text()
}

fn entry(message_id: &str, receipt_handle: String) -> v2::AckMessageEntry {
    v2::AckMessageEntry { message_id: message_id.into(), receipt_handle, lite_topic: None }
}

#[test]
fn acks_are_split_by_owner_and_merged_in_order() {
    let entries = vec![
        entry("m0", handle("b", 0)),
        entry("m1", "garbage".into()),
        entry("m2", handle("a", 2)),
        entry("m3", handle("b", 3)),
    ];
    let plan = acks::plan(entries);
    assert_eq!(plan.by_owner.keys().collect::<Vec<_>>(), ["a", "b"]);
    let mut all = plan.refused;
    for entries in plan.by_owner.values() {
        all.extend(acks::results(entries, v2::AckMessageResponse::refused(ok_status())));
    }
    let merged = acks::merge(all);
    assert_eq!(merged.status.unwrap().code, i32::from(Code::MultipleResults));
    let summary: Vec<(&str, i32)> =
        merged.entries.iter().map(|e| (e.message_id.as_str(), e.status.as_ref().unwrap().code)).collect();
    let (ok, bad) = (i32::from(Code::Ok), i32::from(Code::InvalidReceiptHandle));
    assert_eq!(summary, [("m0", ok), ("m1", bad), ("m2", ok), ("m3", ok)]);
}

#[test]
fn only_the_clients_own_headers_go_on() {
    let mut request = Request::new(());
    for (name, value) in [("x-mq-client-id", "c"), ("grpc-timeout", "3S"), ("content-length", "7")] {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    let passed_on = reach::pass_on(&request);
    let mut names: Vec<String> = passed_on.metadata().as_ref().keys().map(ToString::to_string).collect();
    names.sort();
    assert_eq!(names, ["grpc-timeout", RELAYED, "x-mq-client-id"]);
}

#[tokio::test]
async fn an_owner_that_is_not_there_is_a_refusal() {
    let routes = Arc::new(ClusterRoutes::new(DEFAULT_LEASE));
    let relay = CallRelay::new(
        Arc::clone(&routes),
        Arc::new(ClientSessions::new(DEFAULT_EXPIRY)),
        ShutdownSignal::new(),
    );
    let call = || Request::new(v2::EndTransactionRequest::default());
    let unknown = relay.unary("absent", call()).await.unwrap_err();
    assert!(unknown.message.contains("absent"), "{unknown}");

    // A port that was free a moment ago: nothing listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let broker = BrokerInfo {
        cluster: "c".into(),
        group: "gone".into(),
        role: BrokerRole::Master.into(),
        host: "127.0.0.1".into(),
        port: port.into(),
        ..BrokerInfo::default()
    };
    routes.register(RegisterRequest { broker: Some(broker), ..RegisterRequest::default() }, None).unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(5), relay.unary("gone", call()));
    let unreachable = answer.await.expect("refused at once").unwrap_err();
    assert_eq!(unreachable.code, Code::InternalServerError);
    assert!(unreachable.message.contains(&port.to_string()), "{unreachable}");

    let mut looping = call();
    looping.metadata_mut().insert(RELAYED, "1".parse().unwrap());
    let refusal = relay.unary("gone", looping).await.unwrap_err();
    assert!(refusal.message.contains("passed on"), "{refusal}");
}
