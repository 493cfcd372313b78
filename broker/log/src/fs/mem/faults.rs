//! When a simulated disk refuses, and when its power goes.

use std::io;

/// Operations that [`super::MemFolder`] can be told to refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskFault {
    /// Reading a file: the device has given up what lies there.
    Read,
    /// Writing to a file; half of the bytes get through.
    Write,
    /// Syncing a file. What it should have made durable is forgotten: later syncs do not help, as on Linux.
    Sync,
    /// Syncing the folder.
    SyncFolder,
    /// Creating a file.
    Create,
    /// The same, because the process has no descriptor left.
    Descriptor,
    /// Removing a file.
    Remove,
    /// Reserving room.
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

/// For how long an operation is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultTimes {
    /// One time.
    Once,
    /// From then on.
    ForGood,
}

/// How an operation goes.
pub(super) enum Verdict {
    /// It works.
    Done,
    /// It is refused.
    Refused(io::Error),
    /// The power goes while it is under way: its effect may or may not survive.
    Cut(io::Error),
}

#[derive(Debug)]
struct Plan {
    fault: DiskFault,
    /// Operations of the kind that still work.
    left: u64,
    times: FaultTimes,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    plans: Vec<Plan>,
    /// Changing operations until the power goes.
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

    /// To be asked before every operation.
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
        // They are met together.
        if fault == DiskFault::Create && self.refuses(DiskFault::Descriptor) {
            return Verdict::Refused(rustix::io::Errno::MFILE.into());
        }
        match fault {
            _ if !self.refuses(fault) => Verdict::Done,
            DiskFault::Read => Verdict::Refused(bad_place()),
            _ => Verdict::Refused(io::Error::other("simulated disk failure")),
        }
    }

    /// Whether an operation of the kind is to be refused, which counts as one of them.
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

/// What a read of a bad sector fails with.
pub(super) fn bad_place() -> io::Error {
    rustix::io::Errno::IO.into()
}

pub(super) fn power_is_off() -> io::Error {
    io::Error::other("simulated power cut")
}
