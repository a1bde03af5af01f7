//! Machines of all sizes and kinds.

use heliox::boot::Via;
use heliox::outcome::Outcome;

use super::fixtures::{demonstration, first_light};

/// The numbers of the line about the boot's cost: total and calibration, in instructions.
fn boot_cost(outcome: &Outcome) -> (u64, u64) {
    let line = outcome.lines().find(|line| line.starts_with("[info] boot: ")).unwrap();
    let mut numbers =
        line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn counted(memory: &str) -> (u64, u64) {
    let outcome = demonstration().memory(memory.parse().unwrap()).icount(true).run().unwrap();
    outcome.require_status(0);
    boot_cost(&outcome)
}

#[test]
fn from_16_mib_to_64_gib() {
    for memory in ["16M", "20M", "63M", "100M", "3G", "64G"] {
        for via in [Via::Pvh, Via::Multiboot2] {
            let boot = demonstration().memory(memory.parse().unwrap()).via(via);
            boot.run().unwrap().require_status(0);
        }
    }
}

#[test]
fn the_first_program_begins_within_five_million_instructions() {
    let (total, calibration) = counted("512M");
    assert!(total < 5_000_000, "{total} instructions");
    // Half a millisecond at one instruction per nanosecond.
    assert!((400_000..1_000_000).contains(&calibration), "{calibration} instructions");
}

#[test]
fn a_further_mebibyte_costs_less_than_1500_instructions() {
    let sizes = ["512M", "1G", "2G", "3G", "8G", "64G"];
    let costs = sizes.map(|memory| counted(memory).0);
    for (pair, cost) in sizes.windows(2).zip(costs.windows(2)) {
        let mebibytes = |size: &str| -> u64 {
            let bytes = size.parse::<heliox::size::Size>().unwrap().bytes();
            bytes >> 20
        };
        let added = mebibytes(pair[1]) - mebibytes(pair[0]);
        let each = (cost[1] - cost[0]) / added;
        assert!(each < 1500, "{} to {}: {each} instructions per MiB", pair[0], pair[1]);
    }
}

#[test]
fn other_processors_stay_parked() {
    demonstration().cpus(4).run().unwrap().require_status(0);
}

#[test]
fn a_processor_with_few_features_will_do() {
    for model in ["qemu64", "max,-smep,-smap,-umip,-fsgsbase,-nx,-xsave,-pdpe1gb", "Nehalem"] {
        let boot = demonstration().cpu(model);
        boot.run().unwrap().require_status(0);
    }
}

#[test]
fn a_32_bit_processor_is_told_so() {
    let outcome =
        first_light().cpu("qemu32").timeout(std::time::Duration::from_secs(5)).run().unwrap();
    outcome.require_line("Heliox needs a 64-bit x86 processor");
}

#[test]
fn the_older_machine_type_boots_too() {
    // The last `-machine` wins.
    let boot = demonstration().qemu_argument("-machine").qemu_argument("pc");
    boot.run().unwrap().require_status(0);
}
