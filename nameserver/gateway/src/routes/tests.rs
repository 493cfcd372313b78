use std::time::{Duration, Instant};

use kerolox_proto::kerolox::{
    BrokerInfo, BrokerRole, GroupSettings, RegisterRequest, TopicRoute, UnregisterRequest,
};
use kerolox_proto::v2::{self, Code, Permission};

use super::*;

const LEASE: Duration = Duration::from_secs(10);

fn topic(name: &str, read_queues: u32, write_queues: u32, perm: u32) -> TopicRoute {
    let message_types = vec![v2::MessageType::Normal.into()];
    TopicRoute { name: name.into(), read_queues, write_queues, perm, message_types, auto_created: false }
}

fn registration(group: &str, host: &str, topics: Vec<TopicRoute>) -> RegisterRequest {
    let broker = BrokerInfo {
        cluster: "c".into(),
        group: group.into(),
        id: 0,
        role: BrokerRole::Master.into(),
        host: host.into(),
        port: 8081,
        version: "0.1.0".into(),
        incarnation: "1".into(),
        auto_create_queues: 0,
        epoch: 0,
        withheld: 0,
        member: 0,
    };
    RegisterRequest { broker: Some(broker), topics, ..RegisterRequest::default() }
}

fn table_of(requests: impl IntoIterator<Item = RegisterRequest>, now: Instant) -> RouteTable {
    let mut table = RouteTable::new(LEASE, 100);
    for request in requests {
        table.register(request, None, now).unwrap();
    }
    table
}

fn resource(namespace: &str, name: &str) -> v2::Resource {
    v2::Resource { resource_namespace: namespace.into(), name: name.into() }
}

/// Broker name, queue id and permission of each queue.
fn summary(queues: &[v2::MessageQueue]) -> Vec<(String, i32, Permission)> {
    let name = |queue: &v2::MessageQueue| queue.broker.as_ref().unwrap().name.clone();
    queues.iter().map(|queue| (name(queue), queue.id, queue.permission())).collect()
}

fn queues(table: &RouteTable, topic: &v2::Resource, now: Instant) -> Result<Vec<v2::MessageQueue>, Refusal> {
    message_queues(&table.brokers(now), topic, None)
}

#[test]
fn queues_of_all_masters_are_listed_in_stable_order_with_all_fields() {
    let now = Instant::now();
    let b = registration("b", "10.0.0.2", vec![topic("ns%t", 2, 2, 6)]);
    let a = registration("a", "broker-a.example", vec![topic("ns%t", 1, 1, 6)]);
    let mut slave = registration("a", "10.0.0.9", vec![topic("ns%t", 4, 4, 6)]);
    slave.broker.as_mut().unwrap().id = 1;
    slave.broker.as_mut().unwrap().role = BrokerRole::Slave.into();
    let table = table_of([b, slave, a], now);
    let asked = resource("ns", "t");
    let found = queues(&table, &asked, now).unwrap();
    let rw = Permission::ReadWrite;
    assert_eq!(summary(&found), [("a".into(), 0, rw), ("b".into(), 0, rw), ("b".into(), 1, rw)]);
    for queue in &found {
        assert_eq!(queue.topic.as_ref(), Some(&asked));
        assert_eq!(queue.accept_message_types, [i32::from(v2::MessageType::Normal)]);
        assert_eq!(queue.broker.as_ref().unwrap().id, 0);
    }
    let endpoints = |i: usize| found[i].broker.clone().unwrap().endpoints.unwrap();
    assert_eq!(endpoints(0).scheme(), v2::AddressScheme::DomainName);
    assert_eq!(endpoints(1).scheme(), v2::AddressScheme::IPv4);
    assert_eq!(endpoints(1).addresses, [v2::Address { host: "10.0.0.2".into(), port: 8081 }]);
}

