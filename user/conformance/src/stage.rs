//! The stage of a case: its probes, the memory that they are given, and what comes from them.
//!
//! The thread that runs a case is its probes' pager, exception handler and scheduler, and drives
//! them. Faults on a probe's own memory and on its code are served on the way; everything else that
//! comes is an event, which the case asks for. A case's probes have lower priorities than the
//! thread itself, so they run only while it waits.

use core::sync::atomic::{AtomicU64, Ordering};

use heliox_l4::abi::{PreemptionControl, ThreadState};
use heliox_l4::control::{self, ForeignThread, Space};
use heliox_l4::memory::Region;
use heliox_l4::message::{Acceptance, Mapping, Message, Received, Words};
use heliox_l4::probe::{self, Action, Output, ProbeMemory, Step};
use heliox_l4::protocol::kernel_label;
use heliox_l4::schedule::{self, Parameters};
use heliox_l4::sigma0::{self, Sigma0Error};
use heliox_l4::{
    Flexpage, GlobalId, IpcError, KernelLabel, ThreadId, Time, raw, receive_with, send_with,
    system_clock, utcb,
};

use crate::case::{Checked, Failure, at_least, equal, fail};
use crate::steps::{
    COMPLETE, MessageOutput, accepting, action, map_words, receive, receive_into, send,
};

/// Number of the thread that runs a case, counted from UserBase.
pub(crate) const WORKER: u32 = 3;
/// Number of the first probe.
pub(crate) const FIRST_PROBE: u32 = 8;
/// Probes that a case can have.
pub(crate) const PROBES: usize = 16;
/// Thread numbers behind those of probes that cases may use.
pub(crate) const SPARE_NUMBERS: u32 = 16;

/// Where the kernel interface page is in a probe's space.
pub(crate) const KIP_AREA: Flexpage = Flexpage::memory(0x7000_0000, 12, 0);
/// Where UTCBs are in a probe's space, and log2 of the area's size.
pub(crate) const UTCB_START: u64 = 0x7100_0000;
pub(crate) const UTCB_BITS: u32 = 15;
/// Where cases put memory in probes' spaces.
pub(crate) const PLACE: u64 = 0x2_0000_0000;

/// The priority of new threads.
pub(crate) const PRIORITY: u8 = 100;
/// How often a probe that says nothing is looked at, in microseconds.
const LOOK: u64 = 100;
/// How long something that must come is waited for, in microseconds.
const PATIENCE: u64 = 2_000_000;

static PROBE_MEMORY: [ProbeMemory; PROBES] = [const { ProbeMemory::new() }; PROBES];

/// The version of the threads of a case: its low six bits are never all zero.
pub(crate) const fn case_version(version: u32) -> u32 {
    version << 6 | 1
}

/// Memory that cases map around: pages of their own, and 4 MiB with two large pages.
#[derive(Debug)]
pub(crate) struct Memory {
    /// 4 MiB at a multiple of that.
    pub(crate) large: Region,
}

impl Memory {
    /// Gets it from sigma0.
    pub(crate) fn get() -> Result<Self, Sigma0Error> {
        Ok(Self { large: sigma0::any_memory(22)? })
    }

    /// Takes it from everybody to whom it was mapped.
    pub(crate) fn take_back(&self) {
        self.large.unmap(0, 22, Flexpage::ALL, false);
    }
}

/// A probe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) slot: usize,
    pub(crate) thread: ForeignThread,
    /// Its number within its space, which is that of its UTCB.
    pub(crate) utcb: u64,
}

impl Probe {
    /// Its global identifier.
    pub(crate) fn id(self) -> ThreadId {
        self.thread.id().into()
    }

    /// Its global identifier.
    pub(crate) fn global(self) -> GlobalId {
        self.thread.id()
    }

    /// Its local identifier.
    pub(crate) fn local(self) -> ThreadId {
        ThreadId(UTCB_START + (self.utcb << 10) + 512)
    }

