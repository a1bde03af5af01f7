//! Long random runs, also on machines of real size.
//!
//! The client asks for what may well succeed, and often enough for something else. The
//! implementation must accept exactly what the specification allows; every so many steps its
//! whole state is compared, and a refusal now and then checked to have changed nothing at all.

use std::time::Instant;

use crate::action::{Action, Domain, Kind, Through};
use crate::facts::{Facts, MAX_FRAMES};
use crate::hash::mix;
use crate::implementation::Implementation;
use crate::layers::Layer;
use crate::machine::{Cpu, Frame, Level, Machine, REFERENCE, VirtualPage};
use crate::policy;
use crate::state::{Entry, Owner, Region, Rights, Share, State, StatusKind};
use crate::view;
use crate::well_formed::{address_spaces_are_integral, environment_is_integral, well_formed};

use super::report::{Progress, Property, Report, Violation};

/// A random run.
#[derive(Clone, Debug)]
pub struct Random {
    /// The machine.
    pub machine: Machine,
    /// Number of actions.
    pub steps: u64,
    /// Which of all runs; the same number gives the same run.
    pub seed: u64,
    /// The state is compared after each so many steps.
    pub compare_every: u64,
    /// Whether records are recounted as often.
    pub with_audit: bool,
}

impl Random {
    /// A run that compares often if the machine is small.
    #[must_use]
    pub fn new(machine: Machine, steps: u64, seed: u64) -> Self {
        let compare_every = if machine.frames() as usize <= MAX_FRAMES { 1 } else { 256 };
        Self { machine, steps, seed, compare_every, with_audit: true }
    }

    /// Runs. `log` is told each action and whether it was accepted.
    pub fn run<I: Implementation>(
        &self,
        start: I,
        progress: &(dyn Fn(Progress) + Sync),
        log: &mut dyn FnMut(&Action, bool),
    ) -> Report {
        let begin = Instant::now();
        let machine = &self.machine;
        let mut state = State::initial(machine);
        let mut implementation = start;
        let mut report = Report { complete: true, ..Report::default() };
        let mut dice = Dice(mix(self.seed, 1));
        let mut trace = Vec::new();
        for step in 0..self.steps {
            let action = dice.action(machine, &state);
            let is_compared = step % self.compare_every == 0;
            let found = self.step(&mut state, &mut implementation, &action, is_compared, &mut dice);
            log(&action, found.accepted);
            let kind = &mut report.kinds[action.kind().number];
            match found.accepted {
                true => (report.transitions, kind.0) = (report.transitions + 1, kind.0 + 1),
                false => (report.refusals, kind.1) = (report.refusals + 1, kind.1 + 1),
            }
            if let Some((property, explanation)) = found.broken {
                let trace = std::mem::take(&mut trace);
                let steps = step + 1;
                report.violation = Some(Violation { property, trace, action, steps, explanation });
                report.complete = false;
                break;
            }
            // The end of a long way is what can be read.
            if trace.len() == 64 {
                trace.remove(0);
            }
            trace.push(action);
            if step.is_multiple_of(1024) {
                progress(Progress::Steps { done: step, all: self.steps });
            }
        }
        report.elapsed = begin.elapsed();
        report
    }

    fn step<I: Implementation>(
        &self,
        state: &mut State,
        implementation: &mut I,
        action: &Action,
        is_compared: bool,
        dice: &mut Dice,
    ) -> Step {
        let machine = &self.machine;
        let before = (is_compared || dice.once_in(16)).then(|| implementation.clone());
        let expected = state.successor(machine, action);
        let result = implementation.apply(machine, action);
        let accepted = result.is_ok();
        let broken =
            |property, explanation| Step { accepted, broken: Some((property, explanation)) };
        if let Some(complaint) = implementation.complaint() {
            return broken(Property::Hardware, complaint);
        }
        let after = match (expected, result) {
            (Err(_), Err(refusal)) => {
                if before.is_some_and(|before| !before.is_same(implementation)) {
                    return broken(Property::RefusalChanges, format!("refused: {refusal}"));
                }
                return Step { accepted, broken: None };
            }
            (Err(refusal), Ok(())) => {
                return broken(Property::Accepted, format!("should be refused: {refusal}"));
            }
            (Ok(_), Err(refusal)) => {
                return broken(Property::Refused, format!("refused: {refusal}"));
            }
            (Ok(after), Ok(())) => after,
        };
        let previous = std::mem::replace(state, after);
        if !is_compared {
            return Step { accepted, broken: None };
        }
        let found = implementation.abstraction(machine);
        if found != *state {
            let property = match well_formed(machine, &found) {
                Err(condition) => Property::WellFormed(condition.name),
                Ok(()) => Property::Successor,
            };
            return broken(
                property,
                format!("before: {previous:?}\nafter: {found:?}\nspecified: {state:?}"),
            );
        }
        if let Err(condition) = well_formed(machine, state) {
            return broken(Property::WellFormed(condition.name), format!("{state:?}"));
        }
        if !environment_is_integral(machine, state) {
            return broken(Property::EnvironmentIntegrity, format!("{state:?}"));
        }
        if !address_spaces_are_integral(machine, state) {
            return broken(Property::AddressSpaceIntegrity, format!("{state:?}"));
        }
        if machine.frames() as usize <= MAX_FRAMES {
            let key = |state: &State, domain| {
                let mut facts = Facts::new();
                view::observe(machine, state, domain, &mut facts);
                facts.key()
            };
            for domain in Domain::all(machine) {
                if !policy::may_interfere(machine, &previous, action, domain)
                    && key(&previous, domain) != key(state, domain)
                {
                    let explanation = format!("before: {previous:?}\nafter: {state:?}");
                    return broken(Property::LocalRespect(domain), explanation);
                }
            }
        }
        if self.with_audit
            && let Err(found) = implementation.audit()
        {
            return broken(Property::Audit, found);
        }
        Step { accepted, broken: None }
    }
}

