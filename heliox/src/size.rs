//! Sizes of memory as people write them: `512M`, `1GiB`, `65536`.
//!
//! Hides the suffixes. Invariant: a [`Size`] is a number of bytes that was checked not to
//! overflow; nothing else in this crate multiplies by 1024.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
///
/// Parsed from digits with an optional suffix `K`, `M`, `G` or `T` (powers of 1024, either
/// case), which can be written out as `KiB` and so on; printed with the largest suffix that
/// divides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct Size(u64);

/// Why a text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not digits with at most one suffix.
    #[error("`{0}` is not a size: write a number of bytes, or a number with K, M, G or T")]
    Malformed(String),
    /// More than 2^64 - 1 bytes.
    #[error("`{0}` is more bytes than fit into 64 bits")]
    TooLarge(String),
}

const SUFFIXES: [(u64, char); 4] = [(1 << 40, 'T'), (1 << 30, 'G'), (1 << 20, 'M'), (1 << 10, 'K')];

impl Size {
    /// A size of `bytes` bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// A size of `count` MiB. Saturates at 2^64 - 1 bytes.
    #[must_use]
    pub const fn from_mib(count: u64) -> Self {
        Self(count.saturating_mul(1 << 20))
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let written_out = text.len().checked_sub(2).and_then(|start| text.split_at_checked(start));
        let text_of = |short: &str| short.ends_with(|last: char| last.is_ascii_alphabetic());
        let short = match written_out {
            Some((short, end)) if end.eq_ignore_ascii_case("ib") && text_of(short) => short,
            _ => text,
        };
        let suffix = short.chars().last().and_then(|last| {
            SUFFIXES.iter().find(|(_, letter)| letter.eq_ignore_ascii_case(&last))
        });
        let (digits, unit) = match suffix {
            Some((unit, _)) => (&short[..short.len() - 1], *unit),
            None => (text, 1),
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(SizeError::Malformed(text.to_owned()));
        }
        digits
            .parse::<u64>()
            .ok()
            .and_then(|count| count.checked_mul(unit))
            .map(Self)
            .ok_or_else(|| SizeError::TooLarge(text.to_owned()))
    }
}

impl TryFrom<String> for Size {
    type Error = SizeError;

    fn try_from(text: String) -> Result<Self, SizeError> {
        text.parse()
    }
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, letter) in SUFFIXES {
            if self.0 != 0 && self.0.is_multiple_of(unit) {
                return write!(formatter, "{}{letter}", self.0 / unit);
            }
        }
        write!(formatter, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [
            ("0", 0),
            ("65536", 65536),
            ("4k", 4096),
            ("16M", 16 << 20),
            ("512M", 512 << 20),
            ("1G", 1 << 30),
            ("64g", 64 << 30),
            ("2T", 2 << 40),
            ("4KiB", 4 << 10),
            ("512MiB", 512 << 20),
            ("4gib", 4 << 30),
            ("1TiB", 1 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(Size::from_bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_a_size() {
        for text in [
            "", "M", "-1", "+1", "1.5G", "512MB", "512 M", "0x10", "é", "１", "iB", "MiB", "5iB",
            "5XiB", "5MiBiB", "éiB",
        ] {
            assert_eq!(text.parse::<Size>(), Err(SizeError::Malformed(text.to_owned())));
        }
        for text in ["18446744073709551616", "16777216T", "99999999999999999999G"] {
            assert_eq!(text.parse::<Size>(), Err(SizeError::TooLarge(text.to_owned())));
        }
    }

    #[test]
    fn prints_what_it_reads() {
        for text in ["0", "1", "1000", "4K", "16M", "1G", "1536M", "3T"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
    }
}
