//! `auditList`: the decisions of administrators.

use crate::target::{Common, Done, Where, report};
use clap::Args;
use kerolox_client::admin::{BrokerAdmin, wire};
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::{CommandReport, local_time, table};
use serde_json::json;

/// Show the decisions of administrators, newest first
#[derive(Debug, Args)]
pub(crate) struct AuditList {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    brokers: Where,
    /// Most entries of each broker
    #[arg(short = 'm', long = "max-num", alias = "maxNum", value_name = "COUNT", default_value_t = 100)]
    most: usize,
}

impl AuditList {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, brokers) = self.brokers.brokers(&self.common, None).await?;
        let mut done = Vec::new();
        for broker in brokers {
            let result = self.collect(&admin.broker(&broker.address)).await;
            done.push(Done { broker, result });
        }
        let row = |entry: &wire::AuditEntry| {
            vec![
                local_time(entry.at_ms),
                entry.by.clone(),
                entry.action.clone(),
                entry.object.clone(),
                entry.outcome.clone(),
                entry.reason.clone(),
            ]
        };
        let header = ["Time", "By", "Action", "Object", "Outcome", "Reason"];
        Ok(report(
            &done,
            |broker, entries| match entries.as_slice() {
                [] => format!("{}: nothing was decided by hand", broker.address),
                entries => format!("{}:\n{}", broker.address, table(&header, entries.iter().map(row))),
            },
            |entries| {
                let view = |entry: &wire::AuditEntry| {
                    json!({
                        "position": entry.position, "atMs": entry.at_ms, "by": entry.by,
                        "action": entry.action, "object": entry.object, "outcome": entry.outcome,
                        "reason": entry.reason,
                    })
                };
                json!({ "entries": entries.iter().map(view).collect::<Vec<_>>() })
            },
        ))
    }

    async fn collect(&self, admin: &BrokerAdmin) -> Result<Vec<wire::AuditEntry>> {
        let mut request = wire::ListAuditRequest::default();
        let mut found = Vec::new();
        loop {
            let page = admin.list_audit(request).await.map_err(CommandFailure::from)?;
            found.extend(page.entries);
            match page.next.filter(|_| found.len() < self.most) {
                Some(next) => request.before = next,
                None => break,
            }
        }
        found.truncate(self.most);
        Ok(found)
    }
}
