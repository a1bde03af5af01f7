//! The kernels of `examples/`: the abstraction layer is enough for others than Heliox's own, and
//! costs what it is to cost.

use heliox::bare;
use heliox::boot::Boot;
use heliox::outcome::Outcome;
use heliox::provision::Consent;

/// A run of one of the kernels.
pub(crate) fn example(name: &str) -> Boot {
    Boot::new().kernel(bare::program(name, Consent::Unattended).unwrap())
}

#[test]
fn a_second_kernel_runs_two_programs_in_turns() {
    let outcome = example("round-robin").icount(true).run().unwrap();
    outcome.require_status(0).require_line("ABABABAB").require_line("both programs have ended");
}

#[test]
fn the_second_kernel_is_short_and_safe() {
    let source = include_str!("../../../examples/round-robin/src/main.rs");
    assert!(source.contains("#![forbid(unsafe_code)]"));
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
    assert!(source.lines().filter(is_code).count() < 150);
}

/// The number of a line `measure: NAME: NUMBER`.
fn measured(outcome: &Outcome, name: &str) -> u64 {
    let start = format!("[info] measure: {name}: ");
    let number = outcome.lines().find_map(|line| line.strip_prefix(&start).map(str::to_owned));
    let Some(number) = number else { outcome.fail(&format!("there is no measure of {name}")) };
    number.parse().unwrap()
}

#[test]
fn operations_cost_at_most_so_many_instructions() {
    let outcome = example("measure").memory("4G".parse().unwrap()).icount(true).run().unwrap();
    outcome.require_status(0);
    let mut dear = Vec::new();
    for (name, most) in [
        ("null system call, full context", 100),
        ("switching the page map adds", 6),
        ("null system call, light", 40),
        // With the five loads and stores of the kernel that chooses.
        ("light call to another address space", 48),
        ("add and remove a mapping of 4 KiB", 180),
        ("map 1 GiB as one page", 300),
    ] {
        let cost = measured(&outcome, name);
        println!("{name}: {cost} instructions, at most {most}");
        dear.extend((cost > most).then_some(name));
    }
    assert_eq!(dear, [""; 0], "too dear");
}

/// What the kernel of `examples/light-calls` tests.
const LIGHT_TESTS: [&str; 7] = [
    "tables hold what they were made with",
    "every kind of context means the same",
    "a declined call is as any other",
    "without answers it is a system call",
    "what is special stays at home",
    "24576 wild jumps stop the program alone",
    "they go on for long",
];

/// Whether the kernel of `examples/light-calls` was content.
pub(crate) fn require_light_tests(outcome: &Outcome) {
    outcome.require_status(0);
    for test in LIGHT_TESTS {
        outcome.require_line(&format!("light: {test} ok"));
    }
}

#[test]
fn light_calls_give_each_program_its_own_and_nothing_else() {
    for cpu in ["max", "max,-fsgsbase", "Nehalem", "max,-smap,-smep,-umip,-nx,-xsave"] {
        require_light_tests(&example("light-calls").cpu(cpu).run().unwrap());
    }
}
