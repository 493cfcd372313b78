//! The filters that the members of a group receive with or have announced.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::filter::Filter;

/// A member's filter no longer counts after this long without a receive, unless the member lives: three of the longest
/// polls.
pub const MEMBER_FORGOTTEN_MS: i64 = 60_000;

/// Number of a filter within one subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilterId(u32);

impl FilterId {
    /// Stands for members that may exist but are not known yet.
    pub(super) const UNKNOWN: Self = Self(u32::MAX);
}

#[derive(Debug, Clone)]
struct GroupMember {
    filter: FilterId,
    seen_ms: i64,
}

/// The members of a group on one topic, as their receives show them, and the filters that connected ones have announced.
#[derive(Debug, Clone, Default)]
pub(super) struct GroupMembers {
    filters: Vec<(FilterId, Arc<Filter>)>,
    members: BTreeMap<String, GroupMember>,
    announced: Vec<FilterId>,
    next: u32,
}

impl GroupMembers {
    /// Registers a member that receives with this filter. A filter keeps its number as long as any member uses it.
    pub(super) fn join(&mut self, now_ms: i64, client: &str, filter: &Filter) -> FilterId {
        let id = self.number(filter);
        match self.members.get_mut(client) {
            Some(member) => *member = GroupMember { filter: id, seen_ms: now_ms },
            None => drop(self.members.insert(client.to_owned(), GroupMember { filter: id, seen_ms: now_ms })),
        }
        id
    }

    /// Replaces the filters that connected members have announced, whether or not they have received yet.
    pub(super) fn announce(&mut self, filters: &[Filter]) {
        self.announced = filters.iter().map(|filter| self.number(filter)).collect();
    }

    fn number(&mut self, filter: &Filter) -> FilterId {
        if let Some((id, _)) = self.filters.iter().find(|(_, known)| **known == *filter) {
            return *id;
        }
        let id = FilterId(self.next);
        self.next += 1;
        self.filters.push((id, Arc::new(filter.clone())));
        id
    }

    fn is_used(&self, id: FilterId) -> bool {
        self.announced.contains(&id) || self.members.values().any(|member| member.filter == id)
    }

    /// Filters of other members.
    pub(super) fn others(&self, filter: FilterId) -> impl Iterator<Item = (FilterId, Arc<Filter>)> + '_ {
        self.filters.iter().filter(move |(id, _)| *id != filter).cloned()
    }

    /// The filters that members have at the moment.
    pub(super) fn filters(&self) -> Vec<Arc<Filter>> {
        let used = self.filters.iter().filter(|(id, _)| self.is_used(*id));
        used.map(|(_, filter)| Arc::clone(filter)).collect()
    }

    /// Number of filters in use.
    pub(super) fn filters_len(&self) -> usize {
        self.filters.len()
    }

    pub(super) fn leave(&mut self, client: &str) {
        self.members.remove(client);
    }

    /// Forgets members that are gone; returns the filters that no member uses any more.
    pub(super) fn prune(&mut self, now_ms: i64, alive: &impl Fn(&str) -> bool) -> Vec<FilterId> {
        self.members.retain(|client, member| {
            now_ms.saturating_sub(member.seen_ms) < MEMBER_FORGOTTEN_MS || alive(client)
        });
        let gone: Vec<FilterId> =
            self.filters.iter().map(|(id, _)| *id).filter(|id| !self.is_used(*id)).collect();
        self.filters.retain(|(id, _)| !gone.contains(id));
        gone
    }
}
