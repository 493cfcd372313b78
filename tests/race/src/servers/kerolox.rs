//! Kerolox's own server.

use std::path::Path;

use anyhow::{Context, Result};
use kerolox_harness::ClusterPlan;

use super::{RunningServer, ServerProcesses};
use crate::leg::{FlushMode, QUEUES};
use crate::task::{GROUP, TOPIC, TRANSACTION_TOPIC, WARM_GROUP};

pub(super) fn start(flush: FlushMode, folder: &Path) -> Result<RunningServer> {
    let plan = ClusterPlan::standalone("race").folder(folder).queues(QUEUES);
    let cluster = plan.flags(&["--flush", &flush.to_string()]).start()?;
    let runtime = tokio::runtime::Runtime::new().context("starting a runtime")?;
    runtime.block_on(async {
        cluster.create_topic(TOPIC, "NORMAL").await?;
        cluster.create_topic(TRANSACTION_TOPIC, "TRANSACTION").await?;
        cluster.create_group(GROUP).await?;
        cluster.create_group(WARM_GROUP).await
    })?;
    Ok(RunningServer {
        address: cluster.access_points(),
        processes: ServerProcesses::Cluster(Box::new(cluster)),
    })
}
