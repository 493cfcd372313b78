//! Lines 1 to 10: connections, limits of the transport, and where errors travel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kerolox_harness::ServerProcess;
use kerolox_proto::v2::{self, Code};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, ProtocolVersion, SignatureScheme, SupportedProtocolVersion,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;

use crate::peer::{
    Peer, Transport, acking, certificate, code, connect, duration, message, receiving, resource,
};
use crate::world::Setting;

lines![
    c01_one_port_serves_tls_and_h2c,
    c02_tls_offers_h2_with_a_certificate_of_its_own_making,
    c03_tls_1_2_and_1_3_without_a_client_certificate,
    c04_pings_are_answered_under_load_and_never_too_many,
    c05_a_request_of_16_mib_is_read,
    c06_each_received_item_is_below_4_mib,
    c07_two_thousand_streams_and_unary_calls_beside_them,
    c08_deadlines_in_any_unit,
    c09_unknown_headers_and_languages,
    c10_business_errors_are_grpc_ok,
];

const MIB: usize = 1024 * 1024;

async fn c01_one_port_serves_tls_and_h2c(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    for server in [setting.world.nameserver(), setting.world.a()] {
        for transport in [Transport::Plain, Transport::Tls] {
            let peer = Peer::connect(server, transport).await;
            assert_eq!(code(&peer.query_route(&topic).await.status), Code::Ok);
        }
    }
}

async fn c02_tls_offers_h2_with_a_certificate_of_its_own_making(setting: Setting) {
    for server in [setting.world.nameserver(), setting.world.a()] {
        let (alpn, presented, _, _) = handshake(server, &rustls::version::TLS13).await;
        assert_eq!(alpn, b"h2");
        assert_eq!(presented, certificate(server), "the certificate that the server made");
    }
}

async fn c03_tls_1_2_and_1_3_without_a_client_certificate(setting: Setting) {
    for server in [setting.world.nameserver(), setting.world.a()] {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let (_, _, spoken, was_asked) = handshake(server, version).await;
            assert_eq!((spoken, was_asked), (version.version, false));
        }
    }
}

async fn c04_pings_are_answered_under_load_and_never_too_many(setting: Setting) {
    let (world, topic) = (&setting.world, setting.world.topic("NORMAL").await);
    let address = world.a().address().expect("it serves");
    // A ping that is not answered within a second ends the connection, and so would the server if it minded them.
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .expect("an address")
        .http2_keep_alive_interval(Duration::from_millis(50))
        .keep_alive_timeout(Duration::from_secs(1))
        .keep_alive_while_idle(true);
    let pinging = Peer::over(connect(world.a(), setting.transport, endpoint).await);
    let mut poll = receiving(&topic, "pinging");
    poll.long_polling_timeout = duration(Duration::from_secs(4));
    let waiting = tokio::spawn(async move { pinging.receive(poll).await });
    let sender = Peer::connect(world.a(), setting.transport).await;
    let load = async {
        let other = world.topic("NORMAL").await;
        while !waiting.is_finished() {
            let messages = (0..50).map(|_| message(&other, "load")).collect();
            sender.send(messages).await;
        }
    };
    load.await;
    assert_eq!(waiting.await.expect("no error on the connection").0, Code::MessageNotFound);
}

async fn c05_a_request_of_16_mib_is_read(setting: Setting) {
    let (world, topic) = (&setting.world, setting.world.topic("NORMAL").await);
    let peer = Peer::connect(world.a(), setting.transport).await;
    let body = "x".repeat(4 * MIB - 1024);
    let entries = peer.send((0..4).map(|_| message(&topic, &body)).collect()).await;
    assert_eq!(entries.len(), 4);
}

async fn c06_each_received_item_is_below_4_mib(setting: Setting) {
    let (world, topic) = (&setting.world, setting.world.topic("NORMAL").await);
    // The generated client refuses items above 4 MiB, as the SDKs for C#, Node.js and Rust do.
    let peer = Peer::connect(world.a(), setting.transport).await;
    let body = "x".repeat(4 * MIB - 64 * 1024);
    for _ in 0..3 {
        peer.send(vec![message(&topic, &body)]).await;
    }
    // One answer may have fewer messages than are there.
    let mut received = 0;
    while received < 3 {
        let (code, messages) = peer.receive(receiving(&topic, "large")).await;
        assert_eq!(code, Code::Ok);
        received += messages.len();
    }
}

