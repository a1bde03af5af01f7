//! Random system calls from several threads, on the simulated machine.
//!
//! Every thread is played by the same program, which knows what threads, pages and ports there are and
//! mostly asks for what can succeed, and often for what cannot. After every few thousand calls everything is
//! recounted ([`Kernel::audit`]). At the end all threads but sigma0 and root are deleted, and every page and
//! mapping must be back.

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use common::{Size, TestKernel, kernel};
use heliox_abi::utcb::{self, ControlWord};
use heliox_abi::{
    Acceptor, Flexpage, GlobalId, IpcError, KernelLabel, MapItem, StringItem, Tag, ThreadId, Time,
    Timeouts, UnmapControl,
};
use heliox_hal::cpu::CpuIndex;
use heliox_hal::execution::Registers;
use heliox_hal::geometry::FourLevel;
use heliox_hal::simulated::{SimulatedContext, UserCpu};
use heliox_l4_kernel::{Fault, ThreadView};
use heliox_types::{Interrupt, Register, VirtualAddress};

/// Calls of the default run; `HELIOX_CALLS` asks for another number.
const CALLS: u64 = 10_000_000;
/// Calls between two audits.
const AUDIT_EVERY: u64 = 5_000;

/// Where the first message registers are.
const REGISTERS: [Register; 8] = [
    Register::R9,
    Register::Rax,
    Register::Rbx,
    Register::R10,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// Stubs, as offsets behind their SYSCALL instructions.
const IPC: u64 = 0;
const EXCHANGE_REGISTERS: u64 = 1;
const THREAD_CONTROL: u64 = 2;
const SYSTEM_CLOCK: u64 = 3;
const THREAD_SWITCH: u64 = 4;
const SCHEDULE: u64 = 5;
const UNMAP: u64 = 6;
const SPACE_CONTROL: u64 = 7;
const PROCESSOR_CONTROL: u64 = 8;
const MEMORY_CONTROL: u64 = 9;

const STUB_SIZE: u64 = 128;

/// The thread numbers that are used.
const NUMBERS: std::ops::Range<u32> = 51..90;

/// A small generator of numbers that look random (splitmix64).
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    fn one_in(&mut self, chance: u64) -> bool {
        self.below(chance) == 0
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        if items.is_empty() { None } else { Some(items[self.below(items.len() as u64) as usize]) }
    }
}

/// What the programs know, and what came of their calls.
#[derive(Debug)]
struct World {
    random: Random,
    stubs: u64,
    threads: Vec<ThreadView>,
    /// What each context (by name) called last, and from whom alone it receives.
    pending: BTreeMap<u64, (u64, ThreadId)>,
    results: BTreeMap<(&'static str, String), u64>,
    calls: u64,
    /// Spaces may have redirectors, which change who answers.
    redirects: bool,
    /// All is to be given back: how many calls for that were made.
    ending: Option<u32>,
    /// Many wait without end.
    patient: bool,
    /// One ordinary message is to be sent, and then whoever runs is to be stopped.
    single: Option<Single>,
}

/// What is to happen next while one message is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Single {
    Send,
    Stop,
}

/// Addresses that programs use for memory: small pages, and large ones.
const PAGES: u64 = 0x40_0000;
const LARGE: u64 = 0x4000_0000;

impl World {
    fn note(&mut self, call: &'static str, result: impl Into<String>) {
        *self.results.entry((call, result.into())).or_insert(0) += 1;
    }

    fn address(&mut self) -> u64 {
        match self.random.below(8) {
            0..=4 => PAGES + (self.random.below(32) << 12),
            5 => LARGE + (self.random.below(2) << 21) + (self.random.below(4) << 12),
            6 => LARGE + (self.random.below(3) << 21),
            _ => self.random.below(4096) << 12,
        }
    }

    fn page(&mut self) -> Flexpage {
        let rights = match self.random.below(8) {
            0 => self.random.below(8),
            1 => Flexpage::READ,
            2 => Flexpage::READ | Flexpage::WRITE,
            _ => Flexpage::ALL,
        };
        match self.random.below(40) {
            0 => Flexpage(self.random.next()),
            1 => Flexpage::NIL,
            2 if self.random.one_in(20) => Flexpage::COMPLETE.with_rights(rights),
            3..=5 => {
                let bits = self.random.below(10) as u32;
                Flexpage::ports(self.random.below(1 << 12) as u16, bits, rights)
            }
            6 => Flexpage::memory(self.address(), self.random.below(40) as u32, rights),
            7..=10 => Flexpage::memory(LARGE + (self.random.below(3) << 21), 21, rights),
            11..=12 => Flexpage::memory(PAGES, 14 + self.random.below(5) as u32, rights),
            _ => Flexpage::memory(self.address(), 12, rights),
        }
    }

    fn thread(&mut self, space: u32) -> ThreadId {
        match self.random.below(30) {
            0 => ThreadId(self.random.next()),
            1 => ThreadId::ANY,
            2 => ThreadId::ANY_LOCAL,
            3 => ThreadId(self.random.below(100) << 32 | 1),
            4 => ThreadId(0xbf00_0000 + (self.random.below(20) << 9)),
            5..=7 => {
                let threads: Vec<_> =
                    self.threads.iter().filter(|thread| thread.space == space).collect();
                let local = self.random.pick(&threads).map_or(0, |thread| thread.local);
                ThreadId(local)
            }
            _ => {
                let threads = &self.threads;
                let index = self.random.0 as usize;
                self.random.next();
                ThreadId(threads.get(index % threads.len().max(1)).map_or(0, |thread| thread.id))
            }
        }
    }

