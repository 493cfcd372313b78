//! A nameserver on a free port, and clients for it.
#![allow(dead_code, reason = "each test file uses a part of this")]

pub(crate) mod process;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use kerolox_nameserver::Nameserver;
use kerolox_nameserver::config::{NameserverConfig, RoutesConfig};
use kerolox_proto::kerolox::registry_client::RegistryClient;
use kerolox_proto::kerolox::{BrokerInfo, BrokerRole, RegisterRequest, TopicRoute};
use kerolox_proto::v2;
use kerolox_proto::v2::messaging_service_client::MessagingServiceClient;
use kerolox_runtime::config::TimeSpan;
use kerolox_runtime::process::ShutdownSignal;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Request;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

/// Longest that anything here may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A running nameserver.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    shutdown: ShutdownSignal,
    serving: JoinHandle<()>,
    _data: tempfile::TempDir,
}

impl Running {
    /// On `listen`, with registrations that last for `lease`.
    pub(crate) async fn start(listen: &str, lease: Duration) -> Self {
        let data = tempfile::tempdir().unwrap();
        let lease = TimeSpan::from_millis(u64::try_from(lease.as_millis()).unwrap());
        let config = NameserverConfig {
            listen: listen.into(),
            data: data.path().into(),
            routes: RoutesConfig { lease, ..RoutesConfig::default() },
            ..NameserverConfig::default()
        };
        let nameserver = Nameserver::bind(&config).await.unwrap();
        let address = nameserver.local_addr();
        let shutdown = ShutdownSignal::new();
        let serve = nameserver.serve(shutdown.clone());
        let serving = tokio::spawn(async move { serve.await.unwrap() });
        Self { address, shutdown, serving, _data: data }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.request();
        tokio::time::timeout(PATIENCE, self.serving).await.expect("stops in time").unwrap();
    }

    pub(crate) async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    /// A connection by TLS that takes any certificate, as the SDKs do.
    pub(crate) async fn tls_channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        endpoint.connect_with_connector(TlsDialer).await.unwrap()
    }

    pub(crate) async fn client(&self) -> MessagingServiceClient<Channel> {
        MessagingServiceClient::new(self.channel().await)
    }

    pub(crate) async fn registry(&self) -> RegistryClient<Channel> {
        RegistryClient::new(self.channel().await)
    }
}

/// A master with one topic of `queues` queues. Its host is left for the nameserver to fill in.
pub(crate) fn broker(group: &str, topic: &str, queues: u32, port: u16) -> RegisterRequest {
    let broker = BrokerInfo {
        cluster: "DefaultCluster".into(),
        group: group.into(),
        role: BrokerRole::Master.into(),
        host: String::new(),
        port: port.into(),
        incarnation: "1".into(),
        ..BrokerInfo::default()
    };
    let topic = TopicRoute {
        name: topic.into(),
        read_queues: queues,
        write_queues: queues,
        perm: 6,
        message_types: vec![v2::MessageType::Normal.into()],
        ..TopicRoute::default()
    };
    RegisterRequest { broker: Some(broker), topics: vec![topic], ..RegisterRequest::default() }
}

/// A request with the one header that is required.
pub(crate) fn from_client<T>(client_id: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-mq-client-id", client_id.parse().unwrap());
    request
}

pub(crate) fn resource(name: &str) -> v2::Resource {
    v2::Resource { resource_namespace: String::new(), name: name.into() }
}

/// The code of a QueryRoute and its queues.
pub(crate) async fn query_route(
    client: &mut MessagingServiceClient<Channel>,
    topic: &str,
) -> (v2::Code, Vec<v2::MessageQueue>) {
    let request = v2::QueryRouteRequest { topic: Some(resource(topic)), endpoints: None };
    let response = client.query_route(from_client("c", request)).await.unwrap().into_inner();
    (response.status.unwrap().code(), response.message_queues)
}

/// Repeats `check` until it holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let wait = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never happened: {what}"));
}

/// Dials TLS without looking at the certificate.
#[derive(Clone)]
struct TlsDialer;

impl Service<Uri> for TlsDialer {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            let provider = Arc::new(ring::default_provider());
            let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
                .with_no_client_auth();
            config.alpn_protocols = vec![b"h2".to_vec()];
            let tcp = TcpStream::connect(uri.authority().unwrap().as_str()).await?;
            let name = ServerName::try_from("localhost").unwrap();
            let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            Ok(TokioIo::new(stream))
        })
    }
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
