//! The controller with real processes: nameservers that decide together, lose members of theirs and get them back.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use kerolox_client::admin::controller::ControllerClient;
use kerolox_proto::errors::RpcError;
use kerolox_proto::kerolox::{
    AddNameserverRequest, ChangeInSyncRequest, DescribeGroupsRequest, DescribeQuorumRequest,
    DescribeQuorumResponse, ElectMasterRequest, ErrorKind, GroupState, HandOverRequest, RemoveMemberRequest,
    RemoveNameserverRequest, ReportRequest, ReportResponse, ResetGroupRequest, StateMark,
};
use support::process::{Process, program, start};
use support::{PATIENCE, eventually};
use tempfile::TempDir;
use tonic::{Code, Status};

/// A nameserver that can be killed and started again.
struct Node {
    id: u64,
    address: String,
    flags: Vec<String>,
    data: TempDir,
    process: Option<Process>,
}

impl Node {
    fn new(id: u64, address: &str, flags: &[&str]) -> Self {
        let own = ["--listen", address, "--id", &id.to_string()].map(str::to_owned);
        let flags = own.into_iter().chain(flags.iter().map(ToString::to_string)).collect();
        let mut node = Self {
            id,
            address: address.to_owned(),
            flags,
            data: tempfile::tempdir().unwrap(),
            process: None,
        };
        node.start();
        node
    }

    fn start(&mut self) {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        self.process = Some(start(self.data.path(), &flags).0);
    }

    /// With `kill -9`.
    fn kill(&mut self) {
        self.process = None;
    }

