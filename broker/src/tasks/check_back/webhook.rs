//! Check-backs over HTTP, for topics whose producers are not always connected: the attribute `transaction.webhook` of a topic
//! names a URL that is asked when no producer can be.
//!
//! The request is a POST with a JSON body (see [`Question`]) and two headers: `X-Kerolox-Timestamp`, seconds since the Unix
//! epoch, and `X-Kerolox-Signature`, `sha256=` and the HMAC-SHA256 in hexadecimal digits of the timestamp, a dot and the body,
//! with the broker's webhook secret as key. The answer has status 200 and the body `{"resolution": "commit"}`, `"rollback"`
//! or `"unknown"`, in small or capital letters. Hosts that [`WebhookHosts`] does not allow are not asked.
//!
//! No connection, no answer in time or a status 5xx leaves everything as it is: the check does not count and is tried again,
//! with the pauses of a topic without producers. Any other answer that cannot be understood counts as "unknown", so that one
//! bad transaction does not hold up the others of its topic.

use std::error::Error;
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use kerolox_core::transaction::{CheckAnswer, HalfMessage};
use kerolox_proto::v2;
use kerolox_runtime::process::now_ms;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::webhook_hosts::WebhookHosts;

/// File in the data folder with the secret, when none is configured.
pub(crate) const SECRET_FILE: &str = "webhook-secret";
/// Bytes of a secret that the broker makes for itself.
const SECRET_BYTES: usize = 32;
/// Maximum size of an answer in bytes; no more are read.
const ANSWER_MAX: usize = 4096;

/// Requests since the process started.
#[derive(Debug, Default)]
pub struct WebhookCounts {
    /// Number of requests.
    pub asked: AtomicU64,
    /// Number of failures: no connection, no answer in time, or a status 5xx.
    pub failed: AtomicU64,
    /// Number of malformed answers.
    pub misunderstood: AtomicU64,
}

/// Asks webhooks. Cheap to clone.
#[derive(Clone)]
pub struct WebhookClient {
    /// Created on first use: reading the system's certificates takes longer than the rest of a broker's start.
    client: Arc<OnceLock<reqwest::Client>>,
    timeout: Duration,
    secret: Arc<[u8]>,
    hosts: WebhookHosts,
    counts: Arc<WebhookCounts>,
}

/// The body of a request.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Question<'a> {
    transaction_id: &'a str,
    topic: &'a str,
    message_id: &'a str,
    tag: &'a str,
    keys: &'a [String],
    properties: &'a std::collections::HashMap<String, String>,
    /// Base64 of the body.
    body: String,
    /// Milliseconds since the Unix epoch.
    stored_ms: i64,
    /// Number of this check, from 1.
    check: u32,
}

#[derive(Deserialize)]
struct Reply {
    resolution: String,
}

impl WebhookClient {
    /// Webhooks at `hosts` that get `timeout` for an answer, and requests signed with `secret`.
    pub fn new(secret: Vec<u8>, timeout: Duration, hosts: WebhookHosts) -> Self {
        Self { client: Arc::default(), timeout, secret: secret.into(), hosts, counts: Arc::default() }
    }

    /// The allowed hosts.
    pub fn hosts(&self) -> WebhookHosts {
        self.hosts.clone()
    }

    fn client(&self) -> Result<&reqwest::Client, reqwest::Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        // Another part of the process may have installed one before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(self.timeout)
            // A request that is signed for one host must not be shown to another.
            .redirect(reqwest::redirect::Policy::none())
            // A proxy would resolve names itself.
            .no_proxy()
            .dns_resolver(self.hosts.clone())
            .user_agent(concat!("kerolox/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(self.client.get_or_init(|| client))
    }

    /// Request counts since the process started.
    pub fn counts(&self) -> Arc<WebhookCounts> {
        self.counts.clone()
    }

    /// Sends a check to `url`; `None` when it cannot be reached.
    pub(super) async fn ask(
        &self,
        url: &str,
        half: &HalfMessage,
        command: &v2::RecoverOrphanedTransactionCommand,
    ) -> Option<CheckAnswer> {
        self.counts.asked.fetch_add(1, Ordering::Relaxed);
        let body = question(half, command);
        let timestamp = (now_ms() / 1000).to_string();
        if let Err(error) = self.hosts.check_url(url) {
            return self.failed(url, &error);
        }
        let client = match self.client() {
            Ok(client) => client,
            Err(error) => return self.failed(url, &innermost(&error)),
        };
        let request = client
            .post(url)
            .header("content-type", "application/json")
            .header("x-kerolox-timestamp", &timestamp)
            .header("x-kerolox-signature", format!("sha256={}", signature(&self.secret, &timestamp, &body)))
            .body(body);
        match request.send().await {
            Ok(answer) if answer.status().is_server_error() => self.failed(url, &answer.status()),
            Ok(answer) => match read(answer).await {
                Ok(answer) => Some(answer),
                Err(reason) => {
                    self.counts.misunderstood.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(url, reason, "a webhook's answer to a check-back cannot be understood");
                    Some(CheckAnswer::Unknown)
                }
            },
            Err(error) => self.failed(url, &innermost(&error)),
        }
    }

    fn failed(&self, url: &str, why: &dyn std::fmt::Display) -> Option<CheckAnswer> {
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(url, %why, "a webhook cannot be asked about a transaction; it is tried again");
        None
    }
}

fn question(half: &HalfMessage, command: &v2::RecoverOrphanedTransactionCommand) -> String {
    use base64::Engine as _;
    let message = command.message.clone().unwrap_or_default();
    let system = message.system_properties.unwrap_or_default();
    let topic = message.topic.unwrap_or_default();
    let question = Question {
        transaction_id: &command.transaction_id,
        topic: &topic.name,
        message_id: &system.message_id,
        tag: system.tag(),
        keys: &system.keys,
        properties: &message.user_properties,
        body: base64::engine::general_purpose::STANDARD.encode(&message.body),
        stored_ms: half.stored_ms,
        check: half.checks.saturating_add(1),
    };
    serde_json::to_string(&question).expect("texts and numbers can be written as JSON")
}

/// HMAC-SHA256 over timestamp, dot and body, in hexadecimal digits.
fn signature(secret: &[u8], timestamp: &str, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    for part in [timestamp, ".", body] {
        mac.update(part.as_bytes());
    }
    hex::encode(mac.finalize().into_bytes())
}

/// The innermost cause, which is the most specific.
fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost
}