#[test]
fn broker_groups_take_turns_unless_order_depends_on_the_place_of_a_queue() {
    let now = Instant::now();
    let order = |kind: v2::MessageType| {
        let own = |queues| TopicRoute { message_types: vec![kind.into()], ..topic("t", queues, queues, 6) };
        let of = |group: &str, queues| registration(group, "10.0.0.1", vec![own(queues)]);
        let table = table_of([of("c", 1), of("b", 3), of("a", 2)], now);
        let found = summary(&queues(&table, &resource("", "t"), now).unwrap());
        found.into_iter().map(|(broker, id, _)| format!("{broker}{id}")).collect::<Vec<_>>().join(" ")
    };
    for kind in [v2::MessageType::Normal, v2::MessageType::Delay, v2::MessageType::Transaction] {
        assert_eq!(order(kind), "a0 b0 c0 a1 b1 b2", "{kind:?}");
    }
    for kind in [v2::MessageType::Fifo, v2::MessageType::Lite] {
        assert_eq!(order(kind), "a0 a1 b0 b1 b2 c0", "{kind:?}");
    }
}

#[test]
fn brokers_that_make_topics_are_shown_as_if_they_had_them() {
    let now = Instant::now();
    let auto = TopicRoute {
        message_types: vec![v2::MessageType::Fifo.into()],
        auto_created: true,
        ..topic("auto", 1, 1, 6)
    };
    let making = |group: &str, topics| {
        let mut request = registration(group, "10.0.0.1", topics);
        request.broker.as_mut().unwrap().auto_create_queues = 2;
        request
    };
    let a = making("a", vec![auto]);
    let (b, c) = (making("b", vec![]), registration("c", "10.0.0.3", vec![topic("own", 1, 1, 6)]));
    let mut elsewhere = making("d", vec![]);
    elsewhere.broker.as_mut().unwrap().cluster = "other".into();
    let table = table_of([a, b, c, elsewhere], now);
    let shown = |name: &str| {
        let found = queues(&table, &resource("ns", name), now).map_err(|refusal| refusal.code)?;
        let types = found[0].accept_message_types.len();
        Ok((summary(&found).into_iter().map(|(broker, ..)| broker).collect::<String>(), types))
    };
    assert_eq!(shown("new"), Ok(("aabbdd".to_owned(), 5)), "any type, until the first message says which");
    assert_eq!(shown("%DLQ%g"), Err(Code::TopicNotFound));
    let shown = |name: &str| {
        let found = queues(&table, &resource("", name), now).unwrap();
        let types: Vec<_> = found.iter().map(|queue| queue.accept_message_types.clone()).collect();
        (summary(&found).into_iter().map(|(broker, ..)| broker).collect::<String>(), types)
    };
    let fifo = vec![i32::from(v2::MessageType::Fifo)];
    assert_eq!(shown("auto"), ("abb".to_owned(), vec![fifo.clone(), fifo.clone(), fifo]), "in its cluster");
    assert_eq!(shown("own").0, "c", "it was made there");
}

#[test]
fn a_group_that_leaves_is_listed_for_consumers_until_it_hides() {
    let now = Instant::now();
    let shown = |withheld: u32, perm: u32| {
        let mut leaving = registration("a", "10.0.0.1", vec![topic("t", 1, 1, perm)]);
        leaving.broker.as_mut().unwrap().withheld = withheld;
        let table = table_of([leaving, registration("b", "10.0.0.2", vec![topic("t", 1, 1, 6)])], now);
        let brokers = table.brokers(now);
        let readable = assignments(&brokers, &resource("", "t"), None).unwrap().len();
        let writable = writable_groups(&brokers, Some(&resource("", "t"))).unwrap().concat();
        (summary(&queues(&table, &resource("", "t"), now).unwrap()), readable, writable)
    };
    let (read, both) = (("a".to_owned(), 0, Permission::Read), ("b".to_owned(), 0, Permission::ReadWrite));
    assert_eq!(shown(2, 4), (vec![read, both.clone()], 2, "b".to_owned()));
    assert_eq!(shown(6, 0), (vec![both.clone()], 1, "b".to_owned()));
    assert_eq!(shown(0, 4).0, [both], "a topic that is read-only by itself is not for producers to find");
}

