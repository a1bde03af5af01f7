//! Where the instructions of a visit to the kernel go: the phases of the thesis (section 8.1.1).
//!
//! Hides how an instruction finds its phase. Nothing in the kernel marks phases. The debug
//! information tells which function an instruction was written in, and which functions that was
//! inlined into; a stack that is kept along the trace tells who called those. From the inside out,
//! the first function that a rule names decides. So what many phases use (reading a register, finding a thread)
//! counts for the phase that uses it, without a rule.

use std::collections::{BTreeMap, HashMap};

use super::code::{Code, KERNEL_START};
use super::instruction::Kind;
use super::visit::Round;

/// A part of what the kernel does for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// From a program into the kernel, and back.
    ContextSwitch,
    /// Finding out what is wanted, and choosing who runs.
    Scheduling,
    /// The sender finds its receiver.
    Rendezvous,
    /// What kind of message it is, and telling the receiver about it.
    MessageTransfer,
    /// Copying untyped words.
    UntypedTransfer,
    /// Both threads can go on; the sender turns to receiving.
    Restart,
    /// Looking for somebody to receive from, and waiting.
    Receive,
    /// No rule applies.
    Unattributed,
}

/// All phases, in the order of the thesis's tables.
pub const PHASES: [Phase; 8] = [
    Phase::ContextSwitch,
    Phase::Scheduling,
    Phase::Rendezvous,
    Phase::MessageTransfer,
    Phase::UntypedTransfer,
    Phase::Restart,
    Phase::Receive,
    Phase::Unattributed,
];

impl Phase {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ContextSwitch => "context switch",
            Self::Scheduling => "scheduling",
            Self::Rendezvous => "rendezvous",
            Self::MessageTransfer => "message transfer",
            Self::UntypedTransfer => "untyped transfer",
            Self::Restart => "restart",
            Self::Receive => "receive",
            Self::Unattributed => "unattributed",
        }
    }
}

/// The functions below a path, the path itself included, belong to a phase.
pub type Rule = (&'static str, Phase);

/// The rules of the L4 kernel. Of those that apply to a function the one with the longest path counts. A
/// function that serves several phases has none. (Paths are as [`super::image::path_of`] makes them;
/// assembly is named by its labels.)
pub const RULES: &[Rule] = &[
    // The way in and out.
    ("heliox_hal::x86_64", Phase::ContextSwitch),
    ("leave", Phase::ContextSwitch),
    ("heliox_hal::page_map", Phase::ContextSwitch),
    ("heliox_hal::translation", Phase::ContextSwitch),
    ("heliox_types::execution", Phase::ContextSwitch),
    // What is wanted, and who runs.
    ("heliox_l4_kernel::calls", Phase::Scheduling),
    ("heliox_l4_kernel::kernel::Kernel::run", Phase::Scheduling),
    ("heliox_l4_kernel::kernel::Kernel::step", Phase::Scheduling),
    ("heliox_l4_kernel::kernel::Kernel::take", Phase::Scheduling),
    ("heliox_l4_kernel::kernel::Kernel::poll", Phase::Scheduling),
    ("heliox_l4_kernel::kernel::Kernel::light_call", Phase::Scheduling),
    ("heliox_l4_kernel::kernel::Kernel::running", Phase::Scheduling),
    ("heliox_l4_kernel::light", Phase::Scheduling),
    ("heliox_l4_kernel::run_queue", Phase::Scheduling),
    ("heliox_l4_kernel::scheduling", Phase::Scheduling),
    ("heliox_l4_kernel::stubs", Phase::Scheduling),
    ("heliox_l4_kernel::timers", Phase::Scheduling),
    // The message.
    ("heliox_l4_kernel::ipc", Phase::Rendezvous),
    ("heliox_l4_kernel::transfer", Phase::MessageTransfer),
    ("heliox_l4_kernel::ipc::set_result", Phase::MessageTransfer),
    ("heliox_l4_kernel::transfer::copy_untyped", Phase::UntypedTransfer),
    ("heliox_l4_kernel::ipc::end_operation", Phase::Restart),
    ("heliox_l4_kernel::ipc::sent", Phase::Restart),
    ("heliox_l4_kernel::transfer::complete", Phase::Restart),
    ("heliox_l4_kernel::ipc::begin_receiving", Phase::Receive),
    ("heliox_l4_kernel::ipc::check_receiver", Phase::Receive),
    ("heliox_l4_kernel::ipc::wait", Phase::Receive),
];

/// How the paths of functions begin that are not this project's: the language's own.
const OTHER_CRATES: [&str; 4] = ["core::", "alloc::", "compiler_builtins::", "<"];

/// Instructions by phase; all phases are there.
pub type Shares = BTreeMap<Phase, u64>;

/// Instructions by phase and function.
pub type Profile = Vec<(Phase, String, u64)>;

/// Finds phases, and remembers which address belongs to which functions.
pub struct Attribution<'code> {
    code: &'code Code,
    rules: &'code [Rule],
    known: HashMap<u64, Option<Phase>>,
}

