//! The thread table: a place for each thread number.
//!
//! Number 0 is nobody's: it stands for *no thread* in links, and its place absorbs what is asked of
//! numbers that there are not, so that looking a number up needs no error path. Nothing is ever read
//! from it that matters.

use heliox_abi::{GlobalId, ThreadId, kip};

use crate::run_queue::{RunLink, RunLinks};
use crate::thread::{NOBODY, Number, State, Thread};
use crate::timers::{Timer, TimerLinks};

/// All threads.
#[derive(Debug)]
pub(crate) struct Threads<'k, C> {
    pub(crate) table: &'k mut [Thread<C>],
    nobody: Thread<C>,
    /// The lowest priority that a thread must have for the light path to switch to it.
    pub(crate) gate: u32,
}

/// A gate that lets nobody pass.
pub(crate) const CLOSED: u32 = u32::MAX;

impl<C> RunLinks for Threads<'_, C> {
    fn link(&mut self, number: u32) -> &mut RunLink {
        &mut self.at_mut(number).run
    }
}

impl<C> TimerLinks for Threads<'_, C> {
    fn timer(&mut self, number: u32) -> &mut Timer {
        &mut self.at_mut(number).timer
    }
}

impl<'k, C> Threads<'k, C> {
    pub(crate) fn new(table: &'k mut [Thread<C>]) -> Self {
        Self { table, nobody: Thread::free(), gate: CLOSED }
    }

    /// One more than the largest number that a thread can have.
    pub(crate) fn limit(&self) -> u32 {
        u32::try_from(self.table.len()).unwrap_or(u32::MAX)
    }

    /// Thread `number`.
    pub(crate) fn at(&self, number: Number) -> &Thread<C> {
        self.table.get(number as usize).unwrap_or(&self.nobody)
    }

    /// Thread `number`, to be changed: what the light path was allowed to do with it, it no longer may.
    pub(crate) fn at_mut(&mut self, number: Number) -> &mut Thread<C> {
        self.gate = CLOSED;
        let thread = self.table.get_mut(number as usize).unwrap_or(&mut self.nobody);
        thread.close();
        thread
    }

    /// Thread `number`, for its registers, and to say what the light path may do with it.
    pub(crate) fn at_light(&mut self, number: Number) -> &mut Thread<C> {
        self.table.get_mut(number as usize).unwrap_or(&mut self.nobody)
    }

    /// Puts another thread into a place, or none. That it is to be looked at, if it is, concerns the place.
    pub(crate) fn reset(&mut self, number: Number, thread: Thread<C>) {
        let checking = self.at(number).checking;
        *self.at_mut(number) = Thread { checking, ..thread };
    }

    /// The number of the thread with exactly this identifier.
    pub(crate) fn find(&self, id: GlobalId) -> Option<Number> {
        let number = id.number();
        (self.at(number).id == Some(id) && number >= kip::USER_BASE).then_some(number)
    }

    /// The number of the thread named by a word that is a global identifier.
    pub(crate) fn find_word(&self, id: ThreadId) -> Option<Number> {
        self.find(id.global()?)
    }

    /// Whether there is a thread with this number, whatever its version.
    pub(crate) fn exists(&self, number: Number) -> bool {
        self.at(number).id.is_some()
    }

    /// Appends `sender` to the queue of those that wait to send to `receiver`.
    pub(crate) fn enqueue_sender(&mut self, receiver: Number, sender: Number) {
        debug_assert_eq!(self.at(sender).next_sender, NOBODY);
        self.at_mut(sender).queue = receiver;
        let first = self.at(receiver).senders;
        if first == NOBODY {
            self.at_mut(receiver).senders = sender;
            let thread = self.at_mut(sender);
            (thread.next_sender, thread.previous_sender) = (sender, sender);
            return;
        }
        let last = self.at(first).previous_sender;
        let thread = self.at_mut(sender);
        (thread.next_sender, thread.previous_sender) = (first, last);
        self.at_mut(last).next_sender = sender;
        self.at_mut(first).previous_sender = sender;
    }

    /// Takes `sender` out of the queue that it waits in.
    pub(crate) fn dequeue_sender(&mut self, sender: Number) {
        let thread = self.at_mut(sender);
        let receiver = core::mem::replace(&mut thread.queue, NOBODY);
        let (next, previous) = (thread.next_sender, thread.previous_sender);
        debug_assert_ne!(next, NOBODY);
        (thread.next_sender, thread.previous_sender) = (NOBODY, NOBODY);
        if next == sender {
            self.at_mut(receiver).senders = NOBODY;
            return;
        }
        self.at_mut(previous).next_sender = next;
        self.at_mut(next).previous_sender = previous;
        if self.at(receiver).senders == sender {
            self.at_mut(receiver).senders = next;
        }
    }

    /// The first of those that wait to send to `receiver` for which `wanted` holds.
    pub(crate) fn find_sender(
        &self,
        receiver: Number,
        wanted: impl Fn(Number, &Thread<C>) -> bool,
    ) -> Option<Number> {
        let first = self.at(receiver).senders;
        let mut at = first;
        while at != NOBODY {
            let thread = self.at(at);
            debug_assert_eq!(thread.state(), State::Sending);
            if wanted(at, thread) {
                return Some(at);
            }
            at = thread.next_sender;
            if at == first {
                break;
            }
        }
        None
    }
}
