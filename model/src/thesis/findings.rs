//! What does not hold of the thesis's definitions, each with a counterexample.
//!
//! A finding is not a remark: [`Finding::evidence`] builds the states, checks that they are
//! well-formed and, where it says so, reached by actions from the boot, and evaluates the
//! definition that fails. The tests demand that all evidence is confirmed.

use std::fmt;

use crate::rushby::{System, ipurge, is_secure_for, run};
use crate::unwinding::Relation;

use super::domain::{Action, Domain, view};
use super::memory::{
    DirectoryContents, Geometry, Page, PhysicalPageAddress, PhysicalRegion, VirtualAddress,
    VirtualPageAddress, VirtualRegion,
};
use super::state::State;
use super::system::{Model, can_step_to};
use super::well_formed::well_formed;

/// Something that does not hold.
#[derive(Clone, Copy)]
pub struct Finding {
    /// What, in a sentence.
    pub title: &'static str,
    /// The section that it concerns.
    pub section: &'static str,
    /// What stands in its place in the mended model.
    pub mended: &'static str,
    evidence: fn() -> Evidence,
}

impl fmt::Debug for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.title)
    }
}

impl Finding {
    /// Computes the counterexample.
    #[must_use]
    pub fn evidence(&self) -> Evidence {
        (self.evidence)()
    }
}

/// A counterexample.
#[derive(Clone, Default, Debug)]
pub struct Evidence {
    /// Sentences and states, in order.
    pub lines: Vec<String>,
    /// Claims about them, and whether each is true.
    pub claims: Vec<(String, bool)>,
}

impl Evidence {
    /// Whether all claims are true.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        !self.claims.is_empty() && self.claims.iter().all(|(_, holds)| *holds)
    }

    fn show(&mut self, what: impl fmt::Display) {
        self.lines.push(what.to_string());
    }

    fn claim(&mut self, what: impl fmt::Display, holds: bool) {
        self.claims.push((what.to_string(), holds));
    }

    /// Claims that two states break weak step consistency for `observer`.
    fn breaks_step_consistency(
        &mut self,
        action: &Action,
        actor: Domain,
        observer: Domain,
        (s, t): (&State, &State),
        (s_after, t_after): (&State, &State),
    ) {
        self.show(format!("s: {s:?}"));
        self.show(format!("t: {t:?}"));
        self.show(format!("action: {action:?}"));
        self.claim(format!("s ~{observer:?} t"), view(observer, s) == view(observer, t));
        self.claim(format!("s ~{actor:?} t"), view(actor, s) == view(actor, t));
        self.claim("canStepTo s a s'", can_step_to(s, action, s_after));
        self.claim("canStepTo t a t'", can_step_to(t, action, t_after));
        self.claim(
            format!("not s' ~{observer:?} t'"),
            view(observer, s_after) != view(observer, t_after),
        );
    }
}

/// All findings.
pub const FINDINGS: [Finding; 10] = [
    Finding {
        title: "Reference counts do not tell which addresses are aliases of each other",
        section: "5.4.1, 5.8.4",
        mended: "views name the pages that addresses lead to",
        evidence: aliases,
    },
    Finding {
        title: "AddMappingH shows programs what neither they nor H saw before",
        section: "5.4.1, 5.8.3",
        mended: "the views of programs and of the client kernel contain all memory that an action \
                 can show them without the consent of its owner, mapped or not",
        evidence: mapping_shows,
    },
    Finding {
        title: "AddKernelMappingH shows the client kernel what neither it nor H saw before",
        section: "5.4.1, 5.8.3",
        mended: "as for AddMappingH",
        evidence: kernel_mapping_shows,
    },
    Finding {
        title: "ExecuteH shows programs what neither they nor H saw before",
        section: "5.4.1, 5.8.3",
        mended: "as for AddMappingH; and programs see all address spaces of their owner",
        evidence: execution_shows,
    },
    Finding {
        title: "RemoveMappingH may or may not free an empty table: H's next view is not a function",
        section: "5.7.6",
        mended: "the specification is deterministic: an empty table is freed at once",
        evidence: removal_is_open,
    },
    Finding {
        title: "An implementation that satisfies every specification tells H what programs wrote",
        section: "5.1.2, 5.7",
        mended: "no choice is left that could depend on what the actor does not see",
        evidence: lawful_implementation_leaks,
    },
    Finding {
        title: "AddMappingH in one directory may give programs of another a page table to write to",
        section: "5.7.5",
        mended: "translations of all directories are as before, but for the named one's",
        evidence: mapping_rewrites_others,
    },
    Finding {
        title: "The eight conditions admit a mapping of a page table, and the specification of \
                writes defines the danger away",
        section: "5.6, 5.7.9",
        mended: "mapped pages are normal (mappedPagesAreNormal); a write goes where the hardware \
                 takes it",
        evidence: tables_can_be_mapped,
    },
    Finding {
        title: "Two directories may share a page table of user space, or none may have it",
        section: "5.6.7",
        mended: "each page table has one parent (tablesHaveOneParent), and an entry \
                 (tablesAreNotEmpty)",
        evidence: tables_can_be_shared_or_lost,
    },
    Finding {
        title: "AddKernelMappingH, as far as its text goes, may replace a mapping of the environment",
        section: "5.7.7, 5.8.3 (g)",
        mended: "a page of kernel space that is in use is refused",
        evidence: kernel_mapping_replaces,
    },
];

