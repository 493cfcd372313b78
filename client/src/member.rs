//! What producers and consumers have in common: a client id with its routes, telemetry sessions and heartbeats.

use crate::address::Endpoints;
use crate::delivery::HalfMessage;
use crate::error::{Code, Error, Result};
use crate::producer::transaction::Resolution;
use crate::route::{Queue, Route};
use crate::rpc::{Caller, Link};
use crate::session;
use kerolox_proto::v2;
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

/// Routes are read again this often.
pub(crate) const ROUTE_REFRESH: Duration = Duration::from_secs(30);
/// Routes are read again this often for a while after one has lost brokers: a nameserver that just restarted knows few.
pub(crate) const LOST_REFRESH: Duration = Duration::from_secs(2);
/// How often that is done: for as long as brokers take to make themselves known.
pub(crate) const LOST_REFRESHES: u32 = 15;
/// Routes are read again after a failure, but not more often than this.
const ROUTE_REFRESH_MIN: Duration = Duration::from_secs(1);
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Check-backs answered at the same time by one producer.
const CONCURRENT_CHECKS: usize = 64;

type CheckFuture = Pin<Box<dyn Future<Output = Resolution> + Send>>;
/// The application's answer to check-backs.
pub(crate) type Checker = Arc<dyn Fn(HalfMessage) -> CheckFuture + Send + Sync>;

/// The listener's answer to a message that an administrator shows it.
pub(crate) type Verifier =
    Box<dyn Fn(v2::Message, Endpoints) -> Pin<Box<dyn Future<Output = v2::Status> + Send>> + Send + Sync>;

/// One client id.
pub(crate) struct Member {
    pub(crate) caller: Caller,
    kind: v2::ClientType,
    group: Option<String>,
    routes: RwLock<HashMap<String, Arc<Route>>>,
    pub(crate) settings: watch::Sender<v2::Settings>,
    /// What the servers answered to our settings last.
    pub(crate) told: watch::Sender<v2::Settings>,
    /// Servers whose telemetry stream is open and has answered with Settings.
    pub(crate) greeted: watch::Sender<HashSet<Endpoints>>,
    /// Something changed: open missing sessions, and read the routes again soon if they are stale.
    wake: Notify,
    stale: std::sync::atomic::AtomicBool,
    pub(crate) checker: Option<Checker>,
    pub(crate) check_permits: Semaphore,
    /// Gets the names of lite topics that the servers take away from this client.
    pub(crate) evictions: Option<mpsc::UnboundedSender<String>>,
    /// Set by push consumers only.
    pub(crate) verifier: OnceLock<Verifier>,
}

/// Stops its task when dropped.
#[derive(Debug)]
pub(crate) struct AbortOnDrop(JoinHandle<()>);

impl AbortOnDrop {
    pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The identity of a member, for [`Member::start`].
pub(crate) struct Profile {
    pub(crate) kind: v2::ClientType,
    pub(crate) group: Option<String>,
    pub(crate) pub_sub: v2::settings::PubSub,
    pub(crate) topics: Vec<String>,
    pub(crate) checker: Option<Checker>,
    pub(crate) evictions: Option<mpsc::UnboundedSender<String>>,
}

impl Member {
    /// Reads the routes of the topics, opens telemetry streams to all their brokers and keeps all that up in the
    /// background until the returned guard is dropped. Waits for the brokers' greetings, but not longer than one request
    /// may take: a broker that is down must not keep the others from being used.
    pub(crate) async fn start(caller: Caller, profile: Profile) -> Result<(Arc<Self>, AbortOnDrop)> {
        let settings = v2::Settings {
            client_type: Some(profile.kind.into()),
            access_point: Some(caller.access_points.to_wire()),
            request_timeout: prost_types::Duration::try_from(caller.request_timeout).ok(),
            pub_sub: Some(profile.pub_sub),
            user_agent: Some(user_agent(&caller)),
            ..Default::default()
        };
        let member = Arc::new(Self {
            caller,
            kind: profile.kind,
            group: profile.group,
            routes: RwLock::default(),
            settings: watch::Sender::new(settings),
            told: watch::Sender::default(),
            greeted: watch::Sender::new(HashSet::new()),
            wake: Notify::new(),
            stale: false.into(),
            checker: profile.checker,
            check_permits: Semaphore::new(CONCURRENT_CHECKS),
            evictions: profile.evictions,
            verifier: OnceLock::new(),
        });
        for topic in &profile.topics {
            member.load_route(topic).await?;
        }
        let supervisor = AbortOnDrop::spawn(supervise(Arc::clone(&member)));
        member.await_greetings().await;
        Ok((member, supervisor))
    }

