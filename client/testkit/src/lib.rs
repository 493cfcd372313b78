//! A broker inside a test: the real one, in this process, on a free port of 127.0.0.1, with its data in a temporary folder.
//!
//! ```
//! use kerolox_client::{FilterExpression, Message};
//! use kerolox_testkit::{TestBroker, TopicType};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = TestBroker::start()?;
//! broker.create_topic("orders", TopicType::Normal).await?;
//! let client = broker.client();
//! let producer = client.producer().topic("orders").start().await?;
//! producer.send(Message::builder("orders").body("order 4711").build()).await?;
//!
//! let consumer = client.simple_consumer("billing").subscribe("orders", FilterExpression::all()).start().await?;
//! let received = consumer.receive(1, Duration::from_secs(30)).await?;
//! assert_eq!(received[0].message().body(), "order 4711");
//! # Ok(())
//! # }
//! ```
//!
//! It starts in a tenth of a second and ends with the [`TestBroker`]. Other programs, such as SDKs of other languages, reach it at
//! [`TestBroker::endpoint`]. What it takes does not survive a power cut, because it does not wait for the disk; everything else is
//! as in production.

#![deny(rustdoc::private_intra_doc_links)]

use kerolox_broker::config::BrokerConfig;
use kerolox_broker::{Broker, BrokerError};
use kerolox_client::admin::wire::{UpdateGroupRequest, UpdateTopicRequest};
use kerolox_client::{Address, Client, admin::BrokerAdmin};
use kerolox_runtime::config::{ConfigError, load};
use kerolox_runtime::process::ShutdownSignal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// Settings that a test may have from its surroundings, as in `KEROLOX_TESTKIT__LOG__FLUSH=sync`.
const ENV_PREFIX: &str = "KEROLOX_TESTKIT";

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// There is no such setting, or it does not take such a value.
    #[error(transparent)]
    Setting(#[from] ConfigError),
    /// The broker refused to start.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// There is no folder for its data, or no thread for its work.
    #[error("the system has no room for a broker: {0}")]
    System(#[from] std::io::Error),
}

/// What messages a topic takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopicType {
    /// Unordered messages.
    Normal,
    /// In order by message group.
    Fifo,
    /// Delivered later.
    Delay,
    /// Half messages.
    Transaction,
    /// The highest priority first.
    Priority,
    /// In lite topics.
    Lite,
}

impl TopicType {
    fn word(self) -> &'static str {
        match self {
            Self::Normal => "NORMAL",
            Self::Fifo => "FIFO",
            Self::Delay => "DELAY",
            Self::Transaction => "TRANSACTION",
            Self::Priority => "PRIORITY",
            Self::Lite => "LITE",
        }
    }
}

/// The settings of a [`TestBroker`].
#[derive(Debug, Default)]
#[must_use]
pub struct TestBrokerBuilder {
    settings: Vec<(String, String)>,
    data: Option<PathBuf>,
}

impl TestBrokerBuilder {
    /// Sets what a broker's configuration file calls `key`, with dots between the parts: `transaction.first-check`, `100ms`.
    /// `broker --print-config` lists all settings.
    pub fn setting(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((key.into(), value.into()));
        self
    }

    /// Keeps the data in this folder, which stays, instead of a temporary one.
    pub fn data(mut self, folder: impl Into<PathBuf>) -> Self {
        self.data = Some(folder.into());
        self
    }

    /// Starts the broker and returns when it serves. Blocks for as long as that takes.
    ///
    /// # Errors
    /// [`StartError`] says what to change.
    pub fn start(self) -> Result<TestBroker, StartError> {
        let (data, temporary) = match self.data {
            Some(data) => (data, None),
            None => {
                let folder = TempDir::with_prefix("kerolox-test-")?;
                (folder.path().join("data"), Some(folder))
            }
        };
        let mut settings = vec![
            ("standalone".to_owned(), "true".to_owned()),
            ("listen".to_owned(), "127.0.0.1:0".to_owned()),
            ("log.flush".to_owned(), "async".to_owned()),
            ("log.segment-size".to_owned(), "16MiB".to_owned()),
            // A test that blocks here cannot let go of its streams meanwhile.
            ("clients.drain".to_owned(), "100ms".to_owned()),
        ];
        settings.extend(self.settings);
        settings.push(("data".to_owned(), data.display().to_string()));
        let running = Running::start(&settings)?;
        Ok(TestBroker {
            endpoint: running.address.to_string(),
            running: Some(running),
            settings,
            data,
            _temporary: temporary,
        })
    }
}

