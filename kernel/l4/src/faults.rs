//! Faults and exceptions of threads: what the kernel does about them, and whom it asks.

use heliox_abi::utcb::ControlWord;
use heliox_abi::{Flexpage, KernelLabel, Tag, ThreadId, kip};
use heliox_hal::execution::Registers;
use heliox_hal::memory::KernelMemory;
use heliox_hal::rights::Rights;
use heliox_types::{PAGE_BYTES, VirtualAddress};
use heliox_types::{PageFaultError, Register};

use crate::kernel::{Kernel, Machine, Surroundings};
use crate::ports::port_access;
use crate::space::SIGMA0;
use crate::thread::{From, Incoming, Number, Operation, Outgoing, Work};
use crate::transfer::KernelMessage;

/// Numbers of exceptions.
const BREAKPOINT: u8 = 3;
const INVALID_OPCODE: u8 = 6;
const GENERAL_PROTECTION: u8 = 13;

/// The debugger operation that ends the machine, with the status in AL.
const END_MACHINE: u8 = 0xf4;

/// The instruction `lock; nop`, which asks for the kernel interface page.
const KERNEL_INTERFACE: [u8; 2] = [0xf0, 0x90];

/// The registers of an exception message, from message register 2 on; the first is the instruction
/// pointer, and after these come stack pointer, flags, number and error code.
const EXCEPTION_REGISTERS: [Register; 15] = [
    Register::Rbx,
    Register::R10,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
    Register::Rax,
    Register::Rcx,
    Register::Rdx,
    Register::Rsi,
    Register::Rdi,
    Register::Rbp,
    Register::R8,
    Register::R9,
    Register::R11,
];

/// The message register of the number of the exception; those before it are loaded from the answer.
const VECTOR: usize = 19;
/// Words of an exception message.
const EXCEPTION_WORDS: usize = 20;

/// The flags that the answer to an exception sets: those of arithmetic.
const ARITHMETIC_FLAGS: u64 = 1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 11;

