//! The controllers: the real decisions, agreed on by a simple stand-in for a consensus protocol.
//!
//! One leads in a term. It commits a command when it reaches a majority and no later term has begun, which takes a round trip. Who
//! hears no leader for a while and reaches a majority begins the next term with everything that was committed. A leader that was
//! deposed without hearing of it goes on answering with what it knows, for a while, and cannot change anything.

use kerolox_controller::{CommandReply, GroupCommand, GroupTable, MemberWatch, decide};
use kerolox_log::fs::SeededChoices;

use crate::member::CONTROLLERS;
use crate::message::Node;
use crate::net::Net;
use crate::swarm::{Swarm, between};

pub(crate) struct Controller {
    pub(crate) is_up: bool,
    /// The term in which it leads.
    pub(crate) leads: Option<u64>,
    /// When it heard of a leader, or reached a majority as one.
    heard: u64,
    /// How long it waits for a leader.
    patience: u64,
    /// What it knows to be committed.
    pub(crate) groups: GroupTable,
    pub(crate) watch: MemberWatch,
}

pub(crate) struct Controllers {
    pub(crate) nodes: Vec<Controller>,
    term: u64,
    /// The committed state.
    pub(crate) groups: GroupTable,
}

impl Controllers {
    pub(crate) fn new() -> Self {
        let node = |_| Controller {
            is_up: true,
            leads: None,
            heard: 0,
            patience: 0,
            groups: GroupTable::default(),
            watch: MemberWatch::new(0),
        };
        Self { nodes: (0..CONTROLLERS).map(node).collect(), term: 0, groups: GroupTable::default() }
    }

    /// Everywhere the data are replaced; nothing that was under way gets through.
    pub(crate) fn forget(&mut self, groups: GroupTable) {
        self.term += 1;
        for node in &mut self.nodes {
            node.leads = None;
            node.groups = groups.clone();
        }
        self.groups = groups;
    }

    fn reaches_majority(&self, net: &Net, at: usize) -> bool {
        let reached = (0..CONTROLLERS).filter(|other| self.reaches(net, at, *other)).count();
        reached > CONTROLLERS / 2
    }

    fn reaches(&self, net: &Net, at: usize, other: usize) -> bool {
        let (a, b) = (Node::Controller(at), Node::Controller(other));
        self.nodes[at].is_up && self.nodes[other].is_up && (at == other || net.is_open_both_ways(a, b))
    }

    /// Time passes at a controller; the answer is what it wants committed.
    pub(crate) fn tick(
        &mut self,
        at: usize,
        now: u64,
        (net, swarm, chooser): (&Net, &Swarm, &mut SeededChoices),
    ) -> Vec<GroupCommand> {
        if !self.nodes[at].is_up {
            return Vec::new();
        }
        let reaches_majority = self.reaches_majority(net, at);
        let term = self.term;
        let node = &mut self.nodes[at];
        match node.leads {
            Some(own) if own < term && reaches_majority => node.leads = None,
            Some(_) if !reaches_majority && now - node.heard > swarm.stale => node.leads = None,
            Some(own) if own == term && reaches_majority => self.lead(at, now, net),
            None if now - node.heard > node.patience && reaches_majority => {
                self.term += 1;
                self.groups.apply(GroupCommand::BeginTenure { tenure: self.term.to_string() });
                node.leads = Some(self.term);
                node.groups = self.groups.clone();
                node.watch = MemberWatch::new(now / 1000);
                self.lead(at, now, net);
            }
            _ => {}
        }
        let node = &mut self.nodes[at];
        node.patience = between(chooser, 500_000, 1_500_000);
        if node.leads.is_none() {
            return Vec::new();
        }
        decide(&node.groups, &mut node.watch, now / 1000, &swarm.controller)
    }

    /// Tells all controllers within reach who leads, and the committed state.
    fn lead(&mut self, at: usize, now: u64, net: &Net) {
        for other in 0..CONTROLLERS {
            if self.reaches(net, at, other) {
                self.nodes[other].heard = now;
                self.nodes[other].groups = self.groups.clone();
                if other != at {
                    self.nodes[other].leads = None;
                }
            }
        }
    }

    /// Ends an attempt of a leader of `term` to commit a command. `None` when the attempt fails, or its outcome stays unknown to
    /// the leader.
    pub(crate) fn commit(
        &mut self,
        (at, term): (usize, u64),
        command: &GroupCommand,
        net: &Net,
        chooser: &mut SeededChoices,
    ) -> Option<CommandReply> {
        if term != self.term {
            return None;
        }
        let leads = self.nodes[at].is_up && self.nodes[at].leads == Some(term);
        if leads && self.reaches_majority(net, at) {
            let reply = self.groups.apply(command.clone());
            self.nodes[at].groups = self.groups.clone();
            return Some(reply);
        }
        // A leader that stopped in the middle may have got through.
        if chooser.chance(1, 2) {
            self.groups.apply(command.clone());
        }
        None
    }

    pub(crate) fn stop(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        (node.is_up, node.leads) = (false, None);
    }

    pub(crate) fn start(&mut self, at: usize, now: u64) {
        let node = &mut self.nodes[at];
        (node.is_up, node.heard) = (true, now);
    }
}
