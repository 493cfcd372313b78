//! Configuration of the nameserver.

use kerolox_kit::clients::DEFAULT_EXPIRY;
use kerolox_kit::config::{ByteSize, Span};
use kerolox_kit::health::HealthSettings;
use kerolox_kit::routes::DEFAULT_LEASE;
use kerolox_kit::tls::TlsSettings;
use kerolox_model::limits::BODY_BYTES_MAX;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Prefix of the environment variables, as in `KEROLOX_NAMESERVER__ROUTES__LEASE`.
pub const ENV_PREFIX: &str = "KEROLOX_NAMESERVER";

/// Everything that can be configured, with its defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct NameserverConfig {
    /// `host:port` to listen on; port 0 takes any free one.
    pub listen: String,
    /// Folder for what is kept on disk: the development certificate.
    pub data: PathBuf,
    /// Registrations of brokers.
    pub routes: RoutesConfig,
    /// Client sessions.
    pub clients: ClientsConfig,
    /// Limits that clients are told.
    pub limits: LimitsConfig,
    /// Health checks over HTTP; `auto` is port 5558 of the host that is listened on.
    pub health: HealthSettings,
    /// The certificate.
    pub tls: TlsSettings,
}

/// Registrations of brokers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RoutesConfig {
    /// How long a registration lasts without another one: a dead broker is out of the routes after that time.
    pub lease: Span,
}

/// Client sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ClientsConfig {
    /// How long a silent client without an open stream is remembered.
    pub expiry: Span,
}

/// Limits that clients are told; brokers enforce their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LimitsConfig {
    /// Largest message body.
    pub max_body_bytes: ByteSize,
}

impl Default for NameserverConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9876".to_owned(),
            data: PathBuf::from("nameserver-data"),
            routes: RoutesConfig::default(),
            clients: ClientsConfig::default(),
            limits: LimitsConfig::default(),
            health: HealthSettings::default(),
            tls: TlsSettings::default(),
        }
    }
}

impl Default for RoutesConfig {
    fn default() -> Self {
        Self { lease: span(DEFAULT_LEASE) }
    }
}

impl Default for ClientsConfig {
    fn default() -> Self {
        Self { expiry: span(DEFAULT_EXPIRY) }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { max_body_bytes: ByteSize::from_bytes(BODY_BYTES_MAX as u64) }
    }
}

fn span(duration: std::time::Duration) -> Span {
    Span::from_secs(duration.as_secs())
}
