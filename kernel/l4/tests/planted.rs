//! Faults that are planted into the kernel are found by the random run, each in a process of its own.

use std::process::Command;

use heliox_l4_kernel::Fault;

/// Calls that are made until a fault must have been found.
const CALLS: &str = "400000";

/// The random run's program, beside this one.
fn random_run() -> std::path::PathBuf {
    let own = std::env::current_exe().expect("the program has a path");
    let directory = own.parent().expect("it lies in a directory");
    let mut found: Vec<_> = std::fs::read_dir(directory)
        .expect("the directory can be read")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("random-") && !name.contains('.')
        })
        .collect();
    found.sort_by_key(|path| path.metadata().and_then(|data| data.modified()).ok());
    found.pop().expect("the random run is built with this test")
}

#[test]
fn each_is_found() {
    let mut missed = Vec::new();
    for fault in Fault::ALL {
        let output = Command::new(random_run())
            .env("HELIOX_FAULT", (fault as u8).to_string())
            .env("HELIOX_CALLS", CALLS)
            .env("HELIOX_AUDIT", "500")
            .env("HELIOX_REDIRECT", "no")
            .env("RUST_BACKTRACE", "0")
            .output()
            .expect("the random run starts");
        let text =
            String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        let why = text.lines().skip_while(|line| !line.contains("panicked at")).nth(1);
        println!("{fault:?}: {}", why.unwrap_or("not found"));
        let by_count = why.is_some_and(|why| why.contains("too few"));
        if output.status.success() || by_count {
            missed.push(fault);
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
