//! Devices on the booted kernel: ports, external interrupts, breakpoints, PCI configuration.

use heliox::boot::{Boot, Via};
use heliox::outcome::Outcome;
use heliox::programs::CompiledProgram;

use super::fixtures::{c_program, first_light};

fn program() -> CompiledProgram {
    c_program("devices", include_str!("../fixtures/devices.c"))
}

/// Boots a copy of the program for each of `arguments`, both ways; every test must pass, and
/// there must be `tests` of them.
fn run(arguments: &[&str], tests: usize, change: impl Fn(Boot) -> Boot) -> [Outcome; 2] {
    let program = program();
    [Via::Pvh, Via::Multiboot2].map(|via| {
        let boot = arguments
            .iter()
            .fold(first_light(), |boot, arguments| boot.module(program.path(), arguments));
        let outcome = change(boot.via(via)).run().unwrap();
        outcome.require_tests(&[]);
        if outcome.tests().len() != tests {
            outcome.fail(&format!("expected {tests} tests"));
        }
        outcome
    })
}

/// Interrupts through the 8259s.
fn without_acpi(boot: Boot) -> Boot {
    boot.kernel_option("no-acpi")
}

/// A serial port on the PCI bus.
fn with_pci_serial(boot: Boot) -> Boot {
    boot.qemu_argument("-chardev")
        .qemu_argument("null,id=extra")
        .qemu_argument("-device")
        .qemu_argument("pci-serial,addr=5,chardev=extra")
}

#[test]
fn ports_are_each_program_s_own() {
    run(&["devices ports", "devices other", "none", "devices none"], 28, |boot| boot);
}

#[test]
fn edges_arrive_through_the_io_apic() {
    run(&["devices serial"], 8, |boot| boot.kernel_option("log=debug")).iter().for_each(
        |outcome| {
            outcome.require_line("external interrupts: I/O APIC");
        },
    );
}

#[test]
fn edges_arrive_through_the_8259s() {
    run(&["devices serial"], 8, |boot| without_acpi(boot).kernel_option("log=debug"))
        .iter()
        .for_each(|outcome| {
            outcome.require_line("external interrupts: 8259");
        });
}

#[test]
fn edges_arrive_on_the_older_machine_type() {
    run(&["devices serial"], 8, |boot| boot.qemu_argument("-machine").qemu_argument("pc"));
}

#[test]
fn levels_arrive_and_pci_is_filtered() {
    // The chipset wires device 5 to the second of the four lines from 20 on.
    run(&["devices pci=21"], 13, with_pci_serial);
}

#[test]
fn levels_arrive_through_the_8259s() {
    run(&["devices pci=00"], 13, |boot| with_pci_serial(without_acpi(boot)));
}

#[test]
fn breakpoints_are_each_program_s_own() {
    run(&["devices debug", "devices plain"], 22, |boot| boot);
}

#[test]
fn events_are_counted() {
    // Counting instructions: the timer then interrupts at the same places in every run.
    run(&["devices measure", "turns"], 6, |boot| boot.icount(true));
}

#[test]
fn a_module_that_is_a_program_has_an_entry_point() {
    let program = program();
    let bytes = std::fs::read(program.path()).unwrap();
    let entry = u64::from_le_bytes(bytes[24..32].try_into().unwrap());
    let outcome =
        first_light().module(program.path(), "").kernel_option("log=debug").run().unwrap();
    outcome.require_status(0).require_line(&format!("module devices: entry point {entry:#x}"));
}
