//! The options on the kernel's command line.
//!
//! The command line is a sequence of words between spaces. A word is `key=value`, or `key` alone
//! for a switch. Words are read from left to right, and the last of a kind wins. A word that
//! makes no sense changes nothing and is reported: a typing error should not keep a machine from
//! booting.
//!
//! To add an option, add a field to [`Options`] and a line to `Options::apply`.

use core::fmt;

/// How much the kernel logs; each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// What keeps something from working.
    Error,
    /// What is probably not as intended.
    Warn,
    /// What happens at boot.
    Info,
    /// What happens rarely.
    Debug,
    /// What happens often.
    Trace,
}

impl LogLevel {
    /// The level's name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A way for the kernel to fail on request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// A panic.
    Panic,
    /// The stack overflows into its guard page: a double fault.
    Stack,
}

/// What the user asked the kernel for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `log=error|warn|info|debug|trace`: how much to log.
    pub log: LogLevel,
    /// `kernel-memory=SIZE`: bytes of memory for the kernel's own objects. `None`: the kernel
    /// chooses.
    pub kernel_memory: Option<u64>,
    /// `exit-port=PORT`: the I/O port of QEMU's `isa-debug-exit` device, with which the kernel
    /// ends the emulator. `None`: there is none.
    pub exit_port: Option<u16>,
    /// `unsafe-dma`: programs may use devices that can write to any memory.
    pub unsafe_dma: bool,
    /// `no-acpi`: the tables of ACPI are not to be believed; interrupts come by way of the 8259s.
    pub no_acpi: bool,
    /// `no-light-path`: every message takes the long way, so that a test can see that both mean the
    /// same.
    pub no_light_path: bool,
    /// `crash=panic|stack`: the kernel is to fail in this way at the end of its boot, so that a
    /// test can see what a failure looks like. `None`: it is not.
    pub crash: Option<Crash>,
}

/// Why a word of the command line was ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionError {
    /// There is no such option.
    Unknown,
    /// The option needs a value.
    MissingValue,
    /// The option is a switch and takes no value.
    UnexpectedValue,
    /// The value is not one of `error`, `warn`, `info`, `debug`, `trace`.
    NotALogLevel,
    /// The value is not a size: a number of bytes, or of KiB, MiB, GiB with suffix `K`, `M`, `G`.
    NotASize,
    /// The value is not the number of an I/O port, 0 to 65535 or 0x0 to 0xffff.
    NotAPort,
    /// The value is not one of `panic`, `stack`.
    NotACrash,
}

impl fmt::Display for OptionError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unknown => "there is no such option",
            Self::MissingValue => "it needs a value",
            Self::UnexpectedValue => "it takes no value",
            Self::NotALogLevel => "the level must be error, warn, info, debug or trace",
            Self::NotASize => "the size must be a number of bytes, or end with K, M or G",
            Self::NotAPort => "the port must be a number from 0 to 0xffff",
            Self::NotACrash => "the crash must be panic or stack",
        })
    }
}

impl core::error::Error for OptionError {}

/// A word of the command line that was ignored. `Display` is one line without a full stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IgnoredWord<'a> {
    /// The word.
    pub word: &'a str,
    /// Why.
    pub error: OptionError,
}

impl fmt::Display for IgnoredWord<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "command line: ignored {:?}: {}", self.word, self.error)
    }
}

impl Options {
    /// What holds without any option.
    pub const DEFAULT: Self = Self {
        log: LogLevel::Info,
        kernel_memory: None,
        exit_port: None,
        unsafe_dma: false,
        no_acpi: false,
        no_light_path: false,
        crash: None,
    };

    /// The options in `command_line`. `report` is called for each word that was ignored.
    pub fn parse<'a>(command_line: &'a str, mut report: impl FnMut(IgnoredWord<'a>)) -> Self {
        let mut options = Self::DEFAULT;
        for word in command_line.split_ascii_whitespace() {
            if let Err(error) = options.apply(word) {
                report(IgnoredWord { word, error });
            }
        }
        options
    }

    /// Does what one word says.
    fn apply(&mut self, word: &str) -> Result<(), OptionError> {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word, None),
        };
        let needed = || value.ok_or(OptionError::MissingValue);
        let switch = || match value {
            None => Ok(true),
            Some(_) => Err(OptionError::UnexpectedValue),
        };
        match key {
            "log" => self.log = log_level(needed()?)?,
            "kernel-memory" => self.kernel_memory = Some(size(needed()?)?),
            "exit-port" => self.exit_port = Some(port(needed()?)?),
            "unsafe-dma" => self.unsafe_dma = switch()?,
            "no-acpi" => self.no_acpi = switch()?,
            "no-light-path" => self.no_light_path = switch()?,
            "crash" => self.crash = Some(crash(needed()?)?),
            _ => return Err(OptionError::Unknown),
        }
        Ok(())
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::DEFAULT
    }
}

fn log_level(value: &str) -> Result<LogLevel, OptionError> {
    use LogLevel::{Debug, Error, Info, Trace, Warn};
    [Error, Warn, Info, Debug, Trace]
        .into_iter()
        .find(|level| level.name() == value)
        .ok_or(OptionError::NotALogLevel)
}