/// Reads an answer. The reason of a failure quotes nothing of its body: it may come from any server that the URL leads to.
async fn read(mut answer: reqwest::Response) -> Result<CheckAnswer, String> {
    let status = answer.status();
    if status != reqwest::StatusCode::OK {
        return Err(format!("status {status} instead of 200"));
    }
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|error| innermost(&error).to_string())? {
        body.extend_from_slice(&part);
        if body.len() > ANSWER_MAX {
            return Err(format!("status {status}, and more than {ANSWER_MAX} bytes"));
        }
    }
    understood(&body).ok_or_else(|| {
        format!(
            "status {status}, and {} bytes that are no JSON object with a resolution of commit, rollback or unknown",
            body.len()
        )
    })
}

fn understood(body: &[u8]) -> Option<CheckAnswer> {
    let reply: Reply = serde_json::from_slice(body).ok()?;
    Some(match reply.resolution.to_ascii_lowercase().as_str() {
        "commit" => CheckAnswer::Commit,
        "rollback" => CheckAnswer::Rollback,
        "unknown" => CheckAnswer::Unknown,
        _ => return None,
    })
}

/// The secret in `file`; without one, that in the data folder, which is created if it is missing.
///
/// # Errors
/// When the file cannot be read or created, is empty, or is the broker's own and incomplete.
pub fn secret(file: Option<&Path>, data: &Path) -> io::Result<Vec<u8>> {
    let own = data.join(SECRET_FILE);
    let path = file.unwrap_or(&own);
    let read = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound && file.is_none() => make_secret(&own),
        read => read,
    };
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let text = read.map_err(named)?;
    let own_len = 2 * SECRET_BYTES;
    match text.trim() {
        half if file.is_none() && half.len() != own_len => Err(named(io::Error::new(
            ErrorKind::InvalidData,
            format!(
                "the webhook secret has {} characters instead of {own_len}, so a part of it is lost; restore the file, or remove it \
                 to have another one made, and tell that to the webhooks",
                half.len()
            ),
        ))),
        "" => Err(named(io::Error::new(ErrorKind::InvalidData, "the webhook secret is empty"))),
        text => Ok(text.as_bytes().to_vec()),
    }
}

fn make_secret(path: &Path) -> io::Result<String> {
    let bytes: Vec<u8> = std::iter::repeat_with(uuid::Uuid::new_v4)
        .flat_map(|uuid| uuid.into_bytes())
        .take(SECRET_BYTES)
        .collect();
    let text = hex::encode(bytes);
    // Under its final name the file is complete, or absent.
    let draft = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_hmac_sha256() {
        // Made with: printf '17.{}' | openssl dgst -sha256 -hmac key
        let expected = "e66392eac42eafc68c35a01c712811e016386c12456975fc3af80c9268568e3a";
        assert_eq!(signature(b"key", "17", "{}"), expected);
    }

    #[test]
    fn a_secret_is_made_once_and_a_configured_one_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let first = secret(None, folder.path()).unwrap();
        assert_eq!((first.len(), secret(None, folder.path()).unwrap()), (2 * SECRET_BYTES, first.clone()));
        let own = folder.path().join(SECRET_FILE);
        fs::write(&own, &first[..SECRET_BYTES]).unwrap();
        let half = secret(None, folder.path()).unwrap_err().to_string();
        assert!(half.contains("32 characters instead of 64") && half.contains(SECRET_FILE), "{half}");
        assert_eq!(fs::read(&own).unwrap(), &first[..SECRET_BYTES], "it is not replaced in silence");
        let file = folder.path().join("mine");
        assert!(secret(Some(&file), folder.path()).unwrap_err().to_string().contains("mine"));
        fs::write(&file, " \n").unwrap();
        assert!(secret(Some(&file), folder.path()).is_err());
        fs::write(&file, "hush\n").unwrap();
        assert_eq!(secret(Some(&file), folder.path()).unwrap(), b"hush");
    }
}
