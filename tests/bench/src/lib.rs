//! Benchmarks of the storage engine.
//!
//! Disks and processors of shared machines vary from second to second, so a figure alone says little. Each figure is
//! therefore set against what the same machine does at the same time without an engine: plain writes, syncs and reads of equal
//! bytes, in short turns that alternate with the engine's. Ratios are medians over the turns.

pub mod child;
pub mod engine;
pub mod files;
pub mod groups;
pub mod machine;
pub mod messages;
pub mod raw;
pub mod report;
pub mod settings;
pub mod turns;