fn crash(value: &str) -> Result<Crash, OptionError> {
    match value {
        "panic" => Ok(Crash::Panic),
        "stack" => Ok(Crash::Stack),
        _ => Err(OptionError::NotACrash),
    }
}

/// A number of bytes: decimal or, after `0x`, hexadecimal digits, and perhaps a suffix.
fn size(value: &str) -> Result<u64, OptionError> {
    let (digits, shift) = match value.as_bytes().last() {
        Some(b'K' | b'k') => (value.strip_suffix(['K', 'k']), 10),
        Some(b'M' | b'm') => (value.strip_suffix(['M', 'm']), 20),
        Some(b'G' | b'g') => (value.strip_suffix(['G', 'g']), 30),
        _ => (Some(value), 0),
    };
    digits
        .and_then(number)
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or(OptionError::NotASize)
}

fn port(value: &str) -> Result<u16, OptionError> {
    number(value).and_then(|number| u16::try_from(number).ok()).ok_or(OptionError::NotAPort)
}

/// Decimal or, after `0x`, hexadecimal digits, and nothing else.
fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    // The library's parser would take a sign.
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use std::string::{String, ToString};
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn parse(command_line: &str) -> (Options, Vec<(&str, OptionError)>) {
        let mut ignored = Vec::new();
        let options = Options::parse(command_line, |word| ignored.push((word.word, word.error)));
        (options, ignored)
    }

    #[test]
    fn every_option_is_read() {
        let (options, ignored) = parse(
            "log=trace  kernel-memory=64M\texit-port=0xf4 unsafe-dma no-acpi no-light-path \
                 crash=stack",
        );
        assert_eq!(
            options,
            Options {
                log: LogLevel::Trace,
                kernel_memory: Some(64 << 20),
                exit_port: Some(0xf4),
                unsafe_dma: true,
                no_acpi: true,
                no_light_path: true,
                crash: Some(Crash::Stack),
            }
        );
        assert!(ignored.is_empty());
    }

    #[test]
    fn without_words_the_defaults_hold() {
        assert_eq!(parse(""), (Options::DEFAULT, std::vec![]));
        assert_eq!(parse("  \t "), (Options::DEFAULT, std::vec![]));
    }

    #[test]
    fn words_without_sense_are_ignored_and_reported() {
        use OptionError::*;
        let (options, ignored) = parse(
            "quiet log log= log=loud LOG=info kernel-memory=12T exit-port=0x10000 unsafe-dma=yes \
             crash=now =",
        );
        assert_eq!(options, Options::DEFAULT);
        assert_eq!(
            ignored,
            [
                ("quiet", Unknown),
                ("log", MissingValue),
                ("log=", NotALogLevel),
                ("log=loud", NotALogLevel),
                ("LOG=info", Unknown),
                ("kernel-memory=12T", NotASize),
                ("exit-port=0x10000", NotAPort),
                ("unsafe-dma=yes", UnexpectedValue),
                ("crash=now", NotACrash),
                ("=", Unknown),
            ]
        );
    }

    #[test]
    fn the_last_of_a_kind_wins() {
        assert_eq!(parse("log=error log=debug").0.log, LogLevel::Debug);
    }

    #[test]
    fn sizes_have_suffixes_and_do_not_overflow() {
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("0x10K"), Ok(16 << 10));
        assert_eq!(size("3g"), Ok(3 << 30));
        assert_eq!(size("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(size("17179869183G"), Ok(17_179_869_183 << 30));
        for bad in [
            "",
            "K",
            "0x",
            "-1",
            "+1",
            "0x+1",
            "1.5G",
            "1KB",
            "1é",
            "17179869184G",
            "18446744073709551616",
        ] {
            assert_eq!(size(bad), Err(OptionError::NotASize), "{bad}");
        }
    }

    #[test]
    fn ports_are_decimal_or_hexadecimal() {
        assert_eq!(port("244"), Ok(0xf4));
        assert_eq!(port("0xffff"), Ok(0xffff));
        assert_eq!(port("f4"), Err(OptionError::NotAPort));
    }

    #[test]
    fn an_ignored_word_is_told_in_one_line() {
        let word = IgnoredWord { word: "log=\u{7}", error: OptionError::NotALogLevel };
        assert_eq!(
            word.to_string(),
            "command line: ignored \"log=\\u{7}\": the level must be error, warn, info, debug or \
             trace"
        );
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(command_line in any::<String>()) {
            let _ = parse(&command_line);
        }

        #[test]
        fn arbitrary_values_never_panic(
            key in "log|kernel-memory|exit-port|unsafe-dma|no-acpi|no-light-path|crash",
            value in any::<String>(),
        ) {
            let _ = parse(&std::format!("{key}={value}"));
        }

        #[test]
        fn a_size_that_is_written_is_read(number: u32, suffix in 0usize..4) {
            let text = std::format!("{number}{}", ["", "K", "M", "G"][suffix]);
            prop_assert_eq!(size(&text), Ok(u64::from(number) << (10 * suffix)));
        }
    }
}
