//! An AckMessage may carry handles of several owners: splitting it up and putting the results together again.

use std::collections::BTreeMap;

use kerolox_proto::v2::{AckMessageEntry, AckMessageResponse, AckMessageResultEntry, Status};

use crate::refusal::common_status;
use crate::sdk::calls::owner_of_receipt;

/// The entries of a request by their place in it.
#[derive(Debug, Default, PartialEq)]
pub struct AckPlan {
    /// Entries by the broker group that has to handle them.
    pub by_owner: BTreeMap<String, Vec<(usize, AckMessageEntry)>>,
    /// Results of the entries with foreign handles.
    pub refused: Vec<(usize, AckMessageResultEntry)>,
}

/// Sorts the entries of a request by owner.
pub fn plan(entries: Vec<AckMessageEntry>) -> AckPlan {
    let mut plan = AckPlan::default();
    for (place, entry) in entries.into_iter().enumerate() {
        match owner_of_receipt(&entry.receipt_handle) {
            Ok(owner) => plan.by_owner.entry(owner).or_default().push((place, entry)),
            Err(refusal) => plan.refused.push((place, result(&entry, &refusal.into()))),
        }
    }
    plan
}

/// The results of the entries at `entries`' places, out of the owner's answer. An answer without entries of its own
/// stands for all.
pub fn results(
    entries: &[(usize, AckMessageEntry)],
    answer: AckMessageResponse,
) -> Vec<(usize, AckMessageResultEntry)> {
    let status = answer.status.unwrap_or_default();
    let places = entries.iter().map(|(place, _)| *place);
    if answer.entries.len() == entries.len() {
        places.zip(answer.entries).collect()
    } else {
        entries.iter().map(|(place, entry)| (*place, result(entry, &status))).collect()
    }
}

/// The answer to the client, with the results in the order of its request.
pub fn merge(mut results: Vec<(usize, AckMessageResultEntry)>) -> AckMessageResponse {
    results.sort_by_key(|(place, _)| *place);
    let entries: Vec<AckMessageResultEntry> = results.into_iter().map(|(_, entry)| entry).collect();
    let status = common_status(entries.iter().filter_map(|entry| entry.status.as_ref()));
    AckMessageResponse { status: Some(status), entries }
}

/// The result of one entry.
pub fn result(entry: &AckMessageEntry, status: &Status) -> AckMessageResultEntry {
    AckMessageResultEntry {
        message_id: entry.message_id.clone(),
        receipt_handle: entry.receipt_handle.clone(),
        status: Some(status.clone()),
    }
}
