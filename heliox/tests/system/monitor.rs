//! What QEMU's monitor can see of, and do to, a running machine.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use heliox::boot::Boot;
use heliox::outcome::Outcome;
use tempfile::TempDir;

use super::examples::{example, require_light_tests};
use super::fixtures::{c_program, first_light};

/// A connection to QEMU's monitor.
struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects as soon as QEMU listens.
    fn connect(path: &Path) -> Self {
        let limit = Instant::now() + Duration::from_secs(120);
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < limit => thread::sleep(Duration::from_millis(10)),
                Err(error) => panic!("QEMU's monitor: {error}"),
            }
        };
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut monitor = Self { stream: BufReader::new(stream) };
        monitor.line();
        monitor.command(r#"{"execute":"qmp_capabilities"}"#);
        monitor
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(line),
        }
    }

    /// Gives a command and returns the answer; `None` if the machine has ended.
    fn command(&mut self, command: &str) -> Option<String> {
        self.stream.get_mut().write_all(command.as_bytes()).ok()?;
        loop {
            let line = self.line()?;
            if line.starts_with(r#"{"return""#) || line.starts_with(r#"{"error""#) {
                return Some(line);
            }
        }
    }
}

/// Boots, and lets `talk` talk to the monitor from when the serial port says `ready` on.
fn with_monitor<T>(boot: Boot, ready: &str, talk: impl FnOnce(Monitor) -> T) -> (Outcome, T) {
    let directory = TempDir::new().unwrap();
    let (socket, serial) = (directory.path().join("monitor"), directory.path().join("serial"));
    let argument = format!("unix:{},server=on,wait=off", socket.display());
    let boot = boot.serial(&serial).qemu_argument("-qmp").qemu_argument(argument);
    thread::scope(|scope| {
        let run = scope.spawn(move || boot.run().unwrap());
        let mut monitor = Monitor::connect(&socket);
        while !std::fs::read_to_string(&serial).is_ok_and(|text| text.contains(ready)) {
            let alive = monitor.command(r#"{"execute":"query-status"}"#).is_some();
            assert!(alive, "the machine ended before it said `{ready}`");
            thread::sleep(Duration::from_millis(5));
        }
        let said = talk(monitor);
        (run.join().unwrap(), said)
    })
}

/// Programs that make system calls, fault and spin for two seconds.
fn busy() -> String {
    "#include \"first_light.h\"\n\
     int program(void) {\n\
       print(\"ready\\n\");\n\
       u64 end = call1(CLOCK, 0) + 2000000;\n\
       while (call1(CLOCK, 0) < end) {\n\
         __asm__ volatile(\"lea 1f(%%rip), %%rdi; mov $6, %%eax; syscall; ud2; 1:\" ::\n\
           : \"rax\", \"rcx\", \"rdx\", \"rdi\", \"r11\", \"memory\");\n\
         call1(YIELD, 0);\n\
         for (volatile int i = 0; i < 200; i++) {}\n\
       }\n\
       return 0;\n\
     }\n"
    .to_owned()
}

#[test]
fn non_maskable_interrupts_at_any_moment_are_counted_and_do_no_harm() {
    let busy = c_program("busy", &busy());
    let boot = first_light().module(busy.path(), "").module(busy.path(), "twice");
    let (outcome, sent) = with_monitor(boot, "busy: ready", |mut monitor| {
        let mut sent = 0;
        while monitor.command(r#"{"execute":"inject-nmi"}"#).is_some() {
            sent += 1;
            thread::sleep(Duration::from_micros(500));
        }
        sent
    });
    outcome.require_status(0).require_line("interrupts that nobody had asked for");
    assert!(sent > 50, "only {sent} interrupts were sent");
}

#[test]
fn non_maskable_interrupts_during_light_calls_do_no_harm() {
    let (outcome, sent) = with_monitor(example("light-calls"), "light: ready", |mut monitor| {
        let mut sent = 0;
        while monitor.command(r#"{"execute":"inject-nmi"}"#).is_some() {
            sent += 1;
        }
        sent
    });
    require_light_tests(&outcome);
    outcome.require_line("interrupts that nobody had asked for");
    assert!(sent > 10, "only {sent} interrupts were sent");
}

/// A page that is mapped: its virtual and physical address and the letters of its attributes.
type Mapped = (u64, u64, String);

/// What `info tlb` says: a line for each page, `VIRTUAL: PHYSICAL ATTRIBUTES`.
fn mapped_pages(answer: &str) -> Vec<Mapped> {
    let hexadecimal = |text: &str| u64::from_str_radix(text.trim(), 16).ok();
    answer
        .split("\\r\\n")
        .filter_map(|line| {
            let line = line.rsplit('"').next()?;
            let (address, rest) = line.split_once(": ")?;
            let (frame, attributes) = rest.split_once(' ')?;
            Some((hexadecimal(address)?, hexadecimal(frame)?, attributes.to_owned()))
        })
        .collect()
}

/// Start and end of the range in the log line that begins with `start`.
fn logged_range(outcome: &Outcome, start: &str) -> std::ops::Range<u64> {
    let line =
        outcome.lines().find_map(|line| line.split_once(start).map(|(_, end)| end.to_owned()));
    let line = line.unwrap();
    let (from, to) = line.split(' ').next().unwrap().split_once("..").unwrap();
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or(0);
    number(from)..number(to)
}

#[test]
fn the_kernel_s_half_maps_nothing_that_it_does_not_need() {
    let busy = c_program("busy", &busy());
    let boot = first_light().module(busy.path(), "");
    let (outcome, pages) = with_monitor(boot, "busy: ready", |mut monitor| {
        let ask = r#"{"execute":"human-monitor-command","arguments":{"command-line":"info tlb"}}"#;
        let answer = monitor.command(ask);
        mapped_pages(&answer.expect("the machine ended too early"))
    });
    outcome.require_status(0);
    let environment = logged_range(&outcome, "the kernel lives in ");
    let image_start = 0x20_0000;
    let image = logged_range(&outcome, "[info]   0x200000").end;
    let image = image_start..image;
    let (local_apic, io_apic) = (0xfee0_0000, 0xfec0_0000);
    let window = 0xffff_8000_0000_0000..0xffff_a000_0000_0000_u64;
    // The window's other view shows the same entries; programs see what is open to them.
    let visible = window.end..0xffff_c000_0000_0000;

    let kernel: Vec<_> = pages.iter().filter(|(address, ..)| address >> 63 == 1).collect();
    let programs: Vec<_> = pages.iter().filter(|(address, ..)| address >> 63 == 0).collect();
    assert!(kernel.len() > 20 && !programs.is_empty());
    let mut open = 0;
    for (address, frame, attributes) in &kernel {
        assert!(!attributes.contains('U'), "{address:#x} is a program's: {attributes}");
        let writable = attributes.contains('W');
        assert!(!writable || attributes.contains('X'), "{address:#x} is writable code");
        if window.contains(address) {
            // Indexed by frame; the tables of the one program, and the root of the kernel.
            assert_eq!(address - window.start, *frame);
            open += 1;
            assert!(programs.iter().all(|(_, used, _)| used != frame), "{frame:#x} is a program's");
        } else if visible.contains(address) {
            assert_eq!(address - visible.start, *frame);
        } else {
            let known = environment.contains(frame)
                || image.contains(frame)
                || [local_apic, io_apic].contains(frame);
            assert!(known, "{address:#x} maps {frame:#x}, which the kernel does not need");
        }
    }
    // A root and three tables for the program, four pages in reserve at the most, and the
    // kernel's own root.
    assert!((5..=9).contains(&open), "{open} frames are open in the window");
    for (address, frame, attributes) in &programs {
        assert!(attributes.contains('U'), "{address:#x} is in the lower half");
        assert!(!environment.contains(frame) && !image.contains(frame));
        assert!(!attributes.contains('W') || attributes.contains('X'));
    }
}
