//! Lines 11, 12 and 15: what clients say about themselves.

use std::time::Duration;

use kerolox_proto::v2::{self, Code, TransactionResolution};

use crate::peer::{Peer, code, message, receiving};
use crate::world::Setting;

lines![
    c11_only_the_client_id_is_required,
    c12_an_authorization_without_a_key_is_ignored,
    c15_dates_of_all_sdks_are_accepted,
];

async fn c11_only_the_client_id_is_required(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    for server in [setting.world.nameserver(), setting.world.a()] {
        let named = Peer::connect(server, setting.transport).await;
        assert_eq!(code(&named.query_route(&topic).await.status), Code::Ok, "no other header is needed");
        let blank = named.clone().with_headers(&[("x-mq-client-id", "  ")]);
        for peer in [named.with_headers(&[]), blank] {
            let codes = [
                code(&peer.query_route(&topic).await.status),
                code(&peer.assignment(&topic, "group").await.status),
                code(&peer.heartbeat(v2::HeartbeatRequest::default()).await.status),
                code(
                    &peer
                        .notify_client_termination(v2::NotifyClientTerminationRequest::default())
                        .await
                        .status,
                ),
            ];
            assert_eq!(codes, [Code::ClientIdRequired; 4]);
        }
    }
    let peer = Peer::connect(setting.world.a(), setting.transport).await.with_headers(&[]);
    let codes = [
        peer.send_code(message(&topic, "body")).await,
        peer.receive(receiving(&topic, "group")).await.0,
        peer.ack(&topic, "group", "handle").await,
        code(&peer.change_invisible(&topic, "group", "handle", Duration::ZERO).await.status),
        peer.end(&topic, "id", TransactionResolution::Commit).await,
    ];
    assert_eq!(codes, [Code::ClientIdRequired; 5]);
}

async fn c12_an_authorization_without_a_key_is_ignored(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    for server in [setting.world.nameserver(), setting.world.a()] {
        let peer = Peer::connect(server, setting.transport).await.and_header(
            "authorization",
            "MQv2-HMAC-SHA1 Credential=, SignedHeaders=x-mq-date-time, Signature=fbdb1d1b18aa6c08324b7d64b71fb76370690e1d",
        );
        assert_eq!(code(&peer.query_route(&topic).await.status), Code::Ok);
    }
}

async fn c15_dates_of_all_sdks_are_accepted(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    for server in [setting.world.nameserver(), setting.world.a()] {
        for date in ["20210309T195445Z", "2026-11-22T09:00:00.123456789+01:00", "yesterday", ""] {
            let peer = Peer::connect(server, setting.transport).await.and_header("x-mq-date-time", date);
            assert_eq!(code(&peer.query_route(&topic).await.status), Code::Ok, "{date}");
        }
    }
}