    /// Its memory.
    pub(crate) fn memory(self) -> &'static ProbeMemory {
        &PROBE_MEMORY[self.slot]
    }

    /// A word that it shares with the case.
    pub(crate) fn scratch(self, index: usize) -> &'static AtomicU64 {
        self.memory().scratch(index)
    }

    /// The value of such a word.
    pub(crate) fn count(self, index: usize) -> u64 {
        self.scratch(index).load(Ordering::Relaxed)
    }

    /// The address of such a word.
    pub(crate) fn scratch_address(self, index: usize) -> u64 {
        self.memory().scratch_address(index)
    }

    /// A step in which it counts in its word 0 until its word 1 is not 0.
    pub(crate) fn spin(self) -> Step {
        action(Action::Spin, self.scratch_address(0), self.scratch_address(1), 0)
    }

    /// Ends such a step.
    pub(crate) fn stop_spinning(self) {
        self.scratch(1).store(1, Ordering::Relaxed);
    }
}

/// Something that came from a probe and was not expected by the stage itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    /// Which probe; [`PROBES`] if it is none.
    pub(crate) slot: usize,
    pub(crate) from: ThreadId,
    pub(crate) words: Words,
}

impl Event {
    /// The kernel's protocol that it belongs to, and the low four bits of its label.
    pub(crate) fn kind(&self) -> Option<(KernelLabel, u64)> {
        kernel_label(self.words.label())
    }
}

/// A page fault.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageFault {
    /// 4 read, 2 write, 1 execute.
    pub(crate) access: u64,
    pub(crate) address: u64,
    pub(crate) instruction: u64,
    pub(crate) tag: u64,
}

/// An exception: the 20 words of its message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exception {
    pub(crate) words: Words,
}

impl Exception {
    pub(crate) fn vector(&self) -> u64 {
        self.words.word(19)
    }

    pub(crate) fn instruction(&self) -> u64 {
        self.words.word(1)
    }

    pub(crate) fn error_code(&self) -> u64 {
        self.words.word(20)
    }
}

/// How a new probe differs from others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Its space is that of this probe; a new one otherwise.
    pub(crate) beside: Option<Probe>,
    pub(crate) priority: u8,
    /// Its UTCB; the next one that no probe has had otherwise.
    pub(crate) utcb: Option<u64>,
}

impl Options {
    pub(crate) const NEW_SPACE: Self = Self { beside: None, priority: PRIORITY, utcb: None };
}

const EVENTS: usize = 8;

/// The stage of a case.
pub(crate) struct Stage {
    version: u32,
    pub(crate) memory: &'static Memory,
    probes: [Option<Probe>; PROBES],
    /// UTCBs taken in the space of each probe, by the slot of the space's first probe.
    space_of: [usize; PROBES],
    utcbs: [u64; PROBES],
    used: usize,
    done: [bool; PROBES],
    quiet: [bool; PROBES],
    events: [Option<Event>; EVENTS],
    pages: u64,
}

impl Stage {
    pub(crate) fn new(version: u32, memory: &'static Memory) -> Self {
        Self {
            version,
            memory,
            probes: [None; PROBES],
            space_of: [0; PROBES],
            utcbs: [0; PROBES],
            used: 0,
            done: [false; PROBES],
            quiet: [false; PROBES],
            events: [None; EVENTS],
            pages: 0,
        }
    }

    /// The thread that runs the case.
    pub(crate) fn driver(&self) -> ThreadId {
        utcb::global_id()
    }

    /// An identifier behind those of probes, 0 to 15, which no thread has.
    pub(crate) fn spare(&self, index: u32) -> GlobalId {
        self.identifier(PROBES as u32 + index)
    }

    fn identifier(&self, slot: u32) -> GlobalId {
        let number = raw::page().user_base() + FIRST_PROBE + slot;
        match GlobalId::new(number, case_version(self.version)) {
            Some(id) => id,
            None => unreachable!("the version of a case has low bits"),
        }
    }

    // --- Probes ---

    /// A probe in a space of its own.
    pub(crate) fn probe(&mut self) -> Checked<Probe> {
        self.probe_with(Options::NEW_SPACE)
    }

    /// A probe in the space of another.
    pub(crate) fn probe_beside(&mut self, other: Probe) -> Checked<Probe> {
        self.probe_with(Options { beside: Some(other), ..Options::NEW_SPACE })
    }

    /// A probe with a priority in a space of its own.
    pub(crate) fn probe_at(&mut self, priority: u8) -> Checked<Probe> {
        self.probe_with(Options { priority, ..Options::NEW_SPACE })
    }

