//! What goes wrong, and how it ends.

use std::collections::BTreeSet;

use kerolox_controller::{GroupCommand, GroupRecord, GroupTable};

use crate::machine::Machine;
use crate::member::{CONTROLLERS, Input};
use crate::message::{Message, Node};
use crate::swarm::{Fault, below, between};
use crate::world::{Event, LOOK, Place, SimWorld, name_of};

/// How long clients go on when the faults are over, in microseconds.
const AFTERWARDS: u64 = 6_000_000;
/// How long it may take then until everything is in order.
const RECOVERY: u64 = 60_000_000;

/// How long controllers with data that may be old are cautious.
const CAUTION_MS: u64 = 100_000;
/// Copies of the controllers' data that are kept.
const COPIES: usize = 6;

/// The end of something.
#[derive(Debug)]
pub(crate) enum Undo {
    Start(Place),
    Resume(Place),
    Open(Vec<(Node, Node)>),
    Speed(Place),
    Controller(usize),
    /// A client waited long enough for its request.
    GiveUp(usize, u64),
    /// The power goes now, if it did not go in the middle of something.
    CutPower(Place, u64),
}

impl SimWorld {
    /// One of the faults of this world, and the time of the next one.
    pub(crate) fn fault(&mut self) -> Result<(), String> {
        if self.is_calm {
            return Ok(());
        }
        let next = between(&mut self.chooser, 50_000, self.swarm.fault_every);
        self.after(next, Event::Fault);
        if self.chooser.chance(1, 2) {
            self.copies.push(self.controllers.groups.clone());
            let surplus = self.copies.len().saturating_sub(COPIES);
            self.copies.drain(..surplus);
        }
        let fault = self.swarm.faults[below(&mut self.chooser, self.swarm.faults.len())];
        let group = below(&mut self.chooser, self.machines.len());
        let slot = below(&mut self.chooser, self.machines[group].len());
        self.inject(fault, (group, slot))
    }

    /// Something happens to the master of a group right after the group has changed.
    pub(crate) fn ambush(&mut self, group: usize) -> Result<(), String> {
        if self.is_calm {
            return Ok(());
        }
        let known = self.controllers.groups.get(&name_of(group));
        let master = known.and_then(|known| known.members.get(&known.master));
        let slot = master.and_then(|master| master.replication_address.parse().ok());
        let random = below(&mut self.chooser, self.machines[group].len());
        let place = (group, slot.filter(|_| self.chooser.chance(3, 4)).unwrap_or(random));
        let kinds = [Fault::Kill, Fault::PowerCut, Fault::Pause, Fault::Partition, Fault::OneWay];
        let kinds: Vec<Fault> = kinds.into_iter().filter(|kind| self.swarm.faults.contains(kind)).collect();
        if kinds.is_empty() {
            return Ok(());
        }
        let fault = kinds[below(&mut self.chooser, kinds.len())];
        self.inject(fault, place)
    }

    fn inject(&mut self, fault: Fault, place: Place) -> Result<(), String> {
        self.trace.note(self.now, || format!("FAULT {fault:?} {place:?}"));
        let is_done = match fault {
            Fault::Kill => {
                self.kill(place);
                true
            }
            Fault::PowerCut => {
                self.plan_power_cut(place)?;
                true
            }
            Fault::Pause => self.pause(place),
            Fault::Wipe => self.wipe(place),
            Fault::Partition => self.partition(true),
            Fault::OneWay => self.partition(false),
            Fault::SlowLink => self.slow_link(place),
            Fault::WallClock => {
                let to = i64::try_from(self.chooser.below(20_000)).expect("small") - 10_000;
                self.machine_at(place).wall_off = to;
                true
            }
            Fault::SlowDisk => {
                self.machine_at(place).slowness = between(&mut self.chooser, 5, 60);
                let until = between(&mut self.chooser, 500_000, 6_000_000);
                self.after(until, Event::Undo(Undo::Speed(place)));
                true
            }
            Fault::Controller => {
                let at = below(&mut self.chooser, CONTROLLERS);
                self.stop_controllers([at]);
                true
            }
            Fault::Controllers => {
                let spared = below(&mut self.chooser, CONTROLLERS);
                self.stop_controllers((0..CONTROLLERS).filter(|at| *at != spared));
                true
            }
            Fault::ControllersLost => self.lose_controllers(),
            Fault::ControllersRestored => self.restore_controllers(),
            Fault::HandOver => {
                self.input(place, Input::HandOver)?;
                true
            }
            Fault::LostIndex => self.lose_index(place),
        };
        if is_done {
            *self.figures.faults.entry(fault).or_default() += 1;
        }
        Ok(())
    }

