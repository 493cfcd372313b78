//! The parts of a broker, built from its configuration.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use kerolox_client::admin::controller::ControllerClient;
use kerolox_log::fs::OsFolder;
use kerolox_log::{FrameSalt, LogOptions};
use kerolox_proto::kerolox::BrokerInfo;
use kerolox_runtime::data_folder::DataFolder;
use kerolox_runtime::process::private_folder;
use kerolox_store::{GuardedClock, StoreError, StoreOptions};

use crate::ballast::DiskBallast;
use crate::broker::BrokerError;
use crate::config::BrokerConfig;
use crate::index_folder::IndexFolder;
use crate::news::News;
use crate::replication::{self, Identity, MemberFile, Stores};
use crate::tasks::check_back::{WebhookClient, WebhookHosts, webhook_secret};

/// The client for webhooks.
pub(crate) fn webhooks(config: &BrokerConfig) -> Result<WebhookClient, BrokerError> {
    let settings = &config.transaction;
    let secret = webhook_secret(settings.webhook_secret_file.as_deref(), &config.data)
        .map_err(|error| BrokerError::Config(error.to_string()))?;
    let hosts = WebhookHosts::new(settings.webhook_allow.clone());
    Ok(WebhookClient::new(secret, settings.webhook_timeout.duration(), hosts))
}

/// Locks the data folder for this process, as long as the file is open.
pub(crate) fn lock_folder(path: &Path) -> Result<File, BrokerError> {
    let failed = |source| BrokerError::Folder { path: path.to_owned(), source };
    private_folder(path).map_err(failed)?;
    let file = File::create(path.join("lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(BrokerError::InUse(path.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// The function that opens the store of this broker.
pub(crate) fn stores(
    config: &BrokerConfig,
    news: News,
    clock: Arc<GuardedClock>,
) -> Result<Stores, BrokerError> {
    let path = config.data.join("log");
    let folder = OsFolder::create(&path).map_err(|source| BrokerError::Folder { path, source })?;
    let noted = DataFolder::note(&config.data, &["log"]);
    let data = noted.map_err(|source| BrokerError::Folder { path: config.data.clone(), source })?;
    let data = Arc::new(data);
    let ballast = DiskBallast::new(&config.data);
    let open = || IndexFolder::open(config.data.join("index"), data.clone());
    let index = ballast.lend(open).map_err(StoreError::from)?;
    ballast.make_if_free(config.retention_limits().free_bytes_min);
    let options = StoreOptions {
        broker: config.group.clone(),
        log: LogOptions {
            segment_bytes: config.log.segment_size.bytes(),
            step_bytes: config.log.preallocation.bytes(),
            ..LogOptions::new(random_salt())
        },
        waiting_bytes_max: config.log.max_waiting_bytes.as_usize(),
        flush_interval: config.log.flush_interval.duration(),
        tail_bytes: config.log.tail_size.as_usize(),
    };
    Ok(Stores {
        options,
        folder: Arc::new(folder),
        data,
        index: Arc::new(index),
        clock,
        listener: Arc::new(move |event| news.notice(event)),
    })
}

/// This member of its group.
pub(crate) fn group(
    config: &BrokerConfig,
    info: &BrokerInfo,
    stores: &Stores,
) -> Result<replication::Group, BrokerError> {
    let found = MemberFile::open(&config.data, stores.is_blank()?)
        .map_err(|source| BrokerError::MemberFile { folder: config.data.clone(), source })?;
    let identity = Identity {
        cluster: config.cluster.clone(),
        name: config.group.clone(),
        process: info.incarnation.clone(),
        host: info.host.clone(),
        port: info.port,
    };
    let controller = ControllerClient::new(&config.nameservers)?;
    let settings = (config.replication.clone(), config.log.flush());
    Ok(replication::Group::new(identity, settings, controller, found))
}

/// A salt for a new log.
fn random_salt() -> FrameSalt {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    // Some bits of either half are constant, but at different positions.
    FrameSalt::new(high ^ low)
}
