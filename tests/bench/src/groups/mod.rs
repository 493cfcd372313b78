//! The groups of figures.

pub mod append;
pub mod commit;
pub mod indexed;