    /// Whether each member can tell controllers without data what they knew: a blank one that comes first begins a group of its own.
    fn can_tell(&self) -> bool {
        self.machines.iter().flatten().all(|machine| machine.disk.knows_its_group())
    }

    fn lose_controllers(&mut self) -> bool {
        let can_tell = self.can_tell() && !self.figures.faults.contains_key(&Fault::ControllersRestored);
        if can_tell {
            self.controllers.forget(GroupTable::default());
        }
        can_tell
    }

    /// Restores an older copy of the data of all controllers.
    fn restore_controllers(&mut self) -> bool {
        // After two such faults in a row no controller may be able to tell which history is the right one.
        let mut had = [Fault::ControllersLost, Fault::ControllersRestored].into_iter();
        let is_first = !had.any(|fault| self.figures.faults.contains_key(&fault));
        let Some(at) = self.copies.len().checked_sub(1).filter(|_| is_first && self.can_tell()) else {
            return false;
        };
        let at = below(&mut self.chooser, at + 1);
        self.controllers.forget(self.copies[at].clone());
        // For a while they elect no member that a member in sync may object to.
        self.swarm.controller.cautious_until = self.now / 1000 + CAUTION_MS;
        true
    }

    fn restart_later(&mut self, place: Place) {
        let after = match self.chooser.below(3) {
            0 => between(&mut self.chooser, 1_000, 100_000),
            1 => between(&mut self.chooser, 100_000, 2_000_000),
            _ => between(&mut self.chooser, 2_000_000, 8_000_000),
        };
        self.after(after, Event::Undo(Undo::Start(place)));
    }

    fn kill(&mut self, place: Place) {
        let machine = self.machine_at(place);
        // Writes of the dying process go to a disk that is thrown away.
        machine.disk = machine.disk.after_kill();
        machine.stop();
        self.restart_later(place);
    }

    fn plan_power_cut(&mut self, place: Place) -> Result<(), String> {
        if self.chooser.chance(1, 2) {
            return self.cut_power(place);
        }
        let nth = self.chooser.below(10);
        let machine = self.machine_at(place);
        machine.disk.folder.power_off_at(nth);
        let life = machine.life;
        self.after(400_000, Event::Undo(Undo::CutPower(place, life)));
        Ok(())
    }

    pub(crate) fn cut_power(&mut self, place: Place) -> Result<(), String> {
        let now = self.now;
        self.trace.note(now, || format!("the power of {place:?} goes"));
        let machine = &mut self.machines[place.0][place.1];
        machine.disk = machine.disk.after_power_cut(&mut self.chooser);
        machine.stop();
        machine.life = 0;
        (machine.booted, machine.mono_base) = (now, 0);
        self.restart_later(place);
        Ok(())
    }

    fn lose_index(&mut self, place: Place) -> bool {
        self.kill(place);
        let machine = self.machine_at(place);
        machine.disk = machine.disk.without_index();
        true
    }

    fn pause(&mut self, place: Place) -> bool {
        let machine = self.machine_at(place);
        if machine.running.is_none() || machine.is_paused {
            return false;
        }
        machine.is_paused = true;
        let until = between(&mut self.chooser, 100_000, 8_000_000);
        self.after(until, Event::Undo(Undo::Resume(place)));
        true
    }

    fn resume(&mut self, place: Place) -> Result<(), String> {
        let machine = self.machine_at(place);
        machine.is_paused = false;
        let life = machine.life;
        for input in std::mem::take(&mut machine.held_back) {
            if self.machine_at(place).life == life {
                self.input(place, input)?;
            }
        }
        Ok(())
    }

    /// Loses a disk, if another member of the in-sync set makes up for it: nothing can be done about the only copy.
    fn wipe(&mut self, place: Place) -> bool {
        let group = self.controllers.groups.get(&name_of(place.0)).cloned();
        if !group.is_some_and(|group| self.can_lose(&group, place)) {
            return false;
        }
        let fresh = self.machine();
        let machine = self.machine_at(place);
        let disk = machine.disk.without_log();
        *machine = Machine { disk, incarnation: String::new(), ..fresh };
        self.restart_later(place);
        true
    }

    fn can_lose(&self, group: &GroupRecord, place: Place) -> bool {
        let incarnations: BTreeSet<&String> =
            self.machines[place.0].iter().map(|machine| &machine.incarnation).collect();
        let is_alive =
            |id: &u64| group.members.get(id).is_some_and(|member| incarnations.contains(&member.incarnation));
        let own = group.member_of(&self.machines[place.0][place.1].incarnation);
        let others = group.in_sync.iter().filter(|id| Some(**id) != own).count();
        let changes = |command: &GroupCommand| command.name() == Some(&group.name);
        let is_changing = self.expects(|event| match event {
            Event::Commit { command, .. } => changes(command),
            Event::Deliver { message: Message::Change(command), .. } => changes(command),
            _ => false,
        });
        group.master != 0 && others > 0 && group.in_sync.iter().all(is_alive) && !is_changing
    }

