//! What a program needs to run on Heliox: a start with a stack, system calls, messages, threads,
//! memory, and a panic handler that tells what went wrong.
//!
//! This is the only crate among the programs that may use `unsafe`. It hides how the kernel is
//! entered, where the thread control block lies, and what would break the memory-safety of a Rust
//! program; what it offers is safe, and is named as C programmers know it (`call`, `reply_wait`,
//! `exchange_registers` ...).
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//! heliox_l4::program!(main);
//!
//! fn main() -> u8 {
//!     heliox_l4::println!("hello");
//!     0
//! }
//! ```
//!
//! # What keeps a program memory-safe
//!
//! The kernel and the program's pager are trusted: they give a program the memory that its file
//! asks for, and nobody else that memory. Beyond that:
//!
//! - **W1** Memory arrives from others only in `memory::Region`s and buffers: a receive window is
//!   always a region, and nothing of Rust's lies in one.
//! - **W2** Memory that others can write is reached by `memory::Region` and `memory::SharedPage`,
//!   word by word, never through a reference to plain data; only such memory can be mapped to
//!   others ([`message::Mapping`]).
//! - **W3** A thread of the program's own space begins only where this crate lets it begin, with a
//!   stack that nobody else uses; nobody sets its registers later.
//! - **W4** The thread control block is reached word by word, for the running thread only.
//! - **W5** A system call changes no memory of the program but what W1 and W4 name, and of
//!   registers only the stack pointer is sure to survive.

#![no_std]

#[cfg(test)]
extern crate std;

#[cfg(not(feature = "first-light"))]
pub mod boot_info;
#[cfg(any(test, all(target_os = "none", feature = "heap")))]
mod free_list;
#[cfg(not(feature = "first-light"))]
pub mod kip;
#[cfg(not(feature = "first-light"))]
pub mod message;
#[cfg(not(feature = "first-light"))]
pub mod once;
#[cfg(not(feature = "first-light"))]
pub mod protocol;

#[cfg(all(target_os = "none", feature = "first-light"))]
mod first_light;
#[cfg(all(target_os = "none", feature = "first-light"))]
pub use first_light::*;

#[cfg(all(target_os = "none", not(feature = "first-light")))]
mod bare {
    pub mod console;
    pub mod control;
    pub mod debug;
    #[cfg(feature = "heap")]
    pub mod heap;
    pub mod ipc;
    pub mod measure;
    pub mod memory;
    pub mod port;
    #[cfg(feature = "probe")]
    pub mod probe;
    pub mod raw;
    pub mod root;
    pub mod schedule;
    pub mod sigma0;
    pub mod start;
    pub mod thread;
    pub mod utcb;
}
#[cfg(all(target_os = "none", not(feature = "first-light")))]
pub use bare::*;

#[cfg(all(target_os = "none", not(feature = "first-light")))]
pub use bare::ipc::{
    call, call_with, ipc, lcall, lipc, receive, receive_with, reply_wait, send, send_with, sleep,
    sleep_until, wait,
};
#[cfg(all(target_os = "none", not(feature = "first-light")))]
pub use bare::schedule::{system_clock, thread_switch, yield_now};
#[cfg(all(target_os = "none", not(feature = "first-light")))]
pub use bare::start::{command_line, exit};

pub use heliox_abi as abi;
pub use heliox_abi::{
    Acceptor, CallError, Flexpage, FlexpageKind, GlobalId, IpcError, IpcErrorCode, KernelLabel,
    MapItem, Phase, StringItem, Tag, ThreadId, Time, Timeouts,
};