struct Step {
    accepted: bool,
    broken: Option<(Property, String)>,
}

/// Random numbers.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0, 0x5eed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let at = self.below(from.len() as u64);
        from.get(usize::try_from(at).unwrap_or(0)).copied()
    }

    fn cpu(&mut self, machine: &Machine) -> Cpu {
        Cpu(u8::try_from(self.below(machine.sizes().cpus.into())).unwrap_or(0))
    }

    fn rights(&mut self, machine: &Machine) -> Rights {
        match machine.has(Layer::Permissions) {
            true => self.pick(&Rights::EACH).unwrap_or(Rights::ALL),
            false => Rights::ALL,
        }
    }

    fn domain(&mut self, machine: &Machine) -> u16 {
        u16::try_from(self.below(machine.sizes().domains.into())).unwrap_or(0)
    }

    /// Some memory of the clients', often among the first pages, so that things meet.
    fn frame(&mut self, machine: &Machine) -> Frame {
        let sizes = machine.sizes();
        let first = machine.clients().next().map_or(0, |frame| frame.0);
        let few = sizes.pages.min(24 + sizes.entries / 64);
        let count = if self.once_in(8) { sizes.pages } else { few };
        if sizes.devices > 0 && self.once_in(12) {
            let device = self.below(sizes.devices.into());
            return Frame(first + sizes.pages + u32::try_from(device).unwrap_or(0));
        }
        Frame(first + u32::try_from(self.below(count.into())).unwrap_or(0))
    }

    fn frame_of(&mut self, machine: &Machine, state: &State, kind: StatusKind) -> Frame {
        let (first, pages) = (machine.clients().next().map_or(0, |f| f.0), machine.sizes().pages);
        let start = u32::try_from(self.below(pages.into())).unwrap_or(0);
        let mut all = (0..pages).map(|offset| Frame(first + (start + offset) % pages));
        let found = all.find(|frame| state.status(*frame).kind() == kind);
        found.unwrap_or(Frame(first))
    }

    fn directory(&mut self, machine: &Machine, state: &State) -> Frame {
        self.frame_of(machine, state, StatusKind::PageDirectory)
    }

    fn page(&mut self, machine: &Machine) -> VirtualPage {
        let end = machine.user_end();
        if self.once_in(16) {
            return VirtualPage(end.saturating_sub(2) + self.below(4));
        }
        let few = u64::from(machine.sizes().entries).min(6) + 3;
        let level = 1 + self.below(machine.root().0.into());
        let level = Level(u8::try_from(level).unwrap_or(1));
        let base = self.below(3) * machine.pages_of(level);
        VirtualPage((base + self.below(few)).min(end + 1))
    }

    fn region(&mut self, machine: &Machine) -> Region {
        let frame = self.frame(machine);
        if self.once_in(2) {
            return Region::page(frame);
        }
        let levels = u64::from(machine.largest_leaf().0);
        let level = Level(u8::try_from(1 + self.below(levels)).unwrap_or(1));
        let first = machine.clients().next().map_or(0, |frame| frame.0);
        let any = u32::try_from(self.below(machine.sizes().pages.into())).unwrap_or(0);
        let frame = Frame(first + any);
        machine.unit(level, frame).unwrap_or(Region::page(frame))
    }

    /// Page-map pages, of which there should always be some.
    fn supply(&mut self, machine: &Machine, state: &State) -> Vec<Frame> {
        let mut supply = Vec::new();
        for _ in 0..self.below(u64::from(machine.root().0)) {
            let frame = self.frame_of(machine, state, StatusKind::Supplied);
            if !supply.contains(&frame) || self.once_in(16) {
                supply.push(frame);
            }
        }
        supply
    }

    fn share(&mut self, state: &State) -> Option<Share> {
        if self.once_in(2) { None } else { self.pick(&state.shares) }
    }

    fn action(&mut self, machine: &Machine, state: &State) -> Action {
        let cpu = self.cpu(machine);
        loop {
            let kind = self.below(100);
            let action = match kind {
                0..=7 => {
                    let frame = self.frame(machine);
                    let region = match self.once_in(8) {
                        true => self.region(machine),
                        false => Region::page(frame),
                    };
                    Action::CreatePageMapPageH { region }
                }
                8..=10 => {
                    let frame = self.frame_of(machine, state, StatusKind::Supplied);
                    Action::ReleasePageMapPageH { frame }
                }
                11..=12 if state.directories().take(4).count() < 3 => {
                    let frame = self.frame_of(machine, state, StatusKind::Supplied);
                    Action::AllocatePageDirectoryH { frame }
                }
                13..=14 => {
                    let directory = self.directory(machine, state);
                    Action::FreePageDirectoryH { cpu, directory }
                }
                15..=32 => {
                    let (directory, share) = (self.directory(machine, state), self.share(state));
                    let region = match share {
                        Some(share) if !self.once_in(4) => share.region,
                        _ => self.region(machine),
                    };
                    let mut page = self.page(machine);
                    if !self.once_in(16) {
                        page.0 -= page.0 % u64::from(region.pages);
                    }
                    Action::AddMappingH {
                        directory,
                        supply: self.supply(machine, state),
                        region,
                        page,
                        rights: self.rights(machine),
                        share,
                    }
                }
                33..=42 => {
                    let (directory, page) = self.mapped(machine, state);
                    Action::RemoveMappingH { cpu, directory, page }
                }
                43..=47 if machine.has(Layer::Modify) => {
                    let (directory, page) = self.mapped(machine, state);
                    let rights = self.rights(machine);
                    Action::ModifyMappingH { cpu, directory, page, rights }
                }
                48..=50 if machine.has(Layer::Superpages) => {
                    let (directory, page) = self.large(machine, state);
                    let supply = self.supply(machine, state);
                    Action::SplitMappingH { cpu, directory, supply, page }
                }
                // Of one page each: the model does not know which pages were mapped together, and
                // so could take a part of a handle's away.
                51..=56 => Action::AddKernelMappingH {
                    cpu,
                    region: Region::page(self.frame(machine)),
                    rights: self.rights(machine),
                    user: machine.has(Layer::Permissions) && self.once_in(2),
                    share: self.share(state),
                },
                57..=61 if machine.has(Layer::KernelRemoval) => {
                    let region = Region::page(self.kernel_mapped(machine, state));
                    Action::RemoveKernelMappingH { cpu, region }
                }
                62..=65 => {
                    let directory = self.directory(machine, state);
                    let directory = if self.once_in(6) { REFERENCE } else { directory };
                    Action::ExecuteH { cpu, directory }
                }
                66..=69 => Action::EnterH { cpu },
                70..=72 => {
                    Action::ReclaimH { frame: self.frame_of(machine, state, StatusKind::Draining) }
                }
                // Most memory is domain 0's, and what is divided becomes whole again now and then.
                73..=77 if machine.has(Layer::Owners) => {
                    let to = if self.once_in(4) { self.domain(machine) } else { 0 };
                    Action::AssignH { region: self.region(machine), to }
                }
                78 if machine.has(Layer::Owners) => {
                    let region = self.region(machine);
                    let from = match state.owner(region.first) {
                        Owner::Domain(domain) if !self.once_in(8) => domain,
                        _ => self.domain(machine),
                    };
                    Action::ReleaseH { region, from }
                }
                79..=81 if machine.has(Layer::Owners) && state.shares.len() < 6 => {
                    let region = self.region(machine);
                    let owner = match state.owner(region.first) {
                        Owner::Domain(domain) if !self.once_in(8) => domain,
                        _ => self.domain(machine),
                    };
                    let grantee = match self.below(8) {
                        0 => Owner::Nobody,
                        1..=3 => Owner::Hypervisor,
                        _ => Owner::Domain(self.domain(machine)),
                    };
                    let share = Share { region, owner, grantee, rights: self.rights(machine) };
                    // The name of a share is all that tells it from others.
                    if state.shares.contains(&share) {
                        continue;
                    }
                    Action::ShareH { share }
                }
                82..=84 => match self.pick(&state.shares) {
                    Some(share) => Action::EndShareH { share },
                    None => continue,
                },
                85..=86 => {
                    let environment: Vec<Frame> = machine.environment().collect();
                    let frame = self.pick(&environment).unwrap_or(REFERENCE);
                    let value = self.value();
                    Action::WriteE { cpu, page: machine.window(frame), value }
                }
                87..=89 => {
                    let page = machine.window(self.kernel_mapped(machine, state));
                    Action::WriteK { cpu, page, value: self.value() }
                }
                90..=96 => self.write_by_program(machine, state, cpu),
                97 => {
                    let devices: Vec<Frame> = machine.devices().collect();
                    match self.pick(&devices) {
                        Some(frame) => Action::WriteD { frame, value: self.value() },
                        None => continue,
                    }
                }
                98 => {
                    let from = self.region(machine);
                    let to = if self.once_in(2) { from } else { self.region(machine) };
                    Action::DeriveRegionH { from, to }
                }
                _ => continue,
            };
            return action;
        }
    }

    fn value(&mut self) -> u8 {
        u8::from(self.once_in(2))
    }

    /// A page that is mapped, most of the time.
    fn mapped(&mut self, machine: &Machine, state: &State) -> (Frame, VirtualPage) {
        let directory = self.directory(machine, state);
        let mut page = self.page(machine);
        for _ in 0..8 {
            if state.leaf(machine, directory, page).is_some() {
                break;
            }
            page = self.page(machine);
        }
        (directory, page)
    }

    /// A page of a large page that is mapped, if there is one.
    fn large(&mut self, machine: &Machine, state: &State) -> (Frame, VirtualPage) {
        let directory = self.directory(machine, state);
        let leaves = state.user_leaves(machine, directory);
        let large: Vec<(VirtualPage, Level)> = leaves
            .into_iter()
            .filter(|(_, level, _)| *level > Level::FIRST)
            .map(|(first, level, _)| (first, level))
            .collect();
        match self.pick(&large) {
            Some((first, level)) => {
                (directory, VirtualPage(first.0 + self.below(machine.pages_of(level))))
            }
            None => self.mapped(machine, state),
        }
    }

    /// Memory that the kernel has mapped, most of the time.
    fn kernel_mapped(&mut self, machine: &Machine, state: &State) -> Frame {
        let frame = self.frame(machine);
        let mut all = machine.clients().chain(machine.devices());
        let mapped = all.find(|candidate| {
            *candidate >= frame && state.kernel_entry(machine, *candidate) != Entry::Absent
        });
        mapped.unwrap_or(frame)
    }

    fn write_by_program(&mut self, machine: &Machine, state: &State, cpu: Cpu) -> Action {
        let owner = match state.owner(state.cr3(cpu)) {
            Owner::Domain(owner) if !self.once_in(16) => owner,
            _ => self.domain(machine),
        };
        let value = self.value();
        let stale: Vec<(VirtualPage, Frame)> = state
            .stale
            .iter()
            .filter(|stale| stale.cpu() == cpu)
            .flat_map(|stale| stale.pages(machine).take(4))
            .map(|(page, frame, _)| (page, frame))
            .collect();
        if let Some((page, frame)) = self.pick(&stale)
            && self.once_in(2)
        {
            let through = Through::Cache(frame);
            return Action::WriteU { owner, cpu, page, value, through };
        }
        let page = match self.once_in(6) {
            true => machine.window(self.kernel_mapped(machine, state)),
            false => self.page(machine),
        };
        Action::WriteU { owner, cpu, page, value, through: Through::Tables }
    }
}

/// The kinds of actions that never were accepted in a run, though the machine has their layer.
#[must_use]
pub fn never_accepted(machine: &Machine, report: &Report) -> Vec<Kind> {
    let has = |kind: &Kind| match kind.name {
        "ModifyMappingH" => machine.has(Layer::Modify),
        "SplitMappingH" => machine.has(Layer::Superpages),
        "RemoveKernelMappingH" => machine.has(Layer::KernelRemoval),
        "AssignH" | "ReleaseH" | "ShareH" | "EndShareH" => machine.has(Layer::Owners),
        "WriteD" => machine.has(Layer::Devices),
        "ReclaimH" => machine.has(Layer::Tlb),
        _ => true,
    };
    let kinds = Kind::ALL.into_iter().filter(has);
    kinds.filter(|kind| report.kinds[kind.number].0 == 0).collect()
}
