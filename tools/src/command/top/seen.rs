//! A sight of the cluster at one moment, and the rates since the moment before.

use crate::command::lag;
use crate::command::servers;
use crate::target::Common;
use kerolox_client::admin::wire;
use kerolox_report::outcome::Result;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Instant;

/// A broker.
#[derive(Debug, Clone, Default)]
pub(super) struct Broker {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) state: String,
    pub(super) in_per_second: f64,
    pub(super) out_per_second: f64,
    pub(super) cpu_ms: u64,
    /// Use of one processor, in percent.
    pub(super) cpu_percent: f64,
    pub(super) resident_bytes: u64,
    pub(super) disk_free_percent: u64,
    pub(super) clients: u64,
    pub(super) undecided: u64,
    pub(super) scheduled: u64,
}

/// A topic on all brokers.
#[derive(Debug, Clone, Default)]
pub(super) struct Topic {
    pub(super) messages: u64,
    /// One past the newest messages of all queues, added up.
    pub(super) end: u64,
    pub(super) in_per_second: f64,
    pub(super) undecided: u64,
    pub(super) scheduled: u64,
}

/// A group in a topic.
#[derive(Debug, Clone, Default)]
pub(super) struct Group {
    pub(super) lag: u64,
    pub(super) in_flight: u64,
    pub(super) retrying: u64,
    pub(super) blocked: u64,
    /// Finished messages of all queues, added up.
    pub(super) done: u64,
    pub(super) out_per_second: f64,
}

/// Transactions of a topic.
#[derive(Debug, Clone, Default)]
pub(super) struct Transactions {
    pub(super) prepared: u64,
    pub(super) parked: u64,
}

/// One sight of the cluster.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    at: Instant,
    pub(super) brokers: Vec<Broker>,
    pub(super) topics: BTreeMap<String, Topic>,
    pub(super) groups: BTreeMap<(String, String), Group>,
    pub(super) transactions: BTreeMap<String, Transactions>,
}

impl Seen {
    pub(super) async fn look(common: &Common) -> Result<Self> {
        let (admin, all) = servers::all(common).await?;
        let mut seen = Self {
            at: Instant::now(),
            brokers: Vec::new(),
            topics: BTreeMap::new(),
            groups: BTreeMap::new(),
            transactions: BTreeMap::new(),
        };
        for server in all.iter().filter(|server| server.name.starts_with("broker")) {
            let asked = admin.broker(&server.address);
            let mut broker = Broker {
                name: server.name.trim_start_matches("broker ").to_owned(),
                address: server.address.to_string(),
                ..Default::default()
            };
            match asked.describe_server(wire::DescribeServerRequest::default()).await {
                Ok(said) => {
                    let failed = said.checks.iter().any(|check| check.state == "failed");
                    let warns = said.checks.iter().any(|check| check.state == "warning");
                    broker.state = if failed {
                        "FAILED"
                    } else if warns {
                        "WARNING"
                    } else {
                        "ok"
                    }
                    .to_owned();
                    broker.cpu_ms = said.cpu_ms;
                    broker.resident_bytes = said.resident_bytes;
                    broker.disk_free_percent =
                        said.disk_free_bytes.saturating_mul(100).checked_div(said.disk_bytes).unwrap_or(100);
                    broker.clients = said.clients;
                }
                Err(_) => "SILENT".clone_into(&mut broker.state),
            }
            // A slave answers that it is one.
            if let Ok(said) = asked.describe_broker(wire::DescribeBrokerRequest {}).await {
                broker.in_per_second = said.in_per_second;
                broker.out_per_second = said.out_per_second;
                broker.undecided = said.undecided_transactions;
                broker.scheduled = said.scheduled_messages;
            }
            seen.brokers.push(broker);
        }
        let masters = admin.masters(None).await?;
        for master in &masters {
            let asked = admin.broker(&master.address);
            for topic in asked.list_topics(wire::ListTopicsRequest {}).await?.topics {
                let request = wire::DescribeTopicRequest { name: topic.name.clone() };
                let Ok(said) = asked.describe_topic(request).await else { continue };
                let entry = seen.topics.entry(topic.name).or_default();
                for queue in &said.queues {
                    entry.messages += queue.max_offset - queue.min_offset;
                    entry.end += queue.max_offset;
                }
                entry.undecided += said.undecided_transactions;
                entry.scheduled += said.scheduled_messages;
            }
            let counts = asked.count_transactions(wire::CountTransactionsRequest::default()).await;
            for count in counts.map(|counts| counts.topics).unwrap_or_default() {
                let entry = seen.transactions.entry(count.topic).or_default();
                entry.prepared += count.prepared;
                entry.parked += count.parked;
            }
        }
        for queue in lag::queues(&admin, &masters, None).await? {
            let status = queue.status;
            let entry = seen.groups.entry((queue.group, status.topic)).or_default();
            entry.lag += status.lag;
            entry.in_flight += status.in_flight;
            entry.retrying += status.retrying;
            entry.blocked += status.blocked;
            entry.done += status.broker_offset.saturating_sub(status.lag);
        }
        Ok(seen)
    }

