//! What goes wrong ends the run, with one clear sentence and a status that is not 0.

use heliox::boot::Via;
use heliox::outcome::Outcome;
use tempfile::TempDir;

use super::fixtures::{c_program, demonstration, first_light};

/// The status of a kernel that panicked.
const PANIC: u8 = 63;
/// The status of a machine on which no program could be started.
const NOTHING_TO_RUN: u8 = 2;
/// The status of a machine that the kernel cannot run on.
const CANNOT_BOOT: u8 = 1;
/// The status of a program that was stopped for a fault.
const FAULT: u8 = 62;

#[test]
fn a_panic_tells_where_and_shows_registers() {
    let outcome = demonstration().kernel_option("crash=panic").run().unwrap();
    outcome
        .require_status(PANIC)
        .require_line("[panic] on CPU 0: panicked at examples/first-light/src/main.rs:")
        .require_line("as the command line asked")
        .require_line("[panic] rsp   ffffffff8")
        .require_line("[panic] cr0   ");
}

#[test]
fn a_stack_that_overflows_hits_its_guard_page() {
    let outcome = demonstration().kernel_option("crash=stack").run().unwrap();
    outcome
        .require_status(PANIC)
        .require_line("exception 8 (double fault)")
        .require_line("[panic] rip   ffffffff8");
}

#[test]
fn a_program_that_faults_is_stopped_and_the_others_go_on() {
    let source = |body: &str| {
        format!("#include \"first_light.h\"\nint program(void) {{ {body}; return 0; }}\n")
    };
    let reads_null = c_program("reads-null", &source("(void)*(volatile int *)8"));
    let steps =
        c_program("steps", &source("__asm__ volatile(\"pushfq; orq $0x100, (%rsp); popfq; nop\")"));
    let spins = c_program("spins", &source("for (volatile int i = 0; i < 9000000; i++) {}"));
    let outcome = first_light()
        .module(reads_null.path(), "")
        .module(steps.path(), "")
        .module(spins.path(), "")
        .run()
        .unwrap();
    outcome
        .require_status(FAULT)
        .require_line("reads-null: stopped at")
        .require_line("by exception 14, error code 0x4, address 0x8")
        .require_line("steps: stopped at")
        .require_line("by exception 1, ")
        .require_line("spins: ended with status 0");
}

#[test]
fn a_program_that_never_ends_is_bounded_by_the_timeout() {
    let spins =
        c_program("spins", "#include \"first_light.h\"\nint program(void) { for (;;) {} }\n");
    let limit = std::time::Duration::from_secs(3);
    let outcome = first_light().module(spins.path(), "").timeout(limit).run().unwrap();
    assert_eq!(outcome.ending, heliox::outcome::Ending::TimedOut);
}

/// Boots with a module that is no good program, made from a good one by `change`.
fn boot_changed(change: impl FnOnce(&mut Vec<u8>)) -> Outcome {
    let hello = c_program("hello", include_str!("../fixtures/hello.c"));
    let mut bytes = std::fs::read(hello.path()).unwrap();
    change(&mut bytes);
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("changed");
    std::fs::write(&path, bytes).unwrap();
    first_light().module(path, "").run().unwrap()
}

#[test]
fn a_file_that_is_no_program_is_refused_with_the_reason() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(&str, Change); 6] = [
        ("ELF", |bytes| bytes[0] = b'#'),
        ("not a 64-bit program", |bytes| bytes[4] = 1),
        ("machine", |bytes| bytes[18] = 0xb7),
        ("position-independent", |bytes| bytes[16] = 3),
        ("ends", |bytes| bytes.truncate(100)),
        ("ends", |bytes| bytes.truncate(4097)),
    ];
    for (reason, change) in cases {
        boot_changed(change)
            .require_status(NOTHING_TO_RUN)
            .require_line("changed: not started: ")
            .require_line(reason);
    }
}

#[test]
fn a_program_without_write_protection_of_its_code_is_refused() {
    let source = "#include \"first_light.h\"\nint program(void) { return 0; }\n";
    let writable = heliox::programs::compile_c(
        "writable-code",
        source,
        &[super::fixtures::HEADERS, "-Wl,--omagic"],
    )
    .unwrap();
    let outcome = first_light().module(writable.path(), "").run().unwrap();
    outcome.require_status(NOTHING_TO_RUN).require_line("writable-code: not started: ");
}

#[test]
fn a_program_at_a_kernel_address_is_refused() {
    let kernel = c_program("in-the-kernel", include_str!("../fixtures/hello.c"));
    let mut bytes = std::fs::read(kernel.path()).unwrap();
    // The first load segment's virtual address: moved to the kernel's half.
    let header = 64;
    bytes[header + 16..header + 24].copy_from_slice(&0xffff_ffff_8000_0000_u64.to_le_bytes());
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("in-the-kernel");
    std::fs::write(&path, bytes).unwrap();
    let outcome = first_light().module(path, "").run().unwrap();
    outcome.require_status(NOTHING_TO_RUN).require_line("in-the-kernel: not started: ");
}

#[test]
fn a_program_larger_than_memory_is_refused() {
    let source = "#include \"first_light.h\"\nstatic u8 much[1 << 28];\n\
                  int program(void) { much[5] = 1; return much[6]; }\n";
    let large = c_program("large", source);
    let outcome =
        first_light().module(large.path(), "").memory("64M".parse().unwrap()).run().unwrap();
    outcome.require_status(NOTHING_TO_RUN).require_line("large: not started: ");
}

#[test]
fn more_kernel_memory_than_there_is_is_refused() {
    let outcome = demonstration().kernel_memory("1G".parse().unwrap()).run().unwrap();
    outcome.require_status(CANNOT_BOOT).require_line("[error] cannot boot: the kernel needs ");
}

#[test]
fn without_a_module_there_is_nothing_to_run() {
    for via in [Via::Pvh, Via::Multiboot2] {
        let outcome = first_light().via(via).run().unwrap();
        outcome.require_status(NOTHING_TO_RUN).require_line("there is no program to run");
    }
}

/// The source of a program that runs 64 KiB of random bytes as instructions.
fn random_instructions(mut state: u64) -> String {
    let mut source = include_str!("../fixtures/random.c").to_owned();
    source.push_str("__asm__(\".text\\n.balign 4096\\nrandom_code:\\n\"\n");
    for _ in 0..1 << 12 {
        source.push_str("\".byte 0");
        for _ in 0..16 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            source.push_str(&format!(",{}", state >> 56));
        }
        source.push_str("\\n\"\n");
    }
    source.push_str("\"random_code_end: .skip 4096, 0xcc\\n\");\n");
    source
}

#[test]
fn random_instructions_harm_nobody_else() {
    let random = c_program("random", &random_instructions(1));
    let hello = c_program("hello", include_str!("../fixtures/hello.c"));
    let boot = ["1", "2", "3", "4"]
        .iter()
        .fold(first_light(), |boot, seed| boot.module(random.path(), seed));
    let outcome = boot.module(hello.path(), "").icount(true).run().unwrap();
    // A program may do anything to itself, and end in any way. The others do not notice.
    assert!(matches!(outcome.status(), Some(status) if status < PANIC), "{outcome}");
    outcome.require_line("hello: hello from C").require_line("all programs have ended");
    assert!(!outcome.text().contains("not given back"), "{outcome}");
    let rounds = outcome.lines().filter(|line| line.ends_with("5000 more")).count();
    assert!(rounds >= 8, "only {rounds} times 5000 rounds: {outcome}");
}