    fn timeout(&mut self) -> Time {
        match self.random.below(12) {
            0..=4 => Time::ZERO,
            5 => Time::NEVER,
            6 => Time(self.random.next() as u16),
            _ => Time::from_period(self.random.below(60)),
        }
    }
}

fn is_server(id: u64) -> bool {
    matches!(id >> 32, 48 | 50)
}

type Step = Result<(), Interrupt>;

fn at(address: u64) -> VirtualAddress {
    VirtualAddress::new(address).unwrap_or(VirtualAddress::ZERO)
}

/// A program in the middle of a step.
struct Actor<'a, 'm> {
    world: &'a mut World,
    cpu: &'a mut UserCpu<'m, FourLevel>,
    context: &'a mut SimulatedContext,
    /// Address of its first message register.
    utcb: u64,
    me: ThreadView,
}

impl Actor<'_, '_> {
    /// Sigma0 and root go on for ever: they never wait without an end, and touch no memory that another
    /// would have to give them.
    fn is_server(&self) -> bool {
        is_server(self.me.id)
    }

    /// A thread that may be halted, aborted, changed and deleted.
    fn victim(&mut self) -> ThreadId {
        let thread = self.world.thread(self.me.space);
        let is_local = self
            .world
            .threads
            .iter()
            .any(|server| is_server(server.id) && server.local == thread.0);
        if is_server(thread.0) || is_local { ThreadId(0x40_0000_0001) } else { thread }
    }

    fn set(&mut self, register: Register, value: u64) {
        self.context.set_register(register, value);
    }

    fn word(&mut self, index: i64) -> Result<u64, Interrupt> {
        self.cpu.load(at(self.utcb.wrapping_add_signed(index * 8)))
    }

    fn set_word(&mut self, index: i64, value: u64) -> Step {
        self.cpu.store(at(self.utcb.wrapping_add_signed(index * 8)), value)
    }

    fn set_control(&mut self, word: ControlWord, value: u64) -> Step {
        self.set_word(i64::from(word as i8), value)
    }

    /// Sets a message register, in a processor's register or in memory.
    fn message(&mut self, index: usize, value: u64) -> Step {
        match REGISTERS.get(index) {
            Some(&register) => {
                self.set(register, value);
                Ok(())
            }
            None => self.set_word(index as i64, value),
        }
    }

    fn call(&mut self, stub: u64) -> Step {
        let offset = if stub == MEMORY_CONTROL { 39 } else { 2 };
        self.context.jump(self.world.stubs + stub * STUB_SIZE + offset);
        let from = ThreadId(self.context.register(Register::Rdx));
        self.world.pending.insert(self.context.name(), (stub, from));
        self.world.calls += 1;
        Err(Interrupt::SystemCall)
    }

    /// Who received from one thread alone, and from nobody who speaks for others, got the message of that
    /// thread.
    fn check_sender(&self, wanted: ThreadId, tag: Tag) {
        let from = ThreadId(self.context.register(Register::Rsi));
        let is_plain = !tag.has(Tag::PROPAGATED) && !tag.has(Tag::REDIRECTED);
        let redirected = self.world.redirects;
        if wanted.global().is_none() || !is_plain || redirected || wanted.0 >> 32 < 48 {
            return;
        }
        let same = self.world.threads.iter().find(|thread| thread.id == wanted.0);
        let local = same.map_or(0, |thread| thread.local);
        assert!(
            from == wanted || from.0 == local || same.is_none() || from.is_local(),
            "asked for {wanted:?}, got {from:?}"
        );
    }

    /// Clears what is unspecified after an IPC, so that nothing depends on it.
    fn forget_lost_registers(&mut self) {
        let tag = Tag(self.context.register(Register::R9));
        let words = tag.untyped() + tag.typed();
        for register in REGISTERS.into_iter().skip(words + 1) {
            self.set(register, 0);
        }
        let lost = [Register::Rbp, Register::Rdx, Register::R8, Register::Rcx, Register::R11];
        for register in lost {
            self.set(register, 0);
        }
    }

    /// Notes how the last call ended.
    fn look_back(&mut self) -> Step {
        let pending = self.world.pending.remove(&self.context.name());
        let Some((stub, wanted)) = pending else { return Ok(()) };
        let code = self.word(i64::from(ControlWord::ErrorCode as i8))?;
        let rax = self.context.register(Register::Rax);
        let simple = |ok: bool| if ok { "ok".to_string() } else { format!("error {code}") };
        let (name, result) = match stub {
            IPC => {
                self.forget_lost_registers();
                let tag = Tag(self.context.register(Register::R9));
                let result = match IpcError::from_word(code) {
                    Some(error) if tag.has(Tag::ERROR) => {
                        format!("{:?} {:?}", error.phase, error.code)
                    }
                    _ => {
                        self.check_sender(wanted, tag);
                        "ok".to_string()
                    }
                };
                ("Ipc", result)
            }
            EXCHANGE_REGISTERS => ("ExchangeRegisters", simple(rax != 0)),
            THREAD_CONTROL => ("ThreadControl", simple(rax != 0)),
            SPACE_CONTROL => ("SpaceControl", simple(rax != 0)),
            SCHEDULE if rax != 0 => ("Schedule", format!("state {rax}")),
            SCHEDULE => ("Schedule", simple(false)),
            PROCESSOR_CONTROL => ("ProcessorControl", simple(rax != 0)),
            MEMORY_CONTROL => ("MemoryControl", simple(rax != 0)),
            UNMAP => ("Unmap", simple(true)),
            THREAD_SWITCH => ("ThreadSwitch", simple(true)),
            _ => ("SystemClock", simple(true)),
        };
        self.world.note(name, result);
        Ok(())
    }