    /// This sight, with rates since an earlier one.
    pub(super) fn since(mut self, earlier: &Self) -> Self {
        let seconds = self.at.saturating_duration_since(earlier.at).as_secs_f64().max(0.001);
        #[allow(clippy::cast_precision_loss, reason = "rates are shown with few digits")]
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        for broker in &mut self.brokers {
            if let Some(before) = earlier.brokers.iter().find(|before| before.name == broker.name) {
                broker.cpu_percent = rate(broker.cpu_ms, before.cpu_ms) / 10.0;
            }
        }
        for (name, topic) in &mut self.topics {
            topic.in_per_second = earlier.topics.get(name).map_or(0.0, |before| rate(topic.end, before.end));
        }
        for (key, group) in &mut self.groups {
            group.out_per_second =
                earlier.groups.get(key).map_or(0.0, |before| rate(group.done, before.done));
        }
        self
    }

    pub(super) fn json(&self) -> Value {
        let broker = |broker: &Broker| {
            json!({
                "broker": broker.name, "address": broker.address, "state": broker.state, "inPerSecond": broker.in_per_second,
                "outPerSecond": broker.out_per_second, "cpuPercent": broker.cpu_percent, "residentBytes": broker.resident_bytes,
                "diskFreePercent": broker.disk_free_percent, "clients": broker.clients, "undecided": broker.undecided,
                "scheduled": broker.scheduled,
            })
        };
        let topic = |(name, topic): (&String, &Topic)| {
            json!({
                "topic": name, "messages": topic.messages, "inPerSecond": topic.in_per_second, "undecided": topic.undecided,
                "scheduled": topic.scheduled,
            })
        };
        let group = |((name, topic), group): (&(String, String), &Group)| {
            json!({
                "group": name, "topic": topic, "lag": group.lag, "inFlight": group.in_flight, "retrying": group.retrying,
                "blocked": group.blocked, "outPerSecond": group.out_per_second,
            })
        };
        let transactions = |(topic, count): (&String, &Transactions)| json!({ "topic": topic, "prepared": count.prepared, "parked": count.parked });
        json!({
            "brokers": self.brokers.iter().map(broker).collect::<Vec<_>>(),
            "topics": self.topics.iter().map(topic).collect::<Vec<_>>(),
            "groups": self.groups.iter().map(group).collect::<Vec<_>>(),
            "transactions": self.transactions.iter().map(transactions).collect::<Vec<_>>(),
        })
    }

    /// Nothing yet, for tests.
    #[cfg(test)]
    pub(super) fn nothing() -> Self {
        Self {
            at: Instant::now(),
            brokers: Vec::new(),
            topics: BTreeMap::new(),
            groups: BTreeMap::new(),
            transactions: BTreeMap::new(),
        }
    }

    /// This sight some time later, for tests.
    #[cfg(test)]
    pub(super) fn later(mut self, by: std::time::Duration) -> Self {
        self.at += by;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn rates_are_what_was_added_in_between() {
        let mut first = Seen::nothing();
        first.topics.insert("t".into(), Topic { end: 100, ..Default::default() });
        first.groups.insert(("g".into(), "t".into()), Group { done: 50, ..Default::default() });
        let mut second = first.clone().later(Duration::from_secs(2));
        second.topics.get_mut("t").unwrap().end = 300;
        second.groups.get_mut(&("g".to_owned(), "t".to_owned())).unwrap().done = 150;
        second.topics.insert("new".into(), Topic { end: 9, ..Default::default() });
        let seen = second.since(&first);
        let rate = |name: &str| seen.topics[name].in_per_second.round();
        assert!((rate("t") - 100.0).abs() < 1.0 && rate("new").abs() < 1.0);
        assert!((seen.groups.values().next().unwrap().out_per_second - 50.0).abs() < 1.0);
    }
}