#[test]
fn a_topic_that_a_group_without_a_master_may_have_is_not_said_to_be_missing() {
    let now = Instant::now();
    let refusal = |table: &RouteTable| queues(table, &resource("", "t"), now).unwrap_err();
    let empty = refusal(&RouteTable::new(LEASE, 0));
    assert_eq!(empty.code, Code::InternalServerError);
    let slave = table_of([member(1, "10.0.0.1", 0, vec![]), registration("b", "10.0.0.2", vec![])], now);
    let unruled = refusal(&slave);
    assert_eq!(unruled.code, Code::InternalServerError);
    assert!(unruled.message.contains("broker group a has no master"), "{unruled}");
    for refusal in [empty, unruled] {
        assert!(!refusal.message.contains("updateTopic") && refusal.is_of_unknown_topic(), "{refusal}");
    }
    let ruled = table_of([member(1, "10.0.0.1", 0, vec![]), member(0, "10.0.0.2", 4, vec![])], now);
    assert_eq!(refusal(&ruled).code, Code::TopicNotFound);
}

#[test]
fn unknown_and_illegal_topics_are_told_apart() {
    let now = Instant::now();
    let table = table_of([registration("a", "::1", vec![topic("t", 1, 1, 6)])], now);
    let code = |name: &str| queues(&table, &resource("", name), now).unwrap_err().code;
    assert_eq!(code("other"), Code::TopicNotFound);
    assert_eq!(code("bad name"), Code::IllegalTopic);
    assert_eq!(code(" "), Code::IllegalTopic);
    assert_eq!(
        assignments(&table.brokers(now), &resource("", "other"), None).unwrap_err().code,
        Code::TopicNotFound
    );
    // The namespace is part of the name: a topic of one is unknown in another.
    assert_eq!(queues(&table, &resource("ns", "t"), now).unwrap_err().code, Code::TopicNotFound);
    let found = queues(&table, &resource("", "t"), now).unwrap();
    assert_eq!(
        found[0].broker.as_ref().unwrap().endpoints.as_ref().unwrap().scheme(),
        v2::AddressScheme::IPv6
    );
}

#[test]
fn permissions_decide_what_is_listed() {
    let now = Instant::now();
    let asked = resource("", "t");
    let listed = |perms: &[(&str, u32, u32, u32)]| {
        let requests =
            perms.iter().map(|(group, r, w, perm)| registration(group, "h", vec![topic("t", *r, *w, *perm)]));
        let table = table_of(requests, now);
        let queues = queues(&table, &asked, now).map(|found| summary(&found)).map_err(|r| r.code);
        let assigned = assignments(&table.brokers(now), &asked, None).map(|list| {
            let queues: Vec<_> = list.into_iter().filter_map(|a| a.message_queue).collect();
            summary(&queues)
        });
        (queues, assigned.map_err(|r| r.code))
    };
    let (rw, r, w) = (Permission::ReadWrite, Permission::Read, Permission::Write);
    // Drained everywhere: readable queues stay listed.
    assert_eq!(listed(&[("a", 1, 1, 4)]), (Ok(vec![("a".into(), 0, r)]), Ok(vec![("a".into(), -1, r)])));
    // Drained on one broker only: producers must not see it, consumers are still assigned to it.
    assert_eq!(
        listed(&[("a", 1, 1, 4), ("b", 1, 1, 6)]),
        (Ok(vec![("b".into(), 0, rw)]), Ok(vec![("a".into(), -1, r), ("b".into(), -1, rw)]))
    );
    // Shrinking: the queues that can only be read are not offered to producers.
    assert_eq!(listed(&[("a", 2, 1, 6)]), (Ok(vec![("a".into(), 0, rw)]), Ok(vec![("a".into(), -1, rw)])));
    assert_eq!(listed(&[("a", 1, 1, 2)]), (Ok(vec![("a".into(), 0, w)]), Err(Code::Forbidden)));
    assert_eq!(listed(&[("a", 1, 1, 0)]), (Err(Code::Forbidden), Err(Code::Forbidden)));
}

