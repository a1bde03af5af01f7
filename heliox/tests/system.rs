//! System tests: the kernel booted in QEMU. One test binary, so that no more machines run at
//! a time than `heliox::boot::MOST_RUNS`. A module for each area; each test boots what it needs
//! and checks the outcome, and a test that fails shows the serial log.

mod system {
    mod audit;
    mod bench;
    mod devices;
    mod examples;
    mod failures;
    mod first_light;
    mod fixtures;
    mod l4;
    mod machines;
    mod memory;
    mod monitor;
}
