//! TLS for the client port: a configured certificate, or a generated one for development.
//!
//! Four of the seven official SDKs dial TLS by default and accept any certificate; without one they could not connect at
//! all, so there always is one.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

/// Which certificate to present. Both or neither are to be set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TlsSettings {
    /// PEM file with the certificate chain, leaf first. Empty: generate a development certificate.
    pub certificate: PathBuf,
    /// PEM file with the private key of the leaf.
    pub private_key: PathBuf,
}

/// Why TLS cannot be offered. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Only one of the two files is configured.
    #[error(
        "tls.certificate and tls.private-key belong together; set both, or neither for a generated certificate"
    )]
    HalfConfigured,
    /// A PEM file cannot be read or has the wrong content.
    #[error("cannot read the {what} from {}: {reason}", path.display())]
    Unreadable {
        /// "certificate" or "private key".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The reader's error.
        reason: String,
    },
    /// Certificate and key do not fit, or are of a kind that is not supported.
    #[error("the TLS certificate cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// The development certificate cannot be made.
    #[error("cannot generate a development certificate: {0}")]
    Generation(#[from] rcgen::Error),
    /// The development certificate cannot be kept.
    #[error("cannot write the development certificate under {}: {source}", path.display())]
    Unwritable {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// The TLS side of the client port: HTTP/2 by ALPN, TLS 1.2 and 1.3, no client certificates.
///
/// Without a configured certificate a self-signed one is made once and kept in `data_dir/tls`.
///
/// # Errors
/// A [`TlsError`] when the files cannot be read or used, or the generated ones cannot be written.
pub fn server_config(settings: &TlsSettings, data_dir: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let is_set = |path: &Path| !path.as_os_str().is_empty();
    let (certificate, private_key) = match (is_set(&settings.certificate), is_set(&settings.private_key)) {
        (true, true) => (settings.certificate.clone(), settings.private_key.clone()),
        (false, false) => development_certificate(&data_dir.join("tls"))?,
        _ => return Err(TlsError::HalfConfigured),
    };
    let chain = read_chain(&certificate)?;
    let key = PrivateKeyDer::from_pem_file(&private_key)
        .map_err(|error| unreadable("private key", &private_key, &error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = certificates.map_err(|error| unreadable("certificate", path, &error))?;
    if chain.is_empty() {
        return Err(unreadable("certificate", path, &"the file holds no certificate"));
    }
    Ok(chain)
}

fn unreadable(what: &'static str, path: &Path, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError::Unreadable { what, path: path.to_owned(), reason: reason.to_string() }
}

/// The files of the development certificate in `dir`, made when either is missing.
fn development_certificate(dir: &Path) -> Result<(PathBuf, PathBuf), TlsError> {
    let (certificate, private_key) = (dir.join("development-cert.pem"), dir.join("development-key.pem"));
    if !(certificate.exists() && private_key.exists()) {
        let key = rcgen::KeyPair::generate()?;
        let made = self_signed(&key)?;
        let write = || -> io::Result<()> {
            fs::create_dir_all(dir)?;
            replace_file(&private_key, key.serialize_pem().as_bytes(), 0o600)?;
            replace_file(&certificate, made.pem().as_bytes(), 0o644)
        };
        write().map_err(|source| TlsError::Unwritable { path: dir.to_owned(), source })?;
        tracing::info!("made a self-signed development certificate in {}", dir.display());
    }
    Ok((certificate, private_key))
}

/// A certificate for this machine. Its name holds the end of the public key: of several trusted certificates with the same
/// name OpenSSL tries only one, and a client may have to trust those of a nameserver and of brokers.
fn self_signed(key: &rcgen::KeyPair) -> Result<rcgen::Certificate, rcgen::Error> {
    let mut parameters = rcgen::CertificateParams::new(["localhost", "127.0.0.1", "::1"].map(str::to_owned))?;
    let public = key.public_key_raw();
    let end: String = public[public.len() - 8..].iter().map(|byte| format!("{byte:02x}")).collect();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, format!("Kerolox development {end}"));
    parameters.self_signed(key)
}

/// Writes a file whole or not at all, with its mode from the first byte on.
fn replace_file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    if temporary.exists() {
        fs::remove_file(&temporary)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_development_certificate_is_made_once_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let config = server_config(&TlsSettings::default(), dir.path()).unwrap();
        assert_eq!(config.alpn_protocols, [b"h2"]);
        let key = dir.path().join("tls/development-key.pem");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let first = fs::read(&key).unwrap();
        server_config(&TlsSettings::default(), dir.path()).unwrap();
        assert_eq!(fs::read(&key).unwrap(), first);
        // The generated files work as configured ones too.
        let certificate = dir.path().join("tls/development-cert.pem");
        let configured = TlsSettings { certificate, private_key: key };
        server_config(&configured, Path::new("/nonexistent")).unwrap();
    }

    #[test]
    fn faults_of_the_configuration_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let garbage = dir.path().join("garbage.pem");
        fs::write(&garbage, "not a certificate").unwrap();
        let half = TlsSettings { certificate: garbage.clone(), ..TlsSettings::default() };
        assert!(matches!(server_config(&half, dir.path()), Err(TlsError::HalfConfigured)));
        let empty = TlsSettings { certificate: garbage.clone(), private_key: garbage };
        let error = server_config(&empty, dir.path()).unwrap_err().to_string();
        assert!(error.contains("garbage.pem"), "{error}");
    }
}
