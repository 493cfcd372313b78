//! Encrypted connections.

use crate::error::{Error, Result};
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How connections are encrypted, and which servers are trusted.
///
/// ```no_run
/// use kerolox_client::{Client, Tls};
///
/// let authority = std::fs::read("ca.pem")?;
/// let client = Client::builder("broker.example:8081").tls(Tls::trusting_pem(&authority)?).build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Tls {
    trust: Trust,
    identity: Option<Arc<Identity>>,
    server_name: Option<ServerName<'static>>,
}

#[derive(Debug, Clone)]
enum Trust {
    Roots(Arc<RootCertStore>),
    Anybody,
}

/// What a client shows servers that ask for a certificate.
#[derive(Debug)]
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Tls {
    /// Trusts servers whose certificates the operating system trusts.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the system has no certificate at all.
    pub fn system() -> Result<Self> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(Error::invalid(
                "the operating system lists no certificates to trust; install them (Debian: ca-certificates), or name yours with Tls::trusting_pem",
            ));
        }
        Ok(Self::trusting(Trust::Roots(Arc::new(roots))))
    }

    /// Trusts servers whose certificates were issued by one of the authorities in `pem`, and no others. A self-signed certificate is
    /// its own authority.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is no certificate in it, or one that cannot be read.
    pub fn trusting_pem(pem: &[u8]) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem)? {
            roots.add(certificate).map_err(|error| {
                Error::invalid(format!("a certificate to be trusted cannot be used: {error}"))
            })?;
        }
        Ok(Self::trusting(Trust::Roots(Arc::new(roots))))
    }

    /// Encrypts, and believes any server's claim of identity, as RocketMQ's SDKs do: protects against eavesdroppers,
    /// but not against a man in the middle.
    pub fn unverified() -> Self {
        Self::trusting(Trust::Anybody)
    }

    fn trusting(trust: Trust) -> Self {
        Self { trust, identity: None, server_name: None }
    }

    /// Shows servers a certificate (its chain, PEM) with this key (PEM).
    ///
    /// # Errors
    /// [`Error::Invalid`] when either cannot be read.
    pub fn identity_pem(mut self, chain: &[u8], key: &[u8]) -> Result<Self> {
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
            Error::invalid(format!("the private key of the client cannot be read: {error}"))
        })?;
        self.identity = Some(Arc::new(Identity { chain: certificates(chain)?, key }));
        Ok(self)
    }

    /// Expects this name in certificates, whatever the address of a server.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is neither a host name nor an IP address.
    pub fn server_name(mut self, name: &str) -> Result<Self> {
        self.server_name = Some(server_name(name)?);
        Ok(self)
    }

    /// What makes encrypted connections.
    pub(crate) fn encryption(&self) -> Result<Encryption> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let unusable = |error: &dyn std::fmt::Display| Error::invalid(format!("TLS cannot be used: {error}"));
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&error))?;
        let config = match &self.trust {
            Trust::Roots(roots) => {
                let verifier =
                    WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), provider).build();
                config.with_webpki_verifier(verifier.map_err(|error| unusable(&error))?)
            }
            Trust::Anybody => {
                config.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
            }
        };
        let mut config = match &self.identity {
            None => config.with_no_client_auth(),
            Some(identity) => config
                .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
                .map_err(|error| unusable(&error))?,
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Encryption {
            connector: TlsConnector::from(Arc::new(config)),
            server_name: self.server_name.clone(),
        })
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| Error::invalid(format!("a certificate cannot be read: {error}")))?;
    if certificates.is_empty() {
        return Err(Error::invalid(
            "there is no certificate in it; it must be PEM, beginning with -----BEGIN CERTIFICATE-----",
        ));
    }
    Ok(certificates)
}

fn server_name(name: &str) -> Result<ServerName<'static>> {
    ServerName::try_from(name.to_owned())
        .map_err(|_| Error::invalid(format!("{name:?} is neither a host name nor an IP address")))
}

/// Makes encrypted connections.
#[derive(Clone)]
pub(crate) struct Encryption {
    connector: TlsConnector,
    server_name: Option<ServerName<'static>>,
}

impl std::fmt::Debug for Encryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encryption").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl Encryption {
    /// An encrypted connection to a port of `host`, which goes without brackets.
    pub(crate) async fn connect(self, host: String, port: u16) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let invalid = |error: Error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string());
        let name = match self.server_name {
            Some(name) => name,
            None => server_name(&host).map_err(invalid)?,
        };
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(TokioIo::new(self.connector.connect(name, stream).await?))
    }
}

/// Any certificate will do, but the server must have its key.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_refused_with_a_reason() {
        let refused = |result: Result<Tls>| result.unwrap_err().to_string();
        assert!(refused(Tls::trusting_pem(b"no certificate")).contains("BEGIN CERTIFICATE"));
        assert!(refused(Tls::unverified().server_name("a b")).contains("\"a b\""));
        assert!(refused(Tls::unverified().identity_pem(b"", b"")).contains("private key"));
        assert!(Tls::unverified().server_name("broker.example").unwrap().encryption().is_ok());
    }
}
