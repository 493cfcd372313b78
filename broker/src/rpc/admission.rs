//! What callers are told while no call can be served, and the gate that lets them in, by the role of this member.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use kerolox_gateway::access_point::AccessPoint;
use kerolox_gateway::headers::ClientHeaders;
use kerolox_gateway::relay::refuse_relayed;
use kerolox_proto::kerolox::replication_server::{self, ReplicationServer};
use kerolox_proto::path::service_and_method;
use kerolox_replication::MemberRole;
use kerolox_store::StoreOpening;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http;
use tonic::service::interceptor::InterceptedService;
use tonic::service::{AxumRouter, Routes};

use crate::replication::{ReplicationService, StoreCell};

/// How long callers are held at most while another member takes over, and how long each one is while the data is opened or it
/// is not known yet what this member is.
const HOLD: Duration = Duration::from_secs(5);
/// A call that is held is answered this long before its deadline: what a refusal says is lost otherwise.
const DEADLINE_MARGIN: Duration = Duration::from_millis(300);
/// How long a Telemetry stream is held, also while the index is made again: the SDK for Python asks for another one 300 s after
/// one was refused, and has no check-backs until then.
const TELEMETRY_HOLD: Duration = Duration::from_secs(600);
/// How many calls are held at a time; others are refused at once.
const HELD_MAX: usize = 1024;
const TELEMETRY_PATH: &str = "/Telemetry";
/// How long those who were let in before may take to be done. Whoever takes longer may be told to try again.
const DONE: Duration = Duration::from_millis(500);
/// Calls that wait for messages, for up to half a minute: nothing is lost when they end, so nobody waits for that.
const POLLS: [&str; 2] = ["/ReceiveMessage", "/PullMessage"];

/// Where a call goes.
enum Way {
    /// To services that refuse whatever they are asked.
    Closed,
    /// Nowhere yet: the process has just begun. Each call waits a moment.
    Opening,
    /// Nowhere: another member is about to take over. Each call waits for some seconds, whatever its deadline, since that is short.
    Held,
    Open(Routes),
}

/// The services behind the gate, by what this broker is.
#[derive(Clone, Default)]
struct Rooms {
    /// Of a leader that serves.
    leader: Option<Routes>,
    /// Of a member that passes everything on to the leader.
    follower: Option<Routes>,
    /// Calls were let in before.
    has_opened: bool,
    /// No call will be let in any more that is not let in now.
    is_turned_away: bool,
}

/// All services of the broker: closed ones first, that refuse whatever they are asked, and those of its role once it has one.
/// Clones share one door.
#[derive(Clone)]
pub(crate) struct AdmissionGate {
    rooms: watch::Sender<Rooms>,
    /// Which room calls are let into; `None` for a broker without a group, which leads whenever it serves.
    role: Option<watch::Receiver<MemberRole>>,
    closed: Routes,
    opening: Arc<StoreOpening>,
    /// The calls that are with the services of the role.
    inside: Arc<Inside>,
    /// Places of calls that are held.
    held: Arc<Semaphore>,
}

/// What becomes of a call.
enum Turn {
    /// These services answer it.
    Answer(Routes, Option<Visit>),
    /// It waits until the gate opens, until this moment at most.
    Hold(Instant, OwnedSemaphorePermit),
}

#[derive(Default)]
struct Inside {
    calls: AtomicUsize,
    /// Tells who holds the gate that the last one has left.
    is_empty: Notify,
}

/// A call that is with the services.
struct Visit(Arc<Inside>);

impl Visit {
    fn begin(inside: &Arc<Inside>) -> Self {
        inside.calls.fetch_add(1, Ordering::SeqCst);
        Self(inside.clone())
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if self.0.calls.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.is_empty.notify_one();
        }
    }
}

impl AdmissionGate {
    /// A closed door in front of a broker that has just begun; whoever calls waits a moment, and is then told how far that is.
    /// Other members of the group find `replication` at any time.
    pub(crate) fn closed(
        opening: Arc<StoreOpening>,
        store: StoreCell,
        role: Option<watch::Receiver<MemberRole>>,
        replication: Option<ReplicationServer<ReplicationService>>,
    ) -> Self {
        let why = Why { opening: opening.clone(), store };
        let told = why.clone();
        let unavailable = move || {
            let status = Status::unavailable(told.reason());
            async move { status.into_http::<Body>() }
        };
        let mut closed = Routes::from(AxumRouter::new().fallback(unavailable));
        if let Some(replication) = replication {
            closed = closed.add_service(replication);
        }
        let refusing = {
            let why = why.clone();
            AccessPoint::refusing(move || why.reason())
        };
        let refusing = InterceptedService::new(refusing, refuse_relayed(move || why.reason()));
        let closed = closed.add_service(refusing);
        Self {
            rooms: watch::Sender::default(),
            role,
            closed: closed.prepare(),
            opening,
            inside: Arc::default(),
            held: Arc::new(Semaphore::new(HELD_MAX)),
        }
    }

    /// The services of a leader, which answer calls as long as this broker leads; also those that have come before.
    pub(crate) fn lead(&self, services: Routes) {
        let services = services.prepare();
        self.rooms.send_modify(|rooms| (rooms.leader, rooms.has_opened) = (Some(services), true));
    }

    /// The services of a member that does not lead, which answer calls whenever it does not.
    pub(crate) fn follow(&self, services: Routes) {
        let services = services.prepare();
        self.rooms.send_modify(|rooms| (rooms.follower, rooms.has_opened) = (Some(services), true));
    }

    /// The leader's services end: what they answer calls from is closed.
    pub(crate) fn stop_leading(&self) {
        self.rooms.send_modify(|rooms| rooms.leader = None);
    }

