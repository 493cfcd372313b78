//! Which servers a command talks to: `-n` nameservers, `-c` all masters of a cluster, `-b` one broker.

use crate::context::{Contexts, Profile};
use clap::Args;
use kerolox_client::admin::controller::ControllerClient;
use kerolox_client::admin::{Admin, Master, masters_of, wire};
use kerolox_client::{Address, Client};
use kerolox_report::outcome::{CommandFailure, ExitStatus, Result, combined};
use kerolox_report::output::{CommandReport, OutputFormat};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long a command waits for the first master to register: after a start there is none for a moment.
const FIRST_MASTER: Duration = Duration::from_secs(5);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(100);

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Nameservers, HOST:PORT, several separated by ';' or ','
    ///
    /// Without it those of --context count, then those in NAMESRV_ADDR, then those of the current context.
    #[arg(short = 'n', long = "namesrv-addr", alias = "namesrvAddr", value_name = "ADDRS")]
    namesrv_addr: Option<String>,
    /// Saved cluster to use, see `mqadmin context`
    #[arg(long, env = "MQADMIN_CONTEXT", value_name = "NAME")]
    context: Option<String>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t = OutputFormat::Table)]
    pub(crate) output: OutputFormat,
}

/// Name by which [`Repeat`] is found among the arguments of a command.
pub(crate) const REPEAT_ID: &str = "repeat";

/// The option of commands that may run again and again.
#[derive(Debug, Clone, Args)]
pub(crate) struct Repeat {
    /// Show it again and again, with a pause of so many seconds, until it is interrupted
    #[arg(short = 'i', long = "interval", id = REPEAT_ID, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    _seconds: Option<u64>,
}

/// The brokers that a change goes to: those of the context's cluster, or of the only one there is, unless some are named.
#[derive(Debug, Clone, Args)]
#[group(multiple = false)]
pub(crate) struct Target {
    /// All master brokers of this cluster [default: that of the context, else the only one there is]
    #[arg(short = 'c', long = "cluster-name", alias = "clusterName", value_name = "CLUSTER")]
    pub(crate) cluster: Option<String>,
    /// One broker, HOST:PORT; needs no nameserver
    #[arg(short = 'b', long = "broker-addr", alias = "brokerAddr", value_name = "BROKER_ADDR")]
    broker: Option<Address>,
}

/// Brokers of a command that all brokers are good for.
#[derive(Debug, Clone, Default, Args)]
#[group(multiple = false)]
pub(crate) struct Where {
    /// Only the master brokers of this cluster
    #[arg(
        short = 'c',
        long = "cluster-name",
        alias = "clusterName",
        alias = "cluster",
        value_name = "CLUSTER"
    )]
    cluster: Option<String>,
    /// Only this broker, HOST:PORT; needs no nameserver
    #[arg(
        short = 'b',
        long = "broker-addr",
        alias = "brokerAddr",
        alias = "broker",
        value_name = "BROKER_ADDR"
    )]
    broker: Option<Address>,
}

impl Where {
    /// A client of the broker that is named, or of the nameservers.
    pub(crate) fn client(&self, common: &Common) -> Result<Client> {
        match &self.broker {
            Some(address) => common.client_of(address),
            None => common.client(),
        }
    }

    /// Whether one broker is named by its address.
    pub(crate) fn is_one_broker(&self) -> bool {
        self.broker.is_some()
    }

    /// The brokers that have `topic`, or all of them without one.
    pub(crate) async fn brokers(&self, common: &Common, topic: Option<&str>) -> Result<(Admin, Vec<Master>)> {
        if let Some(address) = &self.broker {
            return Ok((common.client_of(address)?.admin(), vec![alone(address)]));
        }
        let client = common.client()?;
        let mut masters = match topic {
            Some(topic) => common.masters_with_topic(&client, topic).await?.1,
            None => masters_of(&common.started(&client).await?, None)?,
        };
        if let Some(cluster) = &self.cluster {
            masters.retain(|master| master.info.cluster == *cluster);
        }
        if masters.is_empty() {
            return Err(CommandFailure::not_found("no broker is registered that fits; see clusterList"));
        }
        Ok((client.admin(), masters))
    }
}

