//! The Controller service: answered by the nameserver that leads, passed on by the others, one hop.

use std::sync::Arc;
use std::time::Duration;

use kerolox_client::admin::controller::CALL_TIMEOUT;
use kerolox_controller::{
    CommandReply, GroupCommand, GroupName, JoiningMember, begin_anew, change_in_sync, elect_master,
    election_loss, hand_over, joining, remove_member, waiting_for,
};
use kerolox_proto::errors::RpcError;
use kerolox_proto::kerolox::controller_client::ControllerClient;
use kerolox_proto::kerolox::controller_server::{Controller as ControllerApi, ControllerServer};
use kerolox_proto::kerolox::{
    AddNameserverRequest, AddNameserverResponse, ChangeInSyncRequest, ChangeInSyncResponse,
    DescribeGroupsRequest, DescribeGroupsResponse, DescribeLossRequest, DescribeQuorumRequest,
    DescribeQuorumResponse, ElectMasterRequest, ElectMasterResponse, ElectionLoss, GroupState,
    HandOverRequest, HandOverResponse, RemoveMemberRequest, RemoveMemberResponse, RemoveNameserverRequest,
    RemoveNameserverResponse, ReportRequest, ReportResponse, ResetGroupRequest, ResetGroupResponse,
};
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::leadership::{Leadership, Tenure, refused};
use super::quorum::Quorum;
use super::wire;

/// Header of a call that was passed on once.
pub(super) const RELAYED_HEADER: &str = "x-kerolox-relayed";
/// Longest that a report waits for a change.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a leader that is about to begin may take.
const BEGIN_PATIENCE: Duration = Duration::from_secs(1);
/// How long a call that was passed on may take: the leader has its own, shorter limits.
const RELAY_TIMEOUT: Duration = Duration::from_secs(20);

/// Answers for the groups and for the quorum.
pub(crate) struct ControllerService {
    leadership: Arc<Leadership>,
    quorum: Quorum,
}

/// The nameserver that answers a call.
enum Place {
    /// This nameserver, whose leadership is confirmed.
    Here(Arc<Tenure>),
    /// The leader.
    There(ControllerClient<Channel>),
}

impl ControllerService {
    pub(super) fn server(leadership: Arc<Leadership>, quorum: Quorum) -> ControllerServer<Self> {
        ControllerServer::new(Self { leadership, quorum })
    }

    /// Who answers a call. Whatever this nameserver says after that is not older than the call.
    async fn place<Q>(&self, request: &Request<Q>) -> Result<Place, RpcError> {
        let id = self.quorum.id();
        let leader = self.quorum.leader();
        if leader == Some(id) {
            self.leadership.wait_tenure(BEGIN_PATIENCE).await;
        }
        if let Some(tenure) = self.leadership.tenure() {
            self.leadership.confirm(&tenure).await?;
            return Ok(Place::Here(tenure));
        }
        if request.metadata().contains_key(RELAYED_HEADER) {
            return Err(RpcError::unavailable(format!("nameserver {id} does not lead; try again")));
        }
        match leader {
            Some(leader) if leader != id => Ok(Place::There(self.quorum.client(leader)?)),
            _ => Err(RpcError::unavailable(self.quorum.why_no_leader())),
        }
    }

