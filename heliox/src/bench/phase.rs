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
    ("system_call_entry", Phase::ContextSwitch),
    ("enter_user", Phase::ContextSwitch),
    ("interrupt_stubs", Phase::ContextSwitch),
    ("interrupt_common", Phase::ContextSwitch),
    ("save_and_return", Phase::ContextSwitch),
    ("heliox_hal::x86_64::cpu", Phase::ContextSwitch),
    ("heliox_hal::x86_64::execution", Phase::ContextSwitch),
    ("heliox_hal::x86_64::extended_state", Phase::ContextSwitch),
    ("heliox_hal::execution", Phase::ContextSwitch),
    // What is wanted, and who runs.
    ("heliox_l4::calls", Phase::Scheduling),
    ("heliox_l4::kernel::Kernel::run", Phase::Scheduling),
    ("heliox_l4::kernel::Kernel::step", Phase::Scheduling),
    ("heliox_l4::kernel::Kernel::take", Phase::Scheduling),
    ("heliox_l4::kernel::Kernel::poll", Phase::Scheduling),
    ("heliox_l4::kernel::Kernel::light_call", Phase::Scheduling),
    ("heliox_l4::kernel::Kernel::running", Phase::Scheduling),
    ("heliox_l4::light", Phase::Scheduling),
    ("heliox_l4::run_queue", Phase::Scheduling),
    ("heliox_l4::scheduling", Phase::Scheduling),
    ("heliox_l4::stubs", Phase::Scheduling),
    ("heliox_l4::timers", Phase::Scheduling),
    // The message.
    ("heliox_l4::ipc", Phase::Rendezvous),
    ("heliox_l4::transfer", Phase::MessageTransfer),
    ("heliox_l4::ipc::set_result", Phase::MessageTransfer),
    ("heliox_l4::transfer::copy_untyped", Phase::UntypedTransfer),
    ("heliox_l4::ipc::end_operation", Phase::Restart),
    ("heliox_l4::ipc::sent", Phase::Restart),
    ("heliox_l4::transfer::complete", Phase::Restart),
    ("heliox_l4::ipc::begin_receiving", Phase::Receive),
    ("heliox_l4::ipc::check_receiver", Phase::Receive),
    ("heliox_l4::ipc::wait", Phase::Receive),
];

/// Instructions by phase; all phases are there.
pub type Shares = BTreeMap<Phase, u64>;

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
        // Addresses of the call instructions that have not returned.
        let mut callers: Vec<u64> = Vec::new();
        for &address in &round.kernel {
            let kind = self.code.kind(address);
            let mut places = std::iter::once(address).chain(callers.iter().rev().copied());
            let phase = match kind {
                Kind::SystemCall => Phase::ContextSwitch,
                _ => places.find_map(|place| self.decided(place)).unwrap_or(Phase::Unattributed),
            };
            *shares.entry(phase).or_default() += 1;
            match kind {
                Kind::Call | Kind::IndirectCall => callers.push(address),
                // One that is not of a call that is known leaves the stack as it is.
                Kind::Return => drop(callers.pop()),
                // The next visit begins with an empty stack.
                Kind::SystemReturn | Kind::InterruptReturn => callers.clear(),
                _ => {}
            }
        }
        shares
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
            ("heliox_l4::transfer::deliver", Some(Phase::MessageTransfer)),
            ("heliox_l4::transfer::copy_untyped", Some(Phase::UntypedTransfer)),
            ("heliox_l4::transfer::copy_untyped::{{closure}}", Some(Phase::UntypedTransfer)),
            ("heliox_l4::ipc::wait", Some(Phase::Receive)),
            ("heliox_l4::ipc::wait_more", Some(Phase::Rendezvous)),
            ("heliox_l4::ipc", Some(Phase::Rendezvous)),
            ("heliox_l4::ipcs", None),
            ("core::option::Option::map", None),
            ("enter_user", Some(Phase::ContextSwitch)),
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
