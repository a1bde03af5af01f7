//! Error codes: what the thread control register `ErrorCode` holds.

/// Which part of an IPC failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Sending.
    Send,
    /// Receiving.
    Receive,
}

/// Why an IPC failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum IpcErrorCode {
    /// The partner was not ready in time.
    Timeout = 1,
    /// There is no such partner.
    NoPartner = 2,
    /// Another thread cancelled it before the transfer.
    Cancelled = 3,
    /// The receiver had no room for the message.
    Overflow = 4,
    /// A page fault of the transfer was not served in time, on the invoker's side.
    TransferTimeoutOwn = 5,
    /// The same on the partner's side.
    TransferTimeoutPartner = 6,
    /// Another thread aborted the transfer.
    Aborted = 7,
}

/// Why and where an IPC failed, and how far it had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpcError {
    /// Which part of it.
    pub phase: Phase,
    /// Why.
    pub code: IpcErrorCode,
    /// Bytes of strings that had been transferred, for codes 4 to 7.
    pub offset: u64,
}

impl IpcError {
    /// An error without an offset.
    pub const fn new(phase: Phase, code: IpcErrorCode) -> Self {
        Self { phase, code, offset: 0 }
    }

    /// The word: bit 0 the phase, bits 1 to 3 the code, above the offset.
    pub const fn word(self) -> u64 {
        let phase = matches!(self.phase, Phase::Receive) as u64;
        self.offset << 4 | (self.code as u64) << 1 | phase
    }

    /// What a word says, if its code is one.
    pub const fn from_word(word: u64) -> Option<Self> {
        let code = match word >> 1 & 7 {
            1 => IpcErrorCode::Timeout,
            2 => IpcErrorCode::NoPartner,
            3 => IpcErrorCode::Cancelled,
            4 => IpcErrorCode::Overflow,
            5 => IpcErrorCode::TransferTimeoutOwn,
            6 => IpcErrorCode::TransferTimeoutPartner,
            7 => IpcErrorCode::Aborted,
            _ => return None,
        };
        let phase = if word & 1 != 0 { Phase::Receive } else { Phase::Send };
        Some(Self { phase, code, offset: word >> 4 })
    }
}

/// Why a system call other than IPC failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum CallError {
    /// The caller's space is not privileged.
    NoPrivilege = 1,
    /// The thread does not exist, or may not be named here.
    InvalidThread = 2,
    /// The space specifier names no space.
    InvalidSpace = 3,
    /// The scheduler is no thread that can schedule.
    InvalidScheduler = 4,
    /// Another argument is wrong.
    InvalidParameter = 5,
    /// The UTCB area or the place in it is wrong.
    UtcbArea = 6,
    /// The area of the kernel interface page is wrong.
    KipArea = 7,
    /// The kernel has no memory left.
    NoMemory = 8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back() {
        for phase in [Phase::Send, Phase::Receive] {
            for (code, number) in [
                (IpcErrorCode::Timeout, 1),
                (IpcErrorCode::NoPartner, 2),
                (IpcErrorCode::Cancelled, 3),
                (IpcErrorCode::Overflow, 4),
                (IpcErrorCode::TransferTimeoutOwn, 5),
                (IpcErrorCode::TransferTimeoutPartner, 6),
                (IpcErrorCode::Aborted, 7),
            ] {
                let error = IpcError { phase, code, offset: 0x123 };
                let bit = u64::from(phase == Phase::Receive);
                assert_eq!(error.word(), 0x1230 | number << 1 | bit);
                assert_eq!(IpcError::from_word(error.word()), Some(error));
            }
        }
        assert_eq!(IpcError::from_word(1), None);
    }
}
