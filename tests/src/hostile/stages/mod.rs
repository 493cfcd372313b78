//! Troubles that need a broker of their own: they begin with its disk, or with its start.

mod drain;
mod full_disk;
mod rebuild;

pub(super) use full_disk::{NAME as FULL_DISK, full_disk};
pub(super) use rebuild::{NAME as REBUILD, rebuild};
