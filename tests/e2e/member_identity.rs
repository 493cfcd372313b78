//! Who a member is when its process is killed before it has a log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kerolox_proto::kerolox::GroupState;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{
    GROUP, PATIENCE, broker, cluster_of, consume, create, eventually, in_sync, message, patient, state,
};

/// A proxy for one server that passes requests on, and answers only when it is told to.
struct MuteProxy {
    address: SocketAddr,
    is_mute: Arc<AtomicBool>,
}

impl MuteProxy {
    async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_mute = Arc::new(AtomicBool::new(true));
        let muted = Arc::clone(&is_mute);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server.clone(), Arc::clone(&muted)));
            }
        });
        Self { address, is_mute }
    }
}

/// Passes a connection on until either end closes it. What was withheld is not made up for, so a connection stays as it began.
async fn pass(client: TcpStream, server: String, is_mute: Arc<AtomicBool>) -> std::io::Result<()> {
    let server = TcpStream::connect(server).await?;
    let is_mute = is_mute.load(Ordering::Relaxed);
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let answers = async {
        let mut bytes = vec![0; 1 << 16];
        loop {
            match from_server.read(&mut bytes).await? {
                0 => return std::io::Result::Ok(()),
                _ if is_mute => {}
                read => to_client.write_all(&bytes[..read]).await?,
            }
        }
    };
    tokio::select! {
        passed = copy(&mut from_client, &mut to_server) => passed.map(drop),
        ended = answers => ended,
    }
}

/// The controller elects the first member of a group with its first report. Here the member is killed before it hears of that.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_killed_before_its_first_record_comes_back_as_itself() {
    let mut servers = cluster_of(1, &[], &[]);
    let proxy = MuteProxy::to(servers.access_points()).await;
    let nameserver = proxy.address.to_string();
    let mut member = broker(GROUP, servers.folder(), &["--nameserver", &nameserver]);
    member.begin().unwrap();
    let mut elected = GroupState::default();
    eventually("the member is elected and does not know it", PATIENCE, async || {
        elected = state(&servers).await;
        elected.master != 0
    })
    .await;
    member.kill().unwrap();
    let has_log = std::fs::read_dir(member.data().join("log")).is_ok_and(|files| files.count() > 0);
    assert!(!has_log, "it was not to hear that it leads");

    proxy.is_mute.store(false, Ordering::Relaxed);
    member.start().unwrap();
    servers.brokers.push(member);
    in_sync(&servers, 1).await;
    let again = state(&servers).await;
    assert_eq!(again.members.len(), 1, "it is the member that was elected: {:?}", again.members);
    assert_eq!(again.members[0].incarnation, elected.members[0].incarnation);
    create(&servers, "orders", "NORMAL").await;
    let producer = servers.client().producer().topic("orders").retry_policy(patient()).start().await.unwrap();
    producer.send(message("orders", "first")).await.unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["first"]);
}
