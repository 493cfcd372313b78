//! Who is elected was in the last in-sync set, and the epoch grows with each election.

use kerolox_controller::GroupRecord;

pub(crate) fn check(before: Option<&GroupRecord>, after: &GroupRecord) -> Result<(), String> {
    let Some(before) = before else { return Ok(()) };
    if after.epoch < before.epoch || after.version < before.version {
        return Err(format!("group {} goes back from epoch {}", after.name, before.epoch));
    }
    if after.recovery.is_some() || before.recovery.is_some() {
        // The members know better, and all that were in sync are asked.
        return if after.is_split { Err(format!("group {} has two histories", after.name)) } else { Ok(()) };
    }
    if after.master == 0 && after.in_sync != before.in_sync {
        return Err(format!("the in-sync set of group {} changes without a master", after.name));
    }
    if after.master == 0 || after.master == before.master {
        return Ok(());
    }
    if before.master != 0 && before.epoch == after.epoch {
        return Err(format!("group {} has two masters in epoch {}", after.name, after.epoch));
    }
    if before.in_sync.contains(&after.master) {
        return Ok(());
    }
    Err(format!(
        "member {} of group {} was elected, which was not in the in-sync set {:?}",
        after.master, after.name, before.in_sync
    ))
}
