use std::sync::Arc;
use std::time::{Duration, Instant};

use kerolox_proto::v2::settings::PubSub;
use kerolox_proto::v2::{Publishing, Resource, Settings, TelemetryCommand};

use super::directory::Directory;
use super::*;

fn producer_of(topics: &[(&str, &str)]) -> Settings {
    let topics = topics
        .iter()
        .map(|(namespace, name)| Resource { resource_namespace: (*namespace).into(), name: (*name).into() });
    let publishing = Publishing { topics: topics.collect(), ..Publishing::default() };
    Settings { pub_sub: Some(PubSub::Publishing(publishing)), ..Settings::default() }
}

fn ids(handles: &[ClientHandle]) -> Vec<&str> {
    handles.iter().map(|handle| handle.client_id.as_str()).collect()
}

#[test]
fn producers_are_found_by_topic_and_take_turns() {
    let clients = Arc::new(ClientSessions::new(DEFAULT_EXPIRY));
    let mut streams = Vec::new();
    for client_id in ["p1", "p2"] {
        streams.push(clients.open_stream(client_id, None));
        clients.set_settings(client_id, producer_of(&[("", "t"), ("ns", "t")]));
    }
    clients.set_settings("no-stream", producer_of(&[("", "t")]));
    assert_eq!(ids(&clients.producers_of("t")), ["p1", "p2"]);
    assert_eq!(ids(&clients.producers_of("t")), ["p2", "p1"]);
    assert_eq!(clients.producers_of("ns%t").len(), 2);
    assert!(clients.producers_of("other").is_empty());
    // A producer that changes its topics is no longer asked about the old ones.
    clients.set_settings("p1", producer_of(&[("", "u")]));
    assert_eq!(ids(&clients.producers_of("t")), ["p2"]);
    assert_eq!(ids(&clients.producers_of("u")), ["p1"]);
    // The stream is gone: the session stays, but cannot be reached.
    drop(streams.pop());
    assert!(clients.producers_of("t").is_empty());
    assert!(clients.is_alive("p2"));
}

#[test]
fn commands_reach_any_open_stream_of_the_client_and_are_turned_down_without_one() {
    let clients = Arc::new(ClientSessions::new(DEFAULT_EXPIRY));
    let (old, mut old_commands) = clients.open_stream("p", None);
    let (new, mut new_commands) = clients.open_stream("p", None);
    clients.set_settings("p", producer_of(&[("", "t")]));
    let handle = clients.producers_of("t").remove(0);
    assert!(handle.try_send(TelemetryCommand::default()));
    assert!(new_commands.try_recv().is_ok() && old_commands.try_recv().is_err());
    drop((new, new_commands));
    assert!(handle.try_send(TelemetryCommand::default()));
    assert!(old_commands.try_recv().is_ok());
    drop((old, old_commands));
    assert!(!handle.try_send(TelemetryCommand::default()));
}

#[tokio::test]
async fn streams_of_terminated_clients_end_when_the_client_closes_its_half() {
    let clients = Arc::new(ClientSessions::new(DEFAULT_EXPIRY));
    let (lease, mut commands) = clients.open_stream("p", None);
    let requests = lease.request_side();
    clients.set_settings("p", producer_of(&[("", "t")]));
    assert!(clients.terminate("p") && !clients.terminate("p"));
    assert!(clients.producers_of("t").is_empty() && !clients.is_alive("p"));
    // Still open: the server does not end it first.
    assert!(requests.replies().is_some());
    drop(requests);
    assert!(commands.recv().await.is_none());

    // The other way round: closed first, then terminated.
    let (lease, mut commands) = clients.open_stream("p", None);
    drop(lease.request_side());
    assert!(commands.try_recv().is_err_and(|error| error == mpsc::error::TryRecvError::Empty));
    clients.terminate("p");
    assert!(commands.recv().await.is_none());
}

#[tokio::test]
async fn only_clients_that_know_other_members_are_sent_away() {
    let clients = Arc::new(ClientSessions::new(DEFAULT_EXPIRY));
    let (movable, mut commands) = clients.open_stream("p", None);
    let (_fixed, mut no_commands) = clients.open_stream("q", None);
    movable.note_members();
    assert_eq!(clients.send_away(), 1);
    let command = commands.recv().await.expect("a stream").expect("a command").command;
    assert!(
        matches!(command, Some(v2::telemetry_command::Command::ReconnectEndpointsCommand(_))),
        "{command:?}"
    );
    assert!(no_commands.try_recv().is_err());
    drop(movable);
    assert_eq!(clients.send_away(), 0);
}

#[tokio::test]
async fn shutdown_ends_all_streams() {
    let clients = Arc::new(ClientSessions::new(DEFAULT_EXPIRY));
    let (lease, mut commands) = clients.open_stream("p", None);
    let (_terminated, mut more_commands) = clients.open_stream("q", None);
    clients.terminate("q");
    clients.close_streams();
    assert!(commands.recv().await.is_none() && more_commands.recv().await.is_none());
    assert!(lease.request_side().replies().is_none());
}

#[test]
fn silent_clients_expire_unless_a_stream_is_open() {
    let (start, expiry) = (Instant::now(), Duration::from_secs(120));
    let mut directory = Directory::default();
    directory.touch("silent", start);
    directory.set_settings("silent", producer_of(&[("", "t")]), start);
    directory.touch("heartbeat", start + expiry / 2);
    let (sender, receiver) = mpsc::channel(1);
    directory.attach("stream", sender, None, start);
    assert!(directory.expire(expiry, start + expiry - Duration::from_millis(1)).is_empty());
    assert_eq!(directory.expire(expiry, start + expiry), ["silent"]);
    assert!(!directory.is_alive("silent", expiry, start + expiry));
    drop(receiver);
    let mut rest = directory.expire(expiry, start + expiry * 2);
    rest.sort();
    assert_eq!((rest, directory.len()), (vec!["heartbeat".into(), "stream".into()], 0));
}