#[test]
fn a_lease_ends_unless_it_is_refreshed() {
    let start = Instant::now();
    let a = || registration("a", "h", vec![topic("t", 1, 1, 6)]);
    let mut table = table_of([a(), registration("b", "h", vec![topic("t", 1, 1, 6)])], start);
    assert_eq!(table.register(a(), None, start + LEASE / 2), Ok(RouteChange::Nothing));
    let version = table.version();
    assert_eq!(table.expire(start + LEASE - Duration::from_millis(1)), []);
    let ended = table.expire(start + LEASE);
    assert_eq!(ended.iter().map(|member| member.group.as_str()).collect::<Vec<_>>(), ["b"]);
    assert!(table.version() > version);
    assert_eq!(table.snapshot(start + LEASE).brokers.len(), 1);
    assert_eq!(table.snapshot(start + LEASE).brokers[0].age_ms, 5000);
}

#[test]
fn another_incarnation_replaces_and_cannot_be_unregistered_by_the_old_one() {
    let now = Instant::now();
    let mut table = table_of([registration("a", "h", vec![])], now);
    let version = table.version();
    let mut restarted = registration("a", "h", vec![topic("t", 1, 1, 6)]);
    restarted.broker.as_mut().unwrap().incarnation = "2".into();
    assert_eq!(table.register(restarted, None, now), Ok(RouteChange::Restarted));
    assert!(table.version() > version);
    let leave = |incarnation: &str| UnregisterRequest {
        cluster: "c".into(),
        group: "a".into(),
        id: 0,
        incarnation: incarnation.into(),
    };
    assert!(!table.unregister(&leave("1")));
    assert!(table.unregister(&leave("2")));
    assert!(table.brokers(now).is_empty());
}

#[test]
fn an_empty_host_is_filled_in_and_a_wildcard_refused() {
    let now = Instant::now();
    let mut table = RouteTable::new(LEASE, 1);
    let peer = "::ffff:192.0.2.7".parse().unwrap();
    table.register(registration("a", "", vec![]), Some(peer), now).unwrap();
    let addresses: Vec<String> = table.brokers(now).values().map(|b| b.address().to_string()).collect();
    assert_eq!(addresses, ["192.0.2.7:8081"]);
    for host in ["0.0.0.0", "::", "[::]"] {
        let error = table.register(registration("b", host, vec![]), None, now).unwrap_err();
        assert!(matches!(error, RegistrationError::Unreachable { .. }), "{host}");
    }
    assert_eq!(table.register(RegisterRequest::default(), None, now), Err(RegistrationError::NoBroker));
    assert_eq!(
        table.register(registration(" ", "h", vec![]), None, now),
        Err(RegistrationError::Blank("group"))
    );
}

#[test]
fn a_broker_holds_copies_of_nameservers_beside_its_own_registration() {
    let start = Instant::now();
    let names = |table: &RouteTable, now| -> Vec<String> {
        table.brokers(now).values().map(|broker| broker.group().to_owned()).collect()
    };
    let first = table_of([registration("a", "h", vec![]), registration("b", "h", vec![])], start);
    let restarted = table_of([registration("c", "h", vec![])], start);
    let mut table = RouteTable::new(LEASE, 1);
    table.set_own(registration("own", "h", vec![])).unwrap();
    table.replace_copy("ns-1", first.snapshot(start), start);
    // A nameserver that has just started knows little; the other one still counts.
    table.replace_copy("ns-2", restarted.snapshot(start), start + LEASE / 2);
    assert_eq!(names(&table, start + LEASE / 2), ["a", "b", "c", "own"]);
    // The first is not heard of any more, so what it said lapses.
    assert_eq!(names(&table, start + LEASE), ["c", "own"]);
    // No broker is heard of: the newest copy stays.
    assert_eq!(names(&table, start + LEASE * 9), ["c", "own"]);
    table.confirm_copy("ns-1", start + LEASE * 9);
    assert_eq!(names(&table, start + LEASE * 9), ["a", "b", "own"]);
    // What others say of this broker itself is ignored.
    let mut stale = registration("own", "old-host", vec![]);
    stale.broker.as_mut().unwrap().incarnation = "0".into();
    table.replace_copy("ns-1", table_of([stale], start).snapshot(start), start + LEASE * 9);
    let brokers = table.brokers(start + LEASE * 9);
    let own = brokers.values().find(|broker| broker.group() == "own").unwrap();
    assert_eq!(own.address().host, "h");
}