/// A remark about the policy: for the client kernel nothing is ever purged, and for programs
/// only what the environment does last, so that Definition 4 says little about them. What it
/// does protect are the environment and H. Returns whether that is so for all sequences of
/// at most `length` actions, one of each domain's.
#[must_use]
pub fn policy_purges_little(length: usize) -> bool {
    let model = Model::new(2, 2);
    let page = |number| model.geometry().physical_page(number).expect("a page");
    let at = |number| address(model.geometry(), number);
    let each = [
        Action::WriteE(at(2), 0),
        Action::ExecuteH(page(0)),
        Action::WriteK(at(3), 0),
        Action::WriteU(at(0), 0),
    ];
    let mut sequences: Vec<Vec<Action>> = vec![vec![]];
    let mut longest = sequences.clone();
    for _ in 0..length {
        longest = longest
            .iter()
            .flat_map(|sequence| {
                each.iter().map(|last| [sequence.as_slice(), std::slice::from_ref(last)].concat())
            })
            .collect();
        sequences.extend(longest.iter().cloned());
    }
    sequences.iter().all(|sequence| {
        let tail = sequence
            .iter()
            .rev()
            .take_while(|action| matches!(model.dom(action), Domain::E | Domain::U));
        let purged_for_u: Vec<Action> = {
            let tail = tail.count();
            let kept = |(number, action): &(usize, &Action)| {
                *number < sequence.len() - tail || model.dom(action) == Domain::U
            };
            sequence.iter().enumerate().filter(kept).map(|(_, action)| action.clone()).collect()
        };
        ipurge(&model, sequence, Domain::K) == *sequence
            && ipurge(&model, sequence, Domain::U) == purged_for_u
    })
}

fn address(geometry: Geometry, number: usize) -> VirtualAddress {
    VirtualAddress { page: geometry.virtual_page(number).expect("a page"), offset: 0 }
}

/// The machine that most counterexamples use: tables of three entries; the reference directory,
/// its table and the environment in the first superpage; six pages for clients.
struct Machine {
    model: Model,
}

impl Machine {
    fn new() -> Self {
        Self { model: Model::new(3, 6) }
    }

    fn geometry(&self) -> Geometry {
        self.model.geometry()
    }

    /// A page of the clients'.
    fn client(&self, number: usize) -> PhysicalPageAddress {
        self.geometry().physical_page(3 + number).expect("a client's page")
    }

    fn user(&self, number: usize) -> VirtualPageAddress {
        self.geometry().virtual_page(number).expect("a page of user space")
    }

    fn kernel(&self, number: usize) -> VirtualPageAddress {
        self.geometry().virtual_page(3 + number).expect("a page of kernel space")
    }

    fn region(&self, number: usize) -> PhysicalRegion {
        PhysicalRegion { start: self.client(number), length: 1 }
    }

    fn at(page: VirtualPageAddress) -> VirtualRegion {
        VirtualRegion { start: page, length: 1 }
    }

    fn add(&self, directory: usize, table: Option<usize>, page: usize, to: usize) -> Action {
        let tables = table.map(|table| self.client(table)).into_iter().collect();
        Action::AddMappingH(
            self.client(directory),
            tables,
            self.region(page),
            Self::at(self.user(to)),
        )
    }

    fn add_kernel(&self, page: usize, to: usize) -> Action {
        Action::AddKernelMappingH(self.region(page), Self::at(self.kernel(to)))
    }

