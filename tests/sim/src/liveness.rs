//! The end of a run without faults: every group has a master, all members are in sync, sends are acknowledged, and all logs
//! are equal. Then all invariants of the end are checked.

use std::collections::BTreeSet;

use crate::invariants;
use crate::machine::Machine;
use crate::member::Member;
use crate::world::{Event, LOOK, SimWorld, name_of};

impl SimWorld {
    /// Checks whether everything is in order.
    pub(crate) fn look(&mut self) -> Result<(), String> {
        let missing = if self.is_ending {
            (0..self.machines.len()).find_map(|group| self.missing(group))
        } else {
            Some("clients are at work".to_owned())
        };
        match missing {
            None => {
                self.is_over = true;
                self.figures.time = self.now;
                (0..self.machines.len()).try_for_each(|group| self.check_group(group))
            }
            Some(missing) if self.now >= self.deadline => {
                Err(format!("the faults are long over, and still: {missing}"))
            }
            Some(_) => {
                self.after(LOOK, Event::Look);
                Ok(())
            }
        }
    }

    /// The first thing that is not in order yet.
    fn missing(&self, at: usize) -> Option<String> {
        let machines = &self.machines[at];
        let overseen = &self.overseen[at];
        let Some(group) = self.controllers.groups.get(&name_of(at)) else {
            return Some(format!("group {at} is not known"));
        };
        let ids: BTreeSet<u64> =
            machines.iter().filter_map(|machine| group.member_of(&machine.incarnation)).collect();
        if group.master == 0 || ids.len() < machines.len() || group.in_sync != ids {
            return Some(format!("of group {at} {ids:?} are there, and the state is {group:?}"));
        }
        if self.ruling(at).len() != 1 {
            return Some(format!("group {at} is ruled by {:?}", self.ruling(at)));
        }
        let is_busy = |client: &&crate::clients::Client| client.group == at && !client.is_idle();
        if !overseen.decisions.is_empty()
            || self.clients.iter().any(|client| is_busy(&client) && !client.only_reads())
        {
            return Some(format!("clients of group {at} wait for something"));
        }
        if overseen.history.acked == overseen.acked_in_chaos {
            return Some(format!("nothing was acknowledged by group {at} since the faults ended"));
        }
        let stands = machines.iter().map(|machine| {
            let store = machine.running.as_ref().and_then(Member::store)?;
            let end = store.standby_log()?.end();
            let is_folded = store.state().applied() == end && store.state().timers.open_total() == 0;
            is_folded.then_some(end)
        });
        let ends: BTreeSet<Option<u64>> = stands.collect();
        if ends.len() != 1 || ends.contains(&None) {
            return Some(format!("the logs of group {at} end at {ends:?}"));
        }
        None
    }

    fn check_group(&self, at: usize) -> Result<(), String> {
        let wrong = |wrong: String| format!("group {at}: {wrong}");
        let overseen = &self.overseen[at];
        let (_, epoch) = self.ruling(at)[0];
        let stores = self.machines[at].iter().filter_map(|machine: &Machine| {
            let member = machine.running.as_ref()?;
            let is_master = member.leading(machine.clock(self.now)).is_some_and(|(own, _)| own == epoch);
            Some((member.store()?, member.disk(), is_master))
        });
        let stores: Vec<_> = stores.collect();
        for (store, disk, is_master) in &stores {
            overseen.canon.check(store).map_err(wrong)?;
            invariants::check_same(stores[0].0, store).map_err(wrong)?;
            invariants::fold(store, &*disk.kv).map_err(wrong)?;
            if *is_master {
                invariants::at_the_end(&overseen.history, store, self.swarm.queues).map_err(wrong)?;
            }
        }
        Ok(())
    }
}
