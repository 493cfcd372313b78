//! The world of one seed: virtual time, and everything that happens in it, one event after the other.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use kerolox_controller::{
    CommandRefusal, CommandReply, GroupCommand, GroupName, GroupTable, MemberSighting, change_in_sync,
    hand_over, joining,
};
use kerolox_log::fs::SeededChoices;

use crate::clients::{Client, Decisions, KINDS, Sight};
use crate::controllers::Controllers;
use crate::faults::Undo;
use crate::figures::SimFigures;
use crate::history::History;
use crate::invariants::{self, Canon, LeadershipHistory, Promises};
use crate::machine::Machine;
use crate::member::{CONTROLLERS, Ctx, Disk, Effect, Identity, Input, Member, Note};
use crate::message::{Asked, Message, Node};
use crate::net::Net;
use crate::swarm::{Swarm, between};
use crate::trace::Trace;

/// A controller looks around this often, in microseconds.
const CONTROLLER_TICK: u64 = 80_000;
/// A client gives a request up after this time.
const CLIENT_PATIENCE: u64 = 1_500_000;
/// A client that was sent away tries another member after this time.
const CLIENT_PAUSE: u64 = 60_000;
/// The group's end is looked at this often.
pub(crate) const LOOK: u64 = 250_000;

/// Group, and place in it.
pub(crate) type Place = (usize, usize);

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    Deliver {
        from: Node,
        to: Node,
        message: Message,
    },
    /// Of a process with this number.
    Input(Place, u64, Input),
    Controller(usize),
    /// A leader of this term has its command committed, for a member that waits.
    Commit {
        at: usize,
        term: u64,
        command: GroupCommand,
        for_member: Option<Node>,
        asked: Asked,
    },
    /// A client goes on, unless it has got another request since.
    Wake(usize, u64),
    Fault,
    Ambush(usize),
    Undo(Undo),
    /// The faults are over.
    Calm,
    /// Clients begin nothing any more.
    Quiet,
    Look,
}

struct Timed {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Timed {}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// An outside view of a group.
#[derive(Default)]
pub(crate) struct Overseen {
    pub(crate) history: History,
    pub(crate) canon: Canon,
    pub(crate) leaderships: LeadershipHistory,
    pub(crate) decisions: Decisions,
    /// The number of acknowledgements when the faults ended.
    pub(crate) acked_in_chaos: u64,
}

pub(crate) struct SimWorld {
    pub(crate) now: u64,
    number: u64,
    events: BinaryHeap<Reverse<Timed>>,
    pub(crate) chooser: SeededChoices,
    pub(crate) swarm: Swarm,
    pub(crate) net: Net,
    pub(crate) machines: Vec<Vec<Machine>>,
    pub(crate) controllers: Controllers,
    /// Older copies of the controllers' data.
    pub(crate) copies: Vec<GroupTable>,
    pub(crate) clients: Vec<Client>,
    pub(crate) overseen: Vec<Overseen>,
    promises: Promises,
    pub(crate) trace: Trace,
    pub(crate) figures: SimFigures,
    lives: u64,
    pub(crate) is_calm: bool,
    pub(crate) is_ending: bool,
    pub(crate) is_over: bool,
    /// When the group has to be in order again at the latest.
    pub(crate) deadline: u64,
}

pub(crate) fn name_of(group: usize) -> GroupName {
    GroupName { cluster: "c".to_owned(), group: format!("g{group}") }
}

impl SimWorld {
    pub(crate) fn new(seed: u64, is_verbose: bool) -> Self {
        let mut chooser = SeededChoices::new(seed);
        let swarm = Swarm::new(&mut chooser);
        let mut world = Self {
            now: 0,
            number: 0,
            events: BinaryHeap::new(),
            net: Net::default(),
            machines: Vec::new(),
            controllers: Controllers::new(),
            copies: Vec::new(),
            clients: Vec::new(),
            overseen: Vec::new(),
            promises: Promises::default(),
            trace: Trace::new(is_verbose),
            figures: SimFigures::default(),
            lives: 0,
            is_calm: false,
            is_ending: false,
            is_over: false,
            deadline: u64::MAX,
            chooser,
            swarm,
        };
        world.trace.note(0, || format!("{:?}", world.swarm));
        world.populate();
        world
    }

