//! What the arguments ask for.

use core::sync::atomic::{AtomicU64, Ordering};

/// Numbers of untyped words that a message can have: 0 to 63.
const LENGTHS: u32 = 64;
const ROUNDS: u64 = 200;

/// What to measure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Messages between address spaces, and perhaps within one.
    Messages { same_space: bool },
    /// Everything else.
    Operations,
}

/// What else is going on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Under {
    Nothing,
    Threads,
    Timers,
    FloatingPoint,
    Priorities,
}

/// How often, and with which messages.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    /// How often each thing is done.
    pub(crate) rounds: u64,
    /// How often it is done while it is traced; 0: it is not.
    pub(crate) traced: u64,
    /// A bit for each length.
    lengths: u64,
}

/// All arguments.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) task: Task,
    pub(crate) under: Under,
    pub(crate) extent: Extent,
}

/// The extent, for threads that do not get it otherwise.
static PUBLISHED: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

impl Extent {
    /// Makes it known to all threads that are made from now on.
    pub(crate) fn publish(self) {
        for (word, value) in PUBLISHED.iter().zip([self.rounds, self.traced, self.lengths]) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// What was made known.
    pub(crate) fn published() -> Self {
        let [rounds, traced, lengths] =
            [0, 1, 2].map(|word| PUBLISHED[word].load(Ordering::Relaxed));
        Self { rounds, traced, lengths }
    }

    /// The lengths of messages to measure.
    pub(crate) fn lengths(self) -> impl Iterator<Item = u32> {
        (0..LENGTHS).filter(move |words| self.lengths >> words & 1 == 1)
    }
}

impl Plan {
    /// Reads a command line, whose first word is the program's name. The word that is wrong, if one is.
    pub(crate) fn read(line: &str) -> Result<Self, &str> {
        let mut plan = Self {
            task: Task::Messages { same_space: true },
            under: Under::Nothing,
            extent: Extent { rounds: ROUNDS, traced: 0, lengths: u64::MAX },
        };
        for word in line.split(' ').skip(1).filter(|word| !word.is_empty()) {
            plan.set(word).ok_or(word)?;
        }
        Ok(plan)
    }

    fn set(&mut self, word: &str) -> Option<()> {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match (name, value) {
            ("ipc", "") => self.task = Task::Messages { same_space: true },
            ("phases", "") => self.task = Task::Messages { same_space: false },
            ("kernel", "") => self.task = Task::Operations,
            ("rounds", number) => {
                self.extent.rounds = number.parse().ok().filter(|rounds| *rounds > 0)?;
            }
            ("traced", number) => self.extent.traced = number.parse().ok()?,
            ("under", "nothing") => self.under = Under::Nothing,
            ("under", "threads") => self.under = Under::Threads,
            ("under", "timers") => self.under = Under::Timers,
            ("under", "fpu") => self.under = Under::FloatingPoint,
            ("under", "priorities") => self.under = Under::Priorities,
            ("words", list) => {
                self.extent.lengths = 0;
                for number in list.split(',') {
                    let words = number.parse::<u32>().ok().filter(|words| *words < LENGTHS)?;
                    self.extent.lengths |= 1 << words;
                }
            }
            _ => return None,
        }
        Some(())
    }
}
