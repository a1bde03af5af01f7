//! What has to be trusted: where `unsafe` may be, and how much code that is.
//!
//! Lines of code are lines that are neither blank nor only comment. The trusted computing base
//! is `kernel/hal` without its tests, the simulated machine and the log for audits, which no
//! ordinary kernel has: Rust, assembly and build
//! scripts. It has no dependency with `unsafe`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The crates that may have `unsafe`.
const MAY_BE_UNSAFE: [&str; 2] = ["kernel/hal", "user/l4"];

/// What the trusted base must not outgrow. The aim is 3,000 lines, of which less than 400 unsafe
/// or assembly. It is not reached: the bounds are what there is, and only go down.
const MOST_LINES: usize = 3_299;
const MOST_UNSAFE_LINES: usize = 425;

/// Macros whose arguments are assembly: the compiler's, and the one that the entry code is in.
const ASSEMBLY: [&str; 4] = ["asm", "naked_asm", "global_asm", "entry_code"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// All files below `directory` that `wanted` accepts, but none of a target directory.
fn files(directory: &Path, wanted: &dyn Fn(&Path) -> bool, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                files(&path, wanted, found);
            }
        } else if wanted(&path) {
            found.push(path);
        }
    }
}

fn with_extension(directory: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let wanted = |path: &Path| {
        path.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted))
    };
    files(directory, &wanted, &mut found);
    found.sort();
    found
}

/// Rust source with comments, strings and character literals blanked, so that what is left are
/// tokens; line ends stay.
fn tokens_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut output = bytes.to_vec();
    let mut at = 0;
    let mut blank = |from: usize, to: usize| {
        for byte in &mut output[from..to] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    while at < bytes.len() {
        let rest = &source[at..];
        let end = if rest.starts_with("//") {
            at + rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            at + rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("r#\"") || rest.starts_with("br#\"") {
            let open = rest.find('"').unwrap() + 1;
            at + open + rest[open..].find("\"#").map_or(rest.len() - open, |end| end + 2)
        } else if rest.starts_with('"') {
            let mut end = at + 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            (end + 1).min(bytes.len())
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\''") {
            at + if rest.starts_with("'\\''") { 4 } else { 3 }
        } else if rest.starts_with("b'\"'") {
            at + 4
        } else {
            at += rest.chars().next().unwrap().len_utf8();
            continue;
        };
        blank(at, end);
        at = end;
    }
    String::from_utf8(output).unwrap()
}

/// Whether the word `unsafe` is among the tokens.
fn has_unsafe(tokens: &str) -> bool {
    tokens.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe")
}

/// Source without its test module, which is always the last item.
fn without_tests(source: &str) -> &str {
    source.split("#[cfg(test)]\nmod tests {").next().unwrap()
}

/// Numbers of the lines of code.
fn code_lines(path: &Path, source: &str) -> Vec<usize> {
    let tokens = match path.extension().and_then(|e| e.to_str()) {
        Some("rs") => {
            let comments_only = source.lines().map(|line| {
                let line = line.trim_start();
                if line.starts_with("//") { "" } else { line }
            });
            comments_only.collect::<Vec<_>>().join("\n")
        }
        _ => source
            .lines()
            .map(|line| line.split("//").next().unwrap())
            .collect::<Vec<_>>()
            .join("\n"),
    };
    tokens
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, _)| number)
        .collect()
}

/// Marks the lines of all invocations of macros for assembly, inside `unsafe` or not.
fn mark_assembly(tokens: &str, inside: &mut [bool]) {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    for (at, _) in tokens.match_indices("!(") {
        let name = tokens[..at].rsplit(|c| !word(c)).next().unwrap();
        if !ASSEMBLY.contains(&name) {
            continue;
        }
        let mut depth = 0;
        let length = tokens[at..].char_indices().find_map(|(offset, c)| {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            (c == ')' && depth == 0).then_some(offset)
        });
        let line = |at: usize| tokens[..at].matches('\n').count();
        inside[line(at)..=line(at + length.unwrap())].fill(true);
    }
}

/// Lines of code inside `unsafe` blocks, functions and implementations, and of assembly.
fn unsafe_lines(path: &Path, source: &str) -> usize {
    if path.extension().is_some_and(|e| e == "s") {
        return code_lines(path, source).len();
    }
    let tokens = tokens_only(source);
    let mut inside = vec![false; source.lines().count() + 1];
    mark_assembly(&tokens, &mut inside);
    let mut search = 0;
    while let Some(found) = tokens[search..].find("unsafe") {
        let start = search + found;
        search = start + "unsafe".len();
        let before = tokens[..start].chars().next_back();
        let after = tokens[search..].chars().next();
        let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        if word(before) || word(after) {
            continue;
        }
        // To the end of the braces that follow, or of the item without any.
        let mut depth = 0;
        let mut end = search;
        for (offset, c) in tokens[search..].char_indices() {
            end = search + offset;
            match c {
                '{' => depth += 1,
                '}' => {
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                }
                ';' | ')' if depth == 0 && !tokens[search..end].contains("fn") => break,
                _ => {}
            }
        }
        let line = |at: usize| tokens[..at].matches('\n').count();
        inside[line(start)..=line(end)].fill(true);
        search = search.max(start + 1);
    }
    code_lines(path, source).into_iter().filter(|&line| inside[line]).count()
}

#[test]
fn unsafe_is_only_where_it_may_be() {
    let root = root();
    for path in with_extension(&root, &["rs"]) {
        let name = path.strip_prefix(&root).unwrap();
        let source = fs::read_to_string(&path).unwrap();
        if MAY_BE_UNSAFE.iter().any(|crate_| name.starts_with(crate_)) {
            continue;
        }
        assert!(!has_unsafe(&tokens_only(&source)), "`unsafe` in {}", name.display());
    }
}