fn member(id: u32, host: &str, epoch: u32, topics: Vec<TopicRoute>) -> RegisterRequest {
    let mut request = registration("a", host, topics);
    let broker = request.broker.as_mut().unwrap();
    let role = if id == 0 { BrokerRole::Master } else { BrokerRole::Slave };
    (broker.id, broker.role, broker.epoch, broker.incarnation) = (id, role.into(), epoch, host.to_owned());
    request
}

/// The hosts at which the topic's broker can be reached, in the order in which clients are told them.
fn hosts(table: &RouteTable, instead: Option<&v2::Endpoints>, now: Instant) -> Vec<String> {
    let found = message_queues(&table.brokers(now), &resource("", "t"), instead).unwrap();
    let assigned = assignments(&table.brokers(now), &resource("", "t"), instead).unwrap();
    let endpoints = found[0].broker.clone().unwrap().endpoints.unwrap();
    assert_eq!(assigned[0].message_queue.clone().unwrap().broker.unwrap().endpoints.unwrap(), endpoints);
    endpoints.addresses.into_iter().map(|address| address.host).collect()
}

#[test]
fn a_group_is_one_broker_with_the_addresses_of_all_members_master_first() {
    let now = Instant::now();
    let t = || vec![topic("t", 1, 1, 6)];
    let slaves = || [member(3, "10.0.0.3", 0, t()), member(1, "10.0.0.1", 0, vec![])];
    let replicated = || slaves().into_iter().chain([member(0, "10.0.0.2", 4, t())]);
    let mut table = table_of(replicated(), now);
    assert_eq!(hosts(&table, None, now), ["10.0.0.2", "10.0.0.1", "10.0.0.3"]);
    // Who can use only one address goes through the server that it asked.
    let asked = v2::Endpoints {
        scheme: v2::AddressScheme::DomainName.into(),
        addresses: vec![v2::Address { host: "ns".into(), port: 9876 }],
    };
    assert_eq!(hosts(&table, Some(&asked), now), ["ns"]);
    assert_eq!(hosts(&table_of([member(0, "10.0.0.2", 0, t())], now), Some(&asked), now), ["10.0.0.2"]);
    assert_eq!(hosts(&table, Some(&v2::Endpoints::default()), now).len(), 3);

    // An election: the master counts no more, and a slave that knows the topic speaks for the group.
    assert!(table.note_epoch("c", "a", 5));
    assert!(!table.note_epoch("c", "a", 4), "old news");
    assert_eq!(hosts(&table, None, now), ["10.0.0.1", "10.0.0.3"]);
    assert_eq!(
        writable_groups(&table.brokers(now), Some(&resource("", "t"))).map_err(|refusal| refusal.code),
        Ok(vec!["a".to_owned()])
    );
    table.register(member(0, "10.0.0.1", 5, t()), None, now).unwrap();
    assert_eq!(hosts(&table, None, now), ["10.0.0.1", "10.0.0.3"]);
}

#[test]
fn only_addresses_of_one_kind_are_named_together() {
    let now = Instant::now();
    let told = |master: &str, slave: &str| {
        let t = || vec![topic("t", 1, 1, 6)];
        hosts(&table_of([member(0, master, 1, t()), member(2, slave, 0, t())], now), None, now)
    };
    assert_eq!(told("10.0.0.1", "::1"), ["10.0.0.1"]);
    assert_eq!(told("::1", "::2"), ["::1", "::2"]);
    assert_eq!(told("a.example", "b.example"), ["a.example"], "SDKs refuse a second name");
    assert_eq!(told("10.0.0.1", "b.example"), ["10.0.0.1"]);
}