    async fn await_greetings(&self) {
        let expected = self.endpoints();
        let mut greeted = self.greeted.subscribe();
        let all = greeted.wait_for(|greeted| expected.is_subset(greeted));
        if tokio::time::timeout(self.caller.request_timeout, all).await.is_err() {
            tracing::warn!(
                client_id = self.caller.client_id,
                "some brokers did not answer on the telemetry stream"
            );
        }
    }

    /// The route of `topic`, read from an access point when it is not known yet.
    pub(crate) async fn route(&self, topic: &str) -> Result<Arc<Route>> {
        let known = self.routes.read().unwrap_or_else(PoisonError::into_inner).get(topic).cloned();
        match known {
            Some(route) => Ok(route),
            None => {
                let route = self.load_route(topic).await?;
                self.publish_also(topic);
                self.wake.notify_one();
                Ok(route)
            }
        }
    }

    async fn load_route(&self, topic: &str) -> Result<Arc<Route>> {
        let request = v2::QueryRouteRequest {
            topic: Some(self.caller.resource(topic)),
            endpoints: Some(self.caller.access_points.to_wire()),
        };
        let answer: v2::QueryRouteResponse = self
            .caller
            .call_access_point(
                request,
                |mut client, request| async move { client.query_route(request).await },
            )
            .await?;
        let route = Arc::new(Route::from_wire(answer.message_queues));
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        routes.insert(topic.to_owned(), Arc::clone(&route));
        Ok(route)
    }

    /// Tells the brokers that this producer also publishes to `topic`.
    fn publish_also(&self, topic: &str) {
        let resource = self.caller.resource(topic);
        self.settings.send_if_modified(|settings| match &mut settings.pub_sub {
            Some(v2::settings::PubSub::Publishing(publishing)) if !publishing.topics.contains(&resource) => {
                publishing.topics.push(resource);
                true
            }
            _ => false,
        });
    }

    /// Reads all routes again; whether one of them has lost a broker. A route that cannot be read stays as it is: a nameserver
    /// that just restarted knows less than we do.
    async fn refresh_routes(&self) -> bool {
        let known: Vec<(String, Arc<Route>)> = {
            let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
            routes.iter().map(|(topic, route)| (topic.clone(), Arc::clone(route))).collect()
        };
        let mut has_lost = false;
        for (topic, old) in known {
            match self.load_route(&topic).await {
                Ok(new) => has_lost |= has_lost_broker(brokers(old.queues()), brokers(new.queues())),
                Err(error) => tracing::debug!(topic, %error, "keeping the old route"),
            }
        }
        has_lost
    }

    /// Looks at how a call to a broker went: failures that a newer route may cure have the routes read again.
    pub(crate) fn learn_from(&self, error: &Error) {
        let moved = |code: Code| code.is_not_found() || code == v2::Code::Forbidden;
        if error.is_transport() || error.code().is_some_and(moved) || matches!(error, Error::NoQueue { .. }) {
            self.look_again();
        }
    }

    /// Has the routes read again soon: a server does not lead where it used to.
    pub(crate) fn look_again(&self) {
        self.stale.store(true, std::sync::atomic::Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// All servers of all known routes.
    pub(crate) fn endpoints(&self) -> HashSet<Endpoints> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        routes.values().flat_map(|route| route.queues()).map(|queue| queue.endpoints.clone()).collect()
    }

    /// The way to the broker group `broker`: where the route of `topic` says it is now, else where it was.
    pub(crate) fn link_to(&self, topic: &str, broker: &str, last_known: &Endpoints) -> Arc<Link> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let current = routes.get(topic).and_then(|route| route.endpoints_of(broker));
        self.caller.pool.link(current.unwrap_or(last_known))
    }