    fn populate(&mut self) {
        for group in 0..self.swarm.groups.len() {
            let members = self.swarm.groups[group].0;
            let machines = (0..members).map(|_| self.machine()).collect();
            self.machines.push(machines);
            for slot in 0..members {
                let at = between(&mut self.chooser, 0, 300_000);
                self.after(at, Event::Undo(Undo::Start((group, slot))));
            }
            self.overseen.push(Overseen::default());
            for number in 0..KINDS.len() {
                let client = self.clients.len();
                self.clients.push(Client::new(group, number, self.swarm.queues));
                let at = between(&mut self.chooser, 0, 1_000_000);
                self.after(at, Event::Wake(client, 0));
            }
        }
        for controller in 0..CONTROLLERS {
            let at = between(&mut self.chooser, 0, CONTROLLER_TICK);
            self.after(at, Event::Controller(controller));
        }
        self.after(1_500_000, Event::Fault);
        self.after(self.swarm.chaos, Event::Calm);
    }

    /// A machine with a blank disk.
    pub(crate) fn machine(&mut self) -> Machine {
        Machine {
            disk: Disk::blank(),
            incarnation: String::new(),
            life: 0,
            running: None,
            is_paused: false,
            held_back: Vec::new(),
            rate: between(&mut self.chooser, 955_000, 1_045_000),
            booted: self.now,
            mono_base: self.chooser.below(100_000),
            wall_off: 0,
            slowness: 1,
        }
    }

    pub(crate) fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    fn at(&mut self, at: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse(Timed { at, number: self.number, event }));
    }

    /// Whether something like this is still to come.
    pub(crate) fn expects(&self, is_it: impl Fn(&Event) -> bool) -> bool {
        self.events.iter().any(|Reverse(timed)| is_it(&timed.event))
    }