    /// One member's report, until there is something to tell it.
    async fn hear(&self, tenure: &Arc<Tenure>, report: ReportRequest) -> Result<ReportResponse, RpcError> {
        let leadership = &self.leadership;
        let arrived = leadership.now();
        let deadline = Instant::now() + Duration::from_millis(report.wait_ms.into()).min(WAIT_MAX);
        let name = wire::group_name(&report.cluster, &report.group);
        let known_version = report.known_version;
        let id = self.member(&name, wire::joiner(&report)).await?;
        self.note_holders(&name, id, &report).await?;
        tenure.watch().saw(&name, id, wire::sighting(report, arrived));
        leadership.hurry();

        let mut changes = leadership.changes();
        loop {
            changes.borrow_and_update();
            let groups = leadership.groups();
            let group = groups.get(&name).filter(|group| group.members.contains_key(&id));
            let Some(group) = group else {
                let text =
                    format!("member {id} was taken out of group {name}; it joins again with its next report");
                return Err(RpcError::stale(text));
            };
            let is_news = group.version != known_version;
            let waiting_for = waiting_for(group, &tenure.watch(), leadership.now(), leadership.policy());
            let answer =
                ReportResponse { id, state: is_news.then(|| wire::state(&groups, group)), waiting_for };
            if is_news || Instant::now() >= deadline {
                return Ok(answer);
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(deadline) => {}
                () = leadership.over(tenure) => {
                    return Err(RpcError::unavailable("another nameserver leads; call again"));
                }
            }
        }
    }

    /// The number of the member with this data folder, which joins if need be.
    async fn member(&self, name: &GroupName, joiner: JoiningMember) -> Result<u64, RpcError> {
        let groups = self.leadership.groups();
        let command = joining(&groups, name, &joiner).map_err(refused)?;
        if let Some(command) = command {
            let CommandReply::Joined(id) = self.leadership.propose(command).await? else {
                return Err(RpcError::internal("a member that joined got no number"));
            };
            tracing::info!(%name, id, host = joiner.host, port = joiner.port, "member joined");
            return Ok(id);
        }
        let group = groups.get(name);
        group
            .and_then(|group| group.member_of(&joiner.incarnation))
            .ok_or_else(|| RpcError::internal("a member that need not join is not there"))
    }

    /// A master tells who holds its log; whom it does not name can never be elected.
    async fn note_holders(&self, name: &GroupName, id: u64, report: &ReportRequest) -> Result<(), RpcError> {
        let groups = self.leadership.groups();
        let Some(group) = groups.get(name).filter(|group| group.master == id) else { return Ok(()) };
        let is_news = |id: &u64| group.members.contains_key(id) && !group.holders.contains(id);
        if report.process != group.master_process || !report.followers.iter().any(is_news) {
            return Ok(());
        }
        let holders = wire::members(&report.followers);
        let command =
            GroupCommand::NoteHolders { name: name.clone(), epoch: group.epoch, master: id, holders };
        self.leadership.propose(command).await.map(drop)
    }

    /// Carries out a command, and gives the state that came of it.
    async fn carry_out(&self, command: GroupCommand) -> Result<Option<GroupState>, RpcError> {
        let name = command.name().cloned();
        self.leadership.propose(command).await?;
        self.leadership.hurry();
        Ok(name.and_then(|name| self.state(&name)))
    }

    fn state(&self, name: &GroupName) -> Option<GroupState> {
        let groups = self.leadership.groups();
        groups.get(name).map(|group| wire::state(&groups, group))
    }

    async fn change(
        &self,
        tenure: &Arc<Tenure>,
        request: ChangeInSyncRequest,
    ) -> Result<ChangeInSyncResponse, RpcError> {
        let (name, in_sync) =
            (wire::group_name(&request.cluster, &request.group), wire::members(&request.in_sync));
        let (groups, now) = self.scene();
        let time = (now, self.leadership.policy());
        let allowed = change_in_sync(&groups, &tenure.watch(), time, &name, &in_sync);
        allowed.map_err(refused)?;
        let command = GroupCommand::ChangeInSync {
            name,
            version: request.version,
            epoch: request.epoch,
            member: request.member,
            in_sync,
            quorum: request.quorum,
        };
        Ok(ChangeInSyncResponse { state: self.carry_out(command).await? })
    }

    async fn release(
        &self,
        tenure: &Arc<Tenure>,
        request: HandOverRequest,
    ) -> Result<HandOverResponse, RpcError> {
        let name = wire::group_name(&request.cluster, &request.group);
        let wish = (request.epoch, request.member, request.to);
        let (groups, time) = self.scene();
        let command = hand_over(&groups, &tenure.watch(), (time, self.leadership.policy()), &name, wish);
        let command = command.map_err(refused)?;
        Ok(HandOverResponse { state: self.carry_out(command).await? })
    }

