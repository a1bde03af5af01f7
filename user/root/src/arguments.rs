//! The arguments of a module that are for root: which ports the program may use.

/// The ranges of ports that a command line allows: words `ports=FIRST-LAST`, with hexadecimal
/// numbers.
pub fn port_ranges(command_line: &str) -> impl Iterator<Item = (u16, u16)> {
    command_line.split(' ').filter_map(|word| {
        let (first, last) = word.strip_prefix("ports=")?.split_once('-')?;
        let number =
            |text: &str| u16::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok();
        let (first, last) = (number(first)?, number(last)?);
        (first <= last).then_some((first, last))
    })
}

/// Whether a command line allows all of `1 << bits` ports from `first` on.
#[must_use]
pub fn allows_ports(command_line: &str, first: u16, bits: u32) -> bool {
    let last = u32::from(first) + (1 << bits.min(16)) - 1;
    port_ranges(command_line).any(|(from, to)| from <= first && last <= u32::from(to))
}

/// The name that a command line begins with.
#[must_use]
pub fn name(command_line: &str) -> &str {
    match command_line.split(' ').next() {
        Some(name) if !name.is_empty() => name,
        _ => "program",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_allowed_by_range() {
        let line = "serial ports=0x3f8-3ff a=b ports=80-7f ports=zz-1 ports=0-ffff0";
        assert_eq!(port_ranges(line).collect::<Vec<_>>(), [(0x3f8, 0x3ff)]);
        assert!(allows_ports(line, 0x3f8, 3) && allows_ports(line, 0x3ff, 0));
        assert!(!allows_ports(line, 0x3f8, 4) && !allows_ports(line, 0x3f7, 0));
        assert!(!allows_ports("serial", 0x3f8, 0));
        assert!(
            allows_ports("all ports=0-ffff", 0, 16) && allows_ports("all ports=0-ffff", 0, 200)
        );
    }

    #[test]
    fn names_are_first_words() {
        assert_eq!(name("pingpong rounds=1"), "pingpong");
        assert_eq!((name(""), name(" x")), ("program", "program"));
    }
}