impl<'code> Attribution<'code> {
    /// By these rules, in this code.
    #[must_use]
    pub fn new(code: &'code Code, rules: &'code [Rule]) -> Self {
        Self { code, rules, known: HashMap::new() }
    }

    /// Adds up a round's instructions in the kernel.
    pub fn shares(&mut self, round: &Round) -> Shares {
        let mut shares: Shares = PHASES.iter().map(|phase| (*phase, 0)).collect();
        for (_, phase) in self.attribute(round) {
            *shares.entry(phase).or_default() += 1;
        }
        shares
    }

    /// How many instructions of a round each function has, by phase, the largest number first. A function is
    /// the innermost one of this project that an instruction belongs to.
    pub fn profile(&mut self, round: &Round) -> Profile {
        let mut counts: BTreeMap<(Phase, String), u64> = BTreeMap::new();
        for (address, phase) in self.attribute(round) {
            let functions = self.code.functions(address);
            let own = functions
                .iter()
                .find(|name| !OTHER_CRATES.iter().any(|beginning| name.starts_with(beginning)));
            let name = own.or(functions.last()).cloned().unwrap_or_else(|| format!("{address:#x}"));
            *counts.entry((phase, name)).or_default() += 1;
        }
        let mut counts: Vec<_> =
            counts.into_iter().map(|((phase, name), count)| (phase, name, count)).collect();
        counts.sort_by_key(|(_, _, count)| std::cmp::Reverse(*count));
        counts
    }

    /// The phase of each instruction.
    fn attribute(&mut self, round: &Round) -> Vec<(u64, Phase)> {
        let mut attributed = Vec::new();
        // Addresses of the call instructions that have not returned.
        let mut callers: Vec<u64> = Vec::new();
        for &address in &round.kernel {
            let kind = self.code.kind(address);
            let mut places = std::iter::once(address).chain(callers.iter().rev().copied());
            let phase = match kind {
                Kind::SystemCall => Phase::ContextSwitch,
                _ => places.find_map(|place| self.decided(place)).unwrap_or(Phase::Unattributed),
            };
            attributed.push((address, phase));
            match kind {
                Kind::Call | Kind::IndirectCall => callers.push(address),
                // One that is not of a call that is known leaves the stack as it is.
                Kind::Return => drop(callers.pop()),
                // The next visit begins with an empty stack.
                Kind::SystemReturn | Kind::InterruptReturn => callers.clear(),
                _ => {}
            }
        }
        attributed
    }

    /// The phase that the functions of an address decide on.
    fn decided(&mut self, address: u64) -> Option<Phase> {
        let (code, rules) = (self.code, self.rules);
        *self.known.entry(address).or_insert_with(|| {
            let functions =
                if address < KERNEL_START { Vec::new() } else { code.functions(address) };
            functions.iter().find_map(|function| rule_for(rules, function))
        })
    }
}

/// What the rule with the longest path that applies says.
fn rule_for(rules: &[Rule], function: &str) -> Option<Phase> {
    let applies = |path: &str| {
        function.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let applying = rules.iter().filter(|(path, _)| applies(path));
    applying.max_by_key(|(path, _)| path.len()).map(|(_, phase)| *phase)
}

/// The part of all instructions that no rule applies to, from 0 to 1.
#[must_use]
pub fn unattributed(shares: &Shares) -> f64 {
    let all: u64 = shares.values().sum();
    let unattributed = shares.get(&Phase::Unattributed).copied().unwrap_or(0);
    if all == 0 { 0.0 } else { unattributed as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_path_decides() {
        for (function, phase) in [
            ("heliox_l4_kernel::transfer::deliver", Some(Phase::MessageTransfer)),
            ("heliox_l4_kernel::transfer::copy_untyped", Some(Phase::UntypedTransfer)),
            ("heliox_l4_kernel::transfer::copy_untyped::{{closure}}", Some(Phase::UntypedTransfer)),
            ("heliox_l4_kernel::ipc::wait", Some(Phase::Receive)),
            ("heliox_l4_kernel::ipc::wait_more", Some(Phase::Rendezvous)),
            ("heliox_l4_kernel::ipc", Some(Phase::Rendezvous)),
            ("heliox_l4_kernel::ipcs", None),
            ("core::option::Option::map", None),
            ("leave", Some(Phase::ContextSwitch)),
        ] {
            assert_eq!(rule_for(RULES, function), phase, "{function}");
        }
    }

    #[test]
    fn no_path_has_two_rules() {
        for (index, (path, _)) in RULES.iter().enumerate() {
            assert!(RULES.iter().skip(index + 1).all(|(other, _)| path != other), "{path}");
        }
    }

    #[test]
    fn what_is_unattributed_is_a_part_of_all() {
        let mut shares: Shares = PHASES.iter().map(|phase| (*phase, 0)).collect();
        assert_eq!(unattributed(&shares), 0.0);
        shares.insert(Phase::Receive, 30);
        shares.insert(Phase::Unattributed, 10);
        assert_eq!(unattributed(&shares), 0.25);
    }
}