    /// Is as it was before it was opened first: the data is opened once more.
    pub(crate) fn begin_again(&self) {
        self.rooms.send_modify(|rooms| *rooms = Rooms::default());
    }

    /// Returns when those who were let in before it was held are done, or have taken too long.
    pub(crate) async fn done(&self) {
        let done = async {
            // The notice may be an old one: others came since, before the gate was held.
            while self.inside.calls.load(Ordering::SeqCst) > 0 {
                self.inside.is_empty.notified().await;
            }
        };
        // Who takes long must not keep the others waiting.
        let _ = timeout(DONE, done).await;
    }

    /// Refuses calls that still wait, and all that come, unless it is open: none will be served any more.
    pub(crate) fn turn_away(&self) {
        self.rooms.send_modify(|rooms| rooms.is_turned_away = true);
    }

    /// Where calls go at this moment.
    fn way(&self) -> Way {
        let role = self.role.as_ref().map(|role| role.borrow().clone());
        let rooms = self.rooms.borrow();
        let services = match role {
            None | Some(MemberRole::Leader { .. }) => rooms.leader.as_ref(),
            Some(MemberRole::Resigning { .. }) => None,
            Some(MemberRole::Waiting | MemberRole::Follower { .. } | MemberRole::Candidate { .. }) => {
                rooms.follower.as_ref()
            }
        };
        match services {
            Some(services) => Way::Open(services.clone()),
            None if rooms.is_turned_away => Way::Closed,
            None if rooms.has_opened => Way::Held,
            None => Way::Opening,
        }
    }

    /// Completes when it is known where a call goes that waits.
    async fn known(&self) {
        let (mut rooms, mut role) = (self.rooms.subscribe(), self.role.clone());
        while let Way::Opening | Way::Held = self.way() {
            // Both senders outlive all calls; otherwise the call is answered by what there is.
            let changed = match &mut role {
                Some(role) => tokio::select! {
                    changed = rooms.changed() => changed,
                    changed = role.changed() => changed,
                },
                None => rooms.changed().await,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Whether the index is being made, which may take long. When that is done, its progress still tells of it.
    fn is_rebuilding(&self) -> bool {
        self.opening.progress().is_some_and(|progress| progress.position < progress.end)
    }

    /// Where a call goes now, or until when it waits to learn that.
    fn turn<B>(&self, request: &http::Request<B>) -> Turn {
        let path = request.uri().path();
        // The other members of the group find it open at any time.
        if service_and_method(path).0 == replication_server::SERVICE_NAME {
            return Turn::Answer(self.closed.clone(), None);
        }
        // Counted before it is looked at, so that a leader that resigns knows of all that found the gate open.
        let visit = self.visit(path);
        let way = match self.way() {
            Way::Open(services) => return Turn::Answer(services, visit),
            way => way,
        };
        let now = Instant::now();
        let until = match way {
            Way::Opening | Way::Held if path.ends_with(TELEMETRY_PATH) => Some(now + TELEMETRY_HOLD),
            Way::Opening if !self.is_rebuilding() => Some(now + patience(request.headers())),
            Way::Held if !self.is_rebuilding() => Some(now + HOLD),
            _ => None,
        };
        let held = until.filter(|until| now < *until).and_then(|until| {
            let place = self.held.clone().try_acquire_owned().ok()?;
            Some(Turn::Hold(until, place))
        });
        held.unwrap_or_else(|| Turn::Answer(self.closed.clone(), None))
    }

    /// Where a call goes that has waited.
    fn now<B>(&self, request: &http::Request<B>) -> (Routes, Option<Visit>) {
        let visit = self.visit(request.uri().path());
        match self.way() {
            Way::Open(services) => (services, visit),
            _ => (self.closed.clone(), None),
        }
    }

    /// A call that is waited for when the gate is held.
    fn visit(&self, path: &str) -> Option<Visit> {
        let is_poll = POLLS.iter().any(|poll| path.ends_with(poll));
        (!is_poll).then(|| Visit::begin(&self.inside))
    }
}

/// How long a call is held by a broker that has just begun.
fn patience(headers: &http::HeaderMap) -> Duration {
    let deadline = ClientHeaders::of_http(headers).timeout;
    deadline.map_or(HOLD, |deadline| deadline.saturating_sub(DEADLINE_MARGIN).min(HOLD))
}

impl Service<http::Request<Body>> for AdmissionGate {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Routes are ready at any time.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self.turn(&request) {
            Turn::Answer(mut services, visit) => {
                let answer = services.call(request);
                Box::pin(async move {
                    let answer = answer.await;
                    drop(visit);
                    answer
                })
            }
            Turn::Hold(until, place) => {
                let door = self.clone();
                Box::pin(async move {
                    // A call that waited long enough is told to try again.
                    let _ = timeout_at(until, door.known()).await;
                    drop(place);
                    let (mut services, _visit) = door.now(&request);
                    services.call(request).await
                })
            }
        }
    }
}

/// Why no call is served.
#[derive(Clone)]
struct Why {
    opening: Arc<StoreOpening>,
    store: StoreCell,
}

impl Why {
    fn reason(&self) -> String {
        match self.opening.progress() {
            Some(progress) if progress.position < progress.end => {
                format!("the index is being rebuilt from the log: {progress}; try again")
            }
            _ if self.store.get().is_some() => {
                "this broker does not rule its group, and no other member does as far as it knows: a master is being elected, \
                 or no nameserver answers; try again, and look at `mqadmin controllerStatus` if that lasts"
                    .to_owned()
            }
            _ => "the broker is opening its log; try again in a moment".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
