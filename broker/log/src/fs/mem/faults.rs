//! Faults of a simulated disk: refused operations, and power cuts.

use std::io;

/// Operations that [`super::MemFolder`] can be told to refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskFault {
    /// Reading a file, as if the device had lost the place.
    Read,
    /// Writing to a file; half of the bytes get through.
    Write,
    /// Syncing a file. The unsynced data is forgotten: later syncs do not help, as on Linux.
    Sync,
    /// Syncing the folder.
    SyncFolder,
    /// Creating a file.
    Create,
    /// Creating a file, because the process has no descriptor left.
    Descriptor,
    /// Removing a file.
    Remove,
    /// Reserving space.
    Allocate,
    /// Changing the length of a file.
    SetLen,
}

impl DiskFault {
    /// Every kind of operation.
    pub const ALL: [Self; 9] = [
        Self::Read,
        Self::Write,
        Self::Sync,
        Self::SyncFolder,
        Self::Create,
        Self::Descriptor,
        Self::Remove,
        Self::Allocate,
        Self::SetLen,
    ];
}

/// How often an operation is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultTimes {
    /// One time.
    Once,
    /// From then on.
    ForGood,
}

/// The outcome of an operation.
pub(super) enum Verdict {
    /// It succeeds.
    Done,
    /// It is refused.
    Refused(io::Error),
    /// The power is cut during the operation: its effect may or may not survive.
    Cut(io::Error),
}

#[derive(Debug)]
struct Plan {
    fault: DiskFault,
    /// Number of operations of the kind that still succeed.
    left: u64,
    times: FaultTimes,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    plans: Vec<Plan>,
    /// Number of changing operations until the power is cut.
    power: Option<u64>,
    off: bool,
    operations: u64,
}

impl Faults {
    pub(super) fn plan(&mut self, fault: DiskFault, nth: u64, times: FaultTimes) {
        self.plans.push(Plan { fault, left: nth, times });
    }

    pub(super) fn mend(&mut self) {
        self.plans.clear();
    }

    pub(super) fn power_off_at(&mut self, nth: u64) {
        self.power = Some(nth);
    }

    pub(super) fn power_on(&mut self) {
        self.power = None;
        self.off = false;
    }

    pub(super) fn operations(&self) -> u64 {
        self.operations
    }

    /// Called before every operation; returns its outcome.
    pub(super) fn meet(&mut self, fault: DiskFault) -> Verdict {
        if self.off {
            return Verdict::Refused(power_is_off());
        }
        if fault != DiskFault::Read {
            self.operations += 1;
            match &mut self.power {
                Some(0) => {
                    self.off = true;
                    return Verdict::Cut(power_is_off());
                }
                Some(left) => *left -= 1,
                None => {}
            }
        }
        // Creating a file meets both faults.
        if fault == DiskFault::Create && self.refuses(DiskFault::Descriptor) {
            return Verdict::Refused(rustix::io::Errno::MFILE.into());
        }
        match fault {
            _ if !self.refuses(fault) => Verdict::Done,
            DiskFault::Read => Verdict::Refused(bad_place()),
            _ => Verdict::Refused(io::Error::other("simulated disk failure")),
        }
    }

    /// Whether an operation of the kind is refused; counts the operation.
    fn refuses(&mut self, fault: DiskFault) -> bool {
        let mut refused = false;
        for plan in self.plans.iter_mut().filter(|plan| plan.fault == fault) {
            refused |= plan.left == 0;
            plan.left = match (plan.left, plan.times) {
                (0, FaultTimes::Once) => u64::MAX,
                (0, FaultTimes::ForGood) => 0,
                (left, _) => left - 1,
            };
        }
        refused
    }

    pub(super) fn check_power(&self) -> io::Result<()> {
        if self.off { Err(power_is_off()) } else { Ok(()) }
    }
}

/// The error of reading a bad sector.
pub(super) fn bad_place() -> io::Error {
    rustix::io::Errno::IO.into()
}

pub(super) fn power_is_off() -> io::Error {
    io::Error::other("simulated power cut")
}