    /// The state after these actions; each must be possible.
    fn reach(&self, actions: &[Action]) -> State {
        let mut state = self.model.initial_state();
        for action in actions {
            let related = self.model.related_states(&state, action);
            state = related.into_iter().next().unwrap_or_else(|| panic!("{action:?} in {state:?}"));
        }
        state
    }

    /// A directory in page 2 that is current and has a table in page 3 which maps page 4 at
    /// the first address; page 4 contains `value`.
    fn with_program(&self, value: u8) -> Vec<Action> {
        vec![
            Action::AllocatePageDirectoryH(self.client(2)),
            self.add(2, Some(3), 4, 0),
            Action::ExecuteH(self.client(2)),
            Action::WriteU(address(self.geometry(), 0), value),
        ]
    }
}

fn aliases() -> Evidence {
    let machine = Machine::new();
    let both = |first: usize, second: usize| {
        machine.reach(&[
            Action::AllocatePageDirectoryH(machine.client(2)),
            machine.add(2, Some(3), 4, 0),
            machine.add(2, None, 5, 1),
            machine.add_kernel(4, first),
            machine.add_kernel(5, second),
            Action::ExecuteH(machine.client(2)),
        ])
    };
    let (s, t) = (both(1, 2), both(2, 1));
    let action = Action::WriteU(address(machine.geometry(), 0), 1);
    let (s_after, t_after) = (machine.model.step(&s, &action), machine.model.step(&t, &action));
    let mut evidence = Evidence::default();
    evidence.show("Two pages, each mapped for a program and for the kernel; all counts are 2.");
    evidence.breaks_step_consistency(&action, Domain::U, Domain::K, (&s, &t), (&s_after, &t_after));
    evidence
}

/// Two states that differ in what a page contains that is mapped nowhere.
fn hidden_page(machine: &Machine, value: u8) -> State {
    let remove = Action::RemoveMappingH(machine.client(2), Machine::at(machine.user(0)));
    machine.reach(&[machine.with_program(value), vec![remove]].concat())
}

fn mapping_shows() -> Evidence {
    let machine = Machine::new();
    let (s, t) = (hidden_page(&machine, 0), hidden_page(&machine, 1));
    let action = machine.add(2, Some(3), 4, 0);
    let (s_after, t_after) = (machine.model.step(&s, &action), machine.model.step(&t, &action));
    let mut evidence = Evidence::default();
    evidence.show("A program wrote to a page, and the page was unmapped.");
    evidence.breaks_step_consistency(&action, Domain::H, Domain::U, (&s, &t), (&s_after, &t_after));
    evidence
}

fn kernel_mapping_shows() -> Evidence {
    let machine = Machine::new();
    let (s, t) = (hidden_page(&machine, 0), hidden_page(&machine, 1));
    let action = machine.add_kernel(4, 1);
    let (s_after, t_after) = (machine.model.step(&s, &action), machine.model.step(&t, &action));
    let mut evidence = Evidence::default();
    evidence.show("A program wrote to a page, and the page was unmapped.");
    evidence.breaks_step_consistency(&action, Domain::H, Domain::K, (&s, &t), (&s_after, &t_after));
    evidence
}

fn execution_shows() -> Evidence {
    let machine = Machine::new();
    let reference = machine.model.initial_state().reference;
    let elsewhere = |value| {
        let leave = vec![Action::ExecuteH(reference)];
        machine.reach(&[machine.with_program(value), leave].concat())
    };
    let (s, t) = (elsewhere(0), elsewhere(1));
    let action = Action::ExecuteH(machine.client(2));
    let (s_after, t_after) = (machine.model.step(&s, &action), machine.model.step(&t, &action));
    let mut evidence = Evidence::default();
    evidence.show("A program wrote to its page, and another directory became current.");
    evidence.breaks_step_consistency(&action, Domain::H, Domain::U, (&s, &t), (&s_after, &t_after));
    evidence
}

fn removal_is_open() -> Evidence {
    let machine = Machine::new();
    let s = machine.reach(&machine.with_program(0));
    let action = Action::RemoveMappingH(machine.client(2), Machine::at(machine.user(0)));
    let related = machine.model.related_states(&s, &action);
    let is_kept = |after: &&State| after.is_page_table_page(machine.client(3));
    let kept = related.iter().find(is_kept);
    let freed = related.iter().find(|after| !is_kept(after));
    let mut evidence = Evidence::default();
    let (Some(kept), Some(freed)) = (kept, freed) else {
        evidence.claim("there are two outcomes", false);
        return evidence;
    };
    evidence.show("The same state twice; the last mapping of a table is removed.");
    evidence.breaks_step_consistency(&action, Domain::H, Domain::H, (&s, &s), (kept, freed));
    let contents: Vec<&Page> = related
        .iter()
        .filter(|after| !is_kept(after))
        .map(|after| &after[machine.client(3)])
        .collect();
    evidence.claim("and a freed table may contain anything", contents.len() > 1);
    evidence
}

