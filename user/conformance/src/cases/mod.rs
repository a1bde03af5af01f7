//! The cases, grouped as the rules are.

use crate::case::Case;

mod call;
mod exception;
mod exchange;
mod fault;
mod identifiers;
pub(crate) mod interrupt;
mod kernel_page;
mod mapping;
mod memory;
mod message;
mod port;
mod preemption;
mod propagation;
mod redirect;
pub(crate) mod scheduling;
pub(crate) mod servers;
mod space;
mod strings;
mod thread;
mod times;
mod unmapping;
mod utcb;

/// The groups of rules, and their cases.
pub(crate) const GROUPS: &[(&str, &[Case])] = &[
    ("KIP", kernel_page::CASES),
    ("CALL", call::CASES),
    ("UTCB", utcb::CASES),
    ("ID", identifiers::CASES),
    ("FLEXPAGE", mapping::flexpages::CASES),
    ("TIME", times::CASES),
    ("IPC", message::CASES),
    ("LIPC", message::local::CASES),
    ("PROPAGATION", propagation::CASES),
    ("REDIRECT", redirect::CASES),
    ("MAP", mapping::CASES),
    ("UNMAP", unmapping::CASES),
    ("STRING", strings::CASES),
    ("FAULT", fault::CASES),
    ("PORT", port::CASES),
    ("EXCEPTION", exception::CASES),
    ("EXCHANGE", exchange::CASES),
    ("THREAD", thread::CASES),
    ("SPACE", space::CASES),
    ("SCHEDULE", scheduling::CASES),
    ("PREEMPTION", preemption::CASES),
    ("SWITCH", scheduling::switch::CASES),
    ("CLOCK", times::clock::CASES),
    ("PROCESSOR", memory::processor::CASES),
    ("MEMORY", memory::CASES),
    ("INTERRUPT", interrupt::CASES),
    ("SIGMA0", servers::sigma0::CASES),
    ("BOOT", servers::CASES),
    ("DEBUG", servers::debug::CASES),
];