    // --- Calls ---

    fn ipc(&mut self) -> Step {
        let from = ThreadId(self.context.register(Register::Rsi));
        let got = Tag(self.context.register(Register::R9));
        let address = self.context.register(Register::Rax);
        let is_root = self.is_server();
        let replies = from.global().is_some() && self.world.random.below(4) > 0;
        let space = self.me.space;
        let to = match self.world.random.below(10) {
            _ if replies => from,
            0..=1 => ThreadId::NIL,
            _ => self.world.thread(space),
        };
        let receive = match self.world.random.below(10) {
            0..=1 => ThreadId::NIL,
            2 => ThreadId::ANY_LOCAL,
            3..=5 => to,
            6 => self.world.thread(space),
            _ => ThreadId::ANY,
        };
        let mut timeouts = Timeouts::new(self.world.timeout(), self.world.timeout());
        if is_root {
            // Servers do not wait for long.
            let [send, receive] = [60, 60].map(|most| self.world.random.below(most));
            timeouts = Timeouts::new(Time::from_period(send), Time::from_period(receive));
        }
        if self.world.patient && !is_root && self.world.random.one_in(2) {
            timeouts = Timeouts::new(timeouts.send(), Time::NEVER);
        }
        if self.world.random.one_in(3) {
            self.set_word(-16, Acceptor::NONE.0)?;
        } else {
            let window = match self.world.random.below(4) {
                0 => self.world.page(),
                _ => Flexpage::COMPLETE,
            };
            let strings = !is_root && self.world.random.one_in(2);
            self.set_word(-16, Acceptor::new(window, strings).0)?;
            if strings {
                self.buffers()?;
            }
        }
        if self.world.random.one_in(8) {
            let period = self.world.timeout();
            let word = Timeouts::new(period, self.world.timeout());
            self.set_control(ControlWord::TransferTimeouts, word.0)?;
        }
        let is_fault = got.label() >> 4 == KernelLabel::PageFault.label(0) >> 4;
        if replies && is_fault && self.world.random.below(5) > 0 {
            let page = match self.world.random.below(4) {
                0 => self.world.page(),
                _ => Flexpage::memory(self.world.address(), 12, Flexpage::ALL),
            };
            let item = MapItem::map(page, address & !0xfff);
            self.message(0, Tag::new(0, 0, 2).0)?;
            self.message(1, item.header)?;
            self.message(2, item.page.0)?;
        } else if to != ThreadId::NIL {
            self.write_message(to)?;
        }
        self.set(Register::Rsi, to.0);
        self.set(Register::Rdx, receive.0);
        self.set(Register::R8, timeouts.0);
        self.call(IPC)
    }

    fn buffers(&mut self) -> Step {
        let count = 1 + self.world.random.below(3);
        let mut at = 17;
        for number in 0..count {
            let length = self.world.random.below(6000);
            let address = self.world.address() + self.world.random.below(4096);
            let item = StringItem::simple(length).with_continuation(number + 1 < count);
            self.set_word(-at, item.0)?;
            self.set_word(-at - 1, address)?;
            at += 2;
        }
        Ok(())
    }

    fn write_message(&mut self, to: ThreadId) -> Step {
        let is_new = self
            .world
            .threads
            .iter()
            .any(|thread| thread.id == to.0 && thread.state == "receiving");
        if is_new && self.world.random.one_in(2) {
            // What starts a thread.
            self.message(0, Tag::new(0, 2, 0).0)?;
            self.message(1, 0x1000)?;
            return self.message(2, 0x2000);
        }
        let untyped = match self.world.random.below(6) {
            0 => self.world.random.below(64) as usize,
            1 => 19 + self.world.random.below(2) as usize,
            _ => self.world.random.below(8) as usize,
        };
        let mut words = Vec::new();
        if self.world.random.one_in(3) {
            for _ in 0..1 + self.world.random.below(3) {
                match self.world.random.below(6) {
                    0..=3 => {
                        let page = self.world.page();
                        let base = match self.world.random.below(3) {
                            0 => self.world.random.next(),
                            _ => self.world.address(),
                        };
                        let item = match self.world.random.one_in(4) {
                            true => MapItem::grant(page, base),
                            false => MapItem::map(page, base),
                        };
                        words.extend([item.header, item.page.0]);
                    }
                    4 if self.is_server() => {}
                    4 => {
                        let pieces = 1 + self.world.random.below(3) as usize;
                        let length = self.world.random.below(5000);
                        words.push(StringItem::pieces_of(length, pieces, false).0);
                        for _ in 0..pieces {
                            words.push(self.world.address() + self.world.random.below(4096));
                        }
                    }
                    _ if self.is_server() => {}
                    _ => words.push(self.world.random.next()),
                }
            }
        }
        let typed = match self.world.random.below(20) {
            0 => self.world.random.below(64) as usize,
            _ => words.len(),
        };
        let mut tag = Tag::new(self.world.random.next() >> 16, untyped, typed);
        if self.world.random.one_in(6) {
            tag = tag.with(Tag::PROPAGATED);
            let speaks_for = self.world.thread(self.me.space);
            self.set_control(ControlWord::VirtualSender, speaks_for.0)?;
        }
        if self.world.random.one_in(20) && !self.is_server() {
            tag = Tag(self.world.random.next());
        }
        self.message(0, tag.0)?;
        for index in 1..=untyped.min(63) {
            let value = self.world.random.next();
            self.message(index, value)?;
        }
        for (index, word) in (untyped + 1..utcb::MESSAGE_REGISTERS).zip(words) {
            self.message(index, word)?;
        }
        Ok(())
    }

