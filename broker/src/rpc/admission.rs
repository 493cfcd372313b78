//! The answers while no call can be served, and the gate that lets calls in, by the role of this member.

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

/// Maximum time that a call is held while another member takes over, the data is opened, or the role of this member is
/// unknown.
const HOLD: Duration = Duration::from_secs(5);
/// A held call is answered this long before its deadline: otherwise the reason of the refusal would be lost.
const DEADLINE_MARGIN: Duration = Duration::from_millis(300);
/// How long a Telemetry stream is held, also while the index is rebuilt: the SDK for Python requests another one 300 s after a
/// refusal, and has no check-backs until then.
const TELEMETRY_HOLD: Duration = Duration::from_secs(600);
/// Maximum number of held calls; others are refused at once.
const HELD_MAX: usize = 1024;
const TELEMETRY_PATH: &str = "/Telemetry";
/// How long calls that were let in before may take to finish. Slower ones may be told to retry.
const DONE: Duration = Duration::from_millis(500);
/// Calls that wait for messages, for up to half a minute. A stop cuts them off, for that loses nothing.
const POLLS: [&str; 2] = ["/ReceiveMessage", "/PullMessage"];

/// The destination of a call.
enum Way {
    /// Services that refuse every call.
    Closed,
    /// None yet: the process has just begun. Each call waits a moment.
    Opening,
    /// None: another member is about to take over. Each call waits for some seconds, whatever its deadline, since the hand-over is
    /// short.
    Held,
    Open(Routes),
}

/// The services behind the gate, by role.
#[derive(Clone, Default)]
struct Rooms {
    /// Services of a serving leader.
    leader: Option<Routes>,
    /// Services of a member that passes all calls on to the leader.
    follower: Option<Routes>,
    /// Set once calls were let in.
    has_opened: bool,
    /// Set when no further call will be let in.
    is_turned_away: bool,
}

/// All services of the broker: at first closed ones that refuse every call, and those of its role once it has one. Clones
/// share one gate.
#[derive(Clone)]
pub(crate) struct AdmissionGate {
    rooms: watch::Sender<Rooms>,
    /// The role that selects the services; `None` for a broker without a group, which leads whenever it serves.
    role: Option<watch::Receiver<MemberRole>>,
    closed: Routes,
    opening: Arc<StoreOpening>,
    /// The running calls of the role's services.
    inside: Arc<Inside>,
    /// Permits for held calls.
    held: Arc<Semaphore>,
}

/// The fate of a call.
enum Turn {
    /// These services answer it.
    Answer(Routes, Option<Visit>),
    /// It waits until the gate opens, until this moment at most.
    Hold(Instant, OwnedSemaphorePermit),
}

#[derive(Default)]
struct Inside {
    calls: AtomicUsize,
    /// Notifies the task that closes the gate that the last call has left.
    is_empty: Notify,
}

/// A running call.
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
    /// A closed gate in front of a broker that has just begun; callers wait a moment, and are then told the progress. Other
    /// members of the group always reach `replication`.
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

    /// Sets the services of a leader, which answer calls as long as this broker leads, also calls that came before.
    pub(crate) fn lead(&self, services: Routes) {
        let services = services.prepare();
        self.rooms.send_modify(|rooms| (rooms.leader, rooms.has_opened) = (Some(services), true));
    }

    /// Sets the services of a member that does not lead, which answer calls whenever it does not.
    pub(crate) fn follow(&self, services: Routes) {
        let services = services.prepare();
        self.rooms.send_modify(|rooms| (rooms.follower, rooms.has_opened) = (Some(services), true));
    }

    /// Ends the leader's services: their store is closed.
    pub(crate) fn stop_leading(&self) {
        self.rooms.send_modify(|rooms| rooms.leader = None);
    }

    /// Returns to the state before the first opening: the data is opened once more.
    pub(crate) fn begin_again(&self) {
        self.rooms.send_modify(|rooms| *rooms = Rooms::default());
    }

    /// Returns when the calls that were let in before the gate closed have finished, or have taken too long.
    pub(crate) async fn done(&self) {
        let done = async {
            // The notification may be an old one: other calls came since, before the gate closed.
            while self.inside.calls.load(Ordering::SeqCst) > 0 {
                self.inside.is_empty.notified().await;
            }
        };
        // Slow calls must not keep the others waiting.
        let _ = timeout(DONE, done).await;
    }

    /// Refuses all waiting and later calls, unless the gate is open: none will be served any more.
    pub(crate) fn turn_away(&self) {
        self.rooms.send_modify(|rooms| rooms.is_turned_away = true);
    }

    /// The destination of calls at this moment.
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

    /// Completes when the destination of a waiting call is known.
    async fn known(&self) {
        let (mut rooms, mut role) = (self.rooms.subscribe(), self.role.clone());
        while let Way::Opening | Way::Held = self.way() {
            // Both senders outlive all calls; otherwise the call gets the current answer.
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

    /// Whether the index is being rebuilt, which may take long. Afterwards the progress object still exists.
    fn is_rebuilding(&self) -> bool {
        self.opening.progress().is_some_and(|progress| progress.position < progress.end)
    }

    /// The turn of a call: its destination, or until when it waits to learn it.
    fn turn<B>(&self, request: &http::Request<B>) -> Turn {
        let path = request.uri().path();
        // The other members of the group find it open at any time.
        if service_and_method(path).0 == replication_server::SERVICE_NAME {
            return Turn::Answer(self.closed.clone(), None);
        }
        // Counted before the gate is read, so that a resigning leader knows of all calls that found it open.
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

    /// The destination of a call after its wait.
    fn now<B>(&self, request: &http::Request<B>) -> (Routes, Option<Visit>) {
        let visit = self.visit(request.uri().path());
        match self.way() {
            Way::Open(services) => (services, visit),
            _ => (self.closed.clone(), None),
        }
    }

    /// Counts a call that a closing gate waits for.
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
                    // A call that waited long enough is told to retry.
                    let _ = timeout_at(until, door.known()).await;
                    drop(place);
                    let (mut services, _visit) = door.now(&request);
                    services.call(request).await
                })
            }
        }
    }
}

/// The reason why no call is served.
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
