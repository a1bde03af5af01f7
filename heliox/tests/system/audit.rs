//! What the booted kernel does with memory is what the formal model allows.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use heliox::boot::Boot;
use heliox_model::log::{Deviation, Log};

/// The first line that deviates, counted from 1.
fn replay<'a>(lines: impl Iterator<Item = &'a str>) -> Option<(usize, Deviation)> {
    let mut log = Log::new();
    let mut lines = lines.enumerate();
    lines.find_map(|(number, line)| Some((number + 1, log.line(line).unwrap()?)))
}

#[test]
fn the_log_of_the_conformance_suite_replays_clean_and_a_flipped_result_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("log");
    let boot = Boot::new().program("sigma0", "").program("conformance", "").audit(&file);
    boot.icount(true).timeout(Duration::from_secs(600)).run().unwrap().require_status(0);
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() > 10_000, "{} lines", lines.len());
    assert_eq!(replay(lines.iter().copied()), None);

    // One line of each operation, some way into the log.
    let mut each = BTreeMap::new();
    for (number, line) in lines.iter().enumerate().skip(1).take(20_000) {
        each.insert(line.split(' ').next().unwrap(), number);
    }
    println!("{} operations, of these kinds: {:?}", lines.len() - 1, each.keys());
    assert!(each.len() >= 12, "{each:?}");
    for number in each.into_values() {
        let flipped = match lines[number].strip_suffix(" = ok") {
            Some(start) => format!("{start} = refused"),
            None => lines[number].replace(" = refused", " = ok"),
        };
        let mut changed = lines.clone();
        changed[number] = &flipped;
        let found = replay(changed.into_iter());
        assert_eq!(found.map(|(line, _)| line), Some(number + 1), "{flipped}");
    }
}
