//! Cuts a trace into visits to the kernel, and finds what one round of a measured loop costs.
//!
//! A visit begins with the SYSCALL instruction, or, if an interrupt or exception leads into the
//! kernel, with the first instruction there, and ends with the instruction that returns to a
//! program. Its *one-way* cost is that and everything that programs executed since the visit before.
//!
//! Counts are of rounds that are alike, instruction for instruction. Where an interrupt came in
//! between, a round differs; the most frequent one tells what the loop costs.

use std::collections::BTreeMap;

use super::code::{Code, KERNEL_START};
use super::instruction::Kind;
use super::trace::Step;

/// A visit to the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Visit {
    /// The address of the last instruction in the program's half before the visit: which loop made
    /// the system call, even if a stub of the kernel's did it for it.
    pub site: u64,
    /// Whether SYSCALL led here.
    pub system_call: bool,
    /// Instructions of programs since the last visit, without the SYSCALL.
    pub before: usize,
    /// Addresses of the instructions from the SYSCALL to the return.
    pub kernel: Vec<u64>,
}

/// A part of a trace: what happened between two marks, or one visit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Round {
    /// Instructions of programs, without SYSCALLs.
    pub user: usize,
    /// Addresses of the instructions in the kernel, SYSCALLs included.
    pub kernel: Vec<u64>,
}

impl From<Visit> for Round {
    fn from(visit: Visit) -> Self {
        Self { user: visit.before, kernel: visit.kernel }
    }
}

/// Cuts a trace, which begins in a program, into visits. One at the end that does not return is
/// left out.
#[must_use]
pub fn visits(steps: &[Step], code: &Code) -> Vec<Visit> {
    let mut visits = Vec::new();
    let mut site = 0;
    let mut before = 0;
    let mut last = None;
    let mut open: Option<Visit> = None;
    for step in steps {
        if step.user {
            // The instruction before has returned.
            visits.extend(open.take());
            if step.address < KERNEL_START {
                site = step.address;
            }
            before += 1;
        } else {
            let visit = open.get_or_insert_with(|| {
                let call = last.filter(|address| code.kind(*address) == Kind::SystemCall);
                let before = std::mem::take(&mut before) - usize::from(call.is_some());
                let kernel = call.into_iter().collect();
                Visit { site, system_call: call.is_some(), before, kernel }
            });
            visit.kernel.push(step.address);
        }
        last = step.user.then_some(step.address);
    }
    let returns = |visit: &Visit| {
        let kind = visit.kernel.last().map(|address| code.kind(*address));
        matches!(kind, Some(Kind::SystemReturn | Kind::InterruptReturn))
    };
    visits.extend(open.filter(returns));
    visits
}

/// Groups the system calls among visits by the place that made them, in the order in which each
/// place did so first.
#[must_use]
pub fn by_site(visits: Vec<Visit>) -> Vec<Vec<Round>> {
    let mut groups: Vec<(u64, Vec<Round>)> = Vec::new();
    for visit in visits.into_iter().filter(|visit| visit.system_call) {
        let site = visit.site;
        match groups.iter_mut().find(|(other, _)| *other == site) {
            Some((_, rounds)) => rounds.push(visit.into()),
            None => groups.push((site, vec![visit.into()])),
        }
    }
    groups.into_iter().map(|(_, rounds)| rounds).collect()
}

/// Cuts a trace into rounds: each from a pass of the address `round` to the next pass of it or of `rest`,
/// if there is such a mark. What is between rounds, and one that does not end, is left out.
#[must_use]
pub fn by_marks(steps: &[Step], round: u64, rest: Option<u64>, code: &Code) -> Vec<Round> {
    let mut rounds = Vec::new();
    let mut open: Option<Round> = None;
    for (index, step) in steps.iter().enumerate() {
        if step.address == round || Some(step.address) == rest {
            rounds.extend(open.take());
        }
        if step.address == round {
            open = Some(Round::default());
        }
        if let Some(open) = &mut open {
            let enters = steps.get(index + 1).is_some_and(|next| !next.user)
                && code.kind(step.address) == Kind::SystemCall;
            if step.user && !enters {
                open.user += 1;
            } else {
                open.kernel.push(step.address);
            }
        }
    }
    rounds
}

