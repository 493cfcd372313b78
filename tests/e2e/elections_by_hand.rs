//! Nameservers that elect masters, by hand: `mqadmin` and health checks. The members of the broker group are played by the test.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kerolox_harness::{Cluster, ServerProcess};
use kerolox_proto::kerolox::ReportRequest;
use kerolox_proto::kerolox::controller_client::ControllerClient;
use serde_json::json;
use tonic::transport::Endpoint;

use crate::mqadmin::{failure, json, rows, table};
use crate::support::{PATIENCE, cluster_of, server};

/// A member that reports until the test ends, and promises what it is told. `true`: it falls silent.
/// Once `follows` is set, it names member 2 as its slave.
async fn member(
    nameservers: String,
    incarnation: &'static str,
    end: u64,
    (is_silent, follows): (Arc<AtomicBool>, Arc<AtomicBool>),
) {
    let mut request = ReportRequest {
        cluster: "C".into(),
        group: "g".into(),
        incarnation: incarnation.into(),
        process: incarnation.into(),
        host: incarnation.into(),
        port: 1,
        replication_address: format!("{incarnation}:2"),
        end,
        wait_ms: 200,
        ..ReportRequest::default()
    };
    loop {
        for address in nameservers.split(',') {
            if is_silent.load(Ordering::Relaxed) {
                return;
            }
            if follows.load(Ordering::Relaxed) {
                request.followers = vec![2];
            }
            let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
            let answer = ControllerClient::new(channel).report(request.clone()).await;
            if let Some(state) = answer.ok().and_then(|answer| answer.into_inner().state) {
                request.promised = state.epoch;
                request.last_epoch = 1;
                request.known_version = state.version;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Asks again until it is so.
async fn until(what: &str, mut check: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !check() {
        assert!(begin.elapsed() < PATIENCE, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn joining(servers: &mut Cluster, id: usize) -> String {
    let flags = ["--join", "--id", &id.to_string()];
    let mut nameserver: ServerProcess =
        server(&format!("nameserver-{id}"), "nameserver", servers.folder(), &flags);
    nameserver.start().unwrap();
    let address = nameserver.address().unwrap().to_owned();
    servers.nameservers.push(nameserver);
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn masters_are_seen_and_elected_by_hand() {
    let servers = cluster_of(1, &[], &[]);
    let ns = servers.access_points();
    assert_eq!(json(&format!("getSyncStateSet -n {ns}")), json!({ "brokers": [] }));
    assert_eq!(failure(&format!("getSyncStateSet -n {ns} -b g")).0, 4);
    assert_eq!(failure(&format!("electMaster -n {ns} -b g")).0, 4);

    let silent: [Arc<AtomicBool>; 2] = [Arc::default(), Arc::default()];
    let follows: Arc<AtomicBool> = Arc::default();
    tokio::spawn(member(ns.clone(), "one", 100, (Arc::clone(&silent[0]), Arc::clone(&follows))));
    let line = format!("getSyncStateSet -n {ns} -b g");
    let members = |count| {
        let line = line.clone();
        move || json(&line)["brokers"][0]["members"].as_array().is_some_and(|members| members.len() == count)
    };
    until("the first member is there", || {
        json(&format!("getSyncStateSet -n {ns}"))["brokers"]
            .as_array()
            .is_some_and(|groups| groups.len() == 1)
    })
    .await;
    tokio::spawn(member(ns.clone(), "two", 70, (Arc::clone(&silent[1]), Arc::default())));
    until("the second member is there", members(2)).await;

    let seen = table(&line);
    let rows = rows(&seen);
    assert_eq!(rows[0][..8], ["C", "g", "1", "1", "MASTER", "yes", "one:1", "one:2"], "{seen}");
    assert_eq!(rows[1][3..6], ["2", "SLAVE", "no"], "{seen}");
    let group = &json(&line)["brokers"][0];
    assert_eq!((&group["master"], &group["inSync"], &group["epoch"]), (&json!(1), &json!([1]), &json!(1)));
    assert_eq!(group["members"][1]["lag"], json!(30));

    let (code, text) = failure(&format!("electMaster -n {ns} -b g --member 2"));
    assert!(code == 1 && text.contains("not in the in-sync set {1}"), "{code} {text}");
    let (code, text) = failure(&format!("removeBrokerMember -n {ns} -b g --member 2"));
    assert!(code == 1 && text.contains("is there"), "{code} {text}");
    // One that has only reported is never elected.
    for words in ["--unclean", "--unclean --lose-messages"] {
        let (code, text) = failure(&format!("electMaster -n {ns} -b g --member 2 {words} --yes"));
        assert!(code == 1 && text.contains("has only reported"), "{code} {text}");
    }
    follows.store(true, Ordering::Relaxed);
    until("the master says that it follows", || {
        failure(&format!("electMaster -n {ns} -b g --member 2 --unclean --yes")).1.contains("--lose-messages")
    })
    .await;
    let (code, text) = failure(&format!("electMaster -n {ns} -b g --member 2 --unclean --yes"));
    assert!(
        code == 1 && text.contains("at least 30 bytes") && text.contains("member 1 up to 100"),
        "{code} {text}"
    );
    let elected = json(&format!("electMaster -n {ns} -b g --member 2 --unclean --lose-messages --yes"));
    let group = &elected["brokers"][0];
    assert_eq!((&group["master"], &group["inSync"], &group["epoch"]), (&json!(2), &json!([2]), &json!(2)));
    let loss = &elected["loss"];
    assert_eq!(
        (&loss["end"], &loss["bytes"], &loss["ahead"][0]["end"]),
        (&json!(70), &json!(30), &json!(100))
    );

    silent[0].store(true, Ordering::Relaxed);
    until("the silence is noticed", || {
        json(&line)["brokers"][0]["members"][0]["silentMs"].as_u64().is_some_and(|silent| silent > 2200)
    })
    .await;
    let removed = table(&format!("removeBrokerMember -n {ns} -b g --member 1"));
    assert!(removed.contains("member 1 of g is removed"), "{removed}");
    assert_eq!(failure(&format!("removeBrokerMember -n {ns} -b g --member 1")).0, 4);
    let (code, text) = failure(&format!("electMaster -n {ns} -b g"));
    assert!(code == 1 && text.contains("no member can take over"), "{code} {text}");
    silent[1].store(true, Ordering::Relaxed);
}

#[tokio::test(flavor = "multi_thread")]
async fn nameservers_are_added_and_missed_and_removed() {
    let mut servers = cluster_of(1, &[], &[]);
    let ns = servers.access_points();
    let alone = json(&format!("controllerStatus -n {ns}"));
    assert_eq!(
        alone["nameservers"],
        json!([{ "id": 1, "address": ns, "leads": true, "votes": true, "behind": 0 }])
    );
    let second = joining(&mut servers, 2);
    let waiting = servers.nameservers[1].probe("/readyz").unwrap();
    assert!(waiting.status == 200 && waiting.body.contains("controllerAdd"), "{waiting:?}");
    let third = joining(&mut servers, 3);
    table(&format!("controllerAdd -n {ns} --id 2 --address {second}"));
    let added = table(&format!("controllerAdd -n {ns} --id 3 --address {third}"));
    let roles: Vec<&str> = rows(&added).iter().map(|row| row[2]).collect();
    assert_eq!(roles, ["LEADER", "FOLLOWER", "FOLLOWER"], "{added}");
    for server in &servers.nameservers {
        assert_eq!(server.probe("/readyz").unwrap().status, 200);
    }

    for index in [0, 1] {
        servers.nameservers[index].kill().unwrap();
    }
    let left = &servers.nameservers[2];
    until("the loss is noticed", || left.probe("/readyz").unwrap().status == 503).await;
    until("who is missing is said", || {
        let told = left.probe("/readyz").unwrap().body;
        told.contains("2 of 3 do not answer") && told.contains("nameserver 1")
    })
    .await;
    assert_eq!(failure(&format!("getSyncStateSet -n {third}")).0, 6);
    let status = table(&format!("controllerStatus -n {third}"));
    assert!(status.contains("no leader is known to nameserver 3"), "{status}");

    servers.nameservers[0].start().unwrap();
    let all = format!("{ns},{third}");
    until("a majority is back", || {
        json(&format!("controllerStatus -n {all}"))["nameservers"]
            .as_array()
            .is_some_and(|nameservers| nameservers.iter().any(|nameserver| nameserver["leads"] == true))
    })
    .await;
    let line = format!("controllerRemove -n {all} --id 2");
    until("the dead one is taken out", || crate::mqadmin::mqadmin(&line).code == 0).await;
    assert_eq!(failure(&line).0, 4);
    let ids: Vec<_> = json(&format!("controllerStatus -n {all}"))["nameservers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|nameserver| nameserver["id"].clone())
        .collect();
    assert_eq!(ids, [1, 3]);
}