    fn exchange_registers(&mut self) -> Step {
        let target = self.victim();
        let control = match self.world.random.below(8) {
            0 => self.world.random.next(),
            1 => 0x11e,
            2 => 0x101,
            3 => 0x100,
            4 => 2,
            5 => 4,
            6 => 0x10,
            _ => self.world.random.below(1 << 10),
        };
        let instruction = match self.world.random.below(20) {
            0 => self.world.random.next(),
            _ => 0x1000,
        };
        let pager = self.world.thread(self.me.space);
        self.set(Register::Rax, target.0);
        self.set(Register::Rsi, control);
        self.set(Register::Rdx, 0x5000);
        self.set(Register::R8, instruction);
        let flags = self.world.random.next();
        self.set(Register::R9, flags);
        self.set(Register::R10, 1);
        self.set(Register::Rdi, pager.0);
        self.call(EXCHANGE_REGISTERS)
    }

    fn thread_control(&mut self) -> Step {
        let random = &mut self.world.random;
        let number = NUMBERS.start + random.below(u64::from(NUMBERS.end - NUMBERS.start)) as u32;
        let version = if random.one_in(8) { random.next() as u32 } else { 1 };
        let id = GlobalId::new(number, version).map_or(ThreadId(0x33_0000_0040), Into::into);
        let destination = match random.below(20) {
            0 => self.victim(),
            1 => ThreadId(random.below(30) << 32 | 1),
            _ => id,
        };
        let members: Vec<_> = self.world.threads.iter().map(|thread| thread.id).collect();
        let random = &mut self.world.random;
        let space = match random.below(10) {
            0..=1 => ThreadId::NIL,
            2..=4 => destination,
            5 => ThreadId(random.next()),
            _ => ThreadId(random.pick(&members).unwrap_or(0)),
        };
        let scheduler = match random.below(8) {
            0 => ThreadId::NIL,
            1 => ThreadId(random.next()),
            2..=5 => ThreadId(50 << 32 | 1),
            _ => ThreadId(random.pick(&members).unwrap_or(0)),
        };
        let pager = match random.below(16) {
            0 => ThreadId::NIL,
            1 => ThreadId(random.next()),
            2..=12 => ThreadId((48 + 2 * random.below(2)) << 32 | 1),
            _ => ThreadId(random.pick(&members).unwrap_or(0)),
        };
        let location = match random.below(10) {
            0..=2 => u64::MAX,
            3 => random.next(),
            _ => 0xbf00_0000 + (random.below(14) << 10),
        };
        self.set(Register::Rdi, destination.0);
        self.set(Register::R8, space.0);
        self.set(Register::Rdx, scheduler.0);
        self.set(Register::Rsi, pager.0);
        self.set(Register::R9, location);
        self.call(THREAD_CONTROL)
    }

    fn space_control(&mut self) -> Step {
        let specifier = self.world.thread(self.me.space);
        let random = &mut self.world.random;
        let utcb = match random.below(10) {
            0 => Flexpage(random.next()),
            1 => Flexpage::memory(0xbf00_0000, 11, 0),
            _ => Flexpage::memory(0xbf00_0000, 12 + random.below(3) as u32, 0),
        };
        let kip = match random.below(10) {
            0 => Flexpage(random.next()),
            1 => Flexpage::memory(0xbf00_0000, 12, 0),
            _ => Flexpage::memory(0xbff0_0000, 12, 0),
        };
        let redirector = match random.below(8) {
            _ if !self.world.redirects => ThreadId::NIL,
            0..=3 => ThreadId::NIL,
            4..=5 => ThreadId::ANY,
            6 => ThreadId(random.next()),
            _ => self.world.thread(self.me.space),
        };
        self.set(Register::Rdi, specifier.0);
        self.set(Register::Rsi, 0);
        self.set(Register::Rdx, kip.0);
        self.set(Register::R8, utcb.0);
        self.set(Register::R9, redirector.0);
        self.call(SPACE_CONTROL)
    }

    fn schedule(&mut self) -> Step {
        let target = self.victim();
        self.schedule_thread(target)
    }

    fn schedule_thread(&mut self, target: ThreadId) -> Step {
        let random = &mut self.world.random;
        let time = match random.below(6) {
            0 => random.next(),
            1 => u64::from(Time::from_period(1 + random.below(100)).0) << 16 | 0xffff,
            2 => u64::from(Time::from_period(10 + random.below(500)).0) | 0xffff_0000,
            _ => u64::MAX,
        };
        let priority = match random.below(4) {
            0 => 50 + random.below(200),
            _ => u64::MAX,
        };
        let processor = if random.one_in(10) { random.below(3) } else { u64::MAX };
        let preemption = match random.below(4) {
            0 => random.below(1 << 24),
            _ => u64::MAX,
        };
        self.set(Register::Rdi, target.0);
        self.set(Register::Rdx, time);
        self.set(Register::Rsi, priority);
        self.set(Register::R8, processor);
        self.set(Register::R9, preemption);
        self.call(SCHEDULE)
    }

    fn unmap(&mut self) -> Step {
        let count = 1 + self.world.random.below(4) as usize;
        for index in 0..count {
            let page = self.world.page();
            self.message(index, page.0)?;
        }
        let flush = self.world.random.one_in(2);
        self.set(Register::Rdx, UnmapControl::new(count, flush).0);
        self.call(UNMAP)
    }

    fn memory_control(&mut self) -> Step {
        let control = match self.world.random.below(8) {
            0 => self.world.random.next(),
            _ => self.world.random.below(3),
        };
        for index in 0..3 {
            let page = self.world.page();
            self.set_word(index, page.0 & !3)?;
        }
        for register in [Register::R9, Register::Rsi, Register::R8, Register::R10] {
            let value = self.world.random.below(3) / 2;
            self.set(register, value);
        }
        self.set(Register::Rdx, control);
        self.call(MEMORY_CONTROL)
    }