    async fn describe(
        &self,
        tenure: &Arc<Tenure>,
        request: DescribeGroupsRequest,
    ) -> Result<DescribeGroupsResponse, RpcError> {
        let (groups, now) = self.scene();
        let policy = self.leadership.policy();
        let watch = tenure.watch();
        let wanted =
            groups.iter().filter(|group| request.group.is_empty() || group.name.group == request.group);
        let described = wanted.map(|group| wire::description((&groups, group), &watch, now, policy));
        Ok(DescribeGroupsResponse { groups: described.collect() })
    }

    async fn elect(
        &self,
        tenure: &Arc<Tenure>,
        request: ElectMasterRequest,
    ) -> Result<ElectMasterResponse, RpcError> {
        let name = wire::group_name(&request.cluster, &request.group);
        let (groups, now) = self.scene();
        let wish = (request.member, request.unclean, request.lose_messages);
        let command = elect_master(&groups, &tenure.watch(), (now, self.leadership.policy()), &name, wish);
        let state = match command.map_err(refused)? {
            Some(command) => self.carry_out(command).await?,
            None => self.state(&name),
        };
        Ok(ElectMasterResponse { state })
    }

    async fn foresee(
        &self,
        tenure: &Arc<Tenure>,
        request: DescribeLossRequest,
    ) -> Result<ElectionLoss, RpcError> {
        let name = wire::group_name(&request.cluster, &request.group);
        let (groups, now) = self.scene();
        let time = (now, self.leadership.policy());
        let loss = election_loss(&groups, &tenure.watch(), time, &name, request.member);
        loss.map(|loss| wire::loss(&loss)).map_err(refused)
    }

    async fn begin_anew(
        &self,
        tenure: &Arc<Tenure>,
        request: ResetGroupRequest,
    ) -> Result<ResetGroupResponse, RpcError> {
        if !request.lose_all_messages {
            let text = "all messages of the group are lost by that; say so with lose_all_messages";
            return Err(RpcError::invalid(text));
        }
        let name = wire::group_name(&request.cluster, &request.group);
        let (groups, now) = self.scene();
        let command = begin_anew(&groups, &tenure.watch(), (now, self.leadership.policy()), &name);
        let command = command.map_err(refused)?;
        tracing::warn!(%name, "begins anew without messages, as an operator asked");
        let state = self.carry_out(command).await?;
        let stays = |id: &u64| state.iter().flat_map(|state| &state.members).any(|member| member.id == *id);
        let before = groups.get(&name).into_iter().flat_map(|group| group.members.keys());
        let forgotten = before.filter(|id| !stays(id)).copied().collect();
        Ok(ResetGroupResponse { state, forgotten })
    }

    async fn remove(
        &self,
        tenure: &Arc<Tenure>,
        request: RemoveMemberRequest,
    ) -> Result<RemoveMemberResponse, RpcError> {
        let name = wire::group_name(&request.cluster, &request.group);
        let (groups, now) = self.scene();
        let time = (now, self.leadership.policy());
        let command = remove_member(&groups, &tenure.watch(), time, &name, request.member);
        let command = command.map_err(refused)?;
        Ok(RemoveMemberResponse { state: self.carry_out(command).await? })
    }

    async fn grow(
        &self,
        _: &Arc<Tenure>,
        request: AddNameserverRequest,
    ) -> Result<AddNameserverResponse, RpcError> {
        self.quorum.add(request.id, &request.address).await?;
        Ok(AddNameserverResponse {})
    }

    async fn shrink(
        &self,
        _: &Arc<Tenure>,
        request: RemoveNameserverRequest,
    ) -> Result<RemoveNameserverResponse, RpcError> {
        self.quorum.remove(request.id).await?;
        Ok(RemoveNameserverResponse {})
    }

    async fn describe_nameservers(
        &self,
        _: &Arc<Tenure>,
        _: DescribeQuorumRequest,
    ) -> Result<DescribeQuorumResponse, RpcError> {
        Ok(self.quorum.describe())
    }