fn lawful_implementation_leaks() -> Evidence {
    let machine = Machine::new();
    // The outcomes that free the table come first.
    let model = machine.model.clone().choosing(|state, related| {
        let written = state
            .pages
            .iter()
            .any(|page| matches!(page, Page::Normal(data) if data.0.iter().any(|word| *word != 0)));
        if written { related.len() - 1 } else { 0 }
    });
    let remove = Action::RemoveMappingH(machine.client(2), Machine::at(machine.user(0)));
    let mut actions = machine.with_program(1);
    actions.push(remove);
    let last = Action::ExecuteH(machine.model.initial_state().reference);
    let mut evidence = Evidence::default();
    evidence.show(
        "It frees an empty table if no page contains anything but zeros, and keeps it otherwise.",
    );
    for action in &actions {
        evidence.show(format!("  {action:?}"));
    }
    evidence.show(format!("  then {last:?}, whose output is H's view"));
    let purged = ipurge(&model, &actions, Domain::H);
    evidence.claim(
        "the write is purged for H, and nothing else",
        purged.len() + 1 == actions.len()
            && purged.iter().all(|action| model.dom(action) == Domain::H),
    );
    let mut state = model.initial_state();
    let lawful = actions.iter().chain([&last]).all(|action| {
        let after = model.step(&state, action);
        let holds = can_step_to(&state, action, &after);
        state = after;
        holds
    });
    evidence.claim("every step satisfies its specification", lawful);
    let alike = run(&model, &model.initial_state(), &purged);
    evidence.show(format!("with the write: {:?}", run(&model, &model.initial_state(), &actions)));
    evidence.show(format!("without: {alike:?}"));
    evidence.claim(
        "test(actions, last) differs from test(ipurge(actions, H), last)",
        !is_secure_for(&model, &actions, &last),
    );
    evidence
}

/// Two directories (pages 0 and 2) with a table each (pages 1 and 3). The second maps page 4.
fn two_programs(machine: &Machine) -> State {
    let whole = PhysicalRegion { start: machine.client(0), length: 2 };
    let mut actions = vec![
        Action::DeriveRegionH(whole, machine.client(0), 1),
        Action::AllocatePageDirectoryH(machine.client(0)),
        machine.add(0, Some(1), 5, 0),
    ];
    actions.extend(machine.with_program(0));
    machine.reach(&actions)
}

fn mapping_rewrites_others() -> Evidence {
    let machine = Machine::new();
    let s = two_programs(&machine);
    let action = machine.add(0, None, 4, 1);
    let mut after = machine.model.step(&s, &action);
    // Besides what was asked for, the other directory's table gets a mapping of itself.
    let table = machine.client(3);
    if let Page::PageTable(entries) = &mut after[table] {
        entries[2] = Some(table);
    }
    let other = machine.client(2);
    let mut evidence = Evidence::default();
    evidence.show(format!("s: {s:?}"));
    evidence.show(format!("action: {action:?}"));
    evidence.show(format!("s': {after:?}"));
    evidence.claim("canStepTo s a s'", can_step_to(&s, &action, &after));
    let address = machine.user(2);
    evidence.claim(
        "in the other directory, which is current, a user address now leads to a page table",
        after.cr3 == other
            && s.translate_page(other, address).is_none()
            && after.translate_page(other, address) == Some(table)
            && after.is_page_table_page(table),
    );
    evidence
}

fn tables_can_be_mapped() -> Evidence {
    let machine = Machine::new();
    let mut s = two_programs(&machine);
    let table = machine.client(3);
    if let Page::PageTable(entries) = &mut s[table] {
        entries[2] = Some(table);
    }
    let place = VirtualAddress { page: machine.user(2), offset: 0 };
    let write = Action::WriteU(place, 1);
    let mut evidence = Evidence::default();
    evidence.show(format!("s: {s:?}"));
    evidence.claim("s is well-formed", well_formed(&s));
    evidence.claim(
        "the current directory translates a user address to a page table",
        s.translate(place).is_some_and(|(page, _)| s.is_page_table_page(page)),
    );
    evidence.claim(
        "WriteU to that address relates s to no state, though a processor would write",
        machine.model.related_states(&s, &write).is_empty(),
    );
    evidence
}

