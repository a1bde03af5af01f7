//! The binary and what it says. Nothing here gets as far as building the kernel.

use std::fs;
use std::process::{Command, Output, Stdio};

fn heliox(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_heliox"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Runs the tool, and checks its status, that standard output stays empty, and that it says
/// one sentence, on one line and without colours, with all of `words` in it.
fn refused(arguments: &[&str], status: i32, words: &[&str]) {
    let output = heliox(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    assert!(said.starts_with("error: "), "{arguments:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
    assert!(!said.contains('\u{1b}'), "{arguments:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{arguments:?}: {said}");
    }
}

#[test]
fn files_that_cannot_be_modules() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("empty"), b"").unwrap();
    fs::write(path("two words"), b"x").unwrap();
    fs::write(path("good"), b"x").unwrap();
    let cases = [
        (path("missing"), "there is no file"),
        (path("empty"), "is empty"),
        (path(""), "is not a regular file"),
        (path("two words"), "rename the file"),
        (path("good,it's"), "without quotes"),
    ];
    for (file, words) in &cases {
        for option in ["--sigma0", "--root", "--module"] {
            refused(&["boot", option, file], 66, &[words]);
        }
        let iso = path("x.iso");
        refused(&["image", "-o", &iso, "--module", file], 66, &[words]);
    }
}

#[test]
fn modules_larger_than_memory() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("large");
    fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
    let file = file.to_str().unwrap();
    let arguments = ["boot", "--memory", "64M", "--sigma0", file, "--root", file];
    refused(&arguments, 66, &["134217728 bytes", "64M", "--memory"]);
}

#[test]
fn machines_that_cannot_be() {
    for (arguments, word) in [
        (&["--memory", "15M"][..], "16M"),
        (&["--memory", "0"], "16M"),
        (&["--memory", "16777217"], "8K"),
        (&["--cpus", "0"], "--cpus"),
        (&["--cpus", "1000"], "--cpus"),
        (&["--icount", "--accel", "kvm"], "--icount"),
    ] {
        let mut line = vec!["boot"];
        line.extend(arguments);
        refused(&line, 64, &[word]);
    }
}

#[test]
fn wrong_options_have_a_status_of_their_own() {
    for arguments in [
        &["boot", "--memory", "much"][..],
        &["boot", "--via", "floppy"],
        &["boot", "--no-such-option"],
        &["no-such-command"],
        &["image"],
    ] {
        let output = heliox(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(output.stderr.starts_with(b"error: "), "{arguments:?}");
    }
}

#[test]
fn help_shows_examples() {
    let output = heliox(&["--help"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for words in ["Examples:", "heliox boot", "heliox image", "setup"] {
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn benchmarks_that_cannot_be() {
    let said = |arguments: &[&str]| {
        let output = heliox(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(said(&["bench", "ipc", "--words", "0,64"]).contains("`64` is no number from 0 to 63"));
    assert!(said(&["bench", "ipc", "--under", "water"]).contains("priorities"));
    assert!(said(&["bench", "ipc", "--check", "--update"]).contains("--update"));
    assert!(said(&["bench"]).contains("phases"));
    refused(&["bench", "ipc", "--plot", "plot.pdf"], 64, &["plot.pdf", ".svg"]);
    refused(&["bench", "phases", "--check"], 64, &["--check"]);
}
