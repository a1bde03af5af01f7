//! Memory in the booted kernel: it is handed out, taken back, and never shows what was in it.

use super::fixtures::{c_program, demonstration, first_light};

/// Looks at 4 MiB of memory that should be clear, and leaves a pattern in it.
const FILLS: &str = "#include \"first_light.h\"\n\
     static u64 memory[1 << 19];\n\
     int program(void) {\n\
       u64 found = 0;\n\
       for (u64 i = 0; i < 1 << 19; i++) { found |= memory[i]; memory[i] = ~i; }\n\
       if (found) { print(\"found \"); print_hex(found); print(\"\\n\"); return 1; }\n\
       return 0;\n\
     }\n";

#[test]
fn no_page_reaches_a_new_owner_with_what_the_old_one_left() {
    let fills = c_program("fills", FILLS);
    // Ten times 4 MiB in 20 MiB: those that do not fit wait for others to end.
    let boot = first_light().memory("20M".parse().unwrap()).icount(true);
    let boot = (0..10).fold(boot, |boot, _| boot.module(fills.path(), ""));
    let outcome = boot.run().unwrap();
    outcome.require_status(0);
    let ended = outcome.lines().filter(|line| line.ends_with("fills: ended with status 0")).count();
    assert_eq!(ended, 10);
    // Nothing is lost either.
    assert!(!outcome.text().contains("not given back") && !outcome.text().contains("is lost"));
}

#[test]
fn memory_is_not_cleared_at_boot() {
    let boot = demonstration().memory("64G".parse().unwrap()).icount(true);
    let outcome = boot.log(heliox::boot::LogLevel::Debug).run().unwrap();
    outcome.require_status(0).require_line("pages of the page allocator:");
    let line = outcome.lines().find(|line| line.starts_with("[info] boot: ")).unwrap();
    let total: u64 = line.split(' ').nth(2).unwrap().parse().unwrap();
    // To clear 64 GiB takes a store for each of 2^33 words.
    assert!(total < 1 << 27, "{total} instructions");
}

#[test]
fn a_program_that_never_fits_is_refused_and_the_others_run() {
    let large = c_program(
        "large",
        "#include \"first_light.h\"\nstatic u8 much[1 << 26];\n\
         int program(void) { much[5] = 1; return much[6]; }\n",
    );
    let fills = c_program("fills", FILLS);
    let outcome = first_light()
        .memory("32M".parse().unwrap())
        .module(fills.path(), "")
        .module(large.path(), "")
        .module(fills.path(), "again")
        .run()
        .unwrap();
    outcome.require_status(2).require_line("large: not started: its ");
    let ended = outcome.lines().filter(|line| line.ends_with("fills: ended with status 0")).count();
    assert_eq!(ended, 2);
}
