//! QEMU's debug stub: breakpoints, memory, and commands of QEMU's monitor, while the machine stands
//! still.
//!
//! Hides the remote protocol of GDB over a Unix socket. A program that runs into a breakpoint has
//! executed nothing of the instruction there.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// How long to wait before looking again.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long the stub may take to answer while the machine stands still.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Bytes to ask for at a time: an answer has two characters for each and must fit into a packet.
const CHUNK: u64 = 1024;
/// What stops a machine that runs.
const INTERRUPT: u8 = 3;

/// What went wrong between tool and stub.
#[derive(Debug, thiserror::Error)]
pub enum DebuggerError {
    /// The connection broke.
    #[error("the connection to QEMU's debug stub failed: {0}")]
    Connection(#[from] io::Error),
    /// The stub did not do as told.
    #[error("QEMU's debug stub answered `{answer}` to `{request}`")]
    Refused {
        /// What it was told.
        request: String,
        /// What it said.
        answer: String,
    },
}

/// Why a machine that was let run stands still again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It ran into a breakpoint.
    Breakpoint,
    /// It has ended.
    Ended,
}

/// A connection to the stub of a machine that stands still.
pub struct Debugger {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Debugger {
    /// Connects as soon as QEMU listens at `socket`. `None` if `gone` says that it never will.
    ///
    /// # Errors
    ///
    /// The connection broke.
    pub fn connect(socket: &Path, gone: impl Fn() -> bool) -> Result<Option<Self>, DebuggerError> {
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::NotFound | ErrorKind::ConnectionRefused
                    ) =>
                {
                    if gone() {
                        return Ok(None);
                    }
                    thread::sleep(POLL_INTERVAL);
                }
                Err(error) => return Err(error.into()),
            }
        };
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(Some(Self { stream, received: Vec::new() }))
    }

    /// Sets a breakpoint at a virtual address, in every address space.
    ///
    /// # Errors
    ///
    /// The stub refuses.
    pub fn set_breakpoint(&mut self, address: u64) -> Result<(), DebuggerError> {
        self.order(&format!("Z1,{address:x},1"))
    }

    /// Removes it.
    ///
    /// # Errors
    ///
    /// The stub refuses.
    pub fn remove_breakpoint(&mut self, address: u64) -> Result<(), DebuggerError> {
        self.order(&format!("z1,{address:x},1"))
    }

    /// Gives a command to QEMU's monitor; what it prints.
    ///
    /// # Errors
    ///
    /// The stub refuses.
    pub fn monitor(&mut self, command: &str) -> Result<String, DebuggerError> {
        let request = format!("qRcmd,{}", hexadecimal(command.as_bytes()));
        self.send(&request)?;
        let mut printed = Vec::new();
        loop {
            let answer = self.receive()?;
            match answer.strip_prefix('O') {
                _ if answer == "OK" => break,
                Some(text) => printed.extend(bytes(text).ok_or_else(|| refused(command, &answer))?),
                None => return Err(refused(command, &answer)),
            }
        }
        Ok(String::from_utf8_lossy(&printed).into_owned())
    }

    /// Memory from a virtual address on, in the address space that is loaded: `length` bytes, or
    /// fewer if not all of them can be read.
    ///
    /// # Errors
    ///
    /// The connection broke.
    pub fn memory(&mut self, address: u64, length: u64) -> Result<Vec<u8>, DebuggerError> {
        let mut memory = Vec::new();
        let mut at = 0;
        while at < length {
            let part = CHUNK.min(length - at);
            self.send(&format!("m{:x},{part:x}", address.wrapping_add(at)))?;
            let answer = self.receive()?;
            match bytes(&answer) {
                Some(bytes) if !answer.starts_with('E') => memory.extend(bytes),
                _ => break,
            }
            at += part;
        }
        Ok(memory)
    }

    /// Lets the machine run until it runs into a breakpoint or ends. Asks `watch` now and then
    /// whether it may go on; an error of its ends the wait, and leaves the machine running.
    ///
    /// # Errors
    ///
    /// The connection broke, or `watch` said so.
    pub fn go_on<E: From<DebuggerError>>(
        &mut self,
        mut watch: impl FnMut() -> Result<(), E>,
    ) -> Result<Stop, E> {
        let failed = |error: io::Error| E::from(DebuggerError::Connection(error));
        self.send("c")?;
        self.stream.set_read_timeout(Some(POLL_INTERVAL)).map_err(failed)?;
        let answer = loop {
            match self.receive() {
                Ok(answer) => break answer,
                Err(DebuggerError::Connection(error)) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => watch()?,
                    ErrorKind::UnexpectedEof
                    | ErrorKind::ConnectionReset
                    | ErrorKind::BrokenPipe => break "W00".to_owned(),
                    _ => return Err(failed(error)),
                },
                Err(error) => return Err(error.into()),
            }
        };
        self.stream.set_read_timeout(Some(ANSWER_LIMIT)).map_err(failed)?;
        match answer.as_bytes() {
            [b'T' | b'S', b'0', b'5', ..] => Ok(Stop::Breakpoint),
            [b'W' | b'X', ..] => Ok(Stop::Ended),
            _ => Err(refused("c", &answer).into()),
        }
    }

    /// Ends the machine, whether it runs or stands still.
    pub fn kill(mut self) {
        // One byte stops it if it runs. If the connection is gone, so is the machine.
        let _ = self.stream.write_all(&[INTERRUPT]);
        let _ = self.send("k");
        while self.receive().is_ok() {}
    }

    fn order(&mut self, request: &str) -> Result<(), DebuggerError> {
        self.send(request)?;
        let answer = self.receive()?;
        if answer == "OK" { Ok(()) } else { Err(refused(request, &answer)) }
    }

    fn send(&mut self, request: &str) -> Result<(), DebuggerError> {
        Ok(self.stream.write_all(packet(request).as_bytes())?)
    }

    /// The next packet.
    fn receive(&mut self) -> Result<String, DebuggerError> {
        loop {
            if let Some((text, length)) = next_packet(&self.received) {
                self.received.drain(..length);
                self.stream.write_all(b"+")?;
                return Ok(text);
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer)? {
                0 => return Err(io::Error::from(ErrorKind::UnexpectedEof).into()),
                length => self.received.extend(&buffer[..length]),
            }
        }
    }
}