    fn scene(&self) -> (Arc<kerolox_controller::GroupTable>, u64) {
        (self.leadership.groups(), self.leadership.now())
    }
}

/// A call that goes on to the leader.
fn relayed<Q>(request: Request<Q>, timeout: Duration) -> Request<Q> {
    let mut onward = Request::new(request.into_inner());
    onward.metadata_mut().insert(RELAYED_HEADER, MetadataValue::from_static("1"));
    onward.set_timeout(timeout);
    onward
}

/// Answers a call here or passes it on.
macro_rules! by_the_leader {
    ($self:ident, $request:ident, $timeout:expr, $here:ident, $there:ident) => {
        match $self.place(&$request).await? {
            Place::Here(tenure) => Ok(Response::new($self.$here(&tenure, $request.into_inner()).await?)),
            Place::There(mut leader) => {
                let timeout = $timeout;
                leader.$there(relayed($request, timeout)).await
            }
        }
    };
}

type Answer<A> = Result<Response<A>, Status>;

#[tonic::async_trait]
impl ControllerApi for ControllerService {
    async fn report(&self, request: Request<ReportRequest>) -> Answer<ReportResponse> {
        let wait = Duration::from_millis(request.get_ref().wait_ms.into()).min(WAIT_MAX);
        by_the_leader!(self, request, CALL_TIMEOUT + wait, hear, report)
    }

    async fn change_in_sync(&self, request: Request<ChangeInSyncRequest>) -> Answer<ChangeInSyncResponse> {
        by_the_leader!(self, request, CALL_TIMEOUT, change, change_in_sync)
    }

    async fn hand_over(&self, request: Request<HandOverRequest>) -> Answer<HandOverResponse> {
        by_the_leader!(self, request, CALL_TIMEOUT, release, hand_over)
    }

    async fn describe_groups(
        &self,
        request: Request<DescribeGroupsRequest>,
    ) -> Answer<DescribeGroupsResponse> {
        by_the_leader!(self, request, CALL_TIMEOUT, describe, describe_groups)
    }

    async fn elect_master(&self, request: Request<ElectMasterRequest>) -> Answer<ElectMasterResponse> {
        by_the_leader!(self, request, CALL_TIMEOUT, elect, elect_master)
    }

    async fn describe_loss(&self, request: Request<DescribeLossRequest>) -> Answer<ElectionLoss> {
        by_the_leader!(self, request, CALL_TIMEOUT, foresee, describe_loss)
    }

    async fn reset_group(&self, request: Request<ResetGroupRequest>) -> Answer<ResetGroupResponse> {
        by_the_leader!(self, request, CALL_TIMEOUT, begin_anew, reset_group)
    }

    async fn remove_member(&self, request: Request<RemoveMemberRequest>) -> Answer<RemoveMemberResponse> {
        by_the_leader!(self, request, CALL_TIMEOUT, remove, remove_member)
    }

    /// Any nameserver answers when no leader can: that is when it is asked most.
    async fn describe_quorum(
        &self,
        request: Request<DescribeQuorumRequest>,
    ) -> Answer<DescribeQuorumResponse> {
        let by_leader: Answer<DescribeQuorumResponse> =
            async { by_the_leader!(self, request, CALL_TIMEOUT, describe_nameservers, describe_quorum) }
                .await;
        by_leader.or_else(|_| Ok(Response::new(self.quorum.describe())))
    }

    async fn add_nameserver(&self, request: Request<AddNameserverRequest>) -> Answer<AddNameserverResponse> {
        by_the_leader!(self, request, RELAY_TIMEOUT, grow, add_nameserver)
    }

    async fn remove_nameserver(
        &self,
        request: Request<RemoveNameserverRequest>,
    ) -> Answer<RemoveNameserverResponse> {
        by_the_leader!(self, request, RELAY_TIMEOUT, shrink, remove_nameserver)
    }
}
