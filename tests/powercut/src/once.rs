//! What topics without duplicates must do: take each message once within the window, and lose none.

use std::collections::{BTreeMap, HashMap, HashSet};

use kerolox_core::dedup::DedupPolicy;
use kerolox_core::topic::Topic;
use kerolox_store::{ApplyOutcome, FirstMessage, Store};

use crate::model::Answer;
use crate::observe::{View, Visible};
use crate::plan::{KEYS, ONCE, Plan, attributes_of};

/// How the topic tells repeats.
pub(crate) fn rules() -> DedupPolicy {
    let topic = Topic { attributes: attributes_of(ONCE), ..Topic::new(ONCE, 1) };
    DedupPolicy::of(&topic).expect("the topic has the attribute")
}

#[derive(Default)]
pub(crate) struct Once {
    /// What messages are known by, by id.
    keys: HashMap<String, &'static str>,
    /// Messages that were answered as repeats.
    repeats: HashSet<String>,
}

impl Once {
    /// To be told before a proposal is made.
    pub(crate) fn propose(&mut self, plan: &Plan) {
        if let Plan::Once { id, key, .. } = plan {
            self.keys.insert(id.clone(), *key);
        }
    }

    /// Checks what became of a proposal, given what was visible before it.
    pub(crate) fn check(
        &mut self,
        store: &Store,
        view: &View,
        answer: &Answer,
        trimmed: u64,
    ) -> Result<(), String> {
        let Plan::Once { id, key, .. } = &answer.plan else { return Ok(()) };
        match answer.applied.outcome {
            ApplyOutcome::Duplicate(first) => {
                self.repeats.insert(id.clone());
                self.check_repeat(store, &first, answer)
            }
            _ => {
                let now_ms = answer.applied.store_ms;
                let same = |visible: &&Visible| {
                    self.keys.get(&visible.id) == Some(key)
                        && visible.is_in_place(trimmed)
                        && rules().remembers(visible.ms, now_ms)
                };
                let earlier = view.visible.values().find(same);
                earlier
                    .map_or(Ok(()), |earlier| Err(format!("{} of {} ms is the same", earlier.id, earlier.ms)))
            }
        }
    }

    /// The first one is there, is the same, and is not too old.
    fn check_repeat(&self, store: &Store, first: &FirstMessage, answer: &Answer) -> Result<(), String> {
        let Plan::Once { key, .. } = &answer.plan else { return Ok(()) };
        let (frame, message) =
            store.read_message_at(first.position).map_err(|error| format!("the first one: {error}"))?;
        let id = &message.header.message_id;
        if self.keys.get(id) != Some(key) || frame.store_ms != first.store_ms {
            return Err(format!("{id} of {} ms is not the first one", frame.store_ms));
        }
        if !rules().remembers(first.store_ms, answer.applied.store_ms) {
            return Err(format!("{id} of {} ms is too old", frame.store_ms));
        }
        if self.repeats.contains(id) {
            return Err(format!("{id} is itself a repeat"));
        }
        let Some((queue, offset)) = first.place else { return Err(format!("{id} has no place")) };
        let (min, entry) = {
            let index = store.state();
            let topic_id = message.header.topic_id;
            let entry = index.entry(topic_id, queue, offset).map_err(|error| error.to_string())?;
            (index.queues.bounds(topic_id, queue).min, entry)
        };
        match entry {
            Some(entry) if entry.position == first.position => Ok(()),
            None if offset < min => Ok(()),
            // Its record was carried forward in the meantime.
            Some(entry) if entry.position > first.position => Ok(()),
            found => Err(format!("{id} does not stand at {queue}/{offset}, but {found:?}")),
        }
    }

    /// No two messages of one window are the same, and what was answered as a repeat is not there.
    pub(crate) fn check_all(&self, view: &View) -> Result<(), String> {
        let mut by_key: HashMap<&str, Vec<&Visible>> = HashMap::new();
        for visible in view.visible.values() {
            if self.repeats.contains(&visible.id) {
                return Err(format!("{} is visible, but was answered as a repeat", visible.id));
            }
            if let Some(key) = self.keys.get(&visible.id)
                && !visible.is_carried
            {
                by_key.entry(key).or_default().push(visible);
            }
        }
        for (key, mut messages) in by_key {
            messages.sort_by_key(|message| message.ms);
            let twice = messages.windows(2).find(|pair| rules().remembers(pair[0].ms, pair[1].ms));
            if let Some([one, other]) = twice {
                return Err(format!(
                    "{} and {} are both there with key {key} in one window",
                    one.id, other.id
                ));
            }
        }
        Ok(())
    }
}

/// What a store remembers at a time: the first ones, by key.
pub(crate) fn remembered(store: &Store, now_ms: i64) -> Result<BTreeMap<&'static str, u64>, String> {
    let index = store.state();
    let Some(topic) = index.topics.get(ONCE) else { return Ok(BTreeMap::new()) };
    let mut found = BTreeMap::new();
    for key in KEYS {
        let first = index.first_of(&topic, rules().hash("", &[key]), now_ms);
        found.extend(first.map_err(|error| error.to_string())?.map(|first| (key, first.position)));
    }
    Ok(found)
}
