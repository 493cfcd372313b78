//! How much each client makes by itself, without an administrator.

use std::collections::HashMap;

use parking_lot::{Mutex, MutexGuard};

/// Clients that are remembered; with more of them, counting begins anew. What all of them make together has a bound of its own.
const CLIENTS_MAX: usize = 10_000;

/// What each client has made since this broker is the master.
pub struct CreationQuota {
    max: usize,
    counts: Mutex<HashMap<String, usize>>,
}

impl CreationQuota {
    /// Each client may make `max`.
    pub fn at_most(max: usize) -> Self {
        Self { max, counts: Mutex::default() }
    }

    /// How many each client may make.
    pub fn max(&self) -> usize {
        self.max
    }

    /// The client makes another one; `false` when it may not.
    pub fn take(&self, client: &str) -> bool {
        let mut counts = self.lock();
        if counts.len() >= CLIENTS_MAX && !counts.contains_key(client) {
            counts.clear();
        }
        let count = counts.entry(client.to_owned()).or_default();
        let may = *count < self.max;
        *count += usize::from(may);
        may
    }

    /// Nothing came of it, or it was there already.
    pub fn give_back(&self, client: &str) {
        if let Some(count) = self.lock().get_mut(client) {
            *count = count.saturating_sub(1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.counts.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_makes_so_many_and_no_more() {
        let made = CreationQuota::at_most(2);
        assert!(made.take("a") && made.take("a") && !made.take("a") && made.take("b"));
        made.give_back("a");
        assert!(made.take("a") && !made.take("a"));
        for number in 0..2 * CLIENTS_MAX {
            made.take(&number.to_string());
        }
        assert!(made.lock().len() <= CLIENTS_MAX);
    }
}
