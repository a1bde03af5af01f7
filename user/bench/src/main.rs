//! What `heliox bench` measures: messages and other operations of the L4 kernel.
//!
//! The program is the root task. It does each thing in a loop, counts ticks of the time-stamp counter,
//! and then does it a few times more between marks that the host tool finds by their names ([`marks`]).
//! For each thing it prints a line (`heliox/src/bench/report.rs` reads them).
//!
//! Arguments:
//!
//! - `ipc`, `phases` (messages between address spaces only) or `kernel`: what to measure;
//! - `words=0,1,2`: lengths of messages;
//! - `under=nothing`, `threads`, `timers`, `fpu` or `priorities`: what else is going on;
//! - `rounds=N`: how often each thing is done; `traced=N`: and how often between the marks.

#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
mod crowd;
#[cfg(target_os = "none")]
mod marks;
#[cfg(target_os = "none")]
mod messages;
#[cfg(target_os = "none")]
mod operations;
#[cfg(target_os = "none")]
mod plan;
#[cfg(target_os = "none")]
mod serving;

#[cfg(target_os = "none")]
heliox_l4::program!(program::main);

#[cfg(target_os = "none")]
mod program {
    //! Reads the arguments, and measures.

    use heliox_l4::{command_line, println};

    use crate::plan::{Plan, Task};
    use crate::serving::{self, Failure};
    use crate::{crowd, messages, operations};

    /// Longest command line.
    const COMMAND_LINE: usize = 1024;

    pub(crate) fn main() -> u8 {
        let mut buffer = [0; COMMAND_LINE];
        let plan = match Plan::read(command_line(&mut buffer)) {
            Ok(plan) => plan,
            Err(word) => {
                println!("`{word}` is no argument of this program");
                return 1;
            }
        };
        match measure(&plan) {
            Ok(()) => 0,
            Err(failure) => {
                println!("{failure}");
                1
            }
        }
    }

    fn measure(plan: &Plan) -> Result<(), Failure> {
        serving::start_printer()?;
        crowd::gather(plan.under)?;
        match plan.task {
            Task::Messages { same_space } => messages::measure(plan, same_space),
            Task::Operations => operations::measure(plan),
        }
    }
}
