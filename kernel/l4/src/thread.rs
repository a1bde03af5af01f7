//! Threads: what the kernel knows of one.
//!
//! A thread is a place in the thread table, found by its number. Invariants:
//!
//! - a thread is in its receiver's queue of senders exactly while its state is [`State::Sending`];
//! - a thread is in the run queue exactly if it is runnable and does not run;
//! - a thread has a timer only while it waits, or its transfer waits for a pager;
//! - a thread with a UTCB has a context, and is counted by its page of UTCBs.

use heliox_abi::{GlobalId, ThreadId};

use heliox_hal::page_map::PageMapUse;

use crate::planted::{Fault, is_planted};
use crate::run_queue::RunLink;
use crate::timers::Timer;

/// Number of a thread: its place in the table.
pub(crate) type Number = u32;

/// No thread, in a link.
pub(crate) const NOBODY: Number = 0;

/// What a thread is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// It was created, but has no UTCB or no pager yet.
    #[default]
    Inactive,
    /// It does something: runs, or would if it were its turn.
    Ready,
    /// It waits until the receiver takes its message.
    Sending,
    /// It waits for a message.
    Receiving,
    /// Strings are being copied from it or to it; see `Transfer`.
    Transferring,
    /// It does nothing until ExchangeRegisters starts it.
    Stopped,
}

/// What a thread sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Outgoing {
    /// What is in its message registers.
    #[default]
    Message,
    /// The kernel tells its pager of a page fault.
    PageFault {
        /// The address that it touched.
        address: u64,
        /// Rights that it lacks: as in a flexpage.
        access: u64,
        /// Its instruction pointer.
        instruction: u64,
    },
    /// The kernel tells its pager of a fault on ports.
    PortFault {
        /// The first port, and log2 of their number.
        port: u16,
        /// Log2 of the number of ports.
        bits: u8,
        /// Its instruction pointer.
        instruction: u64,
    },
    /// The kernel tells its exception handler of an exception.
    Exception {
        /// The number of the exception.
        vector: u8,
        /// Its error code.
        code: u64,
        /// It is a preemption that was held back too long, not one of the processor's.
        preemption: bool,
    },
    /// The kernel tells its exception handler that it was preempted.
    Preempted {
        /// When.
        at: u64,
    },
    /// The kernel tells its scheduler that its quantum is used up.
    Exhausted {
        /// When.
        at: u64,
    },
}

impl Outgoing {
    /// Whether the kernel made the message.
    pub(crate) fn is_kernel_made(self) -> bool {
        self != Self::Message
    }
}

/// What a thread does with the message that it receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// It gets it in its message registers.
    #[default]
    Message,
    /// It takes mappings, and tries again what it did.
    FaultReply,
    /// Its registers are set as the message says.
    ExceptionReply,
    /// It begins at an instruction pointer with a stack pointer.
    Start,
}

/// Whom a thread receives from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum From {
    /// Nobody: there is no receive phase.
    #[default]
    Nobody,
    /// Anybody.
    Anybody,
    /// Any thread of its space.
    AnyLocal,
    /// One thread or interrupt.
    Thread(GlobalId),
}

/// How long to wait for a message, once it is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Limit {
    /// For ever.
    #[default]
    Never,
    /// So many microseconds; 0: not at all.
    Period(u64),
    /// Until this moment of the clock.
    Until(u64),
}

impl Limit {
    /// The moment at which waiting that begins at `now` ends.
    pub(crate) fn deadline(self, now: u64) -> Option<u64> {
        match self {
            Self::Never => None,
            Self::Period(period) => Some(now.saturating_add(period)),
            Self::Until(at) => Some(at),
        }
    }
}

/// An IPC that a thread does, or that the kernel does for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Operation {
    /// What is sent.
    pub(crate) outgoing: Outgoing,
    /// To whom; meaningful while sending.
    pub(crate) to: ThreadId,
    /// In whose name, if not in the thread's own.
    pub(crate) virtual_sender: Option<GlobalId>,
    /// Whom the message was meant for, if it is on its way to a redirector.
    pub(crate) intended: Option<GlobalId>,
    /// Whom is received from afterwards.
    pub(crate) from: From,
    /// What is done with what is received.
    pub(crate) incoming: Incoming,
    /// How long that is waited for.
    pub(crate) limit: Limit,
}