impl Common {
    /// A client of the nameservers.
    pub(crate) fn client(&self) -> Result<Client> {
        let (profile, addresses) = self.nameservers()?;
        profile.client(&addresses)
    }

    /// A client of one server.
    pub(crate) fn client_of(&self, address: &Address) -> Result<Client> {
        self.profile()?.client(&address.to_string())
    }

    /// The controller in the nameservers.
    pub(crate) fn controller(&self) -> Result<ControllerClient> {
        let (_, addresses) = self.nameserver_addresses()?;
        let addresses: Vec<String> = addresses.iter().map(Address::to_string).collect();
        ControllerClient::new(&addresses).map_err(|error| CommandFailure::usage(error.to_string()))
    }

    /// How servers are reached: the context that is named or current, or nothing special.
    pub(crate) fn profile(&self) -> Result<Profile> {
        let contexts = Contexts::load()?;
        let chosen = match &self.context {
            Some(name) => Some(contexts.get(name)?),
            None => contexts.current()?,
        };
        Ok(chosen.cloned().unwrap_or_default())
    }

    /// The addresses of the nameservers, and how they are reached.
    pub(crate) fn nameservers(&self) -> Result<(Profile, String)> {
        let profile = self.profile()?;
        let variable = std::env::var("NAMESRV_ADDR").ok();
        let saved = profile.namesrv_addr.clone();
        let (first, second) = if self.context.is_some() { (saved, variable) } else { (variable, saved) };
        let known = [self.namesrv_addr.clone(), first, second].into_iter().flatten();
        let given =
            known.map(|addresses| addresses.trim().to_owned()).find(|addresses| !addresses.is_empty());
        let addresses = given.ok_or_else(|| {
            CommandFailure::usage(
                "no nameserver given; pass -n HOST:PORT, set NAMESRV_ADDR, or save it: mqadmin context add NAME -n HOST:PORT",
            )
        })?;
        Ok((profile, addresses))
    }

    /// The addresses of the nameservers one by one, and how they are reached.
    pub(crate) fn nameserver_addresses(&self) -> Result<(Profile, Vec<Address>)> {
        let (profile, addresses) = self.nameservers()?;
        let given = addresses.split([';', ',']).map(str::trim).filter(|address| !address.is_empty());
        let parsed =
            given.map(|address| address.parse().map_err(|error| CommandFailure::usage(format!("{error}"))));
        Ok((profile, parsed.collect::<Result<_>>()?))
    }

    /// The cluster as the nameservers see it.
    pub(crate) async fn snapshot(&self, client: &Client) -> Result<wire::ClusterSnapshot> {
        let (_, addresses) = self.nameservers()?;
        client.admin().cluster().await.map_err(|error| {
            CommandFailure::from(error).during(format!("no nameserver answered (tried {addresses})"))
        })
    }

