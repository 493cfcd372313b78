//! Message ids of RocketMQ 5: 34 upper-case hexadecimal digits.
//!
//! `01`, 6 bytes that identify the machine, 2 bytes of the process id, 4 bytes of seconds since 2021, 4 bytes of a counter.
//! Random bytes stand in for the MAC address, so that two generators in one process, or two containers with one MAC
//! address, never make the same id.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// 2021-01-01T00:00:00Z in seconds since the Unix epoch.
const EPOCH_2021_S: u64 = 1_609_459_200;

/// Makes ids that no other generator makes.
#[derive(Debug)]
pub(crate) struct MessageIds {
    machine: [u8; 6],
    process: u16,
    next: AtomicU32,
}

impl MessageIds {
    pub(crate) fn new() -> Self {
        let random = uuid::Uuid::new_v4().into_bytes();
        let mut machine = [0; 6];
        // The first six bytes of a version 4 UUID are all random.
        machine.copy_from_slice(&random[..6]);
        // Locally administered: cannot equal the real MAC address that another SDK uses.
        machine[0] |= 0b10;
        let low_process_id = (std::process::id() & 0xFFFF) as u16;
        Self { machine, process: low_process_id, next: AtomicU32::new(0) }
    }

    /// A new id at the time `now`.
    pub(crate) fn next(&self, now: SystemTime) -> String {
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let seconds = (since_epoch.saturating_sub(EPOCH_2021_S) & 0xFFFF_FFFF) as u32;
        format_id(self.machine, self.process, seconds, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

fn format_id(machine: [u8; 6], process: u16, seconds: u32, sequence: u32) -> String {
    let mut id = String::with_capacity(34);
    id.push_str("01");
    for byte in machine {
        write!(id, "{byte:02X}").expect("writing to a String cannot fail");
    }
    write!(id, "{process:04X}{seconds:08X}{sequence:08X}").expect("writing to a String cannot fail");
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_rocketmqs() {
        let id = format_id([0x02, 0, 0x5E, 0x10, 0xAB, 0xCD], 0x04D2, 0x0102_0304, 7);
        assert_eq!(id, "0102005E10ABCD04D20102030400000007");
        assert_eq!(id.len(), 34);
    }

    #[test]
    fn seconds_count_from_2021() {
        let ids = MessageIds::new();
        let id = ids.next(UNIX_EPOCH + Duration::from_secs(EPOCH_2021_S + 255));
        assert_eq!(&id[18..26], "000000FF");
        assert!(id.chars().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase()));
    }

    #[test]
    fn ids_of_one_and_of_two_generators_differ() {
        let (a, b) = (MessageIds::new(), MessageIds::new());
        let now = SystemTime::now();
        let ids = std::collections::HashSet::from([a.next(now), a.next(now), b.next(now), b.next(now)]);
        assert_eq!(ids.len(), 4);
    }
}
