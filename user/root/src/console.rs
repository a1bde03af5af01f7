//! What programs print: whole lines, each with the program's name before it. Nothing but printable
//! ASCII gets through, so that no program can imitate another one or the kernel's log.

use alloc::vec::Vec;

/// Bytes of a line; longer ones are broken.
const LINE_BYTES: usize = 200;

/// A line of a program that has not ended.
#[derive(Clone, Debug, Default)]
pub struct Line(Vec<u8>);

impl Line {
    /// Adds what a program printed, and hands every line that is complete to `print`.
    pub fn add(&mut self, bytes: &[u8], mut print: impl FnMut(&str)) {
        for &byte in bytes {
            match byte {
                b'\n' => self.end(&mut print),
                b'\r' => {}
                _ => {
                    let shown = if (b' '..=b'~').contains(&byte) { byte } else { b'?' };
                    self.0.push(shown);
                    if self.0.len() == LINE_BYTES {
                        self.end(&mut print);
                    }
                }
            }
        }
    }

    /// Hands over what there is of a line, if anything.
    pub fn flush(&mut self, mut print: impl FnMut(&str)) {
        if !self.0.is_empty() {
            self.end(&mut print);
        }
    }

    fn end(&mut self, print: &mut impl FnMut(&str)) {
        print(core::str::from_utf8(&self.0).unwrap_or("?"));
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_and_harmless() {
        let mut lines = Vec::new();
        let mut line = Line::default();
        line.add(b"hel", |text| lines.push(text.to_owned()));
        line.add(b"lo\r\n\nx\x1b[1m\xff", |text| lines.push(text.to_owned()));
        line.flush(|text| lines.push(text.to_owned()));
        line.flush(|text| lines.push(text.to_owned()));
        assert_eq!(lines, ["hello", "", "x?[1m?"]);
        lines.clear();
        line.add(&[b'a'; 450], |text| lines.push(text.to_owned()));
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [200, 200]);
    }
}