    /// The cluster once a master is registered. Like clients, it gives brokers that were just started a moment.
    async fn started(&self, client: &Client) -> Result<wire::ClusterSnapshot> {
        let begun = Instant::now();
        loop {
            let snapshot = self.snapshot(client).await?;
            if !masters_of(&snapshot, None)?.is_empty() || begun.elapsed() > FIRST_MASTER {
                return Ok(snapshot);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The masters of all clusters that have `topic`.
    ///
    /// A topic that no broker has is a [`kerolox_report::outcome::ExitStatus::NotFound`].
    pub(crate) async fn masters_with_topic(
        &self,
        client: &Client,
        topic: &str,
    ) -> Result<(wire::ClusterSnapshot, Vec<Master>)> {
        let mut snapshot = self.started(client).await?;
        snapshot.brokers.retain(|broker| broker.topics.iter().any(|known| known.name == topic));
        let masters = masters_of(&snapshot, None)?;
        if masters.is_empty() {
            return Err(CommandFailure::not_found(format!(
                "no broker has topic {topic}; list the topics with topicList or create it with updateTopic"
            )));
        }
        Ok((snapshot, masters))
    }
}

impl Target {
    /// The brokers, and the interface to them.
    pub(crate) async fn brokers(&self, common: &Common) -> Result<(Admin, Vec<Master>)> {
        match (&self.broker, &self.cluster) {
            (Some(address), _) => Ok((common.client_of(address)?.admin(), vec![alone(address)])),
            (None, given) => {
                let client = common.client()?;
                let snapshot = common.started(&client).await?;
                let cluster = match given.clone().or(common.profile()?.cluster) {
                    Some(cluster) => cluster,
                    None => only_cluster(&snapshot)?,
                };
                Ok((client.admin(), masters_of_cluster(&snapshot, &cluster)?))
            }
        }
    }

    /// "cluster [X]" or "broker [H:P]"; `brokers` are those of [`Self::brokers`].
    pub(crate) fn describe(&self, brokers: &[Master]) -> String {
        match (&self.broker, brokers.first()) {
            (Some(address), _) => format!("broker [{address}]"),
            (None, Some(master)) => format!("cluster [{}]", master.info.cluster),
            (None, None) => "no broker".to_owned(),
        }
    }
}

/// A broker of which only the address is known.
pub(crate) fn alone(address: &Address) -> Master {
    Master {
        address: address.clone(),
        info: wire::BrokerInfo { group: address.to_string(), ..Default::default() },
    }
}

fn clusters(snapshot: &wire::ClusterSnapshot) -> BTreeSet<&str> {
    snapshot.brokers.iter().filter_map(|b| b.broker.as_ref()).map(|info| info.cluster.as_str()).collect()
}

/// The cluster that is meant when none is named, which is to be the only one.
fn only_cluster(snapshot: &wire::ClusterSnapshot) -> Result<String> {
    let clusters = Vec::from_iter(clusters(snapshot));
    match clusters[..] {
        [] => Err(CommandFailure::not_found("no broker is registered; start one, or check -n")),
        [only] => Ok(only.to_owned()),
        _ => Err(CommandFailure::usage(format!(
            "there are several clusters: {}; name one with -c, or a broker with -b",
            clusters.join(", ")
        ))),
    }
}

fn masters_of_cluster(snapshot: &wire::ClusterSnapshot, cluster: &str) -> Result<Vec<Master>> {
    let masters = masters_of(snapshot, Some(cluster))?;
    if !masters.is_empty() {
        return Ok(masters);
    }
    let known = Vec::from_iter(clusters(snapshot)).join(", ");
    Err(CommandFailure::not_found(match known.as_str() {
        "" => format!("cluster {cluster} is unknown: no broker is registered; start one, or check -n"),
        known => format!("cluster {cluster} has no master broker; registered are the clusters: {known}"),
    }))
}

/// What one broker did.
pub(crate) struct Done<T> {
    pub(crate) broker: Master,
    pub(crate) result: Result<T>,
}

/// Sums up what several brokers did. `text` makes the lines of a broker that did it, `view` its JSON, which is merged into
/// the broker's entry.
pub(crate) fn report<T>(
    done: &[Done<T>],
    text: impl Fn(&Master, &T) -> String,
    view: impl Fn(&T) -> Value,
) -> CommandReport {
    let entry = |done: &Done<T>| {
        let mut entry = json!(BrokerEntry {
            broker: &done.broker.info.group,
            address: done.broker.address.to_string(),
            ok: done.result.is_ok(),
            error: done.result.as_ref().err().map(|failure| failure.message.as_str()),
        });
        if let (Ok(result), Value::Object(fields)) = (&done.result, &mut entry)
            && let Value::Object(more) = view(result)
        {
            fields.extend(more);
        }
        entry
    };
    let lines: Vec<String> =
        done.iter().filter_map(|d| d.result.as_ref().ok().map(|result| text(&d.broker, result))).collect();
    CommandReport {
        text: lines.join("\n"),
        json: json!({ "brokers": done.iter().map(entry).collect::<Vec<_>>() }),
        warnings: done.iter().filter_map(|d| d.result.as_ref().err().cloned()).collect(),
        exit: combined(done.iter().map(|d| d.result.as_ref().err())),
    }
}

/// Leaves out the brokers that never had the thing to be deleted, unless none had it.
pub(crate) fn without_absent<T>(done: Vec<Done<T>>) -> Vec<Done<T>> {
    let absent =
        |done: &Done<T>| done.result.as_ref().is_err_and(|failure| failure.exit == ExitStatus::NotFound);
    if done.iter().all(absent) { done } else { done.into_iter().filter(|done| !absent(done)).collect() }
}

#[derive(Serialize)]
struct BrokerEntry<'a> {
    broker: &'a str,
    address: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(port: u16, result: Result<u32>) -> Done<u32> {
        Done { broker: alone(&Address::new("h", port)), result }
    }

    #[test]
    fn partial_success_is_reported_as_such() {
        let report = report(
            &[done(1, Ok(7)), done(2, Err(CommandFailure::failed("disk full")))],
            |broker, n| format!("{} has {n}", broker.address),
            |n| json!({ "count": n }),
        );
        assert_eq!(report.exit, ExitStatus::Partial);
        assert_eq!(report.text, "h:1 has 7");
        assert_eq!(report.warnings.len(), 1);
        assert_eq!(
            report.json,
            json!({ "brokers": [
                { "broker": "h:1", "address": "h:1", "ok": true, "count": 7 },
                { "broker": "h:2", "address": "h:2", "ok": false, "error": "disk full" },
            ]})
        );
    }

    #[test]
    fn an_unknown_cluster_names_the_known_ones() {
        let info = wire::BrokerInfo { cluster: "DefaultCluster".into(), ..Default::default() };
        let registered = wire::RegisteredBroker { broker: Some(info), ..Default::default() };
        let snapshot = wire::ClusterSnapshot { version: 1, brokers: vec![registered] };
        let failure = masters_of_cluster(&snapshot, "Other").unwrap_err();
        assert_eq!(failure.exit, ExitStatus::NotFound);
        assert!(failure.message.contains("DefaultCluster"), "{}", failure.message);
        let failure = masters_of_cluster(&wire::ClusterSnapshot::default(), "Other").unwrap_err();
        assert!(failure.message.contains("no broker is registered"), "{}", failure.message);
    }

    #[test]
    fn the_only_cluster_needs_no_name() {
        let registered = |cluster: &str| wire::RegisteredBroker {
            broker: Some(wire::BrokerInfo { cluster: cluster.into(), ..Default::default() }),
            ..Default::default()
        };
        let of = |clusters: &[&str]| wire::ClusterSnapshot {
            version: 1,
            brokers: clusters.iter().map(|cluster| registered(cluster)).collect(),
        };
        assert_eq!(only_cluster(&of(&["a", "a"])).unwrap(), "a");
        assert_eq!(only_cluster(&of(&[])).unwrap_err().exit, ExitStatus::NotFound);
        let failure = only_cluster(&of(&["b", "a"])).unwrap_err();
        assert!(failure.exit == ExitStatus::Usage && failure.message.contains("a, b"), "{}", failure.message);
    }

    #[test]
    fn brokers_without_the_topic_do_not_spoil_a_deletion() {
        let done = |port, result| Done { broker: alone(&Address::new("h", port)), result };
        let kept = without_absent(vec![done(1, Ok(())), done(2, Err(CommandFailure::not_found("no topic")))]);
        assert_eq!(kept.len(), 1);
        let kept = without_absent(vec![done(2, Err::<(), _>(CommandFailure::not_found("no topic")))]);
        assert_eq!(kept.len(), 1, "when no broker had it, that is the answer");
    }
}