/// The round that occurs most often, and how often it does. `None` if there are no rounds.
#[must_use]
pub fn most_frequent(rounds: &[Round]) -> Option<(&Round, usize)> {
    let mut times: BTreeMap<&Round, usize> = BTreeMap::new();
    for round in rounds {
        *times.entry(round).or_default() += 1;
    }
    // Of equals the shortest, so that the answer does not depend on chance.
    times.into_iter().max_by_key(|(round, times)| (*times, std::cmp::Reverse(round.kernel.len())))
}

/// What the instructions of a round are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Instructions from SYSCALL to SYSRET, both included (or those of all visits of a round).
    pub kernel: u64,
    /// Those and the programs'.
    pub all: u64,
    /// Loads of CR3.
    pub root_loads: u64,
    /// Other invalidations of translations.
    pub flushes: u64,
    /// Elements of REP-string instructions, each of which is one in `kernel`.
    pub repeats: u64,
    /// Writes of model-specific registers.
    pub model_specific: u64,
    /// Divisions.
    pub divisions: u64,
    /// Calls and jumps to computed addresses.
    pub indirect: u64,
    /// Locked instructions.
    pub locked: u64,
}

impl Counts {
    /// Counts what a round has.
    #[must_use]
    pub fn of(round: &Round, code: &Code) -> Self {
        let mut counts = Self { kernel: round.kernel.len() as u64, ..Self::default() };
        counts.all = counts.kernel + round.user as u64;
        for address in &round.kernel {
            let counter = match code.kind(*address) {
                Kind::LoadRoot => &mut counts.root_loads,
                Kind::Flush => &mut counts.flushes,
                Kind::Repeat => &mut counts.repeats,
                Kind::WriteModelSpecific => &mut counts.model_specific,
                Kind::Divide => &mut counts.divisions,
                Kind::IndirectCall | Kind::IndirectJump => &mut counts.indirect,
                Kind::Locked => &mut counts.locked,
                _ => continue,
            };
            *counter += 1;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::image::Image;

    const KERNEL: u64 = 0xffff_ffff_8020_0000;
    const STUB: u64 = 0xffff_ffff_c000_0000;
    const PROGRAM: u64 = 0x7000_0000_0000;

    /// Code without files: `syscall` at 0x10 of the stub and program pages, and in the kernel
    /// `mov cr3, rax`, `invlpg [rax]`, `rep stosb`, `sysret` and `iret` at 0x10, 0x20, 0x30, 0x40
    /// and 0x50.
    fn code() -> Code {
        let own = || Image::open(&std::env::current_exe().unwrap()).unwrap();
        let mut code = Code::new(own(), own());
        let page = |instructions: &[(usize, &[u8])]| {
            let mut page = vec![0x90; 4096];
            for (at, bytes) in instructions {
                page[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            page
        };
        code.add_memory(STUB, page(&[(0x10, &[0x0f, 0x05])]));
        code.add_memory(PROGRAM, page(&[(0x10, &[0x0f, 0x05])]));
        let kernel: &[(usize, &[u8])] = &[
            (0x10, &[0x0f, 0x22, 0xd8]),
            (0x20, &[0x0f, 0x01, 0x38]),
            (0x30, &[0xf3, 0xaa]),
            (0x40, &[0x48, 0x0f, 0x07]),
            (0x50, &[0x48, 0xcf]),
        ];
        code.add_memory(KERNEL, page(kernel));
        code
    }

    fn user(address: u64) -> Step {
        Step { address, user: true }
    }

    fn kernel(offsets: &[u64]) -> Vec<Step> {
        let step = |offset: &u64| Step { address: KERNEL + offset, user: false };
        offsets.iter().map(step).collect()
    }

    /// A call by the stub from the place `site` of the program.
    fn call(site: u64, offsets: &[u64]) -> Vec<Step> {
        let mut steps = vec![user(PROGRAM + site), user(STUB + 0x10)];
        steps.extend(kernel(offsets));
        steps.push(user(STUB + 0x12));
        steps
    }

    #[test]
    fn a_trace_falls_into_visits() {
        let code = code();
        let mut steps = vec![user(PROGRAM), user(PROGRAM + 1)];
        steps.extend(call(2, &[0, 0x10, 0x40]));
        // An interrupt, then a system call without stub.
        steps.extend(kernel(&[0x60, 0x50]));
        steps.push(user(PROGRAM + 0x10));
        steps.extend(kernel(&[0, 0x40]));
        // One that never returns.
        steps.push(user(PROGRAM + 0x10));
        steps.extend(kernel(&[0]));
        let visits = visits(&steps, &code);
        let found: Vec<_> = visits
            .iter()
            .map(|visit| {
                (visit.site - PROGRAM, visit.system_call, visit.before, visit.kernel.len())
            })
            .collect();
        assert_eq!(found, [(2, true, 3, 4), (2, false, 1, 2), (0x10, true, 0, 3)]);
        assert_eq!(visits[0].kernel[0], STUB + 0x10);
    }

    #[test]
    fn the_two_sides_of_a_loop_are_told_apart_and_an_interrupt_is_outvoted() {
        let code = code();
        let mut steps = vec![user(PROGRAM)];
        for round in 0..5 {
            if round == 2 {
                steps.extend(kernel(&[0x60, 0x61, 0x50]));
            }
            steps.extend(call(4, &[0, 0x10, 0x40]));
            steps.extend(call(8, &[0, 0x10, 0x20, 0x30, 0x30, 0x30, 0x40]));
        }
        let groups = by_site(visits(&steps, &code));
        assert_eq!(groups.len(), 2);
        let (one, times) = most_frequent(&groups[0]).unwrap();
        // The third has less before it, since an interrupt took some of it.
        assert_eq!((one.user, one.kernel.len(), times), (2, 4, 4));
        let counts = Counts::of(one, &code);
        let expected = Counts { kernel: 4, all: 6, root_loads: 1, ..Counts::default() };
        assert_eq!(counts, expected);
        let (other, times) = most_frequent(&groups[1]).unwrap();
        let counts = Counts::of(other, &code);
        assert_eq!((times, counts.kernel, counts.repeats, counts.flushes), (5, 8, 3, 1));
        assert_eq!(most_frequent(&[]), None);
    }

    #[test]
    fn rounds_between_marks_have_all_their_visits() {
        let code = code();
        let (round, rest) = (PROGRAM + 0x100, PROGRAM + 0x200);
        let mut steps = vec![user(rest)];
        for _ in 0..3 {
            steps.push(user(round));
            steps.extend(call(4, &[0, 0x40]));
            steps.extend(kernel(&[0x60, 0x50]));
            steps.push(user(PROGRAM + 4));
        }
        // Without an end of its own the last round has none.
        let rounds = by_marks(&steps, round, Some(rest), &code);
        assert_eq!(rounds, by_marks(&steps, round, None, &code));
        assert_eq!(rounds.len(), 2);
        let (found, times) = most_frequent(&rounds).unwrap();
        assert_eq!((found.user, found.kernel.len(), times), (4, 5, 2));
        // What is behind the end does not count.
        steps.push(user(rest));
        steps.extend(call(4, &[0, 0x40]));
        steps.push(user(rest));
        steps.push(user(round));
        let rounds = by_marks(&steps, round, Some(rest), &code);
        assert_eq!(rounds.len(), 3);
        assert_eq!(most_frequent(&rounds).unwrap().1, 3);
    }
}
