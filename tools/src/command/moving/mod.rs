//! Broker groups that come and go: making their topics, taking them out of use, and saying when nothing is left on them.
//!
//! # Come and go
//!
//! A broker group can withhold permissions from all its topics: one record, kept beside the topics in the state
//! machine. What it registers lacks them (`announce.rs`), the topics themselves do not. While it withholds writing,
//! its queues are in routes for consumers only, and messages that are sent to it all the same go to another group
//! (`rpc/messaging/pass_on.rs`), or are stored where they came if there is none. `mqadmin` works out what remains
//! there and what comes next (`tools/src/command/moving`), from what the broker says, so it can be interrupted
//! anywhere.

mod leave;
mod perm;
mod remains;

use std::time::Duration;

use clap::Args;
use kerolox_client::admin::{Admin, Master, masters_of, wire};
use kerolox_core::topic::{PERM_READ, PERM_WRITE};

pub(crate) use leave::{BrokerLeaveStatus, RemoveBrokerGroup};
pub(crate) use perm::{AddWritePerm, WipeWritePerm};

use crate::target::Common;
use kerolox_report::outcome::{CommandFailure, Result};

/// How long a client may go on with a route that it has looked up: SDKs look again every 30 s.
pub(crate) const ROUTE_AGE: &str = "40s";
/// Pause between two looks at a broker group.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// One broker group, which brokers are registered of.
#[derive(Debug, Args)]
pub(crate) struct Choice {
    /// The broker group
    #[arg(short = 'b', long = "broker-name", alias = "brokerName", value_name = "GROUP")]
    broker: String,
    /// Its cluster, when groups of several clusters have the same name
    #[arg(short = 'c', long = "cluster-name", alias = "clusterName", value_name = "CLUSTER")]
    cluster: Option<String>,
}

/// The master of a broker group, and those of the other groups of its cluster.
pub(crate) struct Groups {
    pub(crate) admin: Admin,
    pub(crate) chosen: Master,
    pub(crate) others: Vec<Master>,
}

impl Choice {
    pub(crate) async fn find(&self, common: &Common) -> Result<Groups> {
        let client = common.client()?;
        let masters = masters_of(&common.snapshot(&client).await?, self.cluster.as_deref())?;
        let (mut chosen, others): (Vec<_>, Vec<_>) =
            masters.into_iter().partition(|master| master.info.group == self.broker);
        if chosen.len() > 1 {
            let text = format!("several clusters have a broker group {}; name one with -c", self.broker);
            return Err(CommandFailure::usage(text));
        }
        let chosen = chosen.pop().ok_or_else(|| {
            CommandFailure::not_found(format!(
                "no master of a broker group {} is registered; see clusterList",
                self.broker
            ))
        })?;
        let others = others.into_iter().filter(|other| other.info.cluster == chosen.info.cluster).collect();
        Ok(Groups { admin: client.admin(), chosen, others })
    }
}

/// What a broker group is to keep from clients; answered when nameservers know.
pub(crate) async fn withhold(admin: &Admin, master: &Master, perm: u32) -> Result<()> {
    let asked = admin.broker(&master.address).withhold_perm(wire::WithholdPermRequest { perm }).await;
    asked.map(drop).map_err(|error| during(master, error))
}

fn during(master: &Master, error: kerolox_client::Error) -> CommandFailure {
    CommandFailure::from(error).during(format!("broker {} [{}]", master.info.group, master.address))
}

/// What clients see of a group, in words.
fn standing(withheld: u32) -> &'static str {
    match (withheld & PERM_READ != 0, withheld & PERM_WRITE != 0) {
        (false, false) => "producers and consumers use it",
        (false, true) => "consumers use it, producers do not",
        (true, _) => "it is in no routes",
    }
}