#[test]
fn a_copy_tells_consumer_groups_as_the_original_does() {
    let group =
        GroupSettings { name: "ns%g".into(), fifo: true, max_attempts: 5, ..GroupSettings::default() };
    let request =
        RegisterRequest { groups: vec![group.clone()], ..registration("a", "10.0.0.1", Vec::new()) };
    let (nameserver, slave) = (ClusterRoutes::new(LEASE), ClusterRoutes::new(LEASE));
    nameserver.register(request, None).unwrap();
    slave.replace_copy("ns-1", nameserver.snapshot());
    assert_eq!(slave.consumer_group("ns%g"), Some(group));
    assert_eq!(slave.consumer_group("ns%other"), None);
}

#[tokio::test]
async fn a_group_is_waited_for_until_a_broker_registered_and_no_longer() {
    let routes = ClusterRoutes::new(LEASE);
    let is_known = || routes.consumer_group("g").is_some();
    let registered = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let groups = vec![GroupSettings { name: "g".into(), ..GroupSettings::default() }];
        let request = RegisterRequest { groups, ..registration("a", "10.0.0.1", Vec::new()) };
        routes.register(request, None).unwrap();
    };
    tokio::join!(routes.until_known(is_known), registered);
    assert!(is_known());
    let begun = tokio::time::Instant::now();
    routes.until_known(|| false).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "all groups have a master, so nothing is on its way");
}

#[test]
fn a_group_that_has_long_been_without_a_master_is_not_waited_for() {
    const LATELY: Duration = Duration::from_secs(20);
    let now = Instant::now();
    let slave = |id, at| (member(id, "10.0.0.3", 0, vec![]), at);
    let mut table = RouteTable::new(LEASE, 0);
    let register = |table: &mut RouteTable, (request, at)| {
        table.register(request, None, at).unwrap();
        table.note_masters(at);
    };
    assert!(!table.is_electing(LATELY, now), "no member is there");
    register(&mut table, (member(0, "10.0.0.2", 4, vec![]), now));
    register(&mut table, slave(1, now));
    assert!(!table.is_electing(LATELY, now));

    // Only the slave is heard of any more.
    let mut at = now;
    while table.brokers(at).values().any(|broker| broker.is_master()) {
        at += LEASE / 3;
        register(&mut table, slave(1, at));
    }
    assert!(table.is_electing(LATELY, at));
    while at < now + LEASE + LATELY * 2 {
        at += LEASE / 3;
        register(&mut table, slave(1, at));
    }
    assert!(!table.is_electing(LATELY, at), "a master is not expected at any moment");

    // A master comes and goes again.
    register(&mut table, (member(0, "10.0.0.2", 5, vec![]), at));
    assert!(!table.is_electing(LATELY, at));
    table.note_epoch("c", "a", 6);
    assert!(table.is_electing(LATELY, at));
}

#[tokio::test]
async fn a_topic_of_which_only_the_master_heard_is_found_through_its_election() {
    let t = || vec![topic("t", 1, 1, 6)];
    let routes = ClusterRoutes::new(LEASE);
    let writable = || routes.through_election(|routes| routes.writable_groups(Some(&resource("", "t"))));
    routes.register(member(0, "10.0.0.2", 4, vec![]), None).unwrap();
    routes.register(member(1, "10.0.0.1", 0, vec![]), None).unwrap();
    let begun = Instant::now();
    assert_eq!(writable().await.unwrap_err().code, Code::TopicNotFound);
    assert!(begun.elapsed() < Duration::from_secs(1), "no election is under way");

    routes.note_epoch("c", "a", 5);
    let elected = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        routes.register(member(0, "10.0.0.1", 5, t()), None).unwrap();
    };
    let (found, ()) = tokio::join!(writable(), elected);
    assert_eq!(found.unwrap(), ["a"]);

    // The only member of a group begins another epoch, which it has yet to tell of.
    let alone = ClusterRoutes::new(LEASE);
    alone.register(member(0, "10.0.0.2", 4, t()), None).unwrap();
    alone.note_epoch("c", "a", 5);
    let again = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        alone.register(member(0, "10.0.0.2", 5, t()), None).unwrap();
    };
    let found = alone.through_election(|routes| routes.writable_groups(Some(&resource("", "t"))));
    assert_eq!(tokio::join!(found, again).0.unwrap(), ["a"]);
}
