//! What happened, as text: printed on request, and always summed up in a number.

use crate::world::secs;

pub(crate) struct Trace {
    is_verbose: bool,
    hash: u64,
}

impl Trace {
    pub(crate) fn new(is_verbose: bool) -> Self {
        Self { is_verbose, hash: 0xcbf2_9ce4_8422_2325 }
    }

    pub(crate) fn note(&mut self, now: u64, what: impl FnOnce() -> String) {
        let what = what();
        if self.is_verbose {
            println!("{:10.3}  {what}", secs(now));
        }
        for byte in now.to_le_bytes().into_iter().chain(what.bytes()) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// FNV-1a of everything noted.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }
}