    /// A probe.
    pub(crate) fn probe_with(&mut self, options: Options) -> Checked<Probe> {
        let probe = self.create_at(options.beside, options.utcb)?;
        if options.priority != PRIORITY {
            self.set_priority(probe, options.priority)?;
        }
        self.begin(probe)?;
        Ok(probe)
    }

    /// Whether another space with a thread can be made now; what was made is deleted again.
    pub(crate) fn probe_or_refusal(&mut self) -> Checked<bool> {
        match self.create(None) {
            Ok(probe) => self.delete(probe).map(|()| true),
            Err(Failure { found: 8, .. }) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// A probe that has a UTCB and a pager, and waits for its start message.
    pub(crate) fn create(&mut self, beside: Option<Probe>) -> Checked<Probe> {
        self.create_at(beside, None)
    }

    fn create_at(&mut self, beside: Option<Probe>, utcb: Option<u64>) -> Checked<Probe> {
        let slot = self.used;
        if slot >= PROBES {
            return fail("a case has no more probes", slot as u64);
        }
        let id = self.identifier(slot as u32);
        let me = self.driver();
        let home = beside.map_or(slot, |other| self.space_of[other.slot]);
        let space = match beside {
            Some(other) => Space::of(other.thread),
            None => {
                let space = refused("a new space", Space::create(id, me))?;
                let utcbs = Flexpage::memory(UTCB_START, UTCB_BITS, 0);
                refused("its areas", space.configure(KIP_AREA, utcbs, NIL))?;
                space
            }
        };
        let utcb = utcb.unwrap_or(self.utcbs[home]);
        self.utcbs[home] = self.utcbs[home].max(utcb + 1);
        let thread = refused("a new thread", space.thread(id, me, me, UTCB_START + (utcb << 10)))?;
        let probe = Probe { slot, thread, utcb };
        self.space_of[slot] = home;
        self.probes[slot] = Some(probe);
        self.used += 1;
        probe.memory().begin(me);
        Ok(probe)
    }

    /// Starts a probe that waits for its start message, and waits until it waits for steps.
    pub(crate) fn begin(&mut self, probe: Probe) -> Checked {
        self.done[probe.slot] = false;
        let (stack, entry) = (probe.memory().stack(), probe::entry());
        sent("the start message", probe.thread.start_by_message(stack, entry))?;
        self.wait_until_done(probe)
    }

    /// Makes a probe begin anew, whatever it does.
    pub(crate) fn reset(&mut self, probe: Probe) -> Checked {
        self.forget_events(probe);
        // What it has sent meanwhile does not count.
        self.pump(Time::ZERO)?;
        self.done[probe.slot] = false;
        let (stack, entry) = (probe.memory().stack(), probe::entry());
        refused("a new start", probe.thread.start(stack, entry))?;
        self.wait_until_done(probe)
    }

    /// Has a probe send nothing to the stage any more: for one whose messages go elsewhere. It must
    /// not fault on its own memory or on the code of actions from then on.
    fn make_quiet(&mut self, probe: Probe) -> Checked {
        for what in [Action::Nothing, Action::Read, Action::Write] {
            self.run(probe, action(Action::Read, what.address(), 0, 0))?;
        }
        probe.memory().set_quiet();
        // It hears of that when it has done something.
        self.quiet[probe.slot] = true;
        self.run(probe, action(Action::Nothing, 0, 0, 0)).map(|_| ())
    }

    /// Sets the redirector of a probe's space. Its probes are quiet from then on: what they send to
    /// the stage would be redirected too.
    pub(crate) fn set_redirector(&mut self, probe: Probe, redirector: ThreadId) -> Checked {
        let home = self.space_of[probe.slot];
        for other in self.probes.into_iter().flatten() {
            if self.space_of[other.slot] == home && !self.quiet[other.slot] {
                self.make_quiet(other)?;
            }
        }
        let none = Flexpage::NIL;
        let set = control::space_control(probe.id(), 0, none, none, redirector);
        refused("a redirector", set).map(|_| ())
    }

    /// Gives a probe steps, which it does when it can run.
    pub(crate) fn go(&mut self, probe: Probe, steps: &[Step]) -> Checked {
        probe.memory().set_steps(steps, probe.local());
        self.done[probe.slot] = false;
        let limit = Time::from_period(PATIENCE);
        sent("a probe takes its steps", send_with(probe.id(), limit, &Message::new(0)))
    }

    /// Waits until a probe has done its steps; the last one's output.
    pub(crate) fn finish(&mut self, probe: Probe) -> Checked<Output> {
        self.wait_until_done(probe)?;
        let done = probe.memory().done();
        Ok(probe.memory().output(done.saturating_sub(1)))
    }

    /// Has a probe do one step.
    pub(crate) fn run(&mut self, probe: Probe, step: Step) -> Checked<Output> {
        self.go(probe, &[step])?;
        self.finish(probe)
    }

    /// Whether a probe has done its steps, as far as the stage has heard.
    pub(crate) fn is_done(&mut self, probe: Probe) -> Checked<bool> {
        self.pump(Time::ZERO)?;
        Ok(self.done[probe.slot])
    }

    fn wait_until_done(&mut self, probe: Probe) -> Checked {
        let deadline = system_clock() + PATIENCE;
        while !self.done[probe.slot] {
            if let Some(event) = self.event_of(probe) {
                let what = match event.kind() {
                    Some((KernelLabel::PageFault, _)) => "a page fault of a probe, at",
                    Some((KernelLabel::Exception, _)) => {
                        return fail("an exception of a probe", event.words.word(19));
                    }
                    _ => "a message of a probe, whose first word is",
                };
                return fail(what, event.words.word(1));
            }
            let left = deadline.saturating_sub(system_clock());
            if left == 0 {
                let state = schedule::thread_state(probe.id()).map_or(0, |state| state as u64);
                return fail("a probe that ends its steps, which is in state", state);
            }
            let limit = if self.quiet[probe.slot] { LOOK } else { left };
            self.pump(Time::from_period(limit))?;
        }
        Ok(())
    }

    /// Lets a probe run until it does something else than running; what Schedule says of it.
    pub(crate) fn block(&mut self, probe: Probe) -> Checked<ThreadState> {
        let deadline = system_clock() + PATIENCE;
        loop {
            self.pump(Time::from_period(100))?;
            let state = self.state(probe)?;
            // Whoever waits for the stage's answer to a fault is running, for Schedule.
            if state != ThreadState::Running || self.has_event(probe) || self.done[probe.slot] {
                return Ok(state);
            }
            if system_clock() >= deadline {
                return fail("a probe that stops running", state as u64);
            }
        }
    }

    /// Lets a probe run until it waits to send.
    pub(crate) fn block_sending(&mut self, probe: Probe) -> Checked {
        let state = self.block(probe)?;
        equal("a probe that waits to send", ThreadState::PendingSend as u64, state as u64)
    }

    /// Lets a probe run until it waits to receive, in its steps.
    pub(crate) fn block_receiving(&mut self, probe: Probe) -> Checked {
        let state = self.block(probe)?;
        if self.done[probe.slot] {
            return fail("a probe that waits to receive, which has done its steps", 0);
        }
        equal("a probe that waits to receive", ThreadState::Waiting as u64, state as u64)
    }

    /// What Schedule says of a probe.
    pub(crate) fn state(&self, probe: Probe) -> Checked<ThreadState> {
        refused("asking for a state", schedule::thread_state(probe.id()))
    }

    /// Fails unless a probe is in a state.
    pub(crate) fn require_state(
        &self,
        what: &'static str,
        probe: Probe,
        state: ThreadState,
    ) -> Checked {
        equal(what, state as u64, self.state(probe)? as u64)
    }

    pub(crate) fn set_priority(&self, probe: Probe, priority: u8) -> Checked {
        refused("setting a priority", schedule::set_priority(probe.id(), priority))
    }

    pub(crate) fn set_time(&self, probe: Probe, slice: Time, total: Time) -> Checked {
        refused("setting times", schedule::set_time_slice(probe.id(), slice, total))
    }

    /// Sets a probe's sensitive priority and longest delay, in microseconds.
    pub(crate) fn set_preemption(&self, probe: Probe, sensitive: u64, delay: u64) -> Checked {
        let preemption = PreemptionControl(sensitive << 16 | delay);
        let parameters = Parameters { preemption, ..Parameters::KEEP };
        refused("setting preemption", schedule::schedule(probe.id(), parameters)).map(|_| ())
    }

    /// Deletes a probe.
    pub(crate) fn delete(&self, probe: Probe) -> Checked {
        refused("deleting a probe", control::delete(probe.global()))
    }

    // --- Events ---

    /// Takes what comes within a time: notes what is done, serves faults on probes' own memory, and
    /// keeps everything else as an event.
    pub(crate) fn pump(&mut self, limit: Time) -> Checked {
        self.receive(limit)?;
        for probe in self.probes.into_iter().flatten().filter(|probe| self.quiet[probe.slot]) {
            // It has done its steps, and waits for the next ones.
            self.done[probe.slot] =
                probe.memory().is_done() && self.state(probe)? == ThreadState::Waiting;
        }
        Ok(())
    }

    fn receive(&mut self, limit: Time) -> Checked {
        let mut limit = limit;
        // Whatever comes, it ends: each probe that runs on forever is bounded by the case's limit.
        while let Ok(message) = receive_with(ThreadId::ANY, limit, &mut Acceptance::NOTHING.clone())
        {
            self.take(&message)?;
            limit = Time::ZERO;
        }
        Ok(())
    }

    fn take(&mut self, message: &Received) -> Checked {
        let Received { from, words } = *message;
        let slot =
            self.probes.iter().position(|probe| probe.is_some_and(|probe| probe.id() == from));
        if let Some(slot) = slot {
            if words.label() == probe::DONE {
                self.done[slot] = true;
                return Ok(());
            }
            if let Some((KernelLabel::PageFault, _)) = kernel_label(words.label()) {
                let address = words.word(1);
                let memory = &PROBE_MEMORY[slot];
                let own = (memory.address()..memory.stack()).contains(&address);
                let mapping = if own { Some(memory.mapping()) } else { probe::code_page(address) };
                if let Some(mapping) = mapping {
                    return self.map_to(from, mapping);
                }
            }
        }
        let event = Event { slot: slot.unwrap_or(PROBES), from, words };
        match self.events.iter_mut().find(|event| event.is_none()) {
            Some(place) => *place = Some(event),
            None => return fail("not so many events", EVENTS as u64),
        }
        Ok(())
    }

    /// Sends a map item to a thread that waits for it.
    pub(crate) fn map_to(&self, to: ThreadId, mapping: Mapping) -> Checked {
        let mut message = Message::new(0);
        if message.push_mapping(mapping).is_err() {
            return fail("room for an item", 0);
        }
        let limit = Time::from_period(PATIENCE);
        sent("a mapping is taken", send_with(to, limit, &message))
    }

    fn has_event(&self, probe: Probe) -> bool {
        self.events.iter().flatten().any(|event| event.slot == probe.slot)
    }

    fn event_of(&mut self, probe: Probe) -> Option<Event> {
        let of_probe =
            |event: &&mut Option<Event>| event.is_some_and(|event| event.slot == probe.slot);
        self.events.iter_mut().find(of_probe).and_then(Option::take)
    }

    fn forget_events(&mut self, probe: Probe) {
        while self.event_of(probe).is_some() {}
    }

    /// Whether something came from a probe that was not asked for yet.
    pub(crate) fn is_silent(&mut self, probe: Probe) -> Checked<bool> {
        self.pump(Time::ZERO)?;
        Ok(!self.has_event(probe))
    }

    /// The next event of a probe.
    pub(crate) fn event(&mut self, what: &'static str, probe: Probe) -> Checked<Event> {
        let deadline = system_clock() + PATIENCE;
        loop {
            if let Some(event) = self.event_of(probe) {
                return Ok(event);
            }
            let left = deadline.saturating_sub(system_clock());
            if left == 0 || self.done[probe.slot] {
                return fail(what, self.state(probe).map_or(0, |state| state as u64));
            }
            self.pump(Time::from_period(left))?;
        }
    }

    /// The next event of a probe, which must be a page fault.
    pub(crate) fn page_fault(&mut self, probe: Probe) -> Checked<PageFault> {
        let event = self.event("a page fault", probe)?;
        match event.kind() {
            Some((KernelLabel::PageFault, access)) => Ok(PageFault {
                access,
                address: event.words.word(1),
                instruction: event.words.word(2),
                tag: event.words.tag().0,
            }),
            _ => fail("a page fault, not a message with the tag", event.words.tag().0),
        }
    }

    /// The next event of a probe, which must be an exception.
    pub(crate) fn exception(&mut self, probe: Probe) -> Checked<Exception> {
        let event = self.event("an exception", probe)?;
        match event.kind() {
            Some((KernelLabel::Exception, 0)) => Ok(Exception { words: event.words }),
            Some((KernelLabel::PageFault, _)) => {
                fail("an exception, not a page fault at", event.words.word(1))
            }
            _ => fail("an exception, not a message with the tag", event.words.tag().0),
        }
    }

    /// Answers an exception with the registers that it came with, changed by `change`.
    pub(crate) fn answer_exception(
        &self,
        probe: Probe,
        exception: &Exception,
        change: impl FnOnce(&mut [u64; 20]),
    ) -> Checked {
        let mut words = [0; 20];
        for (index, word) in words.iter_mut().enumerate() {
            *word = exception.words.word(index + 1);
        }
        change(&mut words);
        let label = KernelLabel::Exception.label(0);
        self.tell(probe, &Message::of(label, &words))
    }

    /// Answers an exception so that the probe goes on `bytes` further.
    pub(crate) fn skip(&self, probe: Probe, exception: &Exception, bytes: u64) -> Checked {
        self.answer_exception(probe, exception, |words| words[0] += bytes)
    }

    /// Sends to a probe that is ready for it.
    pub(crate) fn tell(&self, probe: Probe, message: &Message<'_>) -> Checked {
        let limit = Time::from_period(PATIENCE);
        sent("a probe takes a message", send_with(probe.id(), limit, message))
    }

    /// Lets the case's probes run for so many microseconds.
    pub(crate) fn let_run(&mut self, microseconds: u64) -> Checked {
        let deadline = system_clock() + microseconds;
        loop {
            let left = deadline.saturating_sub(system_clock());
            if left == 0 {
                return Ok(());
            }
            self.pump(Time::from_period(left))?;
        }
    }

    // --- Messages between probes ---

    /// Has `from` send to `to`, which waits for it already with these buffer registers; both
    /// outputs.
    pub(crate) fn pass(
        &mut self,
        from: Probe,
        to: Probe,
        words: &[u64],
        buffers: &[u64],
    ) -> Checked<(Output, Output)> {
        self.go(to, &[accepting(receive(from.id(), Time::NEVER), buffers)])?;
        self.block_receiving(to)?;
        self.go(from, &[send(to.id(), Time::NEVER, words)])?;
        let sent = self.finish(from)?;
        let received = self.finish(to)?;
        Ok((sent, received))
    }

    /// The same, with `from` waiting for `to`.
    pub(crate) fn pass_to_late_receiver(
        &mut self,
        from: Probe,
        to: Probe,
        words: &[u64],
        buffers: &[u64],
    ) -> Checked<(Output, Output)> {
        self.go(from, &[send(to.id(), Time::NEVER, words)])?;
        self.block_sending(from)?;
        self.go(to, &[accepting(receive(from.id(), Time::NEVER), buffers)])?;
        let sent = self.finish(from)?;
        let received = self.finish(to)?;
        Ok((sent, received))
    }

    /// Maps from `from` to `to`, into the complete address space.
    pub(crate) fn pass_mapping(
        &mut self,
        from: Probe,
        to: Probe,
        page: Flexpage,
        base: u64,
    ) -> Checked {
        let (sent, received) = self.pass(from, to, &map_words(page, base), &[COMPLETE])?;
        sent.succeeded("sending a mapping")?;
        received.succeeded("receiving a mapping")?;
        Ok(())
    }

    // --- Memory ---

    /// Offset of a page of the large region that this case has not used; the first four pages are
    /// used last.
    pub(crate) fn page(&mut self) -> u64 {
        self.pages += 1;
        let offset = (self.pages + 3) << 12;
        self.memory.large.clear(offset, 4096);
        offset
    }

    /// A mapping of a page of the large region.
    pub(crate) fn mapping(&self, offset: u64, rights: u64, base: u64) -> Mapping {
        self.memory.large.map(offset, 12, rights, base)
    }

    /// Maps a page of the large region to an address of a probe.
    pub(crate) fn give(&mut self, probe: Probe, offset: u64, rights: u64, address: u64) -> Checked {
        let mapping = self.mapping(offset, rights, address);
        self.give_mapping(probe, mapping)
    }

    /// Maps to a probe, whose window is its complete address space.
    pub(crate) fn give_mapping(&mut self, probe: Probe, mapping: Mapping) -> Checked {
        let me = self.driver();
        self.go(probe, &[receive_into(me, Flexpage::COMPLETE)])?;
        self.map_to(probe.id(), mapping)?;
        self.finish(probe).map(|_| ())
    }

    /// Does a step that may fault: its output, or the fault, after which the probe begins anew.
    pub(crate) fn attempt(
        &mut self,
        probe: Probe,
        step: Step,
    ) -> Checked<Result<Output, PageFault>> {
        self.go(probe, &[step])?;
        let deadline = system_clock() + PATIENCE;
        loop {
            if self.done[probe.slot] {
                return Ok(Ok(probe.memory().output(0)));
            }
            if self.has_event(probe) {
                let fault = self.page_fault(probe)?;
                self.reset(probe)?;
                return Ok(Err(fault));
            }
            let left = deadline.saturating_sub(system_clock());
            if left == 0 {
                return fail("a step that ends or faults", self.state(probe)? as u64);
            }
            self.pump(Time::from_period(left))?;
        }
    }

    /// What a probe reads at an address; `None` if it faults.
    pub(crate) fn read(&mut self, probe: Probe, address: u64) -> Checked<Option<u64>> {
        let result = self.attempt(probe, action(Action::Read, address, 0, 0))?;
        Ok(result.ok().map(|output| output.registers.rax))
    }

    /// Whether a probe can write at an address.
    pub(crate) fn write(&mut self, probe: Probe, address: u64, value: u64) -> Checked<bool> {
        Ok(self.attempt(probe, action(Action::Write, address, value, 0))?.is_ok())
    }

    /// Whether a probe can execute a `ret` that is at an address.
    pub(crate) fn execute(&mut self, probe: Probe, address: u64) -> Checked<bool> {
        Ok(self.attempt(probe, action(Action::Execute, address, 0, 0))?.is_ok())
    }

    /// Fails unless a probe reads a value at an address.
    pub(crate) fn require_word(
        &mut self,
        what: &'static str,
        probe: Probe,
        address: u64,
        value: u64,
    ) -> Checked {
        match self.read(probe, address)? {
            Some(found) => equal(what, value, found),
            None => Err(Failure { what, expected: value, found: u64::MAX }),
        }
    }

    /// Fails unless a probe has no memory at an address.
    pub(crate) fn require_nothing(
        &mut self,
        what: &'static str,
        probe: Probe,
        address: u64,
    ) -> Checked {
        match self.read(probe, address)? {
            Some(found) => fail(what, found),
            None => Ok(()),
        }
    }

    /// Runs a step between two looks at the clock; its output, and how long it took in
    /// microseconds.
    pub(crate) fn timed(&mut self, probe: Probe, step: Step) -> Checked<(Output, u64)> {
        let clock = crate::steps::clock;
        self.go(probe, &[clock(), step, clock()])?;
        self.finish(probe)?;
        let memory = probe.memory();
        let (before, after) = (memory.output(0).registers.rax, memory.output(2).registers.rax);
        at_least("a clock that goes on", before, after)?;
        Ok((memory.output(1), after - before))
    }
}

const NIL: ThreadId = ThreadId::NIL;

/// Turns a refusal of the kernel into a failure.
pub(crate) fn refused<T>(what: &'static str, result: Result<T, control::Refused>) -> Checked<T> {
    result.map_err(|control::Refused(found)| Failure { what, expected: 0, found })
}

/// Turns a failed message into a failure.
pub(crate) fn sent<T>(what: &'static str, result: Result<T, IpcError>) -> Checked<T> {
    result.map_err(|error| Failure { what, expected: 0, found: error.word() })
}
