//! Copies the sources of the HAL, with the edits of `src/table.rs`.

use std::path::{Path, PathBuf};
use std::{env, fs};

#[path = "src/table.rs"]
#[allow(dead_code, reason = "the descriptions are for reports")]
mod table;

use table::{EDITS, Edit, MUTANTS};

fn main() {
    let sources = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"))
        .join("../../kernel/hal/src");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    println!("cargo::rerun-if-changed=../../kernel/hal/src");
    println!("cargo::rerun-if-changed=src/table.rs");
    let mut missing = Vec::new();
    copy(&sources, &out.join("hal"), Path::new(""), &mut missing);
    for edit in EDITS {
        if !sources.join(edit.file).exists() {
            missing.push(edit);
        }
    }
    for edit in &missing {
        println!("cargo::warning={}: no `{}` after `{}`", edit.file, edit.find, edit.after);
    }
    let is_missing = |name: &str| missing.iter().any(|edit| names(edit.replace).any(|n| n == name));
    let names: Vec<&str> =
        MUTANTS.iter().map(|mutant| mutant.name).filter(|name| is_missing(name)).collect();
    fs::write(out.join("not_seeded.rs"), format!("{names:?}")).expect("OUT_DIR can be written");

    // The root becomes a module of this crate: without attributes of its own, and with the paths
    // of its modules.
    let root = fs::read_to_string(out.join("hal/lib.rs")).expect("was copied");
    let mut text = String::new();
    let mut in_attribute = false;
    for line in root.lines() {
        let begins = line.starts_with("#![");
        if begins || in_attribute {
            in_attribute = !line.ends_with(']');
            continue;
        }
        if line.starts_with("//!") {
            continue;
        }
        let name = line.trim_start_matches("pub ").strip_prefix("mod ");
        if let Some(name) = name.and_then(|name| name.strip_suffix(';')) {
            let directory = out.join("hal");
            let file = [format!("{name}.rs"), format!("{name}/mod.rs")]
                .into_iter()
                .map(|file| directory.join(file))
                .find(|file| file.exists())
                .expect("a module has a file");
            text += &format!("#[path = {file:?}]\n");
        }
        text += line;
        text.push('\n');
    }
    fs::write(out.join("hal.rs"), text).expect("OUT_DIR can be written");
}

/// The faults that are named in a replacement.
fn names(replace: &str) -> impl Iterator<Item = &str> {
    replace.split('@').skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        &rest[..end]
    })
}

fn copy(from: &Path, to: &Path, below: &Path, missing: &mut Vec<&'static Edit>) {
    fs::create_dir_all(to).expect("OUT_DIR can be written");
    for entry in fs::read_dir(from).expect("the HAL is beside the model") {
        let entry = entry.expect("can be read");
        let name = below.join(entry.file_name());
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target, &name, missing);
            continue;
        }
        let mut text = fs::read_to_string(entry.path()).expect("sources are text");
        for edit in EDITS.iter().filter(|edit| Path::new(edit.file) == name) {
            match apply(&text, edit) {
                Some(edited) => text = edited,
                None => missing.push(edit),
            }
        }
        fs::write(target, text).expect("OUT_DIR can be written");
    }
}

/// The text with the first place after `edit.after` that reads `edit.find`, however it is laid
/// out, replaced.
fn apply(text: &str, edit: &Edit) -> Option<String> {
    let begin = find(text, 0, edit.after)?.1;
    let (start, end) = find(text, begin, edit.find)?;
    let mut replace = String::new();
    let mut parts = edit.replace.split('@');
    replace += parts.next()?;
    for part in parts {
        let end = part.find(|c: char| !c.is_alphanumeric()).unwrap_or(part.len());
        let number = MUTANTS.iter().position(|mutant| mutant.name == &part[..end]);
        let number = number.unwrap_or_else(|| panic!("no mutant {}", &part[..end]));
        replace += &format!("crate::planted({number}){}", &part[end..]);
    }
    Some(format!("{}{replace}{}", &text[..start], &text[end..]))
}

/// Where `wanted` begins and ends in `text` from `begin` on, white space aside.
fn find(text: &str, begin: usize, wanted: &str) -> Option<(usize, usize)> {
    let wanted: Vec<char> = wanted.chars().filter(|c| !c.is_whitespace()).collect();
    let letters: Vec<(usize, char)> = text[begin..]
        .char_indices()
        .filter(|(_, c)| !c.is_whitespace())
        .map(|(at, c)| (begin + at, c))
        .collect();
    let found = letters
        .windows(wanted.len())
        .find(|window| window.iter().zip(&wanted).all(|((_, c), wanted)| c == wanted))?;
    let (last, letter) = found[found.len() - 1];
    Some((found[0].0, last + letter.len_utf8()))
}
