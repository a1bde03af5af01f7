//! What a benchmark program says on the serial port.
//!
//! A line for each thing that it measured, after the section of the trace that belongs to it
//! ([`super::session`]), if it was told to make sections:
//!
//! ```text
//! bench: ipc call=call words=4 space=other receive=closed rounds=200 ticks=27400 microseconds=28
//! bench: operation name=unmap rounds=200 ticks=52000 microseconds=52
//! ```
//!
//! `ticks` of the time-stamp counter and `microseconds` of the kernel's clock are those of all
//! `rounds` together, outside of the section. A round of IPC is there and back. A word that the
//! program cannot give is left out. `bench: skipped name=NAME why=WORD` stands for something that
//! could not be measured.

use std::collections::BTreeMap;

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// Messages there and back.
    Ipc {
        /// By which system call.
        call: Call,
        /// Untyped words of each message.
        words: u32,
        /// Whether both threads are in the same address space.
        same_space: bool,
        /// How the server receives.
        receive: Receive,
        /// Of all rounds.
        time: Time,
    },
    /// An operation of the kernel.
    Operation {
        /// Its name.
        name: String,
        /// Of all rounds.
        time: Time,
    },
    /// Something was not measured.
    Skipped {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
}

/// How long something took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// How often it was done; not 0.
    pub rounds: u64,
    /// Ticks of the time-stamp counter, all together.
    pub ticks: Option<u64>,
    /// Microseconds of the kernel's clock, all together.
    pub microseconds: Option<u64>,
}

/// The system call with which a client calls a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Ipc.
    Ipc,
    /// Lipc, for threads of one address space.
    Lipc,
}

/// How the server receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Receive {
    /// From the one client that it knows.
    Closed,
    /// From anybody.
    Open,
}

impl Receive {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
        }
    }
}

/// A line begins like one of a benchmark program and is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the benchmark program said something that is not understood ({why}): {line}")]
pub struct LineError {
    line: String,
    why: String,
}

/// Reads a line of the serial port. `None` if it is not a benchmark program's. The program's name may
/// stand in front: `NAME: bench: ...`.
///
/// # Errors
///
/// It begins as such a line and does not go on so.
pub fn parse(line: &str) -> Result<Option<Line>, LineError> {
    // The name first: the program itself may be called `bench`.
    let text = match line.split_once(": bench: ") {
        Some((name, text)) if !name.is_empty() && !name.contains([' ', '[']) => Some(text),
        _ => line.strip_prefix("bench: "),
    };
    let Some(text) = text else { return Ok(None) };
    read(text).map(Some).map_err(|why| LineError { line: line.to_owned(), why })
}

fn read(text: &str) -> Result<Line, String> {
    let mut words = text.split_whitespace();
    let kind = words.next().ok_or("nothing follows")?;
    let mut fields = Fields(BTreeMap::new());
    for word in words {
        let (name, value) = word.split_once('=').ok_or(format!("`{word}` is no field"))?;
        if fields.0.insert(name, value).is_some() {
            return Err(format!("`{name}` is there twice"));
        }
    }
    let line = match kind {
        "ipc" => Line::Ipc {
            call: fields.choice("call", &[("call", Call::Ipc), ("lipc", Call::Lipc)])?,
            words: fields.number("words")?.ok_or("no `words`")?,
            same_space: fields.choice("space", &[("same", true), ("other", false)])?,
            receive: fields
                .choice("receive", &[("closed", Receive::Closed), ("open", Receive::Open)])?,
            time: fields.time()?,
        },
        "operation" => Line::Operation { name: fields.text("name")?, time: fields.time()? },
        "skipped" => Line::Skipped { name: fields.text("name")?, why: fields.text("why")? },
        _ => return Err(format!("`{kind}` is no kind of line")),
    };
    match fields.0.first_key_value() {
        Some((name, _)) => Err(format!("`{name}` is no field of {kind}")),
        None => Ok(line),
    }
}

/// The fields of a line that were not read yet.
struct Fields<'line>(BTreeMap<&'line str, &'line str>);

impl Fields<'_> {
    fn text(&mut self, name: &str) -> Result<String, String> {
        self.0.remove(name).map(str::to_owned).ok_or(format!("no `{name}`"))
    }

    fn number<N: std::str::FromStr>(&mut self, name: &str) -> Result<Option<N>, String> {
        let Some(value) = self.0.remove(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| format!("`{value}` is no number"))
    }

    fn choice<V: Copy>(&mut self, name: &str, values: &[(&str, V)]) -> Result<V, String> {
        let text = self.text(name)?;
        let found = values.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or(format!("`{text}` is no value of {name}"))
    }

    fn time(&mut self) -> Result<Time, String> {
        let rounds = self.number("rounds")?.filter(|rounds| *rounds != 0).ok_or("no `rounds`")?;
        let (ticks, microseconds) = (self.number("ticks")?, self.number("microseconds")?);
        Ok(Time { rounds, ticks, microseconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_was_measured() {
        let line = "bench: ipc call=call words=4 space=other receive=closed rounds=200 \
                    ticks=27400 microseconds=28";
        let time = Time { rounds: 200, ticks: Some(27400), microseconds: Some(28) };
        let expected = Line::Ipc {
            call: Call::Ipc,
            words: 4,
            same_space: false,
            receive: Receive::Closed,
            time,
        };
        assert_eq!(parse(line), Ok(Some(expected)));
        let line = "bench: ipc call=lipc words=0 space=same receive=open rounds=1";
        let time = Time { rounds: 1, ticks: None, microseconds: None };
        let expected = Line::Ipc {
            call: Call::Lipc,
            words: 0,
            same_space: true,
            receive: Receive::Open,
            time,
        };
        assert_eq!(parse(line), Ok(Some(expected)));
        for name in ["mine", "bench"] {
            let line = format!("{name}: bench: operation rounds=3 name=unmap ticks=9");
            let time = Time { rounds: 3, ticks: Some(9), microseconds: None };
            assert_eq!(parse(&line), Ok(Some(Line::Operation { name: "unmap".to_owned(), time })));
        }
        let line = "bench: skipped name=interrupt why=none-free";
        let expected = Line::Skipped { name: "interrupt".to_owned(), why: "none-free".to_owned() };
        assert_eq!(parse(line), Ok(Some(expected)));
    }

    #[test]
    fn other_lines_are_nobodys() {
        for line in ["", "bench", "hello", "[info] bench: operation", "a b: bench: operation"] {
            assert_eq!(parse(line), Ok(None), "{line}");
        }
    }

    #[test]
    fn wrong_lines_are_told() {
        for (text, why) in [
            ("", "nothing follows"),
            ("row", "no kind of line"),
            ("operation name=x", "no `rounds`"),
            ("operation name=x rounds=0", "no `rounds`"),
            ("operation name=x rounds=many", "`many` is no number"),
            ("operation rounds=1", "no `name`"),
            ("operation name=x rounds=1 rounds=1", "there twice"),
            ("operation name=x rounds=1 colour=red", "`colour` is no field"),
            ("operation name", "`name` is no field"),
            ("ipc call=send words=4 space=other receive=closed rounds=1", "`send` is no value"),
            ("ipc call=call space=other receive=closed rounds=1", "no `words`"),
        ] {
            let error = parse(&format!("bench: {text}")).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