/// An IPC that waits until a page fault of its transfer is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outer {
    pub(crate) operation: Operation,
    /// Number of the transfer.
    pub(crate) transfer: u32,
}

/// What the scheduler knows of a thread. Times are in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scheduling {
    pub(crate) priority: u8,
    /// Up to this priority a preemption can be delayed.
    pub(crate) sensitive_priority: u8,
    /// By that long.
    pub(crate) max_delay: u16,
    /// Length of a time slice; `None`: without end.
    pub(crate) slice: Option<u64>,
    /// What is left of the current slice.
    pub(crate) left: u64,
    /// What is left of the total quantum; `None`: without end.
    pub(crate) total: Option<u64>,
    /// Its scheduler was told that the quantum is used up, or that is of no use.
    pub(crate) told: bool,
    /// A preemption is held back until then.
    pub(crate) delayed_until: Option<u64>,
    /// It was preempted at this moment, and its exception handler is to be told.
    pub(crate) preempted_at: Option<u64>,
}

impl Scheduling {
    /// Length of a new thread's time slice.
    const SLICE: u64 = 10_000;

    /// What a new thread has.
    pub(crate) const NEW: Self = Self::with_priority(100);

    pub(crate) const fn with_priority(priority: u8) -> Self {
        Self {
            priority,
            sensitive_priority: priority,
            max_delay: 0,
            slice: Some(Self::SLICE),
            left: Self::SLICE,
            total: None,
            told: false,
            delayed_until: None,
            preempted_at: None,
        }
    }
}

/// Where a thread's UTCB is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Utcb {
    /// Number of the page of UTCBs.
    pub(crate) page: u32,
    /// Which of the page's UTCBs, 0 to 3.
    pub(crate) slot: u8,
    /// Address of its first message register in the thread's space: the local identifier.
    pub(crate) address: u64,
}

/// In [`Thread::accepts`]: messages of anybody.
pub(crate) const ANYBODY: u64 = u64::MAX;

/// A thread. What the light path looks at comes first.
#[derive(Debug)]
#[repr(C, align(512))]
pub struct Thread<C> {
    /// Its global identifier; `None`: the place is free.
    pub(crate) id: Option<GlobalId>,
    /// Whose message the light path may give it: the word of a global identifier, [`ANYBODY`], or 0
    /// for nobody's. Taken back by every other access that could change the thread. If it is not 0,
    /// the thread waits for such a message, and `kept_state` is [`State::Ready`] and
    /// `kept_operation` the default, as if it had come.
    pub(crate) accepts: u64,
    /// The pager or exception handler whose answer may be taken directly, as the word of a global identifier,
    /// or 0. Taken back likewise. If it is not 0, the thread waits for nothing else, without end.
    pub(crate) awaits: u64,
    /// See [`Thread::state`].
    pub(crate) kept_state: State,
    /// Number of its address space.
    pub(crate) space: u32,
    /// What it runs with, once it is active.
    pub(crate) body: Option<Body<C>>,
    pub(crate) utcb: Option<Utcb>,
    /// Who may schedule it.
    pub(crate) scheduler: ThreadId,
    /// Its pager while it has no UTCB to keep it.
    pub(crate) pager: ThreadId,
    /// It must not run at user level.
    pub(crate) halted: bool,
    /// See [`Thread::operation`].
    pub(crate) kept_operation: Operation,
    /// What a page fault of its transfer interrupted.
    pub(crate) outer: Option<Outer>,
    /// Number of the transfer that it takes part in, but for the interrupted one.
    pub(crate) transfer: Option<u32>,
    pub(crate) scheduling: Scheduling,
    pub(crate) run: RunLink,
    pub(crate) timer: Timer,
    /// The first thread that waits to send to this one; [`NOBODY`] if none does.
    pub(crate) senders: Number,
    /// In whose queue of senders this thread is; [`NOBODY`]'s holds those that wait for a redirector.
    pub(crate) queue: Number,
    /// Neighbours in that queue: a ring.
    pub(crate) next_sender: Number,
    pub(crate) previous_sender: Number,
    /// It is to be looked at: somebody may be there to receive from, or its quantum is used up.
    pub(crate) checking: bool,
    /// A system call that goes on when it is the thread's turn.
    pub(crate) work: Work,
}

