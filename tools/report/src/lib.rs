//! How commands of Kerolox's tools end, and how their results are printed: the same exit codes, tables and documents for all of them.

pub mod logging;
pub mod outcome;
pub mod output;