    fn nodes(&self) -> Vec<Node> {
        let members = self
            .machines
            .iter()
            .enumerate()
            .flat_map(|(group, machines)| (0..machines.len()).map(move |slot| Node::Member(group, slot)));
        let clients = (0..self.clients.len()).map(Node::Client);
        members.chain((0..CONTROLLERS).map(Node::Controller)).chain(clients).collect()
    }

    /// Cuts some nodes off from the others, for a while.
    fn partition(&mut self, both_ways: bool) -> bool {
        let nodes = self.nodes();
        let side: Vec<bool> = nodes.iter().map(|_| self.chooser.chance(1, 3)).collect();
        let mut closed = Vec::new();
        for (from, is_in) in nodes.iter().zip(&side) {
            for (to, other_in) in nodes.iter().zip(&side) {
                if is_in != other_in && (both_ways || *is_in) {
                    self.net.block(*from, *to);
                    closed.push((*from, *to));
                }
            }
        }
        let until = between(&mut self.chooser, 200_000, 8_000_000);
        self.after(until, Event::Undo(Undo::Open(closed)));
        if self.swarm.faults.contains(&Fault::WallClock) && self.chooser.chance(1, 2) {
            let cut_off: Vec<Node> =
                nodes.iter().zip(&side).filter(|(_, is_in)| **is_in).map(|(node, _)| *node).collect();
            self.set_clocks_back(&cut_off);
        }
        true
    }

    /// Members that are cut off have their wall clocks set back: the servers that these go by are not reached either.
    fn set_clocks_back(&mut self, nodes: &[Node]) {
        let by = i64::try_from(between(&mut self.chooser, 1_000, 10_000)).expect("small");
        for node in nodes {
            if let Node::Member(group, slot) = *node {
                self.machine_at((group, slot)).wall_off -= by;
            }
        }
    }

    fn slow_link(&mut self, place: Place) -> bool {
        let nodes = self.nodes();
        let other = nodes[below(&mut self.chooser, nodes.len())];
        let own = Node::Member(place.0, place.1);
        let by = between(&mut self.chooser, 0, 1_500_000);
        self.net.slow_down(own, other, by);
        self.net.slow_down(other, own, by);
        true
    }

    fn stop_controllers(&mut self, which: impl IntoIterator<Item = usize>) {
        for at in which {
            self.controllers.stop(at);
            let until = between(&mut self.chooser, 300_000, 5_000_000);
            self.after(until, Event::Undo(Undo::Controller(at)));
        }
    }

    pub(crate) fn undo(&mut self, undo: Undo) -> Result<(), String> {
        match undo {
            Undo::Start(place) => self.start(place),
            Undo::Resume(place) => self.resume(place),
            Undo::Open(closed) => {
                closed.into_iter().for_each(|(from, to)| self.net.unblock(from, to));
                Ok(())
            }
            Undo::Speed(place) => {
                self.machine_at(place).slowness = 1;
                Ok(())
            }
            Undo::Controller(at) => {
                if !self.controllers.nodes[at].is_up {
                    self.controllers.start(at, self.now);
                }
                Ok(())
            }
            Undo::GiveUp(client, request) => {
                self.give_up(client, request);
                Ok(())
            }
            Undo::CutPower(place, life) => {
                let is_same = self.machine_at(place).life == life;
                if is_same { self.cut_power(place) } else { Ok(()) }
            }
        }
    }

    /// Ends all faults, and starts everything.
    pub(crate) fn calm(&mut self) -> Result<(), String> {
        self.trace.note(self.now, || "CALM".to_owned());
        self.is_calm = true;
        self.net.heal();
        self.swarm.loss = 0;
        for at in 0..CONTROLLERS {
            if !self.controllers.nodes[at].is_up {
                self.controllers.start(at, self.now);
            }
        }
        for group in 0..self.machines.len() {
            self.overseen[group].acked_in_chaos = self.overseen[group].history.acked;
            for slot in 0..self.machines[group].len() {
                let machine = self.machine_at((group, slot));
                (machine.slowness, machine.wall_off) = (1, 0);
                if machine.is_paused {
                    self.resume((group, slot))?;
                }
                self.start((group, slot))?;
            }
        }
        self.after(AFTERWARDS, Event::Quiet);
        self.after(AFTERWARDS, Event::Look);
        self.deadline = self.now + AFTERWARDS + RECOVERY;
        self.after(LOOK, Event::Look);
        Ok(())
    }
}