    fn touch(&mut self) -> Step {
        let address = at(self.world.address() + (self.world.random.below(512) << 3));
        if self.world.random.one_in(2) {
            self.cpu.store(address, 1)
        } else {
            self.cpu.load(address).map(|_| ())
        }
    }

    /// Starts a thread that waits for that.
    fn start(&mut self) -> Step {
        let starting: Vec<_> =
            self.world.threads.iter().filter(|thread| thread.state == "starting").collect();
        let Some(thread) = self.world.random.pick(&starting) else { return self.ipc() };
        let id = thread.id;
        self.message(0, Tag::new(0, 2, 0).0)?;
        self.message(1, 0x1000)?;
        self.message(2, 0x2000)?;
        self.set(Register::Rsi, id);
        self.set(Register::Rdx, 0);
        self.set(Register::R8, Timeouts::new(Time::ZERO, Time::ZERO).0);
        self.call(IPC)
    }

    /// Makes a thread that does nothing do something.
    fn revive(&mut self) -> Step {
        let idle = ["halted", "stopped", "sending", "receiving"];
        let threads = self.world.threads.iter().filter(|thread| idle.contains(&thread.state));
        let threads: Vec<_> = threads.filter(|thread| !is_server(thread.id)).copied().collect();
        let Some(thread) = self.world.random.pick(&threads) else { return self.ipc() };
        let control = match thread.state {
            "halted" => 0x100,
            "stopped" => 0x11e,
            _ => 6,
        };
        self.set(Register::Rax, thread.id);
        self.set(Register::Rsi, control);
        self.set(Register::Rdx, 0x5000);
        self.set(Register::R8, 0x1000);
        self.call(EXCHANGE_REGISTERS)
    }

    /// Gives memory to a thread that receives.
    fn give(&mut self) -> Step {
        let waiting = self.world.threads.iter().filter(|thread| thread.state == "receiving");
        let waiting: Vec<_> = waiting.map(|thread| thread.id).collect();
        let to = self.world.random.pick(&waiting).unwrap_or(0);
        let (from, to_address) = (self.world.address(), self.world.address());
        let large = match self.me.id >> 32 {
            // Sigma0's memory begins at 0.
            48 => 0x40_0000 + (self.world.random.below(3) << 21),
            _ => LARGE + (self.world.random.below(2) << 21),
        };
        let item = match self.world.random.below(3) {
            0 => MapItem::map(
                Flexpage::memory(large, 21, Flexpage::ALL),
                LARGE + (self.world.random.below(2) << 21),
            ),
            _ => MapItem::map(Flexpage::memory(from, 12, Flexpage::ALL), to_address),
        };
        self.message(0, Tag::new(0, 0, 2).0)?;
        self.message(1, item.header)?;
        self.message(2, item.page.0)?;
        self.set(Register::Rsi, to);
        self.set(Register::Rdx, ThreadId::ANY.0);
        self.set(Register::R8, Timeouts::new(Time::ZERO, Time::from_period(5)).0);
        self.call(IPC)
    }

    /// Gives everything back: root deletes all threads, and both servers take all memory and ports
    /// back, and then wait.
    fn end(&mut self, done: u32) -> Step {
        if !self.is_server() {
            self.set(Register::Rsi, 0);
            self.set(Register::Rdx, ThreadId::ANY.0);
            self.set(Register::R8, 0);
            return self.call(IPC);
        }
        // All numbers above root's, 50, and the free one between sigma0's and root's.
        let number = if done == 0 { 49 } else { 50 + done };
        if self.me.id >> 32 == 50 {
            self.world.ending = Some(done + 1);
        }
        if number < 128 && self.me.id >> 32 == 50 {
            let id = u64::from(number) << 32 | 1;
            self.set(Register::Rdi, id);
            self.set(Register::R8, 0);
            return self.call(THREAD_CONTROL);
        }
        if self.world.random.one_in(2) {
            self.set(Register::Rdi, 0);
            return self.call(THREAD_SWITCH);
        }
        self.message(0, Flexpage::COMPLETE.with_rights(Flexpage::ALL).0)?;
        self.message(1, Flexpage::ports(0, 16, Flexpage::ALL).0)?;
        self.set(Register::Rdx, UnmapControl::new(2, true).0);
        self.call(UNMAP)
    }

    /// Sends strings to somebody who receives.
    fn send_string(&mut self) -> Step {
        let waiting = self.world.threads.iter().filter(|thread| thread.state == "receiving");
        let waiting: Vec<_> = waiting.map(|thread| thread.id).collect();
        let to = self.world.random.pick(&waiting).unwrap_or(0);
        let timeouts = Timeouts::new(self.world.timeout(), self.world.timeout());
        self.set_control(ControlWord::TransferTimeouts, timeouts.0)?;
        let mut words = Vec::new();
        for _ in 0..1 + self.world.random.below(2) {
            words.push(StringItem::simple(self.world.random.below(9000)).0);
            words.push(self.world.address() + self.world.random.below(4096));
        }
        self.message(0, Tag::new(1, 0, words.len()).0)?;
        for (index, word) in (1..).zip(words) {
            self.message(index, word)?;
        }
        self.set(Register::Rsi, to);
        self.set(Register::Rdx, ThreadId::ANY.0);
        self.set(Register::R8, Timeouts::new(Time::ZERO, Time::from_period(50)).0);
        self.call(IPC)
    }

