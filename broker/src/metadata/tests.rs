//! Changes of topics and lite topics against a real store in memory.

use std::sync::Arc;

use kerolox_core::group_change::GroupChange;
use kerolox_core::topic_change::TopicChange;
use kerolox_store::ProposeError;

use super::{BrokerMetadata, ChangeError, LiteError, MetadataChanges};
use crate::config::BrokerConfig;
use crate::log_client::{LogClient, LogRefusal};
use crate::tasks::retention::DiskSpace;
use crate::test_store::store_in_memory;

/// A broker's metadata, and the task that changes them, which does not run yet.
fn metadata() -> (BrokerMetadata, MetadataChanges, DiskSpace) {
    let store = store_in_memory(1 << 20, || 1_000);
    let space = DiskSpace::default();
    let log = LogClient::new(Arc::new(store), &BrokerConfig::default(), space.clone(), None);
    let (metadata, changes) = BrokerMetadata::new(log, 8);
    (metadata, changes, space)
}

fn topic(attribute: &str) -> TopicChange {
    TopicChange {
        name: "orders".to_owned(),
        attributes: vec![attribute.to_owned()],
        ..TopicChange::default()
    }
}

#[tokio::test]
async fn of_changes_that_come_together_none_is_lost() {
    let (metadata, changes, _) = metadata();
    let running = tokio::spawn(changes.run());
    let attributes = ["+flush=async", "+retention.time=12h", "+replicas=master", "+limits.max-delay=24h"];
    let wanted: Vec<TopicChange> = attributes.iter().map(|attribute| topic(attribute)).collect();
    let made = futures_util::future::join_all(wanted.iter().map(|change| metadata.put_topic(change))).await;
    let created = made.iter().filter(|made| made.as_ref().is_ok_and(|(_, is_new)| *is_new)).count();
    assert_eq!(created, 1, "one is first");
    let (found, is_new) = metadata.make_topic(&topic("+flush=sync")).await.expect("it is there");
    assert!(!is_new);
    assert_eq!(found.attributes.len(), attributes.len(), "{:?}", found.attributes);
    assert_eq!(found.attributes.get("flush").map(String::as_str), Some("async"), "it was left as it is");
    assert_eq!(*metadata.topics_version().borrow(), attributes.len() as u64);
    running.abort();
}

#[tokio::test]
async fn a_change_is_made_although_nobody_waits_for_it() {
    let (metadata, changes, _) = metadata();
    {
        let wanted = topic("+flush=async");
        let mut change = Box::pin(metadata.put_topic(&wanted));
        assert!(futures_util::poll!(&mut change).is_pending(), "it waits for its turn");
    }
    tokio::spawn(changes.run());
    let group = GroupChange { name: "billing".to_owned(), ..GroupChange::default() };
    assert!(metadata.put_group(&group).await.expect("made").1);
    let (present, _) = metadata.plan_topic(&topic("+flush=sync")).expect("it is legal");
    assert_eq!(present.expect("it came before the group").name, "orders");
    assert!(metadata.delete_topic("orders").await.expect("deleted"));
    assert!(!metadata.delete_topic("orders").await.expect("looked for"));
}

#[tokio::test]
async fn whoever_asks_when_the_task_has_ended_is_told_so() {
    let (metadata, changes, _) = metadata();
    let wanted = topic("+flush=async");
    let waiting = metadata.put_topic(&wanted);
    let ending = async { drop(changes) };
    let (waited, ()) = tokio::join!(waiting, ending);
    assert!(matches!(waited, Err(ChangeError::Log(LogRefusal(ProposeError::Closed)))), "{waited:?}");
    let late = metadata.delete_group("billing").await;
    assert!(matches!(late, Err(ChangeError::Log(LogRefusal(ProposeError::Closed)))), "{late:?}");
}

#[tokio::test]
async fn lite_topics_are_made_once_and_as_many_as_there_may_be() {
    let (metadata, changes, space) = metadata();
    tokio::spawn(changes.run());
    let parent = TopicChange {
        name: "rooms".to_owned(),
        attributes: vec!["+message.type=LITE".to_owned()],
        ..TopicChange::default()
    };
    let (parent, _) = metadata.put_topic(&parent).await.expect("made");
    let first = metadata.put_lites(&parent, &["one", "two"], 3).await.expect("made");
    let again = metadata.put_lites(&parent, &["two", "three"], 3).await.expect("made");
    assert_eq!(first[1], again[0]);
    assert!(again[1] != first[0] && again[1] != first[1]);
    let fourth = metadata.put_lites(&parent, &["one", "four"], 3).await;
    assert!(matches!(fourth, Err(LiteError::TooMany { count: 3, max: 3, .. })), "{fourth:?}");
    space.ran_out();
    assert_eq!(metadata.put_lites(&parent, &["one", "three"], 3).await.expect("both are there").len(), 2);
    let full = metadata.put_lites(&parent, &["four"], 9).await;
    assert!(
        matches!(full, Err(LiteError::Log(LogRefusal(ProposeError::NoRoom)))),
        "a disk without room takes none"
    );
}

#[tokio::test]
async fn only_permissions_are_withheld() {
    let (metadata, _changes, _) = metadata();
    assert!(matches!(metadata.withhold(1).await, Err(ChangeError::Invalid(_))));
    metadata.withhold(2).await.expect("withheld");
    assert!(metadata.withholds_writing());
    metadata.withhold(4).await.expect("withheld");
    assert!(!metadata.withholds_writing());
}
