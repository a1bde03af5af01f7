//! The binary interface of L4 version X.2 on amd64: how its values are laid out in words.
//!
//! The kernel and programs share these encodings and nothing else. Types here wrap a word (or
//! half of one) that may hold anything; what it means is told by accessors that answer for
//! every value, so that a word from a program needs no trust. A word has 64 bits; bit 0 is the least
//! significant. Section numbers in the documentation are those of the X.2 reference manual's
//! subjects as `docs/l4-rules.md` groups them.

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

#[cfg(test)]
extern crate std;

mod control;
mod error;
mod flexpage;
mod item;
pub mod kip;
mod tag;
mod thread_id;
mod time;
pub mod utcb;

pub use control::{
    ExchangeControl, PreemptionControl, PriorityControl, ProcessorControl, ThreadState,
    TimeControl, UnmapControl,
};
pub use error::{CallError, IpcError, IpcErrorCode, Phase};
pub use flexpage::{Flexpage, FlexpageKind, PortRange};
pub use item::{Acceptor, ItemKind, MapItem, StringItem};
pub use tag::{KernelLabel, Tag};
pub use thread_id::{GlobalId, ThreadId};
pub use time::{Clock, Time, Timeouts};