#[test]
fn every_other_crate_forbids_unsafe() {
    let root = root();
    let is_manifest = |path: &Path| path.file_name().is_some_and(|name| name == "Cargo.toml");
    let mut manifests = Vec::new();
    files(&root, &is_manifest, &mut manifests);
    let mut roots = 0;
    for manifest in manifests {
        let directory = manifest.parent().unwrap();
        let name = directory.strip_prefix(&root).unwrap();
        if MAY_BE_UNSAFE.iter().any(|crate_| name == Path::new(crate_)) {
            continue;
        }
        for file in ["src/lib.rs", "src/main.rs"] {
            let Ok(source) = fs::read_to_string(directory.join(file)) else {
                continue;
            };
            roots += 1;
            assert!(
                source.contains("#![forbid(unsafe_code)]"),
                "{}/{file} does not forbid unsafe code",
                name.display()
            );
        }
    }
    assert!(roots >= 8, "only {roots} crate roots were found");
}

/// Lines of code below `directory`, and of them those that are unsafe or assembly; without tests and
/// what is compiled for hosts only. Prints a line for each file.
fn count(directory: &str) -> (usize, usize) {
    let root = root();
    let (mut lines, mut unsafe_code) = (0, 0);
    for path in with_extension(&root.join(directory), &["rs", "s"]) {
        let name = path.strip_prefix(&root).unwrap();
        let is_test = |part: &str| ["tests", "simulated", "audit", "audited"].contains(&part);
        let parts = name.components().map(|part| part.as_os_str().to_string_lossy());
        let stem = name.file_stem().unwrap().to_string_lossy().into_owned();
        if parts.into_iter().any(|part| is_test(&part))
            || is_test(&stem)
            || stem.ends_with("_tests")
        {
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        let source = without_tests(&source);
        let (all, inside) = (code_lines(&path, source).len(), unsafe_lines(&path, source));
        println!("{all:6} {inside:6}  {}", name.display());
        lines += all;
        unsafe_code += inside;
    }
    (lines, unsafe_code)
}

#[test]
fn the_trusted_base_does_not_grow() {
    // Safe code that the base relies on: vocabulary and parsers. Told, not bounded.
    let [(types, none), (parsers, neither)] = ["kernel/types", "kernel/boot"].map(count);
    let (lines, unsafe_code) = count("kernel/hal");
    println!("{types:6} {none:6}  vocabulary");
    println!("{parsers:6} {neither:6}  parsers");
    println!("{lines:6} {unsafe_code:6}  in all: lines of code, of them unsafe or assembly");
    assert_eq!((none, neither), (0, 0));
    assert!(lines <= MOST_LINES, "{lines} lines of code");
    assert!(unsafe_code <= MOST_UNSAFE_LINES, "{unsafe_code} lines of unsafe code");
    // A count that misses everything would hold, too.
    assert!(lines > 2_000 && unsafe_code > 200);
}

/// The numbers of invariants, such as `P1`, in a text.
fn invariants(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let is_number = |word: &&str| matches!(word.as_bytes(), [letter, digit] if letter.is_ascii_uppercase() && digit.is_ascii_digit());
    // Registers and the first level of a cache are not meant.
    words.filter(is_number).filter(|word| !word.starts_with('R')).map(str::to_owned).collect()
}

#[test]
fn what_keeps_unsafe_code_sound_is_written_down() {
    let book = fs::read_to_string(root().join("docs/soundness.md")).unwrap();
    let rows = book.lines().filter(|line| line.starts_with("| "));
    let defined = invariants(&rows.map(|row| row.split('|').nth(1).unwrap()).collect::<String>());
    let mut cited = BTreeSet::new();
    for path in with_extension(&root().join("kernel/hal/src"), &["rs"]) {
        let source = fs::read_to_string(&path).unwrap();
        let mut lines = source.lines().map(str::trim_start).peekable();
        while let Some(line) = lines.next() {
            let Some((_, mut comment)) = line.split_once("SAFETY:") else { continue };
            loop {
                let numbers = invariants(comment);
                let unknown: Vec<_> = numbers.difference(&defined).collect();
                assert!(unknown.is_empty(), "{}: {unknown:?} is not explained", path.display());
                cited.extend(numbers);
                match lines.next_if(|next| next.starts_with("//")) {
                    Some(next) => comment = next,
                    None => break,
                }
            }
        }
    }
    assert!(cited.len() >= 15, "only {cited:?} are cited");
}

#[test]
fn the_scanner_sees_what_is_code() {
    assert!(has_unsafe(&tokens_only("fn f() { unsafe { g() } }")));
    assert!(!has_unsafe(&tokens_only("// unsafe\nlet s = \"unsafe\"; /* unsafe */ let c = '\"';")));
    assert!(!has_unsafe(&tokens_only("#![forbid(unsafe_code)]")));
    assert!(has_unsafe(&tokens_only("let q = '\"'; unsafe { f() }")));
    let source = "fn a() {\n    // SAFETY: none\n    unsafe {\n        f();\n    }\n    g();\n}\n";
    assert_eq!(unsafe_lines(Path::new("x.rs"), source), 3);
    assert_eq!(code_lines(Path::new("x.rs"), source).len(), 6);
    let source = "fn a() {\n    entry_code!(\n        \"push (\",\n    );\n    f!(x);\n}\n";
    assert_eq!(unsafe_lines(Path::new("x.rs"), source), 3);
    assert_eq!(
        unsafe_lines(Path::new("x.rs"), "core::arch::global_asm!(\"hlt\");\nnasm!(x);\n"),
        1
    );
    assert_eq!(code_lines(Path::new("x.s"), "// no\nmov rax, 1 // yes\n\n").len(), 1);
}