    /// Runs to the end; an error says what went wrong.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        while !self.is_over {
            let Some(Reverse(Timed { at, event, .. })) = self.events.pop() else {
                return Err("nothing happens any more".to_owned());
            };
            self.now = at;
            self.happen(event).map_err(|wrong| format!("at {:.3} s: {wrong}", secs(at)))?;
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Deliver { from, to, message } => self.deliver(from, to, message),
            Event::Input(place, life, input) => {
                if self.machine_at(place).life != life {
                    return Ok(());
                }
                if let Input::Tick = input {
                    let jitter = self.chooser.below(self.swarm.tick / 4 + 1);
                    self.after(self.swarm.tick + jitter, Event::Input(place, life, Input::Tick));
                }
                self.input(place, input)
            }
            Event::Controller(at) => {
                self.after(CONTROLLER_TICK, Event::Controller(at));
                let commands =
                    self.controllers.tick(at, self.now, (&self.net, &self.swarm, &mut self.chooser));
                commands.into_iter().for_each(|command| self.submit(at, command, None, Asked::Report));
                Ok(())
            }
            Event::Commit { at, term, command, for_member, asked } => {
                self.commit((at, term), &command, (for_member, asked))
            }
            Event::Wake(client, request) => {
                self.wake(client, request);
                Ok(())
            }
            Event::Fault => self.fault(),
            Event::Ambush(group) => self.ambush(group),
            Event::Undo(undo) => self.undo(undo),
            Event::Calm => self.calm(),
            Event::Quiet => {
                // Not before every group has acknowledged something again.
                let is_new = |group: &Overseen| group.history.acked > group.acked_in_chaos;
                self.is_ending = self.overseen.iter().all(is_new);
                if !self.is_ending {
                    self.after(LOOK, Event::Quiet);
                }
                Ok(())
            }
            Event::Look => self.look(),
        }
    }

    pub(crate) fn machine_at(&mut self, (group, slot): Place) -> &mut Machine {
        &mut self.machines[group][slot]
    }

    pub(crate) fn send(&mut self, from: Node, to: Node, message: Message) {
        let arrival = self.net.arrival(&mut self.chooser, &self.swarm, self.now, (from, to, &message));
        match arrival {
            Some(at) => self.at(at, Event::Deliver { from, to, message }),
            None => self.trace.note(self.now, || format!("lost {from:?} {to:?} {}", message.brief())),
        }
    }

    fn deliver(&mut self, from: Node, to: Node, message: Message) -> Result<(), String> {
        self.trace.note(self.now, || format!("{from:?} -> {to:?}: {}", message.brief()));
        match (to, message) {
            (Node::Member(group, slot), message) => self.input((group, slot), Input::Message(from, message)),
            (Node::Controller(at), message) => {
                self.hear_member(at, from, message);
                Ok(())
            }
            (Node::Client(client), Message::Answer(request, answer)) => {
                if self.clients[client].request != request || self.clients[client].is_idle() {
                    return Ok(());
                }
                let (client_state, mut sight) = self.sight(client);
                let goes_elsewhere = client_state.take(answer, &mut sight)?;
                let pause = if goes_elsewhere {
                    self.retarget(client);
                    CLIENT_PAUSE
                } else {
                    between(&mut self.chooser, 1, self.swarm.think)
                };
                self.clients[client].request = self.number + 1;
                let request = self.clients[client].request;
                self.after(pause, Event::Wake(client, request));
                Ok(())
            }
            (Node::Client(_), message) => Err(format!("a client was sent {}", message.brief())),
        }
    }

    fn sight(&mut self, client: usize) -> (&mut Client, Sight<'_>) {
        let client = &mut self.clients[client];
        let overseen = &mut self.overseen[client.group];
        let sight = Sight {
            now: self.now,
            swarm: &self.swarm,
            chooser: &mut self.chooser,
            history: &mut overseen.history,
            decisions: &mut overseen.decisions,
            is_ending: self.is_ending,
        };
        (client, sight)
    }

    fn retarget(&mut self, client: usize) {
        let members = self.machines[self.clients[client].group].len() as u64;
        self.clients[client].target = usize::try_from(self.chooser.below(members)).expect("few");
    }

    fn wake(&mut self, at: usize, request: u64) {
        if self.clients[at].request != request {
            return;
        }
        let (client, mut sight) = self.sight(at);
        let ask = client.ask(&mut sight);
        let id = self.number + 1;
        self.clients[at].request = id;
        let Some(ask) = ask else {
            self.after(CLIENT_PAUSE * 3, Event::Wake(at, id));
            return;
        };
        let to = Node::Member(self.clients[at].group, self.clients[at].target);
        self.after(CLIENT_PATIENCE, Event::Undo(Undo::GiveUp(at, id)));
        self.send(Node::Client(at), to, Message::Ask(id, ask));
    }

    /// A client waited too long.
    pub(crate) fn give_up(&mut self, client: usize, request: u64) {
        if self.clients[client].request == request {
            self.clients[client].give_up();
            self.retarget(client);
            self.wake(client, request);
        }
    }

    fn hear_member(&mut self, at: usize, from: Node, message: Message) {
        let node = &mut self.controllers.nodes[at];
        let Node::Member(group, _) = from else { return };
        if !node.is_up {
            return;
        }
        if node.leads.is_none() {
            let asked = match message {
                Message::Change(_) => Asked::Change,
                Message::HandOver { .. } => Asked::HandOver,
                _ => Asked::Report,
            };
            return self.send(Node::Controller(at), from, Message::NotLeader(asked));
        }
        let name = name_of(group);
        let now = self.now / 1000;
        match message {
            Message::Report { joiner, unfit } => {
                if let Some(command) = joining(&node.groups, &name, &joiner).expect("the same nameservers") {
                    return self.submit(at, command, Some(from), Asked::Report);
                }
                let known = node.groups.get(&name).and_then(|group| group.member_of(&joiner.incarnation));
                if let Some(member) = known {
                    let sighting = MemberSighting {
                        at: now,
                        process: joiner.process,
                        promised: joiner.promised,
                        last_epoch: joiner.last_epoch,
                        end: joiner.end,
                        confirmed: (0, 0),
                        in_sync: joiner.mark.map(|mark| mark.in_sync).unwrap_or_default(),
                        unfit,
                    };
                    node.watch.saw(&name, member, sighting);
                }
                self.tell_state(at, from, (Asked::Report, false));
            }
            Message::Change(command) => {
                let time = (now, &self.swarm.controller);
                let is_refused = matches!(&command, GroupCommand::ChangeInSync { name, in_sync, .. }
                    if change_in_sync(&node.groups, &node.watch, time, name, in_sync).is_err());
                match is_refused {
                    true => self.tell_state(at, from, (Asked::Change, true)),
                    false => self.submit(at, command, Some(from), Asked::Change),
                }
            }
            Message::HandOver { epoch, member, to } => {
                let policy = &self.swarm.controller;
                let wanted = (epoch, member, to);
                let command = hand_over(&node.groups, &node.watch, (now, policy), &name, wanted);
                match command {
                    Ok(command) => self.submit(at, command, Some(from), Asked::HandOver),
                    Err(CommandRefusal { .. }) => self.tell_state(at, from, (Asked::HandOver, true)),
                }
            }
            _ => {}
        }
    }

    fn tell_state(&mut self, at: usize, to: Node, (asked, refused): (Asked, bool)) {
        let Node::Member(group, _) = to else { return };
        let group = self.controllers.nodes[at].groups.get(&name_of(group)).cloned();
        self.send(Node::Controller(at), to, Message::State { group, asked, refused });
    }

    fn submit(&mut self, at: usize, command: GroupCommand, for_member: Option<Node>, asked: Asked) {
        let Some(term) = self.controllers.nodes[at].leads else { return };
        let delay = 2 * between(&mut self.chooser, self.swarm.latency.0, self.swarm.latency.1);
        self.after(delay, Event::Commit { at, term, command, for_member, asked });
    }

    fn commit(
        &mut self,
        (at, term): (usize, u64),
        command: &GroupCommand,
        (for_member, asked): (Option<Node>, Asked),
    ) -> Result<(), String> {
        let name = name_of(self.group_of(command));
        let before = self.controllers.groups.get(&name).cloned();
        let reply = self.controllers.commit((at, term), command, &self.net, &mut self.chooser);
        let after = self.controllers.groups.get(&name).cloned();
        if before != after
            && let Some(after) = after
        {
            let summary = (after.epoch, after.master, &after.in_sync, after.version);
            self.trace.note(self.now, || format!("committed {command:?}: {summary:?}"));
            invariants::election(before.as_ref(), &after)?;
            self.figures.elections += u64::from(before.is_some_and(|before| before.epoch < after.epoch));
            let group = self.group_of(command);
            self.plan_ambush(group);
        }
        if let (Some(reply), Some(member)) = (reply, for_member) {
            let refused = matches!(reply, CommandReply::Refused(_));
            self.tell_state(at, member, (asked, refused));
        }
        Ok(())
    }

    fn group_of(&self, command: &GroupCommand) -> usize {
        (0..self.machines.len())
            .find(|group| Some(&name_of(*group)) == command.name())
            .expect("a known group")
    }

    /// Starts a process.
    pub(crate) fn start(&mut self, place: Place) -> Result<(), String> {
        if self.machine_at(place).running.is_some() {
            return Ok(());
        }
        self.lives += 1;
        let life = self.lives;
        let (now, wants_quorum) = (self.now, self.swarm.groups[place.0].1);
        let machine = &mut self.machines[place.0][place.1];
        machine.life = life;
        let identity = Identity {
            place,
            name: name_of(place.0),
            incarnation: format!("disk {}.{} of {life}", place.0, place.1),
            life,
            wants_quorum,
        };
        let ctx = Ctx {
            mono_ms: machine.mono_ms(now),
            wall_ms: machine.wall_ms(now),
            swarm: &self.swarm,
            out: Vec::new(),
        };
        match Member::start(identity, machine.disk.clone(), &ctx) {
            Ok(member) => {
                member.incarnation().clone_into(&mut machine.incarnation);
                machine.disk.has_lost_log = false;
                self.promises.remembers(&machine.incarnation, member.knows_promised())?;
                machine.running = Some(member);
            }
            Err(_) if !machine.disk.has_power() => return self.cut_power(place),
            Err(wrong) => return Err(format!("{place:?} does not start: {wrong}")),
        }
        self.trace.note(now, || format!("{place:?} is started as process {life}"));
        self.after(0, Event::Input(place, life, Input::Tick));
        Ok(())
    }

    pub(crate) fn input(&mut self, place: Place, input: Input) -> Result<(), String> {
        let now = self.now;
        let machine = &mut self.machines[place.0][place.1];
        if machine.is_paused {
            if !matches!(input, Input::Tick) {
                machine.held_back.push(input);
            }
            return Ok(());
        }
        let mut ctx = Ctx {
            mono_ms: machine.mono_ms(now),
            wall_ms: machine.wall_ms(now),
            swarm: &self.swarm,
            out: Vec::new(),
        };
        let Some(member) = &mut machine.running else { return Ok(()) };
        let done = member.handle(input, &mut ctx);
        let effects = ctx.out;
        for effect in effects {
            self.effect(place, effect)?;
        }
        match done {
            Err(_) if !self.machine_at(place).disk.has_power() => self.cut_power(place),
            done => done.map_err(|wrong| format!("{place:?}: {wrong}")),
        }
    }

    fn effect(&mut self, place: Place, effect: Effect) -> Result<(), String> {
        match effect {
            Effect::Send(to, message) => self.send(Node::Member(place.0, place.1), to, message),
            Effect::Sync(token) => {
                let (slowness, life) = (self.machine_at(place).slowness, self.machine_at(place).life);
                let delay = slowness * between(&mut self.chooser, self.swarm.sync.0, self.swarm.sync.1);
                self.after(delay, Event::Input(place, life, Input::Synced(token)));
            }
            Effect::Note(note) => self.judge(place, note)?,
        }
        Ok(())
    }

    fn judge(&mut self, place: Place, note: Note) -> Result<(), String> {
        self.trace.note(self.now, || format!("{place:?} {note:?}"));
        let overseen = &mut self.overseen[place.0];
        let machine = &self.machines[place.0][place.1];
        let store = machine.running.as_ref().and_then(Member::store);
        let judged = match note {
            Note::Promised(epoch) => self.promises.promised(&machine.incarnation, epoch),
            Note::Held { epoch, durable } => {
                let end = store.and_then(|store| Some(store.standby_log()?.end()));
                let holds = Promises::holds(&machine.incarnation, durable, end.unwrap_or(u64::MAX));
                holds.and_then(|()| self.promises.helped(&machine.incarnation, epoch))
            }
            Note::Opened(epoch) => store.map_or(Ok(()), |store| overseen.canon.opened(store, epoch)),
            Note::Confirmed { epoch, until } => {
                store.map_or(Ok(()), |store| overseen.canon.confirmed(store, (machine.life, epoch), until))
            }
            Note::Published { opened, high_watermark } => {
                LeadershipHistory::published(opened, high_watermark)
            }
            Note::Acked(epoch) => overseen.leaderships.acked(epoch, machine.life),
            Note::Cut { to, applied } => {
                self.figures.cut_back += 1;
                Promises::cut(&machine.incarnation, to, applied)
            }
            Note::Served => LeadershipHistory::served(&self.ruling(place.0)),
        };
        let is_cut_off = !machine.disk.has_power();
        match note {
            // The beginning of an epoch is a delicate moment, and so is the first write behind a cut.
            Note::Opened(_) => self.plan_ambush(place.0),
            Note::Cut { .. } if !self.is_calm && self.chooser.chance(self.swarm.ambushes, 100) => {
                let soon = self.chooser.below(2 * self.swarm.latency.1 + self.swarm.sync.1);
                self.after(soon, Event::Undo(Undo::CutPower(place, self.machines[place.0][place.1].life)));
            }
            _ => {}
        }
        // What cannot be read any more proves nothing.
        if is_cut_off { Ok(()) } else { judged.map_err(|wrong| format!("{place:?}: {wrong}")) }
    }

    fn plan_ambush(&mut self, group: usize) {
        if !self.is_calm && self.chooser.chance(self.swarm.ambushes, 100) {
            let soon = self.chooser.below(80_000);
            self.after(soon, Event::Ambush(group));
        }
    }

    /// Processes of a group that take themselves for the only master, with their epochs.
    pub(crate) fn ruling(&self, group: usize) -> Vec<(u64, u32)> {
        let running = self.machines[group].iter().filter(|machine| !machine.is_paused);
        let ruling = running.filter_map(|machine| {
            let (epoch, is_sure) = machine.running.as_ref()?.leading(machine.clock(self.now))?;
            is_sure.then_some((machine.life, epoch))
        });
        ruling.collect()
    }

    pub(crate) fn finish(mut self) -> (SimFigures, u64) {
        for overseen in &self.overseen {
            let history: &History = &overseen.history;
            self.figures.acked += history.acked;
            self.figures.decided += history.decided;
            self.figures.reads += history.reads;
        }
        (self.figures, self.trace.hash())
    }
}

pub(crate) fn secs(at: u64) -> f64 {
    f64::from(u32::try_from(at / 1000).unwrap_or(u32::MAX)) / 1000.0
}

/// Times that each fault was injected.
pub(crate) type Counts = BTreeMap<crate::swarm::Fault, u64>;