    /// Receives strings.
    fn receive_string(&mut self) -> Step {
        self.set_word(-16, Acceptor::new(Flexpage::COMPLETE, true).0)?;
        self.buffers()?;
        let timeouts = Timeouts::new(self.world.timeout(), self.world.timeout());
        self.set_control(ControlWord::TransferTimeouts, timeouts.0)?;
        self.set(Register::Rsi, 0);
        self.set(Register::Rdx, ThreadId::ANY.0);
        self.set(Register::R8, Timeouts::new(Time::ZERO, Time::from_period(200)).0);
        self.call(IPC)
    }

    /// A message that has nothing special about it, but perhaps its receiver.
    fn ordinary(&mut self) -> Step {
        let all = self.world.random.one_in(8);
        let waiting = self.world.threads.iter();
        let waiting = waiting.filter(|thread| thread.light || all && thread.state == "receiving");
        let waiting: Vec<_> = waiting.copied().collect();
        let receiver = self.world.random.pick(&waiting);
        let to = match receiver {
            Some(thread) if thread.space == self.me.space && self.world.random.one_in(2) => {
                ThreadId(thread.local)
            }
            Some(thread) => ThreadId(thread.id),
            None => ThreadId::NIL,
        };
        let from = if self.world.random.one_in(2) { to } else { ThreadId::ANY };
        let maps = self.world.random.one_in(4);
        let words = match self.world.random.below(3) {
            _ if maps => self.world.random.below(6),
            0 => 0,
            1 => self.world.random.below(8),
            _ => self.world.random.below(64),
        };
        for index in 1..=words as usize {
            let value = self.world.random.next();
            self.message(index, value)?;
        }
        let label = self.world.random.below(1 << 16);
        let typed = if maps { 2 } else { 0 };
        if maps {
            let page = Flexpage::memory(self.world.address(), 12, Flexpage::ALL);
            let to = self.world.address();
            let item = match self.world.random.one_in(4) {
                true => MapItem::grant(page, to),
                false => MapItem::map(page, to),
            };
            self.message(words as usize + 1, item.header)?;
            self.message(words as usize + 2, item.page.0)?;
        }
        self.message(0, Tag::new(label, words as usize, typed).0)?;
        let send = self.world.timeout();
        let receive = match self.world.random.below(8) {
            0 => Time::ZERO,
            1 => self.world.timeout(),
            _ => Time::NEVER,
        };
        self.set(Register::Rsi, to.0);
        self.set(Register::Rdx, from.0);
        self.set(Register::R8, Timeouts::new(send, receive).0);
        self.call(IPC)
    }

    fn act(&mut self) -> Step {
        match self.world.single.take() {
            Some(Single::Send) => {
                self.world.single = Some(Single::Stop);
                return self.ordinary();
            }
            Some(Single::Stop) => return Err(Interrupt::Timer),
            None => {}
        }
        self.look_back()?;
        if let Some(done) = self.world.ending {
            return self.end(done);
        }
        if self.is_server() {
            let got = Tag(self.context.register(Register::R9));
            if got.label() >> 4 == KernelLabel::PageFault.label(0) >> 4 {
                // Some faults are looked at, and then not served.
                let from = ThreadId(self.context.register(Register::Rsi));
                return match self.world.random.one_in(2) && !is_server(from.0) {
                    true => self.schedule_thread(from),
                    false => self.ipc(),
                };
            }
            match self.world.random.below(8) {
                0 => return self.start(),
                1 => return self.revive(),
                2..=3 => return self.give(),
                _ => {}
            }
        } else {
            match self.world.random.below(20) {
                0 => return self.revive(),
                1..=4 => return self.send_string(),
                5..=8 => return self.receive_string(),
                _ => {}
            }
        }
        if self.world.random.one_in(10) && !self.is_server() {
            // Own control registers, with anything, but mostly with somebody who answers.
            let space = self.me.space;
            let somebody = |world: &mut World| match world.random.below(4) {
                0 => world.thread(space),
                _ => ThreadId((48 + 2 * world.random.below(2)) << 32 | 1),
            };
            let pager = somebody(self.world);
            let handler = somebody(self.world);
            self.set_control(ControlWord::Pager, pager.0)?;
            self.set_control(ControlWord::ExceptionHandler, handler.0)?;
            let flags = self.world.random.next();
            // A thread that the light path wakes up is told of the end of a slice from the next time
            // on that the kernel looks at the clock.
            let flags = if self.world.patient { 0 } else { flags };
            self.set_control(ControlWord::Flags, flags)?;
        }
        match self.world.random.below(100) {
            0..=44 => self.ipc(),
            45..=54 if !self.is_server() => self.touch(),
            55..=62 => self.exchange_registers(),
            63..=66 => self.schedule(),
            67..=68 => self.unmap(),
            69..=74 if !self.is_server() => self.unmap(),
            75..=84 if self.me.privileged => self.thread_control(),
            85..=89 if self.me.privileged => self.space_control(),
            75 => self.thread_control(),
            76 => self.space_control(),
            90 => self.call(SYSTEM_CLOCK),
            91..=92 => {
                let to = match self.world.random.one_in(3) {
                    true => ThreadId::NIL,
                    false => self.world.thread(self.me.space),
                };
                self.set(Register::Rdi, to.0);
                self.call(THREAD_SWITCH)
            }
            93 => self.memory_control(),
            94 => self.call(PROCESSOR_CONTROL),
            95 if !self.is_server() => {
                let vector = [0, 1, 3, 4, 6, 13, 16, 17, 19];
                let vector = self.world.random.pick(&vector).unwrap_or(6);
                Err(Interrupt::Exception { vector, error_code: 0 })
            }
            96 if !self.is_server() => {
                // A system call from somewhere else.
                self.context.jump(0x1000);
                Err(Interrupt::SystemCall)
            }
            _ => self.ipc(),
        }
    }
}

