//! Timers: one for each thread, in a heap by their deadlines.
//!
//! Hidden is the heap: a binary one in a slice, in which a thread's timer knows its position, so that it can be
//! cancelled. All operations take at most as many steps as the heap has levels.

/// A thread's timer; part of the thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timer {
    /// Position in the heap plus one; 0 if it is not running.
    position: u32,
}

impl Timer {
    /// Whether it runs.
    pub(crate) fn is_running(&self) -> bool {
        self.position != 0
    }
}

/// Where the timers of threads are kept.
pub(crate) trait TimerLinks {
    /// The timer of thread `number`, which exists.
    fn timer(&mut self, number: u32) -> &mut Timer;
}

/// A deadline, in microseconds of the clock, and whose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline {
    at: u64,
    thread: u32,
}

/// All timers that run.
#[derive(Debug)]
pub(crate) struct Timers<'m> {
    /// Has room for every thread.
    heap: &'m mut [Deadline],
    count: usize,
}

impl<'m> Timers<'m> {
    /// No timers; `room` for one of each thread.
    pub(crate) fn new(room: &'m mut [Deadline]) -> Self {
        Self { heap: room, count: 0 }
    }

    /// The earliest deadline.
    pub(crate) fn earliest(&self) -> Option<u64> {
        self.running().first().map(|deadline| deadline.at)
    }

    fn running(&self) -> &[Deadline] {
        self.heap.get(..self.count).unwrap_or(&[])
    }

    /// The thread whose deadline is the earliest, if that is not after `now`.
    pub(crate) fn expired(&self, now: u64) -> Option<u32> {
        self.running().first().filter(|first| first.at <= now).map(|first| first.thread)
    }

    /// Starts the timer of thread `number`, in place of the one that runs for it, if one does.
    pub(crate) fn start(&mut self, links: &mut impl TimerLinks, number: u32, at: u64) {
        self.cancel(links, number);
        let position = self.count;
        if position < self.heap.len() {
            self.count += 1;
            self.rise(links, position, Deadline { at, thread: number });
        }
    }

    /// Stops the timer of thread `number`, if it runs.
    pub(crate) fn cancel(&mut self, links: &mut impl TimerLinks, number: u32) {
        let timer = core::mem::take(links.timer(number));
        let Some(position) = (timer.position as usize).checked_sub(1) else { return };
        self.count -= 1;
        let Some(last) = self.heap.get(self.count).copied() else { return };
        if position < self.count {
            self.place(links, position, last);
        }
    }

    /// Puts a deadline where there is room, and moves it to where it belongs.
    fn place(&mut self, links: &mut impl TimerLinks, position: usize, deadline: Deadline) {
        let above = position.checked_sub(1).map(|below| below / 2);
        let is_less = above.is_some_and(|above| {
            self.heap.get(above).is_some_and(|parent| deadline.at < parent.at)
        });
        if is_less {
            self.rise(links, position, deadline);
        } else {
            self.sink(links, position, deadline);
        }
    }

    fn rise(&mut self, links: &mut impl TimerLinks, mut position: usize, deadline: Deadline) {
        while let Some(above) = position.checked_sub(1).map(|below| below / 2)
            && let Some(parent) = self.heap.get(above).copied()
            && deadline.at < parent.at
        {
            self.put(links, position, parent);
            position = above;
        }
        self.put(links, position, deadline);
    }

    fn sink(&mut self, links: &mut impl TimerLinks, mut position: usize, deadline: Deadline) {
        loop {
            let left = position * 2 + 1;
            let children = self.running().get(left..).unwrap_or(&[]).iter().take(2).zip(left..);
            let Some((child, at)) = children.min_by_key(|(child, _)| child.at) else { break };
            if child.at >= deadline.at {
                break;
            }
            let child = *child;
            self.put(links, position, child);
            position = at;
        }
        self.put(links, position, deadline);
    }

    fn put(&mut self, links: &mut impl TimerLinks, position: usize, deadline: Deadline) {
        if let Some(slot) = self.heap.get_mut(position) {
            *slot = deadline;
            // There are at most as many as threads.
            links.timer(deadline.thread).position = position as u32 + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    impl TimerLinks for Vec<Timer> {
        fn timer(&mut self, number: u32) -> &mut Timer {
            &mut self[number as usize]
        }
    }

    proptest! {
        #[test]
        fn the_earliest_is_the_first(
            steps in prop::collection::vec((0u32..40, prop::option::of(0u64..1000)), 0..600)
        ) {
            let mut room = [Deadline::default(); 40];
            let mut timers = Timers::new(&mut room);
            let mut links = std::vec![Timer::default(); 40];
            let mut model = [None; 40];
            for (number, at) in steps {
                match at {
                    Some(at) => timers.start(&mut links, number, at),
                    None => timers.cancel(&mut links, number),
                }
                model[number as usize] = at;
                prop_assert_eq!(timers.earliest(), model.iter().flatten().min().copied());
                for (timer, at) in links.iter().zip(&model) {
                    prop_assert_eq!(timer.is_running(), at.is_some());
                }
                if let Some(earliest) = timers.earliest() {
                    let expired = timers.expired(earliest).unwrap();
                    prop_assert_eq!(model[expired as usize], Some(earliest));
                    prop_assert_eq!(timers.expired(earliest.wrapping_sub(1)).is_some(), earliest == 0);
                }
            }
        }
    }
}
