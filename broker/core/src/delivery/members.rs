//! Which filters the members of a group receive with.

use std::collections::HashMap;
use std::sync::Arc;

use crate::filter::Filter;

/// After this long without a receive a member's filter no longer counts, unless the member lives: three of the longest
/// polls.
pub const MEMBER_FORGOTTEN_MS: i64 = 60_000;

/// Number of a filter within one subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilterId(u32);

#[derive(Debug, Clone)]
struct Member {
    filter: FilterId,
    seen_ms: i64,
}

/// The members of a group on one topic, as their receives show them.
#[derive(Debug, Clone, Default)]
pub(super) struct Members {
    filters: Vec<(FilterId, Arc<Filter>)>,
    members: HashMap<String, Member>,
    next: u32,
}

impl Members {
    /// A member receives with this filter. Its number stays the same as long as anybody uses it.
    pub(super) fn join(&mut self, now_ms: i64, client: &str, filter: &Filter) -> FilterId {
        let id = match self.filters.iter().find(|(_, known)| **known == *filter) {
            Some((id, _)) => *id,
            None => {
                let id = FilterId(self.next);
                self.next += 1;
                self.filters.push((id, Arc::new(filter.clone())));
                id
            }
        };
        match self.members.get_mut(client) {
            Some(member) => *member = Member { filter: id, seen_ms: now_ms },
            None => drop(self.members.insert(client.to_owned(), Member { filter: id, seen_ms: now_ms })),
        }
        id
    }

    /// Filters of other members.
    pub(super) fn others(&self, filter: FilterId) -> impl Iterator<Item = (FilterId, Arc<Filter>)> + '_ {
        self.filters.iter().filter(move |(id, _)| *id != filter).cloned()
    }

    /// The filters that members have at the moment.
    pub(super) fn filters(&self) -> Vec<Arc<Filter>> {
        let is_used = |id: FilterId| self.members.values().any(|member| member.filter == id);
        self.filters.iter().filter(|(id, _)| is_used(*id)).map(|(_, filter)| Arc::clone(filter)).collect()
    }

    /// Number of filters in use.
    pub(super) fn filters_len(&self) -> usize {
        self.filters.len()
    }

    pub(super) fn leave(&mut self, client: &str) {
        self.members.remove(client);
    }

    /// Forgets members that are gone; returns the filters that nobody has any more.
    pub(super) fn prune(&mut self, now_ms: i64, alive: &impl Fn(&str) -> bool) -> Vec<FilterId> {
        self.members.retain(|client, member| {
            now_ms.saturating_sub(member.seen_ms) < MEMBER_FORGOTTEN_MS || alive(client)
        });
        let members = &self.members;
        let unused = |id: FilterId| !members.values().any(|member| member.filter == id);
        self.filters.extract_if(.., |(id, _)| unused(*id)).map(|(id, _)| id).collect()
    }
}