/// What came of all calls.
fn report(world: &World) -> Vec<String> {
    let mut missing = Vec::new();
    let expected: &[(&str, &[&str])] = &[
        (
            "Ipc",
            &[
                "ok",
                "Send Timeout",
                "Send NoPartner",
                "Send Cancelled",
                "Send Overflow",
                "Send TransferTimeoutOwn",
                "Send TransferTimeoutPartner",
                "Send Aborted",
                "Receive Timeout",
                "Receive NoPartner",
                "Receive Cancelled",
                "Receive Overflow",
                "Receive TransferTimeoutOwn",
                "Receive TransferTimeoutPartner",
                "Receive Aborted",
            ],
        ),
        ("ExchangeRegisters", &["ok", "error 2", "error 5"]),
        (
            "ThreadControl",
            &["ok", "error 1", "error 2", "error 3", "error 4", "error 6", "error 8"],
        ),
        ("SpaceControl", &["ok", "error 1", "error 3", "error 6", "error 7", "error 8"]),
        (
            "Schedule",
            &[
                "state 1", "state 2", "state 3", "state 4", "state 5", "state 6", "state 7",
                "error 1", "error 2", "error 5",
            ],
        ),
        ("Unmap", &["ok"]),
        ("ThreadSwitch", &["ok"]),
        ("SystemClock", &["ok"]),
        ("ProcessorControl", &["error 1", "error 5"]),
        ("MemoryControl", &["ok", "error 1", "error 5"]),
    ];
    println!("{} calls", world.calls);
    for (call, results) in expected {
        for result in *results {
            let count = world.results.get(&(*call, result.to_string())).copied().unwrap_or(0);
            println!("{count:10}  {call} {result}");
            if count < world.calls / 10_000 {
                missing.push(format!("{call} {result}: {count}"));
            }
        }
    }
    missing
}

fn view(kernel: &TestKernel) -> Vec<ThreadView> {
    kernel.threads()
}

fn check(kernel: &mut TestKernel, calls: u64) {
    let findings = kernel.audit();
    assert!(findings.is_empty(), "after {calls} calls: {findings:#?}");
}

/// Has everything given back; what there is then, and how many of the kernel's pages are free.
fn give_all_back(
    kernel: &mut TestKernel,
    world: &RefCell<World>,
) -> (heliox_l4_kernel::Census, usize) {
    world.borrow_mut().ending = Some(0);
    let mut steps = 0_u64;
    while world.borrow().ending.is_some_and(|calls| calls < 600) {
        kernel.step();
        steps += 1;
        if steps > 1_000_000 {
            for number in 48..90 {
                println!("{}", kernel.describe_thread(number));
            }
            panic!(
                "not at an end, {:?}, current {}",
                world.borrow().ending,
                kernel.current_thread()
            );
        }
    }
    world.borrow_mut().ending = None;
    check(kernel, world.borrow().calls);
    let census = kernel.census();
    (census, kernel.surroundings().free_pages() + census.supply)
}

/// A kernel with programs that do random things.
fn play(seed: u64) -> (TestKernel, Rc<RefCell<World>>) {
    let mut kernel = kernel(Size::SMALL);
    let world = Rc::new(RefCell::new(World {
        random: Random(seed),
        stubs: kernel.stub_address(),
        threads: view(&kernel),
        pending: BTreeMap::new(),
        results: BTreeMap::new(),
        calls: 0,
        redirects: true,
        ending: None,
        patient: false,
        single: None,
    }));
    let played = Rc::clone(&world);
    kernel.machine().set_program(Box::new(move |cpu, context| {
        let world = &mut *played.borrow_mut();
        let utcb = context.gs_base().wrapping_add(24);
        let id = cpu.load(at(utcb.wrapping_sub(120)))?;
        let me = world.threads.iter().find(|thread| thread.id == id).copied();
        let me = me.unwrap_or(ThreadView {
            id,
            local: utcb,
            space: u32::MAX,
            privileged: false,
            state: "",
            light: false,
        });
        Actor { world, cpu, context, utcb, me }.act()
    }));
    (kernel, world)
}

