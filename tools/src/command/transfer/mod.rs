//! Messages to and from files, and from the standard input.

mod bar;
mod export;
mod file;
mod import;
mod item;
mod produce;

pub(crate) use export::Export;
pub(crate) use import::Import;
pub(crate) use produce::Produce;