fn refused(request: &str, answer: &str) -> DebuggerError {
    DebuggerError::Refused { request: request.to_owned(), answer: answer.to_owned() }
}

fn packet(text: &str) -> String {
    let sum = text.bytes().fold(0_u8, u8::wrapping_add);
    format!("${text}#{sum:02x}")
}

/// The first packet in `received` that is complete, and the number of bytes up to its end.
fn next_packet(received: &[u8]) -> Option<(String, usize)> {
    let start = received.iter().position(|byte| *byte == b'$')? + 1;
    let end = start + received.get(start..)?.iter().position(|byte| *byte == b'#')?;
    let text = received.get(start..end)?;
    received.get(end + 2)?;
    Some((String::from_utf8_lossy(text).into_owned(), end + 3))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hexadecimal: &str) -> Option<Vec<u8>> {
    let digits = hexadecimal.as_bytes();
    let pairs = digits.chunks(2).map(|pair| {
        let text = std::str::from_utf8(pair).ok().filter(|text| text.len() == 2)?;
        u8::from_str_radix(text, 16).ok()
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn packets_are_framed() {
        assert_eq!(packet("OK"), "$OK#9a");
        assert_eq!(next_packet(b"+$OK#9a$T05#b9"), Some(("OK".to_owned(), 7)));
        assert_eq!(next_packet(b"+$OK#9"), None);
        assert_eq!(next_packet(b"+++"), None);
        assert_eq!(bytes("0fa0"), Some(vec![0x0f, 0xa0]));
        assert_eq!(bytes("E14"), None);
        assert_eq!(hexadecimal(b"log"), "6c6f67");
    }

    /// A stub that expects each request of a list and sends the answer beside it.
    fn with_stub(
        answers: &'static [(&'static str, &'static str)],
        talk: impl FnOnce(&mut Debugger),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stub");
        let listener = UnixListener::bind(&path).unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut received = Vec::new();
                for (request, answer) in answers {
                    let text = loop {
                        if let Some((text, length)) = next_packet(&received) {
                            received.drain(..length);
                            break text;
                        }
                        let mut buffer = [0; 64];
                        let length = stream.read(&mut buffer).unwrap();
                        received.extend(&buffer[..length]);
                    };
                    assert_eq!(text, *request);
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            });
            talk(&mut Debugger::connect(&path, || false).unwrap().unwrap());
        });
    }

    #[test]
    fn requests_are_as_the_stub_wants_them() {
        let answers = &[
            ("Z1,401170,1", "+$OK#9a"),
            ("z1,401170,1", "+$E22#a9"),
            ("qRcmd,6c6f67", "+$O6f6b0a#55$OK#9a"),
            ("m1000,10", "+$0fa0#00"),
            ("m2000,10", "+$E14#aa"),
            ("c", "+$T05thread:01;#07"),
            ("c", "+"),
        ];
        with_stub(answers, |debugger| {
            let nothing = || Ok::<_, DebuggerError>(());
            debugger.set_breakpoint(0x40_1170).unwrap();
            let error = debugger.remove_breakpoint(0x40_1170).unwrap_err();
            assert!(error.to_string().contains("`E22`"), "{error}");
            assert_eq!(debugger.monitor("log").unwrap(), "ok\n");
            assert_eq!(debugger.memory(0x1000, 16).unwrap(), [0x0f, 0xa0]);
            assert!(debugger.memory(0x2000, 16).unwrap().is_empty());
            assert_eq!(debugger.go_on(nothing).unwrap(), Stop::Breakpoint);
            // The stub goes away, as QEMU does when the machine ends.
            assert_eq!(debugger.go_on(nothing).unwrap(), Stop::Ended);
        });
    }

    #[test]
    fn a_machine_that_never_was_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let nowhere = directory.path().join("stub");
        assert!(Debugger::connect(&nowhere, || true).unwrap().is_none());
    }
}