async fn c07_two_thousand_streams_and_unary_calls_beside_them(setting: Setting) {
    let (world, topic) = (&setting.world, setting.world.topic("NORMAL").await);
    let peer = Peer::connect(world.a(), setting.transport).await;
    let mut poll = receiving(&topic, "crowd");
    (poll.long_polling_timeout, poll.invisible_duration) =
        (duration(Duration::from_secs(20)), duration(Duration::from_secs(120)));
    let polls: Vec<_> = (0..2000)
        .map(|_| {
            let (peer, poll) = (peer.other(), poll.clone());
            tokio::spawn(async move { peer.receive(poll).await })
        })
        .collect();
    assert_eq!(code(&peer.query_route(&topic).await.status), Code::Ok);
    assert!(polls.iter().all(|poll| !poll.is_finished()), "the polls wait while other calls are answered");
    // One message for each: every stream works.
    for _ in 0..20 {
        peer.send((0..100).map(|_| message(&topic, "one each")).collect()).await;
    }
    let mut received = 0;
    for poll in polls {
        let (code, messages) = poll.await.expect("a stream without an error");
        assert!([Code::Ok, Code::MessageNotFound].contains(&code));
        received += messages.len();
    }
    assert_eq!(received, 2000);
}

async fn c08_deadlines_in_any_unit(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    for server in [setting.world.nameserver(), setting.world.a()] {
        let peer = Peer::connect(server, setting.transport).await.with_timeout(None);
        assert_eq!(code(&peer.query_route(&topic).await.status), Code::Ok, "no deadline");
        for timeout in ["8760H", "43800H", "99999999H", "1M", "20S", "20000m", "20000000u", "99999999n"] {
            let peer = peer.other().and_header("grpc-timeout", timeout);
            let request = peer.request(v2::QueryRouteRequest { topic: resource(&topic), endpoints: None });
            let mut stub = peer.stub.clone();
            match stub.query_route(request).await {
                Ok(answer) => assert_eq!(code(&answer.get_ref().status), Code::Ok, "{timeout}"),
                // A tenth of a second may be too short on a busy machine.
                Err(status) => {
                    let ended =
                        [tonic::Code::Cancelled, tonic::Code::DeadlineExceeded].contains(&status.code());
                    assert!(timeout == "99999999n" && ended, "{timeout}: {status}");
                }
            }
        }
    }
}

async fn c09_unknown_headers_and_languages(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    for server in [setting.world.nameserver(), setting.world.a()] {
        for language in ["HTTP", "COBOL", ""] {
            let peer = Peer::connect(server, setting.transport).await;
            let peer = peer.and_header("x-mq-language", language).and_header("x-unheard-of", "1");
            assert_eq!(code(&peer.query_route(&topic).await.status), Code::Ok, "{language}");
        }
    }
}

async fn c10_business_errors_are_grpc_ok(setting: Setting) {
    let bad = "no/topic";
    for server in [setting.world.nameserver(), setting.world.a()] {
        let peer = Peer::connect(server, setting.transport).await;
        let codes = [
            code(&peer.query_route(bad).await.status),
            code(&peer.assignment(bad, "group").await.status),
            peer.send_code(message(bad, "body")).await,
            peer.receive(receiving(bad, "group")).await.0,
            peer.ack("topic", "group", "no handle").await,
            code(&peer.ack_message(acking("topic", "group", &[])).await.status),
            code(&peer.change_invisible("topic", "group", "no handle", Duration::ZERO).await.status),
            peer.end("topic", "no id", v2::TransactionResolution::Commit).await,
        ];
        assert!(codes.iter().all(|code| (40_000..50_000).contains(&i32::from(*code))), "{codes:?}");
    }
    let peer = Peer::connect(setting.world.a(), setting.transport).await;
    let sent = peer.send_message(v2::SendMessageRequest { messages: vec![] }).await;
    assert_eq!(code(&sent.status), Code::MessageCorrupted);
}

/// What one handshake shows: protocol by ALPN, certificate, version, and whether a client certificate was asked for.
async fn handshake(
    server: &ServerProcess,
    version: &'static SupportedProtocolVersion,
) -> (Vec<u8>, CertificateDer<'static>, ProtocolVersion, bool) {
    let asked = Arc::new(WasAsked::default());
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .expect("a version")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_client_cert_resolver(asked.clone());
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(server.address().expect("it serves")).await.expect("a connection");
    let name = ServerName::try_from("anything").expect("a name");
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.expect("a handshake");
    let connection = stream.get_ref().1;
    let presented = connection.peer_certificates().expect("a certificate")[0].clone().into_owned();
    let alpn = connection.alpn_protocol().expect("a protocol").to_vec();
    let spoken = connection.protocol_version().expect("a version");
    (alpn, presented, spoken, asked.0.load(Ordering::SeqCst))
}

/// Offers no certificate, and notes whether one was wanted.
#[derive(Debug, Default)]
struct WasAsked(AtomicBool);

impl ResolvesClientCert for WasAsked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::SeqCst);
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Accepts every certificate, as the SDKs for Java, Go, C# and C++ do.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
