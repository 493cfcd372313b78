//! What every Kerolox server process needs, whatever it serves: one port for TLS and plaintext with the memory of its calls,
//! health over HTTP, layered configuration, its data folder, its background tasks, and its own inspection.

pub mod config;
pub mod data_folder;
pub mod health;
pub mod inspect;
pub mod listen;
pub mod memory;
pub mod process;
pub mod reminder;
pub mod supervisor;
pub mod tls;
