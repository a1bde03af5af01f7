//! Runs of the probe.

use std::fs;
use std::sync::OnceLock;
use std::time::Duration;

use heliox::boot::{Boot, Via};
use heliox::outcome::{Ending, Outcome};
use heliox::programs::{CompiledProgram, compile_c};
use heliox::size::Size;

/// A run of the probe, whose first module's arguments say what it does.
fn probe(arguments: &str) -> Boot {
    static PROBE: OnceLock<CompiledProgram> = OnceLock::new();
    static MODULE: OnceLock<tempfile::NamedTempFile> = OnceLock::new();
    let probe = PROBE.get_or_init(|| {
        let options = ["-m32", "-fno-asynchronous-unwind-tables", "-Wl,-Ttext-segment=0x200000"];
        compile_c("probe", include_str!("../fixtures/probe.c"), &options).unwrap()
    });
    let module = MODULE.get_or_init(|| {
        let file = tempfile::NamedTempFile::with_prefix("first-").unwrap();
        fs::write(file.path(), b"x").unwrap();
        file
    });
    Boot::new().kernel(probe.path()).module(module.path(), arguments)
}

/// The probe's lines, without what a boot loader prints before it.
fn said(outcome: &Outcome) -> Vec<String> {
    let start = ["pvh [", "multiboot2 ["];
    let is_first = |line: &String| start.iter().any(|start| line.contains(start));
    outcome.lines().skip_while(|line| !is_first(line)).collect()
}

fn modules_arrive(via: Via) {
    let directory = tempfile::tempdir().unwrap();
    let data: Vec<u8> = (0..10_000_u32).map(|index| (index % 251) as u8).collect();
    let sum: u32 = data.iter().map(|byte| u32::from(*byte)).sum();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("large"), &data).unwrap();
    fs::create_dir(path("other")).unwrap();
    fs::write(path("other/large"), b"ab").unwrap();
    let outcome = probe("exit=0")
        .via(via)
        .module(path("large"), "one  two=$x;y&(z)")
        .module(path("other/large"), "")
        .kernel_memory(Size::from_mib(4))
        .run()
        .unwrap();
    outcome.require_status(0);
    let lines = said(&outcome);
    assert!(lines[0].ends_with("[log=info kernel-memory=4194304 exit-port=0xf4]"), "{outcome}");
    assert_eq!(
        lines[2..4],
        [
            format!("module [large one two=$x;y&(z)] bytes 10000 sum {sum} aligned"),
            "module [large] bytes 2 sum 195 aligned".to_owned(),
        ],
        "{outcome}"
    );
}

#[test]
fn modules_arrive_through_pvh() {
    modules_arrive(Via::Pvh);
}

#[test]
fn modules_arrive_through_multiboot2() {
    modules_arrive(Via::Multiboot2);
}

#[test]
fn statuses_arrive() {
    for status in [0, 1, 42, 63] {
        let outcome = probe(&format!("exit={status}")).run().unwrap();
        outcome.require_status(status);
    }
}

#[test]
fn other_writes_to_the_exit_port_are_no_status() {
    let outcome = probe("raw=5").run().unwrap();
    assert!(matches!(outcome.ending, Ending::Stopped(_)), "{outcome}");
}

#[test]
fn a_triple_fault_ends_the_run() {
    let outcome = probe("reset").run().unwrap();
    assert!(matches!(outcome.ending, Ending::Stopped(_)), "{outcome}");
}

#[test]
fn a_hang_is_cut_short() {
    let limit = Duration::from_secs(3);
    let outcome = probe("hang").timeout(limit).run().unwrap();
    assert_eq!(outcome.ending, Ending::TimedOut, "{outcome}");
    assert_eq!(outcome.status(), None);
    // The output until then is there.
    assert_eq!(said(&outcome).len(), 3, "{outcome}");
}

#[test]
fn what_qemu_refuses_is_said() {
    let outcome = probe("exit=0").cpu("no-such-cpu").run().unwrap();
    let Ending::Stopped(how) = &outcome.ending else {
        panic!("{outcome}");
    };
    assert!(how.contains("no-such-cpu"), "{how}");
}

#[test]
fn machines_of_all_sizes_start() {
    for mib in [16, 3 << 10, 64 << 10] {
        let memory = Size::from_mib(mib);
        let outcome = probe("exit=0").memory(memory).run().unwrap();
        outcome.require_status(0);
    }
}

#[test]
fn the_serial_port_is_copied() {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("copy");
    let outcome = probe("exit=0").serial(&copy).run().unwrap();
    outcome.require_status(0);
    assert_eq!(fs::read(copy).unwrap(), outcome.serial);
}

#[test]
fn more_runs_than_turns_all_end() {
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..5)
            .map(|status| scope.spawn(move || probe(&format!("exit={status}")).run().unwrap()))
            .collect();
        for (status, run) in (0..).zip(runs) {
            run.join().unwrap().require_status(status);
        }
    });
}

/// The probe prints its clock, so runs that differ by one instruction differ in output.
#[test]
fn counted_runs_repeat_to_the_byte() {
    let run = || probe("exit=0").icount(true).cpus(2).run().unwrap();
    let (first, second) = (run(), run());
    first.require_status(0).require_line("clock ");
    assert_eq!(first.text(), second.text());
}

/// GRUB says what it cannot load, and the run ends before its time limit.
#[test]
fn a_kernel_that_grub_refuses_ends_the_run() {
    let program = compile_c("no-header", "void _start(void) { for (;;); }", &[]).unwrap();
    let run = Boot::new().kernel(program.path()).via(Via::Multiboot2);
    let outcome = run.run().unwrap();
    assert!(matches!(outcome.ending, Ending::Stopped(_)), "{outcome}");
    outcome.require_line("GRUB could not load Heliox.");
}

#[test]
fn a_kernel_that_qemu_refuses_ends_the_run() {
    let program = compile_c("no-note", "void _start(void) { for (;;); }", &[]).unwrap();
    let outcome = Boot::new().kernel(program.path()).run().unwrap();
    let Ending::Stopped(how) = &outcome.ending else {
        panic!("{outcome}");
    };
    assert!(how.contains("PVH"), "{how}");
}