    fn client(&self) -> ControllerClient {
        ControllerClient::new(std::slice::from_ref(&self.address)).unwrap()
    }
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn three() -> Vec<Node> {
    let addresses: Vec<String> = (0..3).map(|_| free_address()).collect();
    let peers = addresses.join(",");
    (1..).zip(&addresses).map(|(id, address)| Node::new(id, address, &["--peers", &peers])).collect()
}

/// A client of all of them, or of those that are to be asked.
fn client(nodes: &[Node]) -> ControllerClient {
    let addresses: Vec<String> = nodes.iter().map(|node| node.address.clone()).collect();
    ControllerClient::new(&addresses).unwrap()
}

/// What a broker would say of itself.
fn report(incarnation: &str) -> ReportRequest {
    ReportRequest {
        cluster: "c".into(),
        group: "g".into(),
        incarnation: incarnation.into(),
        process: format!("{incarnation}-process"),
        host: "127.0.0.1".into(),
        port: 1,
        replication_address: "127.0.0.1:2".into(),
        ..ReportRequest::default()
    }
}

/// Reports until a nameserver takes it.
async fn reported(client: &ControllerClient, request: ReportRequest) -> ReportResponse {
    let begin = Instant::now();
    loop {
        match client.report(request.clone()).await {
            Ok(answer) => return answer,
            Err(status) if begin.elapsed() > PATIENCE => panic!("no report is taken: {status:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn state(client: &ControllerClient) -> GroupState {
    lasting(reported(client, report("first")).await.state.expect("version 0 is never current"))
}

/// What outlives a change of the leading nameserver: each leads under a number of its own.
fn lasting(state: GroupState) -> GroupState {
    assert!(!state.tenure.is_empty(), "{state:?}");
    GroupState { tenure: String::new(), origins: Vec::new(), ..state }
}

async fn quorum(client: &ControllerClient) -> Result<DescribeQuorumResponse, Status> {
    client.describe_quorum(DescribeQuorumRequest {}).await
}

/// Waits until one of these leads, and says which.
async fn leader(nodes: &[Node]) -> usize {
    let begin = Instant::now();
    loop {
        for node in nodes.iter().filter(|node| node.process.is_some()) {
            let Ok(answer) = quorum(&node.client()).await else { continue };
            let leader = answer.members.iter().find(|member| member.leads && answer.answered_by == member.id);
            let alive = |id| nodes.iter().position(|node| node.id == id && node.process.is_some());
            if let Some(index) = leader.and_then(|member| alive(member.id)) {
                return index;
            }
        }
        assert!(begin.elapsed() < PATIENCE, "no nameserver leads");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The answer of a call that is made again while the nameservers have no leader, which on a busy machine may be at any moment.
async fn decided<T>(mut call: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Status> {
    let began = Instant::now();
    loop {
        match call().await {
            Err(status) if status.code() == Code::Unavailable && began.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            answer => return answer,
        }
    }
}

/// Why a service refused a call.
fn kind(status: &Status) -> Option<ErrorKind> {
    RpcError::read(status).map(|refusal| refusal.kind)
}

/// A group of two with both in sync, as its master sees it.
async fn group_of_two(client: &ControllerClient) -> GroupState {
    let first = state(client).await;
    assert_eq!((first.epoch, first.master, first.in_sync.as_slice()), (1, 1, &[1][..]));
    assert_eq!(reported(client, report("second")).await.id, 2);
    let version = state(client).await.version;
    let change = ChangeInSyncRequest {
        cluster: "c".into(),
        group: "g".into(),
        epoch: 1,
        member: 1,
        version,
        in_sync: vec![1, 2],
        quorum: false,
    };
    let changed = decided(async || client.change_in_sync(change.clone()).await).await.unwrap().state.unwrap();
    assert_eq!((changed.in_sync.as_slice(), changed.version), (&[1, 2][..], version + 1));
    let again = decided(async || client.change_in_sync(change.clone()).await).await;
    assert_eq!(kind(&again.unwrap_err()), Some(ErrorKind::Stale));
    lasting(changed)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_nameserver_decides_at_once_and_keeps_what_it_decided() {
    let data = tempfile::tempdir().unwrap();
    let mut known = None;
    for round in 0..3 {
        let begin = Instant::now();
        let (mut process, address) = start(data.path(), &[]);
        let client = ControllerClient::new(std::slice::from_ref(&address)).unwrap();
        let state = lasting(client.report(report("first")).await.unwrap().state.unwrap());
        println!("start {round}: a report was answered after {:?}", begin.elapsed());
        assert_eq!(*known.get_or_insert_with(|| state.clone()), state);
        let members = quorum(&client).await.unwrap().members;
        assert_eq!(
            (members.len(), members[0].address.as_str(), members[0].leads),
            (1, address.as_str(), true)
        );
        if round == 1 {
            let pid = process.0.id().to_string();
            assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
            assert!(process.0.wait().unwrap().success());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_nameserver_leads_when_the_leader_is_killed() {
    let mut nodes = three();
    let client = client(&nodes);
    let before = group_of_two(&client).await;
    let killed = leader(&nodes).await;
    nodes[killed].kill();
    let begin = Instant::now();
    let next = leader(&nodes).await;
    println!("another nameserver led after {:?}", begin.elapsed());
    assert_ne!(next, killed);
    assert_eq!(state(&client).await, before);
    println!("a report was answered after {:?}", begin.elapsed());
    // Each of the others takes calls, the leader or not.
    for node in nodes.iter().filter(|node| node.process.is_some()) {
        assert_eq!(state(&node.client()).await, before);
    }
    nodes[killed].start();
    eventually("the one that was killed follows", async || {
        let answer = quorum(&nodes[next].client()).await.unwrap();
        answer.members.iter().all(|member| member.behind == Some(0))
    })
    .await;
    assert_eq!(state(&nodes[killed].client()).await, before);
}

/// The leader's own word, and the same one passed on by the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_why_at_every_nameserver() {
    let nodes = three();
    let known = group_of_two(&client(&nodes)).await;
    for client in nodes.iter().map(Node::client) {
        let unknown = ElectMasterRequest { cluster: "c".into(), group: "x".into(), ..Default::default() };
        let refused = decided(async || client.elect_master(unknown.clone()).await).await;
        assert_eq!(kind(&refused.unwrap_err()), Some(ErrorKind::NotFound));
        let old = ChangeInSyncRequest {
            cluster: "c".into(),
            group: "g".into(),
            epoch: known.epoch,
            member: known.master,
            version: known.version - 1,
            in_sync: known.in_sync.clone(),
            quorum: false,
        };
        let refused = decided(async || client.change_in_sync(old.clone()).await).await;
        assert_eq!(kind(&refused.unwrap_err()), Some(ErrorKind::Stale));
        let no_master =
            HandOverRequest { cluster: "c".into(), group: "g".into(), member: 2, ..Default::default() };
        let refused = decided(async || client.hand_over(no_master.clone()).await).await;
        assert_eq!(kind(&refused.unwrap_err()), Some(ErrorKind::NotAllowed));
        let unsure = ResetGroupRequest { cluster: "c".into(), group: "g".into(), ..Default::default() };
        let refused = decided(async || client.reset_group(unsure.clone()).await).await;
        assert_eq!(kind(&refused.unwrap_err()), Some(ErrorKind::Invalid));
        let mark = Some(StateMark { cluster_id: "of other nameservers".into(), ..Default::default() });
        let stranger = ReportRequest { mark, ..report("stranger") };
        let refused = decided(async || client.report(stranger.clone()).await).await;
        assert_eq!(kind(&refused.unwrap_err()), Some(ErrorKind::Foreign));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_decides_nothing_and_heals() {
    let mut nodes = three();
    let client = client(&nodes);
    let before = group_of_two(&client).await;
    let left = leader(&nodes).await;
    for index in (0..3).filter(|index| *index != left) {
        nodes[index].kill();
    }
    let lonely = nodes[left].client();
    for request in [report("first"), report("third")] {
        let refused = lonely.report(request).await.unwrap_err();
        assert!(matches!(refused.code(), Code::Unavailable | Code::DeadlineExceeded), "{refused:?}");
    }
    assert!(lonely.describe_groups(DescribeGroupsRequest::default()).await.is_err());
    // Who decides is told all the same.
    assert_eq!(quorum(&lonely).await.unwrap().members.len(), 3);
    for index in (0..3).filter(|index| *index != left) {
        nodes[index].start();
    }
    let after = state(&client).await;
    let same = |state: &GroupState| (state.epoch, state.master, state.in_sync.clone());
    assert_eq!(same(&after), same(&before));

    for node in &mut nodes {
        node.kill();
    }
    for node in &mut nodes {
        node.start();
    }
    assert_eq!(state(&client).await, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn nameservers_come_and_go() {
    let mut nodes = three();
    let all = client(&nodes);
    let before = group_of_two(&all).await;
    let add = |id, address: &str| AddNameserverRequest { id, address: address.to_owned() };
    let alone = free_address();
    let absent = decided(async || all.add_nameserver(add(4, &alone)).await).await.unwrap_err();
    assert!(absent.message().contains("--join --id 4"), "{absent:?}");
    let stranger = Node::new(4, &alone, &[]);
    let refused = decided(async || all.add_nameserver(add(4, &alone)).await).await.unwrap_err();
    assert!(refused.message().contains("already decides"), "{refused:?}");
    drop(stranger);

    nodes.push(Node::new(4, &free_address(), &["--join"]));
    let refused = nodes[3].client().report(report("first")).await.unwrap_err();
    assert!(refused.message().contains("controllerAdd"), "{refused:?}");
    let refused = decided(async || all.add_nameserver(add(5, &nodes[3].address)).await).await.unwrap_err();
    assert!(refused.message().contains("has the id 4"), "{refused:?}");
    decided(async || all.add_nameserver(add(4, &nodes[3].address)).await).await.unwrap();
    decided(async || all.add_nameserver(add(4, &nodes[3].address)).await).await.unwrap();
    let members = quorum(&all).await.unwrap().members;
    assert_eq!(members.iter().filter(|member| member.votes).count(), 4);

    // Two of four are no majority, so the new one is needed when one of the first is gone.
    let gone = leader(&nodes).await;
    nodes[gone].kill();
    let rest: Vec<u64> = nodes.iter().map(|node| node.id).filter(|id| *id != nodes[gone].id).collect();
    leader(&nodes).await;
    assert_eq!(state(&nodes[3].client()).await, before);
    let id = nodes[gone].id;
    decided(async || all.remove_nameserver(RemoveNameserverRequest { id }).await).await.unwrap();
    let left: Vec<u64> = quorum(&all).await.unwrap().members.iter().map(|member| member.id).collect();
    assert_eq!(left, rest);
    let gone_already = decided(async || all.remove_nameserver(RemoveNameserverRequest { id }).await).await;
    assert_eq!(kind(&gone_already.unwrap_err()), Some(ErrorKind::NotFound));

    // One of three is dead: of the two that would remain without a live one, one is no majority.
    let leads = leader(&nodes).await;
    let dead = (0..4).find(|index| *index != gone && *index != leads).unwrap();
    nodes[dead].kill();
    let live = (0..4).find(|index| ![gone, leads, dead].contains(index)).unwrap();
    let remove = RemoveNameserverRequest { id: nodes[live].id };
    // At once: the last sign of life of the dead one is some milliseconds old.
    let refused = nodes[leads].client().remove_nameserver(remove).await.unwrap_err();
    assert!(refused.message().contains("no majority"), "{refused:?}");
    assert_eq!(state(&nodes[leads].client()).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn masters_are_elected_while_members_report() {
    let data = tempfile::tempdir().unwrap();
    let (_process, address) = start(data.path(), &[]);
    let client = ControllerClient::new(std::slice::from_ref(&address)).unwrap();
    let before = group_of_two(&client).await;
    let group = || ("c".to_owned(), "g".to_owned());

    // A poll without news waits; one that hears of a change does not.
    let known = |version| ReportRequest { known_version: version, wait_ms: 300, ..report("second") };
    let begin = Instant::now();
    let quiet = client.report(known(before.version)).await.unwrap();
    assert!(quiet.state.is_none() && begin.elapsed() >= Duration::from_millis(300), "{quiet:?}");
    let waiting = tokio::spawn({
        let client = ControllerClient::new(&[address]).unwrap();
        let request = ReportRequest { wait_ms: 5000, ..known(before.version) };
        async move { client.report(request).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (cluster, name) = group();
    let hand_over = HandOverRequest { cluster, group: name, epoch: 1, member: 1, to: 2 };
    let begun = client.hand_over(hand_over).await.unwrap().state.unwrap();
    assert_eq!((begun.epoch, begun.master, begun.released), (2, 0, true));
    let heard = waiting.await.unwrap().unwrap().state.expect("news");
    assert_eq!(heard.version, begun.version);

    // Both promise the epoch; the one that was wished for wins.
    let promised = |incarnation| ReportRequest { promised: 2, ..report(incarnation) };
    client.report(promised("first")).await.unwrap();
    let mut elected = client.report(promised("second")).await.unwrap().state.unwrap();
    let begin = Instant::now();
    while elected.master == 0 && begin.elapsed() < PATIENCE {
        elected = client.report(promised("second")).await.unwrap().state.unwrap();
    }
    assert_eq!((elected.epoch, elected.master, elected.released), (2, 2, true));
    assert_eq!(
        (elected.master_process.as_str(), elected.in_sync.as_slice()),
        ("second-process", &[1, 2][..])
    );

    // The master falls silent while the other one reports.
    let begin = Instant::now();
    let mut state = elected;
    while state.master != 1 {
        assert!(begin.elapsed() < PATIENCE, "{state:?}");
        let request = ReportRequest {
            promised: state.epoch,
            wait_ms: 300,
            known_version: state.version,
            ..report("first")
        };
        if let Some(news) = client.report(request).await.unwrap().state {
            state = news;
        }
    }
    println!("a silent master was replaced after {:?}", begin.elapsed());
    assert_eq!((state.epoch, state.in_sync.as_slice(), state.released), (3, &[1][..], false));

    let (cluster, name) = group();
    client.remove_member(RemoveMemberRequest { cluster, group: name, member: 2 }).await.unwrap();
    let described = client.describe_groups(DescribeGroupsRequest::default()).await.unwrap().groups;
    let state = described[0].state.as_ref().unwrap();
    assert_eq!((described.len(), state.members.len(), described[0].health[0].id), (1, 1, 1));
    assert!(described[0].health[0].silent_ms.is_some() && described[0].waiting_for.is_empty());
}

#[test]
fn a_nameserver_that_cannot_decide_does_not_start() {
    let data = tempfile::tempdir().unwrap();
    drop(start(data.path(), &[]));
    let refused = |flags: &[&str]| {
        let output = program()
            .args(["--listen", "127.0.0.1:0", "--health-listen", "off", "--data"])
            .arg(data.path())
            .args(flags)
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = refused(&["--id", "2"]);
    assert!(text.contains("belongs to nameserver 1"), "{text}");
    let text = refused(&["--peers", "2=127.0.0.1:1,3=127.0.0.1:2"]);
    assert!(text.contains("lists no nameserver with the id 1"), "{text}");
    std::fs::write(data.path().join("controller.redb"), b"no database").unwrap();
    let text = refused(&[]);
    assert!(text.contains("cannot open") && text.contains("controller.redb"), "{text}");
}
