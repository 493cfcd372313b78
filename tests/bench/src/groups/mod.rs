//! The groups of figures.

pub mod append;
pub mod big;
pub mod commit;
pub mod dedup;
pub mod find;
pub mod indexed;
pub mod read;
pub mod startup;
