//! What simulations of machines share.

mod disk;

pub use disk::DiskKv;
