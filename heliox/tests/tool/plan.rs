//! `heliox plan`: the worked rows through the command line, pictures, and what it refuses.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn plan(line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_heliox"))
        .arg("plan")
        .args(line.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(line: &str) -> String {
    let output = plan(line);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{line}: {said}");
    assert!(said.is_empty(), "{line}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(line: &str) -> Value {
    serde_json::from_str(&text(&format!("{line} --json"))).unwrap()
}

fn require(line: &str, expected: &[(&str, u64)]) {
    let found = json(line);
    for (key, value) in expected {
        assert_eq!(found[key].as_u64(), Some(*value), "{line}: {key} in {found}");
    }
}

const XENOPS_KEYS: [&str; 6] = [
    "build_max_mib",
    "build_start_mib",
    "xen_max_mib",
    "shadow_mib",
    "overhead_mib",
    "footprint_mib",
];

#[test]
fn reproduces_the_worked_rows_of_xenops() {
    for (line, row) in [
        ("a --kind hvm --static-max 1024MiB --video 16MiB", [1008, 1008, 1025, 9, 11, 1035]),
        (
            "a --kind hvm --static-max 4GiB --target 2GiB --video 16MiB --vcpus 2",
            [4080, 2032, 4097, 34, 36, 2084],
        ),
        ("a --kind linux --static-max 512MiB", [512, 512, 512, 5, 6, 518]),
        (
            "b --kind pv-in-pvh --static-max 4GiB --target 2GiB --vcpus 2",
            [4153, 4153, 4154, 34, 93, 2141],
        ),
        (
            "c --kind hvm --static-max 4GiB --target 2GiB --video 4MiB --vcpus 2",
            [4092, 2044, 4097, 34, 37, 2085],
        ),
        (
            "c --kind hvm --static-max 16GiB --video 8MiB --vcpus 32",
            [16376, 16376, 16385, 160, 167, 16551],
        ),
        (
            "c --kind linux --static-max 2GiB --target 1GiB --vcpus 4 --shadow-multiplier 1.0",
            [2048, 1024, 2048, 20, 22, 1046],
        ),
    ] {
        let line = format!("--generation {line}");
        let expected: Vec<_> = XENOPS_KEYS.into_iter().zip(row).collect();
        require(&line, &expected);
        require(&line, &[("claim_pages", row[1] * 256)]);
    }
}

#[test]
fn reproduces_the_worked_rows_of_libxl() {
    let keys = ["maxmem_kib", "xenstore_target_kib", "shadow_kib", "host_need_kib"];
    for (line, row) in [
        (
            "--policy libxl --kind hvm --static-max 1GiB --video 8MiB",
            [1_049_600, 1_040_384, 5120, 1_056_768],
        ),
        (
            "--kind hvm --static-max 4096M --target 2048M --vcpus 2 --video 16MiB",
            [2_098_176, 2_079_744, 18432, 2_117_632],
        ),
        (
            "--policy libxl --kind pvh --static-max 4GiB --target 2GiB --vcpus 4",
            [2_098_176, 2_097_152, 20480, 2_119_680],
        ),
        (
            "--policy libxl --kind pv --static-max 2GiB --target 1GiB --vcpus 4",
            [1_049_600, 1_048_576, 12288, 1_062_912],
        ),
    ] {
        let expected: Vec<_> = keys.into_iter().zip(row).collect();
        require(line, &expected);
    }
    let line = "--kind hvm --static-max 4GiB --target 2GiB --video 16MiB";
    require(line, &[("pod_target_pages", (2048 - 16 + 1) * 256), ("iommu_kib", 0)]);
    require(&format!("{line} --passthrough"), &[("iommu_kib", 4 * 2054)]);
    require(&format!("{line} --passthrough=shared"), &[("iommu_kib", 0)]);
    require(&format!("{line} --no-hap"), &[("shadow_kib", 4 * (256 + 2 * 4096))]);
    // What nobody said is what the adapter needs.
    require("--kind hvm --static-max 1GiB", &[("video_kib", 8192)]);
    require("--kind hvm --static-max 1GiB --video-adapter stdvga", &[("video_kib", 16384)]);
}

#[test]
fn answers_further_questions() {
    let line = "--generation a --kind hvm --static-max 4GiB --target 2GiB --vcpus 2";
    let found = json(&format!("{line} --fits 2084MiB --change vcpus=4 --change target=1GiB"));
    assert_eq!(found["fits"]["largest_target_mib"], 2048);
    assert_eq!(found["fits"]["largest_static_max_mib"], 2063);
    assert_eq!(found["change"]["overhead_kib"], 2 * 1024);
    assert_eq!(found["change"]["footprint_kib"], (2 - 1024) * 1024);
    let line = "--kind hvm --static-max 4GiB --target 2GiB --video 16MiB";
    let found = json(&format!("{line} --mem-set 3GiB --mem-max 8GiB"));
    assert_eq!(found["mem_set"]["maxmem_kib"], 3073 * 1024);
    assert_eq!(found["mem_set"]["xenstore_target_kib"], (3072 - 16) * 1024);
    assert_eq!(found["mem_set"]["pod_target_pages"], (3072 - 16 + 1) * 256);
    assert_eq!(found["mem_max"]["maxmem_kib"], 8193 * 1024);
    let told = text(&format!("{line} --fits 4GiB --change static-max=8GiB --mem-set 3GiB"));
    for words in ["largest domain", "(+16 MiB)", "after mem-set", "setmaxmem", "host need"] {
        assert!(told.contains(words), "{told}");
    }
}

#[test]
fn draws_every_block_and_bracket() {
    let line = "--generation c --kind hvm --static-max 4GiB --target 2GiB --video 4MiB --vcpus 2";
    let told = text(line);
    for words in
        ["shadow", "extra external", "extra internal", "video", "guest", "balloon", "overhead"]
    {
        assert!(told.contains(words), "{words}: {told}");
    }
    for words in ["static", "build", "start", "actual", "xen", "maximum", "footprint", "2085 MiB"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(!told.contains("shim") && !told.contains('\u{1b}'), "{told}");
    assert!(told.lines().all(|line| line.chars().count() <= 100), "{told}");
}

/// The numbers of an attribute in all elements that contain `mark`.
fn attributes(svg: &str, mark: &str, name: &str) -> Vec<f64> {
    let key = format!(" {name}=\"");
    svg.lines()
        .filter(|line| line.contains(mark))
        .filter_map(|line| line.split_once(&key)?.1.split('"').next()?.parse().ok())
        .collect()
}

#[test]
fn plots_to_scale() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("domain.svg");
    let line = "--generation a --kind hvm --static-max 64MiB --target 40MiB --video 16MiB";
    text(&format!("{line} --plot {}", file.display()));
    let svg = fs::read_to_string(&file).unwrap();
    // shadow 2, external 1, internal 1, video 16, guest 24, balloon 24: 68 MiB in 600.
    let heights = attributes(&svg, "x=\"220.00\"", "height");
    let expected = [2.0, 1.0, 1.0, 16.0, 24.0, 24.0, 68.0].map(|mib| mib * 600.0 / 68.0);
    assert_eq!(heights.len(), expected.len(), "{svg}");
    for (found, expected) in heights.iter().zip(expected) {
        assert!((found - expected).abs() < 0.01, "{heights:?}");
    }
    for words in [
        ">guest<",
        ">balloon<",
        "extra internal, 1 MiB",
        "overhead, 4 MiB",
        "static maximum, 64 MiB",
        "build maximum, 48 MiB",
        "build start, 24 MiB",
        "actual, 40 MiB",
        "xen maximum, 65 MiB",
        "footprint, 44 MiB",
    ] {
        assert!(svg.contains(words), "{words}: {svg}");
    }
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    // The book has this very picture.
    assert_eq!(svg, include_str!("../../../docs/vm-memory.svg"));
}

const HOST: &str = r#"
memory = "16GiB"
reserved = "1GiB"
generation = "c"

[[domain]]
name = "<web & more>"
kind = "hvm"
static-max = "4GiB"
target = "2GiB"
dynamic-min = "1GiB"
dynamic-max = "4GiB"
vcpus = 2
shadow-multiplier = 1.5

[[domain]]
static-max = "8GiB"
target = "4GiB"
dynamic-min = "4GiB"
dynamic-max = "8GiB"

[[domain]]
name = "stuck"
kind = "linux"
static-max = "3GiB"
uncooperative = true
"#;

fn host(directory: &Path, text: &str) -> String {
    let file = directory.join("host.toml");
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn balances_a_host() {
    let directory = tempfile::tempdir().unwrap();
    let file = host(directory.path(), HOST);
    let found = json(&file);
    let number = |value: &Value| value.as_i64().unwrap();
    let domains = found["domains"].as_array().unwrap();
    // By hand: overheads 51 + 1 + 1 + 1, 65 + 1 + 1 + 1, 25 + 1 + 1 MiB.
    let now: i64 = domains.iter().map(|domain| number(&domain["footprint_kib"])).sum();
    assert_eq!(now / 1024, 2048 + 54 + 4096 + 68 + 3072 + 27);
    assert_eq!(number(&found["free_kib"]), (16384 - 1024) * 1024 - now);
    // Surplus over minima, 15360 - 3099 - (1024 + 54) - (4096 + 68), of 3072 + 4096.
    let gamma = 7019.0 / 7168.0;
    assert!((found["gamma"].as_f64().unwrap() - gamma).abs() < 1e-5, "{found}");
    for (domain, minimum, range) in [(&domains[0], 1024, 3072.0), (&domains[1], 4096, 4096.0)] {
        let expected = minimum + (range * gamma) as i64;
        assert_eq!(number(&domain["balanced_target_kib"]), expected * 1024, "{found}");
    }
    assert_eq!(domains[1]["name"], "domain 2");
    assert_eq!(number(&domains[2]["balanced_target_kib"]), 3072 * 1024);
    let left = number(&found["balanced_free_kib"]);
    assert!((0..2 * 1024).contains(&left), "{found}");
    // The command line's policy goes before the file's, and libxl has no multiplier.
    let output = plan(&format!("{file} --policy libxl"));
    assert_eq!(output.status.code(), Some(66));
    let svg = directory.path().join("host.svg");
    let told = text(&format!("{file} --plot {}", svg.display()));
    for words in ["web & more", "domain 2", "left out", "gamma 0.979", "balanced"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    let svg = fs::read_to_string(svg).unwrap();
    assert!(svg.contains("&lt;web &amp; more&gt;") && svg.contains("stuck: 3072 MiB, left out"));
}

#[test]
fn tells_what_a_host_lacks() {
    let directory = tempfile::tempdir().unwrap();
    let small = HOST.replace("memory = \"16GiB\"", "memory = \"8GiB\"");
    let found = json(&host(directory.path(), &small));
    assert_eq!(found["gamma"], 0.0);
    // Minima and overheads: 1024 + 54 + 4096 + 68 + 3099 + 1024 reserved.
    assert_eq!(found["balanced_free_kib"], (8192 - 9365) * 1024);
    let told = text(&host(directory.path(), &small));
    assert!(told.contains("missing"), "{told}");
}

#[test]
fn refuses_what_cannot_be() {
    let directory = tempfile::tempdir().unwrap();
    let one = |status: i32, line: &str, words: &str| {
        let output = plan(line);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{line}: {said}");
        assert!(output.stdout.is_empty(), "{line}");
        assert!(said.starts_with("error: ") && said.contains(words), "{line}: {said}");
    };
    for (line, words) in [
        ("", "--static-max"),
        ("--static-max 1GB", "is not a size"),
        ("--static-max 1GiB --target 2GiB", "above the static maximum"),
        ("--static-max 16777215T", "physical addresses"),
        ("--kind hvm --static-max 4MiB", "too small"),
        ("--kind pv --static-max 1GiB --video 8MiB", "no video memory"),
        ("--kind hvm --static-max 1GiB --video 4MiB", "at least 8192 KiB"),
        ("--kind pv-in-pvh --static-max 1GiB", "libxl has no PV-in-PVH"),
        ("--generation a --kind pv-in-pvh --static-max 1GiB", "generation A has no"),
        ("--generation a --no-hap --static-max 1GiB", "libxl only"),
        ("--generation a --mem-set 1GiB --static-max 1GiB", "--mem-set is libxl's"),
        ("--shadow-multiplier 2 --static-max 1GiB", "xenops only"),
        ("--shadow-multiplier 2000 --static-max 1GiB --generation a", "0 to 1000"),
        ("--policy libxl --generation a --static-max 1GiB", "no generations"),
        ("--static-max 1GiB --vcpus 0", "virtual CPUs"),
        ("--static-max 1GiB --vcpus 8193", "virtual CPUs"),
        ("--static-max 1GiB --change colour=red", "colour"),
        ("--static-max 1GiB --change vcpus", "no change"),
        ("--static-max 1GiB --change target=2GiB", "above the static maximum"),
        ("--static-max 2GiB --target 1GiB --mem-set 3GiB", "above the static maximum"),
        ("--static-max 2GiB --mem-max 1GiB", "above the static maximum"),
    ] {
        one(64, line, words);
    }
    for (text, words) in [
        ("memory = 1", "host.toml, line 1: "),
        ("memory = \"1GiB\"", "no [[domain]]"),
        ("memory = \"1GiB\"\n[[domain]]\nname = \"x\"", "line 2: the static maximum is missing"),
        ("memory = \"1GiB\"\n[[domain]]\nstatic-max = \"1XiB\"", "line 3: `1XiB` is not a size"),
        ("memory = \"1GiB\"\n\n[[domain]]\ncolour = 1", "line 4: unknown field `colour`"),
        ("memory = \"1GiB\"\npolicy = \"mine\"\n[[domain]]\nstatic-max = \"1GiB\"", "mine"),
        (
            "memory = \"1GiB\"\n[[domain]]\nstatic-max = \"1GiB\"\ndynamic-max = \"1MiB\"",
            "line 2: the target has to lie between",
        ),
        (
            "memory = \"1GiB\"\n[[domain]]\nname = \"x\"\nstatic-max = \"1GiB\"\n\
             [[domain]]\nname = \"x\"\nstatic-max = \"1GiB\"",
            "two domains are called `x`",
        ),
        ("memory", "host.toml, line 1: "),
    ] {
        one(66, &host(directory.path(), text), words);
    }
    let missing = directory.path().join("none").join("x.svg");
    one(70, &format!("--static-max 1GiB --plot {}", missing.display()), "cannot write");
    one(64, &format!("{} --static-max 1GiB", host(directory.path(), HOST)), "cannot be used with");
}
