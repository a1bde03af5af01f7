//! Whether the kernel's invariants hold: looks at everything, for tests on hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

use heliox_abi::utcb::{self, ControlWord};
use heliox_abi::{GlobalId, Tag, kip};
use heliox_hal::execution::Registers;
use heliox_hal::memory::UserMemory;
use heliox_types::{Register, USER_END, VirtualAddress};

use crate::database::NodeId;
use crate::kernel::{Kernel, Machine, Surroundings};
use crate::memory::{bits_of, bits_of_level};
use crate::space::SIGMA0;
use crate::thread::{From, Incoming, Limit, NOBODY, Number, Operation, State, Work};

/// Everything that does not hold.
type Findings = Vec<String>;

/// What exists at a moment, to be compared with another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Threads.
    pub threads: usize,
    /// Address spaces that are not being taken apart.
    pub spaces: usize,
    /// Mappings of memory.
    pub mappings: usize,
    /// Mappings of ports.
    pub port_mappings: usize,
    /// Pages of UTCBs.
    pub utcb_pages: usize,
    /// Page-map pages that are kept in supply.
    pub supply: usize,
}

/// What a test can know of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadView {
    /// Its global identifier.
    pub id: u64,
    /// Its local identifier; 0 if it has no UTCB.
    pub local: u64,
    /// Number of its space.
    pub space: u32,
    /// Whether its space may use privileged calls.
    pub privileged: bool,
    /// What it is doing.
    pub state: &'static str,
    /// Whether it waits as the light path wants it.
    pub light: bool,
}

