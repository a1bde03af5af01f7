//! What a program asks of root (`docs/root-protocol.md`).

use heliox_abi::{GlobalId, ThreadId};

use crate::bare::thread::Home;
use crate::bare::{ipc, raw};
use crate::message::{Message, Received};
use crate::protocol::{Request, TEXT_BYTES, TextWords};

fn request(request: Request, words: &[u64]) -> Option<Received> {
    ipc::call(raw::page().root_id(), &Message::of(request as u64, words)).ok()
}

/// Writes text to root's console.
pub fn write(text: &[u8]) {
    for piece in text.chunks(TEXT_BYTES) {
        // Without root there is nobody to tell.
        let _ = request(Request::Write, TextWords::new(piece).words());
    }
}

/// Tells root that the program ends, with a status.
pub fn exit(status: u8) {
    let message = Message::of(Request::Exit as u64, &[u64::from(status)]);
    let _ = ipc::send(raw::page().root_id(), &message);
}

/// Reads the command line into `buffer`; how many bytes.
pub fn command_line(buffer: &mut [u8]) -> usize {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let Some(answer) = request(Request::CommandLine, &[done as u64]) else { break };
        match TextWords::read(answer.untyped(), rest) {
            0 => break,
            count => done += count,
        }
    }
    done
}

/// Makes a thread; the reason if root refuses.
pub(crate) fn create_thread(
    home: Home,
    instruction: u64,
    stack: u64,
    priority: u8,
) -> Result<GlobalId, u64> {
    let words = [home as u64, instruction, stack, u64::from(priority)];
    let answer = request(Request::CreateThread, &words).ok_or(0_u64)?;
    ThreadId(answer.word(1)).global().ok_or(answer.word(2))
}

/// Deletes a thread that was made by root for this program.
#[must_use]
pub fn delete_thread(thread: GlobalId) -> bool {
    request(Request::DeleteThread, &[thread.word()]).is_some_and(|answer| answer.word(1) == 1)
}