impl<M: Machine, S: Surroundings> Kernel<'_, M, S> {
    fn instruction_pointer(&self, number: Number) -> u64 {
        self.threads.at(number).context().map_or(0, Registers::instruction_pointer)
    }

    /// A thread touched memory that it does not have.
    pub(crate) fn page_fault(&mut self, me: Number, address: u64, error: PageFaultError) {
        if self.threads.at(me).space == SIGMA0 && !error.is_protection() {
            if !self.map_to_sigma0(address) {
                self.surroundings.log(format_args!(
                    "sigma0 touched {address:#x}, which is no memory of its own"
                ));
                self.halt(me);
            }
            return;
        }
        let access = match (error.is_write(), error.is_execute()) {
            (true, _) => Flexpage::WRITE,
            (_, true) => Flexpage::EXECUTE,
            _ => Flexpage::READ,
        };
        let instruction = self.instruction_pointer(me);
        let outgoing = Outgoing::PageFault { address, access, instruction };
        if !self.send_directly(me, ControlWord::Pager, outgoing, Incoming::FaultReply) {
            self.ask_pager(me, outgoing, None);
        }
    }

    /// A thread caused an exception.
    pub(crate) fn exception(&mut self, me: Number, vector: u8, code: u64) {
        match vector {
            INVALID_OPCODE if self.asks_for_kernel_interface(me) => return,
            BREAKPOINT if self.debugger_trap(me) => return,
            GENERAL_PROTECTION if self.port_fault(me) => return,
            _ => {}
        }
        self.send_exception(me, Outgoing::Exception { vector, code, preemption: false });
    }

    /// Tells the exception handler of a thread, which waits for the answer; without a handler it halts.
    pub(crate) fn send_exception(&mut self, me: Number, outgoing: Outgoing) {
        let handler = ControlWord::ExceptionHandler;
        if self.send_directly(me, handler, outgoing, Incoming::ExceptionReply) {
            return;
        }
        let handler = ThreadId(self.control_word(me, handler));
        let space = self.threads.at(me).space;
        let id = self.resolve(space, handler).and_then(|handler| self.threads.at(handler).id);
        let Some(id) = id else { return self.halt(me) };
        self.threads.at_mut(me).kept_operation = Operation {
            outgoing,
            to: id.into(),
            from: From::Thread(id),
            incoming: Incoming::ExceptionReply,
            ..Operation::default()
        };
        self.begin_sending(me, None);
    }

    /// Stops a thread that nobody can help.
    fn halt(&mut self, me: Number) {
        self.threads.at_mut(me).halted = true;
        self.settle(me);
    }

    // --- Messages ---

    /// What the kernel's message says.
    pub(crate) fn kernel_message(&self, outgoing: Outgoing) -> KernelMessage {
        match outgoing {
            Outgoing::Message => KernelMessage::Words(Tag(0), [0; 2]),
            Outgoing::PageFault { address, access, instruction } => {
                let tag = KernelLabel::PageFault.tag(access, 2, 0);
                KernelMessage::Words(tag, [address, instruction])
            }
            Outgoing::PortFault { port, bits, instruction } => {
                let rights = Flexpage::READ | Flexpage::WRITE;
                let tag = KernelLabel::PortFault.tag(rights, 2, 0);
                let ports = Flexpage::ports(port, u32::from(bits), rights);
                KernelMessage::Words(tag, [ports.0, instruction])
            }
            Outgoing::Preempted { at } | Outgoing::Exhausted { at } => {
                KernelMessage::Words(KernelLabel::Preemption.tag(0, 2, 0), [at, 0])
            }
            Outgoing::Exception { vector, code, preemption } => {
                let label = match preemption {
                    true => KernelLabel::PreemptionException,
                    false => KernelLabel::Exception,
                };
                let tag = label.tag(0, EXCEPTION_WORDS, 0);
                KernelMessage::Registers(tag, u64::from(vector), code)
            }
        }
    }

    /// Puts the registers of `sender` into the message registers of `receiver`.
    pub(crate) fn put_registers(
        &mut self,
        sender: Number,
        receiver: Number,
        vector: u64,
        code: u64,
    ) {
        let Some(context) = self.threads.at(sender).context() else { return };
        let mut message = [0; EXCEPTION_WORDS + 1];
        let registers = EXCEPTION_REGISTERS.map(|register| context.register(register));
        let [_, instruction, rest @ ..] = &mut message;
        *instruction = context.instruction_pointer();
        let special = [context.stack_pointer(), context.flags(), vector, code];
        for (word, value) in rest.iter_mut().zip(registers.into_iter().chain(special)) {
            *word = value;
        }
        self.set_message(receiver, message);
    }

    /// Loads the registers of `receiver` from the answer to its exception, if that has them all.
    pub(crate) fn load_registers(&mut self, sender: Number, receiver: Number) {
        let tag = Tag(self.message_register(sender, 0));
        if tag.untyped() < VECTOR {
            return;
        }
        let [_, instruction, message @ ..] = self.message::<VECTOR>(sender);
        let [registers @ .., stack, flags] = message;
        if let Some(context) = self.threads.at_light(receiver).context_mut() {
            for (register, value) in EXCEPTION_REGISTERS.into_iter().zip(registers) {
                context.set_register(register, value);
            }
            context.set_stack_pointer(stack);
            let kept = context.flags() & !ARITHMETIC_FLAGS;
            context.set_flags(kept | flags & ARITHMETIC_FLAGS);
            if let Some(address) = VirtualAddress::new(instruction) {
                // One that no program can use leaves it where it is; then it faults again.
                let _ = context.set_instruction_pointer(address);
            }
        }
    }

    // --- Instructions that mean something to the kernel ---

    /// Reads bytes of a thread's memory; `None` if they are not all mapped.
    pub(crate) fn read_user<const N: usize>(
        &mut self,
        me: Number,
        address: u64,
    ) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let mut done = 0;
        while done < N {
            let at = address.checked_add(done as u64)?;
            let within = (at % PAGE_BYTES) as usize;
            let count = (N - done).min(PAGE_BYTES as usize - within);
            let space = self.threads.at(me).space;
            let (region, _) = self.page_of(space, at)?;
            let cpu = self.machine.cpu();
            let memory = self.machine.memory();
            let mapping = memory.add_kernel_mapping(cpu, region, Rights::Read, false, None).ok()?;
            let read = bytes
                .get_mut(done..done + count)
                .is_some_and(|part| memory.read_bytes(&mapping, within, part).is_ok());
            // Only the kernel used it.
            let _ = memory.remove_kernel_mapping(cpu, mapping);
            if !read {
                return None;
            }
            done += count;
        }
        Some(bytes)
    }

    /// Moves a thread's instruction pointer on.
    pub(crate) fn skip(&mut self, me: Number, bytes: u64) {
        let next = self.instruction_pointer(me).wrapping_add(bytes);
        if let (Some(context), Some(next)) =
            (self.threads.at_light(me).context_mut(), VirtualAddress::new(next))
        {
            // Behind the last address of programs nothing can be run.
            let _ = context.set_instruction_pointer(next);
        }
    }

    /// `lock; nop`: the thread asks where the kernel interface page is.
    fn asks_for_kernel_interface(&mut self, me: Number) -> bool {
        let at = self.instruction_pointer(me);
        if self.read_user(me, at) != Some(KERNEL_INTERFACE) {
            return false;
        }
        let space = self.threads.at(me).space;
        let address = self.spaces.at(space).kip_area.base;
        self.set_register(me, Register::Rax, address);
        self.set_register(me, Register::Rcx, kip::API_VERSION);
        self.set_register(me, Register::Rdx, kip::API_FLAGS);
        self.set_register(me, Register::Rsi, crate::boot::KERNEL_ID);
        self.skip(me, KERNEL_INTERFACE.len() as u64);
        true
    }

    /// `int3` and the bytes that say what a debugger would do.
    fn debugger_trap(&mut self, me: Number) -> bool {
        let at = self.instruction_pointer(me);
        match self.read_user::<2>(me, at) {
            // cmp al, OPERATION
            Some([0x3c, operation]) => {
                self.debugger_operation(me, operation);
                true
            }
            // jmp over mov rax, STRING
            Some([0xeb, _]) => {
                let Some([0x48, 0xc7, 0xc0, a, b, c, d]) = self.read_user::<7>(me, at + 2) else {
                    return false;
                };
                let text = i64::from(i32::from_le_bytes([a, b, c, d])) as u64;
                self.print_string(me, text);
                self.surroundings.print(b"\n");
                self.surroundings
                    .log(format_args!("thread {:?} entered the debugger", self.threads.at(me).id));
                self.halt(me);
                true
            }
            _ => false,
        }
    }

    fn debugger_operation(&mut self, me: Number, operation: u8) {
        let value = self.register(me, Register::Rax);
        match operation {
            // One character.
            0x00 => self.surroundings.print(&[value as u8]),
            0x01 => self.print_string(me, value),
            // Reading, without and with waiting: there is no waiting in the kernel.
            0x08 | 0x0d => {
                let read = self.surroundings.read_character();
                let missing = if operation == 0x08 { u64::MAX } else { 0 };
                self.set_register(me, Register::Rax, read.map_or(missing, u64::from));
            }
            END_MACHINE if self.is_privileged(me) => self.end = Some(value as u8),
            _ => {}
        }
    }

    /// Prints a string of a thread's memory that ends with a zero; at most a kilobyte.
    fn print_string(&mut self, me: Number, address: u64) {
        for offset in 0..1024 {
            match self.read_user::<1>(me, address.wrapping_add(offset)) {
                Some([byte]) if byte != 0 => self.surroundings.print(&[byte]),
                _ => break,
            }
        }
    }

    /// A general protection fault at an instruction that uses ports: with the ports, the thread tries again;
    /// without, its pager is asked for them. Whether it was such an instruction.
    fn port_fault(&mut self, me: Number) -> bool {
        let at = self.instruction_pointer(me);
        let mut bytes = [0; 4];
        for (byte, offset) in bytes.iter_mut().zip(0..) {
            // The instruction may be the last thing on its page.
            *byte = self.read_user::<1>(me, at.wrapping_add(offset)).map_or(0xcc, |[byte]| byte);
        }
        let port = self.register(me, Register::Rdx) as u16;
        let Some((first, bits)) = port_access(bytes, port) else { return false };
        let space = self.threads.at(me).space;
        if self.has_ports(space, first, bits) {
            return self.load_ports(me);
        }
        debug_assert_eq!(self.threads.at(me).work, Work::None);
        let instruction = at;
        self.ask_pager(me, Outgoing::PortFault { port: first, bits, instruction }, None);
        true
    }
}
