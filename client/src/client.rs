//! The client: what all producers and consumers of an application share.

use crate::address::{Endpoints, parse_addresses};
use crate::admin::Admin;
use crate::consumer::SimpleConsumerBuilder;
use crate::credentials::Credentials;
use crate::error::{Error, Result};
use crate::lite::{LitePushConsumerBuilder, LiteSimpleConsumerBuilder};
use crate::message_id::MessageIds;
use crate::observer::{Observed, Observer};
use crate::producer::ProducerBuilder;
use crate::pull::PullConsumerBuilder;
use crate::push::PushConsumerBuilder;
use crate::rpc::{Caller, Pool};
use crate::tls::Tls;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Entry point of this crate: access points, settings and connections. Cheap to clone; clones share the connections.
///
/// Making one does no I/O. Everything else must happen within a Tokio runtime.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

/// What clones share.
#[derive(Debug)]
pub(crate) struct Shared {
    pool: Arc<Pool>,
    access_points: Endpoints,
    namespace: String,
    request_timeout: Duration,
    credentials: Option<Credentials>,
    observed: Observed,
    pub(crate) host: String,
    /// Distinguishes the clients of one process.
    instance: String,
    members: AtomicU32,
    pub(crate) message_ids: MessageIds,
}

impl Client {
    /// Starts a client for the access points `endpoints`: `host:port`, several separated by `,` or `;`. Nameservers and
    /// brokers are access points alike.
    pub fn builder(endpoints: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            endpoints: endpoints.into(),
            namespace: String::new(),
            request_timeout: Duration::from_secs(3),
            tls: None,
            credentials: None,
            observed: Observed::default(),
        }
    }

    /// Starts a producer.
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder::new(self.clone())
    }

    /// Starts a simple consumer of `group`.
    pub fn simple_consumer(&self, group: impl Into<String>) -> SimpleConsumerBuilder {
        SimpleConsumerBuilder::new(self.clone(), group.into())
    }

    /// Starts a push consumer of `group`.
    pub fn push_consumer(&self, group: impl Into<String>) -> PushConsumerBuilder {
        PushConsumerBuilder::new(self.clone(), group.into())
    }

    /// Starts a push consumer of `group` for lite topics below `topic`.
    pub fn lite_push_consumer(
        &self,
        group: impl Into<String>,
        topic: impl Into<String>,
    ) -> LitePushConsumerBuilder {
        LitePushConsumerBuilder::new(self.push_consumer(group), topic.into())
    }

    /// Starts a simple consumer of `group` for lite topics below `topic`.
    pub fn lite_simple_consumer(
        &self,
        group: impl Into<String>,
        topic: impl Into<String>,
    ) -> LiteSimpleConsumerBuilder {
        LiteSimpleConsumerBuilder::new(self.simple_consumer(group), topic.into())
    }

    /// Starts a pull consumer, which may keep its offsets with `group`.
    pub fn pull_consumer(&self, group: impl Into<String>) -> PullConsumerBuilder {
        PullConsumerBuilder::new(self.clone(), group.into())
    }

    /// Administration of Kerolox servers.
    pub fn admin(&self) -> Admin {
        Admin::new(self.caller())
    }

    /// A caller with a client id of its own.
    pub(crate) fn caller(&self) -> Caller {
        let shared = &self.shared;
        let number = shared.members.fetch_add(1, Ordering::Relaxed);
        self.caller_named(format!("{}@{}#{}.{number}", shared.host, std::process::id(), shared.instance))
    }

    /// A caller with this client id.
    pub(crate) fn caller_named(&self, client_id: String) -> Caller {
        let shared = &self.shared;
        Caller {
            pool: Arc::clone(&shared.pool),
            access_points: shared.access_points.clone(),
            client_id,
            namespace: shared.namespace.clone(),
            request_timeout: shared.request_timeout,
            credentials: shared.credentials.clone(),
            observed: shared.observed.clone(),
        }
    }
}

/// Settings of a [`Client`].
#[derive(Debug, Clone)]
#[must_use]
pub struct ClientBuilder {
    endpoints: String,
    namespace: String,
    request_timeout: Duration,
    tls: Option<Tls>,
    credentials: Option<Credentials>,
    observed: Observed,
}

impl ClientBuilder {
    /// Namespace of all topics and groups; empty by default.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Time limit of one request, 3 s by default. Long polls get their waiting time on top.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Encrypts all connections; they are in the clear by default.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Signs all requests.
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// Tells `observer` what all producers and consumers do.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observed = Observed::by(observer);
        self
    }

    /// The client. No connection is made yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] when an endpoint is malformed, the namespace or the access key is not printable ASCII, the timeout is zero, or
    /// key and certificate of the client do not fit.
    pub fn build(self) -> Result<Client> {
        if !self.namespace.chars().all(|c| c.is_ascii_graphic()) {
            return Err(Error::invalid(format!(
                "the namespace {:?} has characters other than printable ASCII; rename it",
                self.namespace
            )));
        }
        if self.request_timeout.is_zero() {
            return Err(Error::invalid("the request timeout is zero; set it to a few seconds"));
        }
        self.credentials.as_ref().map_or(Ok(()), Credentials::check)?;
        let encryption = self.tls.map(|tls| tls.encryption()).transpose()?;
        let access_points = Endpoints::new(parse_addresses(&self.endpoints)?)
            .ok_or_else(|| Error::invalid("no endpoint given; name at least one nameserver or broker"))?;
        let shared = Shared {
            pool: Arc::new(Pool::new(self.request_timeout, encryption)),
            access_points,
            namespace: self.namespace,
            request_timeout: self.request_timeout,
            credentials: self.credentials,
            observed: self.observed,
            host: host_name(),
            instance: uuid::Uuid::new_v4().simple().to_string()[..6].to_owned(),
            members: AtomicU32::new(0),
            message_ids: MessageIds::new(),
        };
        Ok(Client { shared: Arc::new(shared) })
    }
}

/// This machine's name as far as it is printable ASCII, because it goes into a header.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .or_else(|| std::env::var("COMPUTERNAME").ok())
        .unwrap_or_default();
    let name: String =
        name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')).collect();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_ids_are_unique_and_shaped_as_the_sdks() {
        let (a, b) = (Client::builder("h:1").build().unwrap(), Client::builder("h:1").build().unwrap());
        let ids: Vec<String> = [&a, &a, &b].iter().map(|client| client.caller().client_id.clone()).collect();
        assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2], "{ids:?}");
        let process = format!("@{}#", std::process::id());
        assert!(ids.iter().all(|id| id.contains(&process) && id.is_ascii()), "{ids:?}");
    }

    #[test]
    fn wrong_settings_are_refused() {
        assert!(Client::builder("h").build().is_err());
        assert!(Client::builder("h:1").namespace("a b").build().is_err());
        assert!(Client::builder("h:1").request_timeout(Duration::ZERO).build().is_err());
    }
}