/// A long system call that has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Work {
    /// None.
    #[default]
    None,
    /// Unmap.
    Unmap(Unmapping),
    /// A transfer of typed items, which this thread sends.
    Transfer,
    /// An address space is taken apart.
    Dismantle {
        /// Its number.
        space: u32,
        /// The address that it has come to.
        from: u64,
    },
}

/// How far an Unmap is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unmapping {
    /// The control word.
    pub(crate) control: u64,
    /// Flexpages done.
    pub(crate) done: u8,
    /// Address up to which the next one is done, from its beginning.
    pub(crate) progress: u64,
    /// Rights with which it was used, so far.
    pub(crate) used: u8,
    /// The revocation's number; 0 before the first step of a flexpage.
    pub(crate) mark: u32,
}

/// What a thread runs with.
#[derive(Debug)]
pub(crate) struct Body<C> {
    /// Its registers.
    pub(crate) context: C,
    /// The tables of its address space.
    pub(crate) map: PageMapUse,
}

impl<C> Thread<C> {
    /// What it is doing. While it is the light path's to wake up, only [`Thread::accepts`] says so.
    pub(crate) fn state(&self) -> State {
        if self.accepts == 0 { self.kept_state } else { State::Receiving }
    }

    /// The IPC that it does; likewise.
    pub(crate) fn operation(&self) -> Operation {
        match self.accepts {
            0 => self.kept_operation,
            ANYBODY => Operation { from: From::Anybody, ..Operation::default() },
            word => {
                let from = ThreadId(word).global().map_or(From::Nobody, From::Thread);
                Operation { from, ..Operation::default() }
            }
        }
    }

    /// Takes from the light path what it may do with the thread.
    pub(crate) fn close(&mut self) {
        self.awaits = 0;
        if self.accepts != 0 {
            self.kept_state = self.state();
            self.kept_operation = self.operation();
            self.accepts = 0;
        }
    }

    /// Its registers, if it has any.
    pub(crate) fn context(&self) -> Option<&C> {
        self.body.as_ref().map(|body| &body.context)
    }

    /// Its registers, if it has any.
    pub(crate) fn context_mut(&mut self) -> Option<&mut C> {
        self.body.as_mut().map(|body| &mut body.context)
    }

    /// A free place.
    pub fn free() -> Self {
        Self {
            id: None,
            accepts: 0,
            awaits: 0,
            space: 0,
            body: None,
            utcb: None,
            scheduler: ThreadId::NIL,
            pager: ThreadId::NIL,
            kept_state: State::Inactive,
            halted: false,
            kept_operation: Operation::default(),
            outer: None,
            transfer: None,
            scheduling: Scheduling::NEW,
            run: RunLink::default(),
            timer: Timer::default(),
            senders: NOBODY,
            queue: NOBODY,
            next_sender: NOBODY,
            previous_sender: NOBODY,
            checking: false,
            work: Work::None,
        }
    }

    /// Whether the thread can run, or go on with a system call.
    pub(crate) fn is_runnable(&self) -> bool {
        if self.accepts != 0 {
            return false;
        }
        match self.work {
            Work::None => {
                let halted = self.halted && !is_planted(Fault::HaltedRuns);
                self.kept_state == State::Ready && !halted && self.scheduling.total != Some(0)
            }
            _ => true,
        }
    }

    /// Whether its quantum is used up, and its scheduler is to be told.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.state() == State::Ready
            && self.work == Work::None
            && self.scheduling.total == Some(0)
            && !self.scheduling.told
    }

    /// Whether it has begun to live: it has a UTCB.
    pub(crate) fn is_active(&self) -> bool {
        self.utcb.is_some()
    }
}