impl<M: Machine, S: Surroundings> Kernel<'_, M, S> {
    /// All threads.
    pub fn threads(&self) -> Vec<ThreadView> {
        let view = |number| {
            let thread = self.threads.at(number);
            ThreadView {
                id: thread.id.map_or(0, GlobalId::word),
                local: thread.utcb.map_or(0, |utcb| utcb.address),
                space: thread.space,
                privileged: self.spaces.at(thread.space).privileged,
                light: self.is_ordinary(number) && self.accepted(number) != 0,
                state: match thread.state() {
                    _ if thread.outer.is_some() => "faulting",
                    State::Inactive => "inactive",
                    State::Ready if thread.halted => "halted",
                    State::Ready => "ready",
                    State::Sending => "sending",
                    State::Receiving if thread.operation().incoming == Incoming::Start => {
                        "starting"
                    }
                    State::Receiving => "receiving",
                    State::Transferring => "transferring",
                    State::Stopped => "stopped",
                },
            }
        };
        self.numbers().map(view).collect()
    }

    /// Where the stubs are.
    pub fn stub_address(&self) -> u64 {
        self.stubs.address().get()
    }

    /// The machine.
    pub fn machine(&mut self) -> &mut M {
        &mut self.machine
    }

    /// Switches the light path on or off, also for threads that wait already.
    pub fn set_light_path(&mut self, on: bool) {
        self.has_light_path = on;
        for number in kip::USER_BASE..self.thread_limit {
            self.threads.at_mut(number);
            if on && self.threads.exists(number) {
                self.let_light_path_wake(number);
            }
        }
    }

    /// What the thread that runs finds after an IPC: who it is, its registers as far as they mean
    /// something, its message, and the control registers of IPC; and the state of all threads.
    pub fn observe(&mut self) -> (Vec<u64>, Vec<String>) {
        let current = self.current;
        let mut words = vec![u64::from(current), self.since, self.machine.now()];
        if let Some(context) = self.threads.at(current).context() {
            words.extend([context.instruction_pointer(), context.stack_pointer()]);
        }
        words.extend(
            [Register::Rsi, Register::Rdi].map(|register| self.register(current, register)),
        );
        let tag = Tag(self.message_register(current, 0));
        for index in 0..=tag.untyped().min(utcb::MESSAGE_REGISTERS - 1) {
            words.push(self.message_register(current, index));
        }
        for word in [ControlWord::ErrorCode, ControlWord::VirtualSender] {
            words.push(self.control_word(current, word));
        }
        let numbers: Vec<_> = self.numbers().collect();
        (words, numbers.into_iter().map(|number| self.describe_thread(number)).collect())
    }

    /// What surrounds the kernel.
    pub fn surroundings(&mut self) -> &mut S {
        &mut self.surroundings
    }

    /// Number of the running thread; 0 if none runs.
    pub fn current_thread(&self) -> u32 {
        self.current
    }

    /// What exists.
    pub fn census(&self) -> Census {
        let spaces = self.spaces.numbers().filter(|&space| self.spaces.at(space).threads > 0);
        Census {
            threads: self.numbers().count(),
            spaces: spaces.count(),
            mappings: self.mappings.len(),
            port_mappings: self.port_mappings.len(),
            utcb_pages: self.spaces.numbers().map(|space| self.pages_of(space).len()).sum(),
            supply: self.supply.count(),
        }
    }

    fn numbers(&self) -> impl Iterator<Item = Number> {
        (kip::USER_BASE..self.thread_limit).filter(|&number| self.threads.exists(number))
    }

    fn pages_of(&self, space: u32) -> Vec<u32> {
        let mut pages = Vec::new();
        let mut at = self.spaces.at(space).utcb_pages;
        while let Some(page) = at.checked_sub(1) {
            pages.push(page);
            at = self.utcbs.at(page).next;
            if pages.len() > 1 << 20 {
                break;
            }
        }
        pages
    }

    /// A thread, for a message.
    pub fn describe_thread(&self, number: u32) -> String {
        let thread = self.threads.at(number);
        // What of an operation is over means nothing.
        let operation = match (thread.state(), thread.operation()) {
            (State::Ready | State::Stopped | State::Inactive, _) => Operation::default(),
            (State::Receiving | State::Transferring, operation)
                if !operation.outgoing.is_kernel_made() && !self.is_transfer_sender(number) =>
            {
                let Operation { from, incoming, limit, .. } = operation;
                Operation { from, incoming, limit, ..Operation::default() }
            }
            (_, operation) => operation,
        };
        format!(
            "{number}: {:?} halted {} {:?} {:?} work {:?} timer {} checking {} transfer {:?} outer {}",
            thread.state(),
            thread.halted,
            operation,
            thread.scheduling,
            thread.work,
            thread.timer.is_running(),
            thread.checking,
            thread.transfer,
            thread.outer.is_some()
        )
    }

    /// Everything that does not hold; empty if all is well.
    pub fn audit(&mut self) -> Vec<String> {
        let mut findings = Findings::new();
        self.audit_threads(&mut findings);
        self.audit_queues(&mut findings);
        self.audit_spaces(&mut findings);
        self.audit_mappings(&mut findings);
        if let Err((what, node)) = self.port_mappings.audit() {
            findings.push(format!("port mappings: {what} at {node:?}"));
        }
        findings
    }

    /// What does not hold of threads alone: cheap.
    pub fn audit_quickly(&self) -> Vec<String> {
        let mut findings = Findings::new();
        self.audit_threads(&mut findings);
        findings
    }

    fn audit_threads(&self, findings: &mut Findings) {
        for number in self.numbers() {
            let thread = self.threads.at(number);
            let mut check = |holds: bool, what: &str| {
                if !holds {
                    findings.push(format!("{what}: {}", self.describe_thread(number)));
                }
            };
            check(thread.id.is_some_and(|id| id.number() == number), "has another's number");
            let queued = thread.run.is_queued();
            check(
                queued == (thread.is_runnable() && number != self.current),
                "is in the run queue or is not, as it should not",
            );
            check(
                (thread.next_sender != NOBODY) == (thread.state() == State::Sending),
                "is in a queue of senders or is not, as it should not",
            );
            check(
                (thread.state() == State::Transferring) == thread.transfer.is_some(),
                "has a transfer or has none, as it should not",
            );
            check(
                !thread.timer.is_running()
                    || matches!(thread.state(), State::Sending | State::Receiving),
                "has a timer but does not wait",
            );
            let must_wake = thread.state() == State::Receiving
                && thread.operation().limit != Limit::Never
                && !thread.checking;
            check(!must_wake || thread.timer.is_running(), "waits with a limit and has no timer");
            check(thread.body.is_some() || thread.utcb.is_none(), "has no registers");
            check(
                thread.work != Work::Transfer || thread.transfer.is_some(),
                "works on no transfer",
            );
            check(self.spaces.at(thread.space).threads > 0, "is in a space without threads");
            check(
                thread.accepts == 0
                    || (self.is_ordinary(number)
                        && thread.kept_state == State::Ready
                        && number != self.current),
                "is the light path's and is not ordinary",
            );
            check(
                thread.awaits == 0
                    || (self.is_ordinary(number)
                        && thread.kept_state == State::Receiving
                        && thread.accepts == 0
                        && matches!(thread.kept_operation.from, From::Thread(id) if id.word() == thread.awaits)
                        && thread.kept_operation.incoming != Incoming::Message
                        && !thread.timer.is_running()
                        && number != self.current),
                "is to be answered directly and is not ordinary",
            );
            check(
                thread.state() == State::Inactive || thread.utcb.is_some(),
                "lives without a UTCB",
            );
        }
    }

    fn audit_queues(&self, findings: &mut Findings) {
        let mut seen = BTreeSet::new();
        for receiver in self.numbers().chain([NOBODY]) {
            let first = self.threads.at(receiver).senders;
            let mut at = first;
            while at != NOBODY {
                let sender = self.threads.at(at);
                if sender.queue != receiver || sender.state() != State::Sending {
                    findings.push(format!("thread {at} is in the queue of {receiver} by mistake"));
                }
                if !seen.insert(at) {
                    findings.push(format!("thread {at} is in two queues, or twice in one"));
                    break;
                }
                at = sender.next_sender;
                if at == first {
                    break;
                }
            }
            // Whoever could be served is about to be.
            let thread = self.threads.at(receiver);
            if receiver != NOBODY && thread.state() == State::Receiving && !thread.checking {
                let ready = self.threads.find_sender(receiver, |at, _| self.accepts(receiver, at));
                if let Some(sender) = ready {
                    findings.push(format!("{receiver} waits though {sender} sends to it"));
                }
            }
        }
        for number in self.numbers() {
            if self.threads.at(number).state() == State::Sending && !seen.contains(&number) {
                findings.push(format!("thread {number} sends and is in no queue"));
            }
        }
    }

    fn audit_spaces(&self, findings: &mut Findings) {
        let mut threads = BTreeMap::new();
        for number in self.numbers() {
            *threads.entry(self.threads.at(number).space).or_insert(0) += 1;
        }
        let mut mappings = BTreeMap::new();
        for node in self.mappings.iter().filter_map(|id| self.mappings.get(id)) {
            *mappings.entry(node.space).or_insert(0) += 1;
        }
        for space in self.spaces.numbers() {
            let counted = self.spaces.at(space).threads;
            let found = threads.get(&space).copied().unwrap_or(0);
            if counted != found {
                findings.push(format!("space {space} counts {counted} threads and has {found}"));
            }
            let nodes = mappings.get(&space).copied().unwrap_or(0);
            if space != SIGMA0 && nodes != self.spaces.at(space).mappings {
                findings.push(format!("space {space} has lost count of its mappings"));
            }
            for page in self.pages_of(space) {
                let page = self.utcbs.at(page);
                if page.mapping.is_none() || page.is_unused() {
                    findings.push(format!("space {space} has an unused page of UTCBs"));
                }
                for &owner in &page.threads {
                    let thread = self.threads.at(owner);
                    let fits = thread.space == space
                        && thread.utcb.is_some_and(|utcb| utcb.address >> 12 == page.address >> 12);
                    if owner != NOBODY && !fits {
                        findings.push(format!("a UTCB of space {space} is {owner}'s by mistake"));
                    }
                }
            }
        }
    }

    /// Tables and database agree, and rights never grow along a chain.
    fn audit_mappings(&mut self, findings: &mut Findings) {
        if let Err((what, node)) = self.mappings.audit() {
            findings.push(format!("mappings: {what} at {node:?}"));
            return;
        }
        let mut in_tables = BTreeMap::new();
        for space in self.spaces.numbers() {
            let mut at = 0;
            while at < USER_END {
                let Some(tables) = &self.spaces.at(space).tables else { break };
                let Some(address) = VirtualAddress::new(at) else { break };
                match self.machine.memory().read_mapping(tables, address) {
                    Err(next) => at = next,
                    Ok(info) => {
                        let (start, bits) = (info.address.get(), bits_of_level(&info));
                        at = start + (1 << bits);
                        let own = self.spaces.at(space).is_kept_free(start, u32::from(bits));
                        if own || space == SIGMA0 {
                            continue;
                        }
                        let object = info.frame.address().get();
                        let rights = bits_of(info.attributes.rights);
                        in_tables.insert((space, start), (bits, object, rights));
                    }
                }
            }
        }
        for id in self.mappings.iter() {
            let Some(node) = self.mappings.get(id).copied() else { continue };
            let found = in_tables.remove(&(node.space, node.address));
            let rights = u64::from(node.payload.rights);
            if found != Some((node.bits, node.object, rights)) {
                findings.push(format!("mapping {node:x?} is {found:x?} in the tables"));
            }
            if let Some(parent) = self.mappings.parent(id)
                && parent != NodeId::ROOT
                && let Some(parent) = self.mappings.get(parent)
                && rights & !u64::from(parent.payload.rights) != 0
            {
                findings.push(format!("mapping {node:x?} has more rights than {parent:x?}"));
            }
        }
        for (place, mapping) in in_tables {
            findings.push(format!("{mapping:x?} at {place:x?} is in no database"));
        }
    }
}
