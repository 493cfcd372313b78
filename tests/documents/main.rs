//! What holds of the repository as a whole: documents that are made from the code, and what each program is made of.
#![allow(clippy::unwrap_used, reason = "tests panic when something is wrong")]

mod architecture;
mod attributes;
mod dependencies;
mod errors;
mod limits;
mod pages;
mod settings;
mod source;
mod webhooks;