    async fn heartbeat(&self, link: &Link) {
        let group = self.group.as_deref().map(|group| self.caller.resource(group));
        let request = v2::HeartbeatRequest { group, client_type: self.kind.into() };
        let result: Result<v2::HeartbeatResponse> = self
            .caller
            .call(link, request, |mut client, request| async move { client.heartbeat(request).await })
            .await;
        match result {
            Ok(_) => link.mark_healthy(),
            Err(error) => tracing::debug!(%error, "heartbeat failed"),
        }
    }

    /// Tells all servers that this client goes away, so that they need not wait for its heartbeats to stop.
    pub(crate) async fn say_goodbye(self: &Arc<Self>) {
        self.on_all_servers(|member, link| async move {
            let group = member.group.as_deref().map(|group| member.caller.resource(group));
            let request = v2::NotifyClientTerminationRequest { group };
            let result: Result<v2::NotifyClientTerminationResponse> = member
                .caller
                .call(&link, request, |mut client, request| async move {
                    client.notify_client_termination(request).await
                })
                .await;
            if let Err(error) = result {
                tracing::debug!(%error, "could not say goodbye");
            }
        })
        .await;
    }

    async fn on_all_servers<F>(self: &Arc<Self>, call: impl Fn(Arc<Self>, Arc<Link>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut calls = JoinSet::new();
        for endpoints in self.endpoints() {
            calls.spawn(call(Arc::clone(self), self.caller.pool.link(&endpoints)));
        }
        while calls.join_next().await.is_some() {}
    }
}

/// Keeps sessions, heartbeats and routes of a member up. Ends only by being aborted, and takes the sessions along.
async fn supervise(member: Arc<Member>) {
    let mut sessions: HashMap<Endpoints, AbortOnDrop> = HashMap::new();
    let mut _heartbeats: AbortOnDrop;
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut refreshed = Instant::now();
    let mut refresh = interval_at(refreshed + ROUTE_REFRESH, ROUTE_REFRESH);
    let mut looks = 0;
    loop {
        let wanted = member.endpoints();
        sessions.retain(|endpoints, _| wanted.contains(endpoints));
        for endpoints in wanted {
            let link = member.caller.pool.link(&endpoints);
            let attend = || AbortOnDrop::spawn(session::attend(Arc::clone(&member), link));
            sessions.entry(endpoints).or_insert_with(attend);
        }
        tokio::select! {
            _ = heartbeat.tick() => {
                // In the background, because a dead server must not delay the look for a better route.
                let member = Arc::clone(&member);
                _heartbeats = AbortOnDrop::spawn(async move {
                    member.on_all_servers(|member, link| async move { member.heartbeat(&link).await }).await;
                });
            }
            _ = refresh.tick() => {
                if member.refresh_routes().await {
                    looks = LOST_REFRESHES;
                }
                refreshed = Instant::now();
                if looks > 0 {
                    looks -= 1;
                    refresh.reset_after(LOST_REFRESH);
                }
            }
            () = member.wake.notified() => {
                if member.stale.swap(false, std::sync::atomic::Ordering::Relaxed) {
                    refresh.reset_at(Instant::now().max(refreshed + ROUTE_REFRESH_MIN));
                }
            }
        }
    }
}

fn brokers(queues: &[Queue]) -> impl Iterator<Item = &str> + Clone {
    queues.iter().map(|queue| queue.broker.as_ref())
}

/// Whether a broker of `old` has no queue in `new`; for one topic, or for pairs of a topic and a broker.
pub(crate) fn has_lost_broker<B: PartialEq>(
    old: impl IntoIterator<Item = B>,
    new: impl IntoIterator<Item = B> + Clone,
) -> bool {
    old.into_iter().any(|broker| new.clone().into_iter().all(|other| other != broker))
}

fn user_agent(caller: &Caller) -> v2::Ua {
    v2::Ua {
        language: v2::Language::Rust.into(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        hostname: caller.client_id.split('@').next().unwrap_or_default().to_owned(),
    }
}
