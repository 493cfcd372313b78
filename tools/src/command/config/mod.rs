//! Topics and consumer groups in a file: `apply` makes a cluster like it, `configExport` writes one.

mod apply;
mod export;
mod file;
mod plan;

pub(crate) use apply::Apply;
pub(crate) use export::ConfigExport;
