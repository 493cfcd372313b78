//! Who reads sees what was acknowledged before the question was asked.

pub(crate) fn check(queue: u32, acknowledged: u64, next: u64) -> Result<(), String> {
    if next >= acknowledged {
        return Ok(());
    }
    Err(format!("queue {queue} was read up to {next}, but {acknowledged} was acknowledged before"))
}