#[test]
fn random_calls_keep_every_invariant() {
    let calls = std::env::var("HELIOX_CALLS").ok().and_then(|text| text.parse().ok());
    let calls = calls.unwrap_or(CALLS);
    let seed = std::env::var("HELIOX_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let every = std::env::var("HELIOX_AUDIT").ok().and_then(|text| text.parse().ok());
    let every = every.unwrap_or(AUDIT_EVERY);
    let fault = std::env::var("HELIOX_FAULT").ok().and_then(|text| text.parse::<u8>().ok());
    heliox_l4_kernel::plant(Fault::ALL.into_iter().find(|it| Some(*it as u8) == fault));
    let (mut kernel, world) = play(seed);
    world.borrow_mut().redirects = std::env::var("HELIOX_REDIRECT").as_deref() != Ok("no");
    check(&mut kernel, 0);
    let (_, fresh) = give_all_back(&mut kernel, &world);
    let quick = std::env::var("HELIOX_QUICK").is_ok();
    let mut next = every;
    let mut most = (0, 0, 0);
    let mut idle = 0;
    loop {
        let done = world.borrow().calls;
        if done >= calls {
            break;
        }
        if done >= next {
            check(&mut kernel, done);
            next = done + every;
            let census = kernel.census();
            most.0 = most.0.max(census.mappings);
            most.1 = most.1.max(census.port_mappings);
            most.2 = most.2.max(census.threads);
        }
        let random = world.borrow_mut().random.below(1000);
        if random < 30 {
            world.borrow_mut().threads = view(&kernel);
        }
        if random == 999 {
            let line = world.borrow_mut().random.below(24) as u8;
            kernel.machine().machine().raise_line(line);
        }
        kernel.step();
        if quick {
            let findings = kernel.audit_quickly();
            assert!(findings.is_empty(), "after {done} calls: {findings:#?}");
        }
        idle = if kernel.current_thread() == 0 { idle + 1 } else { 0 };
        assert!(
            idle < 1000,
            "nothing runs any more after {done} calls: {} {}",
            kernel.describe_thread(48),
            kernel.describe_thread(50)
        );
    }
    check(&mut kernel, calls);
    let missing = report(&world.borrow());
    println!("at most {} mappings, {} of ports, {} threads", most.0, most.1, most.2);
    // Everything comes back.
    let before = give_all_back(&mut kernel, &world);
    let left: Vec<_> = kernel.threads().iter().map(|thread| thread.id >> 32).collect();
    let left: Vec<_> =
        left.into_iter().map(|number| kernel.describe_thread(number as u32)).collect();
    assert_eq!(before.0.threads, 2, "{left:#?}");
    assert_eq!((before.0.spaces, before.0.mappings, before.0.port_mappings), (2, 0, 0));
    assert_eq!(before.0.utcb_pages, 2);
    let lines = &kernel.surroundings().lines;
    assert_eq!(before.1, fresh, "pages of the kernel's were lost: {lines:?}");
    assert!(missing.is_empty(), "too few: {missing:#?}");
}

/// Each planted fault is found by a random run, in a process of its own.
#[test]
fn each_planted_fault_is_found() {
    let own = std::env::current_exe().expect("the program has a path");
    let mut missed = Vec::new();
    for fault in Fault::ALL {
        let output = std::process::Command::new(&own)
            .args(["--exact", "random_calls_keep_every_invariant"])
            .env("HELIOX_FAULT", (fault as u8).to_string())
            .env("HELIOX_CALLS", "400000")
            .env("HELIOX_AUDIT", "500")
            .env("HELIOX_REDIRECT", "no")
            .env("RUST_BACKTRACE", "0")
            .output()
            .expect("the random run starts");
        let text =
            String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        let why = text.lines().skip_while(|line| !line.contains("panicked at")).nth(1);
        println!("{fault:?}: {}", why.unwrap_or("not found"));
        let by_count = why.is_some_and(|why| why.contains("too few"));
        if output.status.success() || by_count {
            missed.push(fault);
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// Two kernels do the same, one of which has the light path for one message now and then: afterwards
/// everything is as in the other. What the light path leaves to the other does not count.
#[test]
fn the_light_path_means_the_same() {
    let rounds = std::env::var("HELIOX_ROUNDS").ok().and_then(|text| text.parse().ok());
    let rounds = rounds.unwrap_or(2_000);
    let mut random = Random(7);
    let (mut light, mut direct, mut messages) = (0, 0, 0);
    while messages < rounds {
        // From the beginning now and then: in the end, everybody waits for ever.
        let seed = random.next();
        let mut both = [play(seed), play(seed)];
        for (kernel, world) in &mut both {
            kernel.set_light_path(false);
            world.borrow_mut().patient = true;
            // Until there are threads.
            for _ in 0..100 {
                (0..30).for_each(|_| kernel.step());
                world.borrow_mut().threads = view(kernel);
            }
        }
        let mut goes_on = true;
        while goes_on && messages < rounds {
            messages += 1;
            goes_on = !random.one_in(200);
            let before = light;
            let steps = random.below(40);
            for (number, (kernel, world)) in both.iter_mut().enumerate() {
                (0..steps).for_each(|_| kernel.step());
                world.borrow_mut().threads = view(kernel);
                kernel.set_light_path(number == 0);
                world.borrow_mut().single = Some(Single::Send);
                for _ in 0..200 {
                    let single = world.borrow().single;
                    if single.is_none() {
                        break;
                    }
                    let sender = kernel.current_thread();
                    kernel.step();
                    if single == Some(Single::Send) && number == 0 {
                        // It waits for the light path's messages before anybody was chosen to run.
                        let of_light_path = |thread: &ThreadView| {
                            thread.id >> 32 == u64::from(sender) && thread.light
                        };
                        let stopped = world.borrow().single.is_none();
                        direct += u64::from(!stopped && view(kernel).iter().any(of_light_path));
                    }
                    // Sent and stopped in one step: the kernel did not see the message.
                    let at_once = single == Some(Single::Send) && world.borrow().single.is_none();
                    light += u64::from(at_once);
                }
                // Perhaps everybody waits for ever.
                goes_on &= world.borrow_mut().single.take().is_none();
                kernel.set_light_path(false);
                // What stopped the thread passes for the timer's interrupt, before which the timer
                // has run down.
                kernel.machine().machine().set_deadline(CpuIndex::BOOT, None);
            }
            let [(first, _), (second, _)] = &mut both;
            if !goes_on {
                break;
            }
            assert_eq!(first.observe(), second.observe(), "message {messages} of seed {seed}");
            assert_eq!(first.census(), second.census(), "message {messages} of seed {seed}");
            // From here on they may differ in what no program may rely on.
            goes_on = light == before;
        }
    }
    println!("{light} of {messages} messages took the light path, {direct} were direct");
    assert!(direct >= rounds / 100, "only {direct} of {messages} were direct");
    assert!(light >= rounds / 20, "only {light} of {messages} took the light path");
}