fn tables_can_be_shared_or_lost() -> Evidence {
    let machine = Machine::new();
    let mut s = two_programs(&machine);
    // The first directory uses the second one's table, and its own belongs to nobody.
    let (first, second) = (machine.client(0), machine.client(2));
    s[first] = s[second].clone();
    let action = machine.add(2, None, 5, 1);
    let after = machine.model.step(&s, &action);
    let mut evidence = Evidence::default();
    evidence.show(format!("s: {s:?}"));
    evidence.show(format!("action: {action:?}"));
    evidence.claim("s is well-formed", well_formed(&s));
    let is_parent = |directory: &PhysicalPageAddress, table| match &s[*directory] {
        Page::PageDirectory(entries) => entries.contains(&Some(DirectoryContents::Table(table))),
        _ => false,
    };
    evidence.claim(
        "a table has two parents, and another has none",
        [first, second].iter().all(|directory| is_parent(directory, machine.client(3)))
            && s.is_page_table_page(machine.client(1))
            && !s.page_directories().any(|directory| is_parent(&directory, machine.client(1))),
    );
    evidence.claim(
        "a mapping that is added to one directory appears in the other",
        can_step_to(&s, &action, &after)
            && s.translate_page(first, machine.user(1)).is_none()
            && after.translate_page(first, machine.user(1)) == Some(machine.client(5)),
    );
    evidence
}

fn kernel_mapping_replaces() -> Evidence {
    let machine = Machine::new();
    let mut s = machine.model.initial_state();
    let environment = machine.geometry().physical_page(2).expect("the environment's page");
    let table = machine.geometry().physical_page(1).expect("the table of kernel space");
    if let Page::PageTable(entries) = &mut s[table] {
        entries[1] = Some(environment);
    }
    let action = machine.add_kernel(2, 1);
    let after = machine.model.step(&s, &action);
    let mut evidence = Evidence::default();
    evidence.show("The boot mapped a page of the environment at two addresses.");
    evidence.show(format!("s: {s:?}"));
    evidence.show(format!("action: {action:?}"));
    evidence.show(format!("s': {after:?}"));
    evidence.claim("s is well-formed", well_formed(&s));
    evidence.claim("canStepTo s a s'", can_step_to(&s, &action, &after));
    evidence.claim(
        "not s ~E s', though H must not interfere with E",
        view(Domain::E, &s) != view(Domain::E, &after),
    );
    evidence
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unwinding::{Condition, check, explore};

    #[test]
    fn all_evidence_is_confirmed() {
        for finding in FINDINGS {
            let evidence = finding.evidence();
            assert!(evidence.is_confirmed(), "{}: {evidence:#?}", finding.title);
        }
    }

    #[test]
    fn the_policy_says_little_about_programs_and_the_client_kernel() {
        assert!(policy_purges_little(5));
    }

    /// On the smallest machine of interest all cases of local respect hold, and of weak step
    /// consistency those fail that do not need two pages that are mapped twice.
    #[test]
    fn the_thesiss_own_cases_fail_where_they_are_said_to() {
        let model = Model::new(3, 3);
        let explored = explore(&model, 100_000);
        assert!(explored.complete);
        let cases = check(&model, &explored);
        let count = |condition| cases.iter().filter(|case| case.condition == condition).count();
        assert_eq!(count(Condition::LocalRespect), 12);
        // Beside directory, table and page of a program there is no other page in which two states
        // could differ that a program and H take for the same.
        assert_eq!(count(Condition::WeakStepConsistency), 39);
        assert!(!cases.iter().any(|case| case.action == "WriteU"
            && case.domain == Domain::H
            && case.condition == Condition::WeakStepConsistency));
        let broken: Vec<(&str, Domain)> = cases
            .iter()
            .filter(|case| case.broken > 0)
            .map(|case| (case.action, case.domain))
            .collect();
        let expected = [
            ("AddMappingH", Domain::U),
            ("RemoveMappingH", Domain::H),
            ("AddKernelMappingH", Domain::K),
            ("ExecuteH", Domain::U),
        ];
        assert_eq!(broken, expected);
    }
}
