//! The run queue: which threads could run, by priority.
//!
//! Hidden is how threads are linked: each priority has a ring, and a bit says whether it is empty. A
//! thread is in at most one ring. The thread that runs is in none.
//!
//! All operations take constant time.

/// A thread's place in the run queue; part of the thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RunLink {
    /// The neighbours in the ring, as thread numbers.
    next: u32,
    previous: u32,
    /// The priority that the thread was queued with, plus one; 0 if it is not queued.
    queued: u16,
}

impl RunLink {
    /// Whether the thread is queued.
    pub(crate) fn is_queued(&self) -> bool {
        self.queued != 0
    }
}

/// Where the links of threads are kept.
pub(crate) trait RunLinks {
    /// The link of thread `number`, which exists.
    fn link(&mut self, number: u32) -> &mut RunLink;
}

/// The heads of the rings.
#[derive(Debug)]
pub(crate) struct RunQueue {
    /// First thread of each ring; meaningful if the bit is set.
    heads: [u32; 256],
    occupied: [u64; 4],
    /// The highest priority with a thread.
    highest: Option<u8>,
}

impl RunQueue {
    pub(crate) const fn new() -> Self {
        Self { heads: [0; 256], occupied: [0; 4], highest: None }
    }

    /// The highest priority with a thread.
    pub(crate) fn highest(&self) -> Option<u8> {
        self.highest
    }

    fn find_highest(&self) -> Option<u8> {
        let [first, second, third, fourth] = self.occupied;
        let (bits, end) = if fourth != 0 {
            (fourth, 255)
        } else if third != 0 {
            (third, 191)
        } else if second != 0 {
            (second, 127)
        } else {
            (first, 63)
        };
        // Of a word that is not 0, less than 64.
        (bits != 0).then(|| end - bits.leading_zeros() as u8)
    }

    /// The first thread of a priority.
    pub(crate) fn first(&self, priority: u8) -> Option<u32> {
        self.is_occupied(priority).then(|| self.head(priority))
    }

    fn is_occupied(&self, priority: u8) -> bool {
        let word = self.occupied.get(usize::from(priority >> 6)).copied().unwrap_or(0);
        word >> (priority & 63) & 1 != 0
    }

    fn set_occupied(&mut self, priority: u8, occupied: bool) {
        if let Some(word) = self.occupied.get_mut(usize::from(priority >> 6)) {
            let bit = 1 << (priority & 63);
            *word = if occupied { *word | bit } else { *word & !bit };
        }
    }

    fn head(&self, priority: u8) -> u32 {
        self.heads.get(usize::from(priority)).copied().unwrap_or(0)
    }

    fn set_head(&mut self, priority: u8, number: u32) {
        if let Some(head) = self.heads.get_mut(usize::from(priority)) {
            *head = number;
        }
    }

    /// Adds a thread that is not queued, at the end of its priority's ring or, with `first`, at the beginning.
    pub(crate) fn add(
        &mut self,
        links: &mut impl RunLinks,
        number: u32,
        priority: u8,
        first: bool,
    ) {
        debug_assert!(!links.link(number).is_queued());
        let queued = u16::from(priority) + 1;
        if !self.is_occupied(priority) {
            *links.link(number) = RunLink { next: number, previous: number, queued };
            self.set_occupied(priority, true);
            self.highest = self.highest.max(Some(priority));
            self.set_head(priority, number);
            return;
        }
        let next = self.head(priority);
        let previous = links.link(next).previous;
        *links.link(number) = RunLink { next, previous, queued };
        links.link(previous).next = number;
        links.link(next).previous = number;
        if first {
            self.set_head(priority, number);
        }
    }

    /// Removes a thread, if it is queued.
    pub(crate) fn remove(&mut self, links: &mut impl RunLinks, number: u32) {
        let RunLink { next, previous, queued } = core::mem::take(links.link(number));
        let Some(priority) = queued.checked_sub(1) else { return };
        // It was made from a priority.
        let priority = priority as u8;
        if next == number {
            self.set_occupied(priority, false);
            if self.highest == Some(priority) {
                self.highest = self.find_highest();
            }
            return;
        }
        links.link(previous).next = next;
        links.link(next).previous = previous;
        if self.head(priority) == number {
            self.set_head(priority, next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::vec::Vec;

    impl RunLinks for Vec<RunLink> {
        fn link(&mut self, number: u32) -> &mut RunLink {
            &mut self[number as usize]
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_queue_for_each_priority(
            steps in prop::collection::vec((0u32..20, 0u8..4, any::<bool>(), any::<bool>()), 0..400)
        ) {
            let mut links = std::vec![RunLink::default(); 20];
            let mut queue = RunQueue::new();
            let mut model: [VecDeque<u32>; 4] = Default::default();
            let priorities = [0, 63, 64, 255];
            for (number, level, first, remove) in steps {
                if remove {
                    queue.remove(&mut links, number);
                    for ring in &mut model {
                        ring.retain(|&other| other != number);
                    }
                } else if !links[number as usize].is_queued() {
                    queue.add(&mut links, number, priorities[usize::from(level)], first);
                    let ring = &mut model[usize::from(level)];
                    if first { ring.push_front(number) } else { ring.push_back(number) }
                }
                let highest = (0..4).rev().find(|&level| !model[level].is_empty());
                prop_assert_eq!(queue.highest(), highest.map(|level| priorities[level]));
                for (ring, &priority) in model.iter().zip(&priorities) {
                    prop_assert_eq!(queue.first(priority), ring.front().copied());
                    let mut at = ring.front().copied().unwrap_or(0);
                    for &number in ring {
                        prop_assert_eq!(at, number);
                        at = links[number as usize].next;
                    }
                }
            }
        }
    }
}