/// A broker that runs until this is dropped.
#[derive(Debug)]
pub struct TestBroker {
    // Stopped before its folder goes.
    running: Option<Running>,
    endpoint: String,
    settings: Vec<(String, String)>,
    data: PathBuf,
    _temporary: Option<TempDir>,
}

impl TestBroker {
    /// Starts a broker with the usual settings. Topics come into being with their first message.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start() -> Result<Self, StartError> {
        Self::builder().start()
    }

    /// Starts to describe a broker.
    pub fn builder() -> TestBrokerBuilder {
        TestBrokerBuilder::default()
    }

    /// Where clients reach it: `host:port`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        Client::builder(&self.endpoint).build().expect("the address of a listener is one")
    }

    /// Its administration.
    pub fn admin(&self) -> BrokerAdmin {
        let address: Address = self.endpoint.parse().expect("the address of a listener is one");
        self.client().admin().broker(&address)
    }

    /// Makes a topic, or changes what it takes.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn create_topic(&self, name: &str, takes: TopicType) -> kerolox_client::Result<()> {
        let request = UpdateTopicRequest {
            name: name.to_owned(),
            attributes: vec![format!("+message.type={}", takes.word())],
            ..Default::default()
        };
        self.admin().update_topic(request).await.map(drop)
    }

    /// Makes a consumer group that gets messages of a message group in order. Groups without order come into being by themselves.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn create_ordered_group(&self, name: &str) -> kerolox_client::Result<()> {
        let request = UpdateGroupRequest { name: name.to_owned(), fifo: Some(true), ..Default::default() };
        self.admin().update_group(request).await.map(drop)
    }

    /// Ends the broker, as an operator would, and starts it again on the same port and data. Blocks for as long as that takes.
    ///
    /// # Errors
    /// [`StartError`]; it is stopped then.
    pub fn restart(&mut self) -> Result<(), StartError> {
        self.running = None;
        let mut settings = self.settings.clone();
        settings.push(("listen".to_owned(), self.endpoint.clone()));
        self.running = Some(Running::start(&settings)?);
        Ok(())
    }

    /// Ends the broker, as an operator would. Until [`Self::restart`] it cannot be reached.
    pub fn stop(&mut self) {
        self.running = None;
    }
}

/// A broker at work on threads of its own, so that a test may block, or have any kind of runtime.
#[derive(Debug)]
struct Running {
    address: SocketAddr,
    shutdown: ShutdownSignal,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(settings: &[(String, String)]) -> Result<Self, StartError> {
        let settings: Vec<(&str, Option<String>)> =
            settings.iter().map(|(key, value)| (key.as_str(), Some(value.clone()))).collect();
        let config: BrokerConfig = load(None, ENV_PREFIX, &settings)?;
        let runtime =
            Builder::new_multi_thread().worker_threads(2).thread_name("test-broker").enable_all().build()?;
        let shutdown = ShutdownSignal::new();
        let (sender, started) = mpsc::channel();
        let stop = shutdown.clone();
        let run = move || run(&runtime, config, stop, &sender);
        let thread = std::thread::Builder::new().name("test-broker".to_owned()).spawn(run)?;
        let address = started.recv().expect("a broker that panics says so itself")?;
        Ok(Self { address, shutdown, thread: Some(thread) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.request();
        if let Some(thread) = self.thread.take() {
            // A panic of the broker was printed when it happened, and the test sees a broker that is gone.
            let _ = thread.join();
        }
    }
}

/// Serves until it is told to stop. `started` hears the address, or why there is none.
fn run(
    runtime: &Runtime,
    config: BrokerConfig,
    shutdown: ShutdownSignal,
    started: &mpsc::Sender<Result<SocketAddr, StartError>>,
) {
    let served = runtime.block_on(async {
        let broker = Broker::bind(config).await?;
        let address = broker.local_addr();
        // The starting thread waits for this.
        broker.serve(shutdown, || drop(started.send(Ok(address)))).await
    });
    if let Err(error) = served
        && let Err(mpsc::SendError(Err(error))) = started.send(Err(error.into()))
    {
        eprintln!("the test broker broke down: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_is_none_is_refused() {
        let error = TestBroker::builder().setting("log.flash", "async").start().unwrap_err();
        assert!(matches!(error, StartError::Setting(_)) && error.to_string().contains("flash"), "{error}");
        let error = TestBroker::builder().setting("listen", "nowhere").start().unwrap_err();
        assert!(matches!(error, StartError::Broker(_)), "{error}");
    }
}
