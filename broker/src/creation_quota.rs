//! Limits on automatic creation by each client, without an administrator.

use std::collections::HashMap;

use parking_lot::{Mutex, MutexGuard};

/// Number of clients that are remembered; beyond that, counting begins anew. Their total has its own limit.
const CLIENTS_MAX: usize = 10_000;

/// Number of automatic creations of each client since this broker became the master.
pub struct CreationQuota {
    max: usize,
    counts: Mutex<HashMap<String, usize>>,
}

impl CreationQuota {
    /// A quota of `max` for each client.
    pub fn at_most(max: usize) -> Self {
        Self { max, counts: Mutex::default() }
    }

    /// The quota of each client.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Counts a creation of the client; `false` when its quota is used up.
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

    /// Takes back a creation that failed or was not needed.
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
