//! The L4 kernel boots, keeps the rules of L4, and runs programs of others.

use heliox::boot::{Boot, Via};
use heliox::outcome::Outcome;
use heliox::programs::{CompiledProgram, compile_c};

use super::fixtures::HEADERS;

/// The status of a machine on which L4 cannot begin.
const NOT_STARTED: u8 = 2;

/// Sigma0 and root; root runs the modules that are added.
fn l4() -> Boot {
    Boot::new().program("sigma0", "").program("root", "")
}

/// A C program that is linked where root is.
fn c_root(name: &str, source: &str) -> CompiledProgram {
    compile_c(name, source, &[HEADERS, "-Wl,-Ttext-segment=0x1000000"]).unwrap()
}

/// Runs all cases of the suite; how many there were.
fn conformance(via: Via, option: &str) -> u32 {
    let boot = Boot::new().program("sigma0", "").program("conformance", "");
    let boot = if option.is_empty() { boot } else { boot.kernel_option(option) };
    // Instructions are the clock, so that what else the host does changes no time.
    let limit = std::time::Duration::from_secs(600);
    let outcome = boot.via(via).icount(true).timeout(limit).run().unwrap();
    let mut cases = 0;
    for line in outcome.lines() {
        let group = line.split_once(": ").and_then(|(_, counts)| counts.split_once(" passed"));
        if let Some(passed) = group.and_then(|(passed, _)| passed.parse::<u32>().ok()) {
            println!("{line}");
            cases += passed;
        }
    }
    outcome.require_status(0);
    cases
}

#[test]
fn the_rules_are_kept_when_booted_through_pvh() {
    let cases = conformance(Via::Pvh, "");
    assert!(cases >= 250, "{cases} cases");
}

#[test]
fn the_rules_are_kept_when_booted_through_multiboot2() {
    let cases = conformance(Via::Multiboot2, "");
    assert!(cases >= 250, "{cases} cases");
}

#[test]
fn the_rules_are_kept_without_the_light_path() {
    let cases = conformance(Via::Pvh, "no-light-path");
    assert!(cases >= 250, "{cases} cases");
}

#[test]
fn the_demonstration_prints_a_table_and_ends() {
    let run = || l4().program("pingpong", "").icount(true).run().unwrap();
    let outcome = run();
    outcome.require_status(0).require_line("root: pingpong ended with status 0");
    let rows: Vec<Vec<f64>> = outcome
        .lines()
        .filter_map(|line| {
            let numbers = line.strip_prefix("pingpong:")?;
            numbers.split_whitespace().map(|number| number.parse().ok()).collect()
        })
        .filter(|row: &Vec<f64>| !row.is_empty())
        .collect();
    // Words, and ticks and microseconds three times.
    assert!(rows.len() > 10 && rows.iter().all(|row| row.len() == 7), "{rows:?}");
    assert!(rows.iter().flatten().skip(1).all(|number| *number > 0.0));
    assert_eq!(outcome.text(), run().text(), "a run repeats to the byte");
}

fn require_tests(outcome: &Outcome, tests: usize) {
    outcome.require_status(0);
    assert_eq!(outcome.tests().len(), tests);
}

#[test]
fn a_c_program_as_root_serves_faults_and_exceptions() {
    let root = c_root("l4_root", include_str!("../fixtures/l4_root.c"));
    let outcome = Boot::new().program("sigma0", "").module(root.path(), "").run().unwrap();
    require_tests(&outcome, 3);
}

#[test]
fn a_c_program_talks_with_rust_programs() {
    let program = c_root("l4_program", include_str!("../fixtures/l4_program.c"));
    require_tests(&l4().module(program.path(), "").run().unwrap(), 3);
}

#[test]
fn machines_of_all_sizes_run_l4() {
    for memory in ["64M", "200M", "5G"] {
        let boot = l4().program("pingpong", "").memory(memory.parse().unwrap());
        boot.run().unwrap().require_status(0);
    }
    for cpu in ["Nehalem", "max,-fsgsbase,-smap,-smep,-umip", "qemu64"] {
        l4().program("pingpong", "").cpu(cpu).run().unwrap().require_status(0);
    }
}

#[test]
fn memory_that_is_written_and_executed_is_as_good() {
    let source = "__attribute__((section(\".text\"))) int counter = 1;\n\
                  #include \"l4.h\"\n\
                  int program(void) { counter += 1; return counter != 2; }\n";
    let options = [HEADERS, "-Wl,-Ttext-segment=0x1000000", "-Wl,-N", "-w"];
    let root = compile_c("rwx", source, &options).unwrap();
    let outcome = Boot::new().program("sigma0", "").module(root.path(), "").run().unwrap();
    outcome.require_status(0);
}

#[test]
fn servers_that_cannot_be_loaded_are_refused() {
    let idle = |name: &str, start: &str| {
        let source = "#include \"l4.h\"\nint program(void) { return 0; }\n";
        let place = format!("-Wl,-Ttext-segment={start}");
        compile_c(name, source, &[HEADERS, &place]).unwrap()
    };
    let boot = |root: &CompiledProgram| {
        Boot::new().program("sigma0", "").module(root.path(), "").run().unwrap()
    };
    let refused = |outcome: Outcome, why: &str| {
        outcome.require_status(NOT_STARTED).require_line(&format!("L4 cannot begin: {why}"));
    };
    // Where the kernel is, where no memory is, and where sigma0 is.
    let kernel = idle("at_the_kernel", "0x200000");
    refused(boot(&kernel), "root is linked at 0x200000, where memory is not free");
    let nowhere = idle("nowhere", "0x900000000");
    refused(boot(&nowhere), "root is linked at 0x900000000, where memory is not free");
    let same = idle("same", "0xf00000");
    refused(boot(&same), "sigma0 and root are linked at the same memory");
    let outcome = Boot::new().program("sigma0", "").run().unwrap();
    refused(outcome, "there is no boot module for root");
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("text");
    std::fs::write(&text, "this is no program, but it is long enough to be one.............")
        .unwrap();
    let outcome = Boot::new().module(&text, "").module(&text, "").run().unwrap();
    refused(outcome, "sigma0: not an ELF file: begins with \"this\"");
}
