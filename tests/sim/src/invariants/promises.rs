//! A member that promised an epoch helps no earlier epoch, and what it takes for confirmed it never gives up.
//! It remembers its promise whatever happens, and holds what it says.

use std::collections::BTreeMap;

#[derive(Default)]
pub(crate) struct Promises {
    /// By incarnation.
    promised: BTreeMap<String, u32>,
}

impl Promises {
    pub(crate) fn promised(&mut self, incarnation: &str, epoch: u32) -> Result<(), String> {
        let before = self.promised.insert(incarnation.to_owned(), epoch);
        match before {
            Some(before) if before > epoch => {
                Err(format!("{incarnation} promised epoch {before}, and then {epoch}"))
            }
            _ => Ok(()),
        }
    }

    /// A process is started, and knows of promises up to an epoch.
    pub(crate) fn remembers(&self, incarnation: &str, epoch: u32) -> Result<(), String> {
        match self.promised.get(incarnation) {
            Some(promised) if *promised > epoch => {
                Err(format!("{incarnation} promised epoch {promised}, and remembers {epoch}"))
            }
            _ => Ok(()),
        }
    }

    /// It says that it holds everything before `durable`; its records end at `end`.
    pub(crate) fn holds(incarnation: &str, durable: u64, end: u64) -> Result<(), String> {
        if durable <= end {
            return Ok(());
        }
        Err(format!(
            "{incarnation} says that it holds what lies before {durable}, and its records end at {end}"
        ))
    }

    pub(crate) fn helped(&self, incarnation: &str, epoch: u32) -> Result<(), String> {
        match self.promised.get(incarnation) {
            Some(promised) if *promised > epoch => {
                Err(format!("{incarnation} promised epoch {promised}, and helps the master of epoch {epoch}"))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn cut(incarnation: &str, to: u64, applied: u64) -> Result<(), String> {
        if applied <= to {
            return Ok(());
        }
        Err(format!("{incarnation} cuts its log at {to}, and took everything before {applied} for confirmed"))
    }
}
