//! The rules of L4 (`docs/l4-rules.md`), the suite's cases and the C header agree with each other,
//! as far as can be seen without booting anything.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use heliox::programs::compile_c;

/// The least number of cases of the suite.
const LEAST_CASES: usize = 250;

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The rules, by number, with their texts.
fn rules() -> BTreeMap<String, String> {
    let text = fs::read_to_string(repository().join("docs/l4-rules.md")).unwrap();
    let mut rules = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("- **")) {
        let (number, text) = line["- **".len()..].split_once("** ").unwrap();
        let (group, index) = number.rsplit_once('-').unwrap();
        assert!(group.chars().all(|letter| letter.is_ascii_uppercase() || letter.is_ascii_digit()));
        assert!(index.parse::<u32>().is_ok(), "{line}");
        assert!(text.ends_with('.') || text.ends_with(')'), "a rule is one line: {line}");
        let old = rules.insert(number.to_owned(), text.to_owned());
        assert_eq!(old, None, "{number} is there twice");
    }
    rules
}

/// The cases of the suite: their names, and the rules that each of them shows.
fn cases() -> Vec<(String, Vec<String>)> {
    let mut cases = Vec::new();
    for file in fs::read_dir(repository().join("user/conformance/src/cases")).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        for line in text.lines().map(str::trim) {
            // Lines of the tables: "RULES" => function,
            let Some((rules, name)) = line.split_once("\" => ") else { continue };
            let (Some(rules), Some(name)) = (rules.strip_prefix('"'), name.strip_suffix(','))
            else {
                continue;
            };
            cases.push((name.to_owned(), rules.split(' ').map(str::to_owned).collect()));
        }
    }
    cases
}

#[test]
fn every_rule_has_a_case() {
    let (rules, cases) = (rules(), cases());
    assert!(cases.len() >= LEAST_CASES, "only {} cases", cases.len());
    let shown: Vec<&String> = cases.iter().flat_map(|(_, rules)| rules).collect();
    for (number, text) in &rules {
        let by_host = text.ends_with("(host)");
        assert!(by_host || shown.contains(&number), "{number} has no case: {text}");
    }
    for (name, numbers) in &cases {
        for number in numbers {
            assert!(
                rules.contains_key(number),
                "{name} names the rule {number}, which is not there"
            );
        }
    }
}

#[test]
fn c_programs_compile_against_the_header() {
    let headers = concat!("-I", env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    for (name, source) in [
        ("l4_program", include_str!("fixtures/l4_program.c")),
        ("l4_root", include_str!("fixtures/l4_root.c")),
    ] {
        let options = [headers, "-Werror", "-Wl,-Ttext-segment=0x1000000"];
        let program = compile_c(name, source, &options).unwrap();
        let elf = fs::read(program.path()).unwrap();
        let entry = u64::from_le_bytes(elf[24..32].try_into().unwrap());
        assert!((0x100_0000..0x110_0000).contains(&entry), "{name} begins at {entry:#x}");
    }
}

/// The L4 kernel stays small and safe.
#[test]
fn the_size_of_the_l4_kernel() {
    const MOST_LINES: usize = 7_000;
    let root = repository().join("kernel/l4/src");
    assert!(fs::read_to_string(root.join("lib.rs")).unwrap().contains("#![forbid(unsafe_code)]"));
    let directories = [root.clone(), root.join("calls")];
    let files = directories.iter().flat_map(|directory| fs::read_dir(directory).unwrap());
    let mut total = 0;
    for file in files.map(|file| file.unwrap().path()) {
        // The audit is compiled for tests on hosts only.
        if file.extension().is_none_or(|kind| kind != "rs") || file.ends_with("audit.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let is_code = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
        let lines = code.lines().filter(is_code).count();
        println!("{lines:6}  {}", file.file_name().unwrap().display());
        total += lines;
    }
    println!("{total:6}  in all");
    assert!(total > 3_000 && total < MOST_LINES, "{total} lines");
}
