use std::sync::atomic::AtomicBool;

use kerolox_gateway::sdk::SdkCall as _;
use kerolox_proto::v2::{self, messaging_service_server};
use kerolox_proto::{call_path, raw};
use tokio::time::sleep;

use super::*;

fn call(
    door: &AdmissionGate,
    path: &str,
) -> tokio::task::JoinHandle<Result<http::Response<Body>, Infallible>> {
    let request = http::Request::builder().uri(path).body(Body::empty());
    tokio::spawn(door.clone().call(request.expect("a request")))
}

const LEADS: MemberRole = MemberRole::Leader { epoch: 3 };
const RESIGNS: MemberRole = MemberRole::Resigning { epoch: 3 };

/// A closed gate, and the sender of its role.
fn closed(role: MemberRole) -> (AdmissionGate, watch::Sender<MemberRole>) {
    let role = watch::Sender::new(role);
    (AdmissionGate::closed(Arc::default(), StoreCell::default(), Some(role.subscribe()), None), role)
}

/// A service that takes this long, and whether it has answered a call.
fn service(takes: Duration) -> (Routes, Arc<AtomicBool>) {
    let answered = Arc::new(AtomicBool::new(false));
    let told = answered.clone();
    let service = move || async move {
        sleep(takes).await;
        told.store(true, Ordering::SeqCst);
        http::Response::new(Body::empty())
    };
    (Routes::from(AxumRouter::new().fallback(service)), answered)
}

/// The open gate of a leader whose service takes this long, and whether it has answered a call.
fn open(takes: Duration) -> (AdmissionGate, watch::Sender<MemberRole>, Arc<AtomicBool>) {
    let (door, role) = closed(LEADS);
    let (services, answered) = service(takes);
    door.lead(services);
    (door, role, answered)
}

#[tokio::test]
async fn calls_are_let_in_to_where_the_role_says() {
    let (door, role, led) = open(Duration::ZERO);
    let (services, passed_on) = service(Duration::ZERO);
    door.follow(services);
    let answered = async || {
        call(&door, "/some.Service/Call").await.expect("no panic").expect("infallible");
        (led.swap(false, Ordering::SeqCst), passed_on.swap(false, Ordering::SeqCst))
    };
    assert_eq!(answered().await, (true, false));
    for elsewhere in [
        MemberRole::Waiting,
        MemberRole::Follower { epoch: 4, leader: 2 },
        MemberRole::Candidate { epoch: 5 },
    ] {
        role.send_replace(elsewhere);
        assert_eq!(answered().await, (false, true));
    }
    // The next leadership has not begun to serve.
    door.stop_leading();
    role.send_replace(MemberRole::Leader { epoch: 5 });
    let held = call(&door, "/some.Service/Call");
    sleep(Duration::from_millis(50)).await;
    assert!(!held.is_finished());
    role.send_replace(MemberRole::Waiting);
    held.await.expect("no panic").expect("infallible");
    assert!(passed_on.load(Ordering::SeqCst));
}

#[tokio::test]
async fn who_is_inside_is_waited_for_and_the_others_wait_until_it_opens_again() {
    let (door, role, answered) = open(Duration::from_millis(100));
    let inside = call(&door, "/some.Service/Call");
    role.send_replace(RESIGNS);
    let held = call(&door, "/some.Service/Call");
    door.done().await;
    assert!(answered.swap(false, Ordering::SeqCst), "it was let in before");
    inside.await.expect("no panic").expect("infallible");
    sleep(Duration::from_millis(200)).await;
    assert!(!held.is_finished() && !answered.load(Ordering::SeqCst));
    role.send_replace(LEADS);
    held.await.expect("no panic").expect("infallible");
    assert!(answered.load(Ordering::SeqCst));
}

#[tokio::test]
async fn who_waits_for_messages_is_not_waited_for() {
    let (door, role, answered) = open(DONE / 2);
    let _poll = call(&door, v2::ReceiveMessageRequest::PATH);
    role.send_replace(RESIGNS);
    door.done().await;
    assert!(!answered.load(Ordering::SeqCst));
}

fn request(path: &str, timeout: Option<&str>) -> http::Request<()> {
    let request = http::Request::builder().uri(path);
    let request = timeout.iter().fold(request, |request, timeout| request.header("grpc-timeout", *timeout));
    request.body(()).expect("a request")
}

#[test]
fn who_comes_before_it_opens_waits_as_long_as_the_call_allows_and_telemetry_longer() {
    let (door, role) = closed(MemberRole::Waiting);
    let held = |path: &str, timeout| {
        let now = Instant::now();
        match door.turn(&request(path, timeout)) {
            Turn::Hold(until, _) => until.saturating_duration_since(now).as_millis(),
            Turn::Answer(..) => 0,
        }
    };
    let near = |held: u128, wanted: Duration| (held.abs_diff(wanted.as_millis())) < 100;
    let send = raw::SendMessageRequest::PATH;
    let telemetry = call_path!(messaging_service_server::SERVICE_NAME, "Telemetry");
    assert!(near(held(send, None), HOLD));
    assert!(near(held(send, Some("2S")), Duration::from_secs(2) - DEADLINE_MARGIN), "before its deadline");
    assert_eq!(held(send, Some("1m")), 0);
    assert!(near(held(telemetry, Some("1m")), TELEMETRY_HOLD));
    assert_eq!(held(call_path!(replication_server::SERVICE_NAME, "Replicate"), None), 0);
    door.lead(service(Duration::ZERO).0);
    role.send_replace(RESIGNS);
    assert!(near(held(telemetry, None), TELEMETRY_HOLD));
    assert!(near(held(send, Some("1m")), HOLD), "a hand-over is short");
    door.turn_away();
    assert_eq!((held(send, None), held(telemetry, None)), (0, 0));
}

#[tokio::test]
async fn no_more_than_so_many_are_held_and_nobody_when_all_is_over() {
    let (door, _role) = closed(MemberRole::Waiting);
    let telemetry = request("/some.Service/Telemetry", None);
    let held: Vec<_> = (1..HELD_MAX).map(|_| door.turn(&telemetry)).collect();
    let last = call(&door, "/some.Service/Telemetry");
    assert!(held.iter().all(|turn| matches!(turn, Turn::Hold(..))));
    assert!(matches!(door.turn(&telemetry), Turn::Answer(..)), "one too many");
    drop(held);
    assert!(matches!(door.turn(&telemetry), Turn::Hold(..)));
    sleep(Duration::from_millis(50)).await;
    assert!(!last.is_finished());
    door.turn_away();
    last.await.expect("no panic").expect("infallible");
    assert_eq!(door.held.available_permits(), HELD_MAX);
}

#[tokio::test]
async fn who_takes_too_long_is_not_waited_for() {
    let (door, role, answered) = open(2 * DONE);
    let _inside = call(&door, "/some.Service/Call");
    role.send_replace(RESIGNS);
    let begun = Instant::now();
    door.done().await;
    assert!(begun.elapsed() >= DONE && !answered.load(Ordering::SeqCst));
}
