//! CALL: entering the kernel.

use heliox_l4::abi::utcb::ControlWord;
use heliox_l4::kip::SystemCall;
use heliox_l4::probe::{self, Action, Step, Target};
use heliox_l4::raw::{self, Registers};
use heliox_l4::{Flexpage, Timeouts};

use crate::case::{Checked, at_least, cases, equal, fail, holds};
use crate::stage::{KIP_AREA, Stage, UTCB_START};
use crate::steps::{
    KEEP, MessageOutput, NEVER, NIL, RW, RWX, SEND_TIMEOUT, ZERO, action, call, clock, exchange,
    ipc, message_call, page, receive, schedule, send, space_control, tag, thread_control,
    thread_switch, unmap,
};

cases! {
    "CALL-1" => the_page_is_found,
    "CALL-2" => finding_it_changes_nothing_else,
    "CALL-3" => other_invalid_instructions,
    "CALL-4" => the_stack_pointer_survives,
    "CALL-5" => registers_of_messages,
    "CALL-6" => registers_of_exchange,
    "CALL-7" => registers_of_thread_control,
    "CALL-8" => registers_of_space_control,
    "CALL-9" => registers_of_schedule,
    "CALL-10" => registers_of_unmap,
    "CALL-11" => registers_of_memory_control,
    "CALL-12" => vector_registers_survive,
    "CALL-13" => flags_do_no_harm,
    "CALL-14" => no_kernel_addresses,
    "CALL-15" => system_call_instruction_elsewhere,
    "CALL-16" => stubs_are_not_writable,
}

fn the_page_is_found(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    let registers = stage.run(probe, action(Action::KernelInterface, 0, 0, 0))?.registers;
    equal("RAX, the page in its space", KIP_AREA.0 & !0xfff, registers.rax)?;
    equal("RCX, the version", 0x8405_0000, registers.rcx)?;
    equal("RDX, the flags", 4, registers.rdx)?;
    equal("RSI, the kernel's id", raw::page().kernel_id(), registers.rsi)?;
    equal("the page in this space", 0xbff0_0000, raw::kernel_interface().address)
}

fn numbered() -> Registers {
    Registers {
        rax: 0x101,
        rbx: 0x102,
        rcx: 0x103,
        rdx: 0x104,
        rsi: 0x105,
        rdi: 0x106,
        rbp: 0x107,
        r8: 0x108,
        r9: 0x109,
        r10: 0x10a,
        r11: 0x10b,
        r12: 0x10c,
        r13: 0x10d,
        r14: 0x10e,
        r15: 0x10f,
    }
}

fn finding_it_changes_nothing_else(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    for flags in [0x202, 0xad7] {
        let step = Step::new(Target::Action(Action::KernelInterface), numbered());
        let output = stage.run(probe, step.with_flags(flags))?;
        equal("flags", flags, output.flags)?;
        let Registers { rax, rcx, rdx, rsi, .. } = output.registers;
        let expected = Registers { rax, rcx, rdx, rsi, ..numbered() };
        holds("the other registers", expected == output.registers)?;
    }
    Ok(())
}

fn other_invalid_instructions(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    stage.go(probe, &[action(Action::InvalidInstruction, 0, 0, 0)])?;
    let exception = stage.exception(probe)?;
    equal("the exception's number", 6, exception.vector())?;
    stage.skip(probe, &exception, 2)?;
    stage.finish(probe).map(|_| ())
}

/// Every system call, in a form in which it does nothing.
fn harmless_calls() -> [Step; 11] {
    let empty = Registers::default();
    SystemCall::ALL.map(|call| match call {
        SystemCall::Ipc | SystemCall::Lipc => message_call(call, NIL, NIL, Timeouts::NEVER, &[]),
        SystemCall::Unmap => unmap(0, &[0]),
        SystemCall::ExchangeRegisters => exchange(NIL, 0, 0, 0, 0, 0, NIL),
        SystemCall::Schedule => schedule(NIL, 0, 0, 0, 0),
        _ => Step::new(Target::Call(call), empty),
    })
}

fn the_stack_pointer_survives(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    for step in harmless_calls() {
        let output = stage.run(probe, step)?;
        equal("the stack pointer is off by", 0, output.stack_off_by)?;
    }
    Ok(())
}

fn registers_of_messages(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let words = [tag(0x77, 7, 0), 11, 12, 13, 14, 15, 16, 17];
    for call in [SystemCall::Ipc, SystemCall::Lipc] {
        stage.go(b, &[message_call(call, NIL, a.id(), Timeouts::NEVER, &[])])?;
        stage.block_receiving(b)?;
        stage.go(a, &[message_call(call, b.id(), NIL, Timeouts::NEVER, &words)])?;
        stage.finish(a)?.succeeded("the send")?;
        let output = stage.finish(b)?;
        let Registers { rsi, rdi, r9, rax, rbx, r10, r12, r13, r14, r15, .. } = output.registers;
        equal("RSI, the sender", a.id().0, rsi)?;
        equal("RDI, message register 0", b.local().0, rdi)?;
        let found = [r9, rax, rbx, r10, r12, r13, r14, r15];
        for (word, found) in words.into_iter().zip(found) {
            equal("a message register", word, found)?;
        }
    }
    Ok(())
}

fn registers_of_exchange(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let b = stage.probe_beside(a)?;
    // Handle and pager, of a thread that waits.
    let set = exchange(b.id(), 1 << 6, 0, 0, 0, 0x4711, NIL);
    stage.run(a, set)?;
    let output = stage.run(a, exchange(b.id(), 1 << 9, 0, 0, 0, 0, NIL))?;
    let Registers { rax, rsi, rdx, r8, r9, r10, rdi, .. } = output.registers;
    equal("RAX, the thread", b.local().0, rax)?;
    equal("RSI, the old control", 2, rsi)?;
    let stack = b.memory().address()..b.memory().stack();
    holds("RDX, the stack pointer", stack.contains(&rdx))?;
    at_least("R8, the instruction pointer", 1, r8)?;
    equal("R9, the flag for interrupts", 0x200, r9 & 0x200)?;
    equal("R10, the handle", 0x4711, r10)?;
    equal("RDI, the pager", stage.driver().0, rdi)
}

fn registers_of_thread_control(stage: &mut Stage) -> Checked {
    let me = stage.driver();
    let id = stage.spare(0).into();
    let registers = thread_control(id, id, me, NIL, KEEP);
    let result = probe::system_call(SystemCall::ThreadControl, registers).rax;
    equal("RAX, creating a space", 1, result)?;
    let registers = thread_control(id, NIL, NIL, NIL, KEEP);
    let result = probe::system_call(SystemCall::ThreadControl, registers).rax;
    equal("RAX, deleting it", 1, result)
}

fn registers_of_space_control(stage: &mut Stage) -> Checked {
    let me = stage.driver();
    let id = stage.spare(0).into();
    let registers = thread_control(id, id, me, NIL, KEEP);
    equal("a space", 1, probe::system_call(SystemCall::ThreadControl, registers).rax)?;
    let utcbs = Flexpage::memory(UTCB_START, 12, 0);
    let registers = Registers { rdx: KIP_AREA.0, ..space_control(id, 0, KIP_AREA, utcbs, NIL) };
    let registers = probe::system_call(SystemCall::SpaceControl, registers);
    equal("RAX", 1, registers.rax)?;
    equal("RDX, the old control", 0, registers.rdx)
}

fn registers_of_schedule(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    // A slice of 2 ms, a total quantum of 4 s, priority 99.
    let time = 0x07d0_u64 << 16 | (12 << 10 | 1000);
    let registers = Registers {
        rdi: a.id().0,
        rdx: time,
        r8: 0,
        rsi: 99,
        r9: 50 << 16 | 20,
        ..Registers::default()
    };
    let registers = probe::system_call(SystemCall::Schedule, registers);
    equal("RAX", 6, registers.rax)?;
    equal("RDX, the old total quantum", 0, registers.rdx & 0xffff)?;
    let keep = Registers { rdx: KEEP, r8: KEEP, rsi: KEEP, r9: KEEP, ..Registers::default() };
    let registers = probe::system_call(SystemCall::Schedule, Registers { rdi: a.id().0, ..keep });
    holds("RDX, the new total quantum", registers.rdx & 0xffff != 0)
}

fn registers_of_unmap(stage: &mut Stage) -> Checked {
    let a = stage.probe()?;
    let offset = stage.page();
    stage.give(a, offset, RW, 0x2_0000_0000)?;
    stage.write(a, 0x2_0000_0000, 1)?;
    // The third flexpage is the page; the others name nothing.
    let pages = [0, 0, page(0x2_0000_0000, 0).0, 0, 0, 0, 0, 0];
    let output = stage.run(a, unmap(7, &pages))?;
    equal("RDI", a.local().0, output.registers.rdi)?;
    equal("RBX, the third flexpage", page(0x2_0000_0000, 6).0, output.registers.rbx)?;
    equal("R9, the first", 0, output.registers.r9)?;
    equal("R15, the last", 0, output.registers.r15)
}

fn registers_of_memory_control(stage: &mut Stage) -> Checked {
    // Of four attribute words each is chosen by one flexpage; only write-back is possible.
    let address = stage.memory.large.start();
    for chosen in 0..4_u64 {
        for good in [true, false] {
            let attribute = |index| if (index == chosen) == good { 1 } else { 4 };
            let registers = Registers {
                rdx: 0,
                rcx: attribute(0),
                rsi: attribute(1),
                r8: attribute(2),
                r11: attribute(3),
                rdi: heliox_l4::utcb::local_id().0,
                r9: address | 12 << 4 | chosen,
                ..Registers::default()
            };
            let registers = probe::system_call(SystemCall::MemoryControl, registers);
            equal("RAX", u64::from(good), registers.rax)?;
            equal("RDX", u64::from(good), registers.rdx)?;
        }
    }
    Ok(())
}

fn vector_registers_survive(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    let other = action(Action::SetVectors, 0xbbbb, 7, 0);
    stage.go(b, &[other, receive(a.id(), NEVER), action(Action::GetVectors, 0, 0, 0)])?;
    stage.block_receiving(b)?;
    let mut steps = [const { None }; 9];
    steps[0] = Some(action(Action::SetVectors, 0xaaaa, 12345, 0));
    let calls = [
        clock(),
        thread_switch(NIL),
        schedule(NIL, KEEP, KEEP, KEEP, KEEP),
        exchange(NIL, 0, 0, 0, 0, 0, NIL),
        unmap(0, &[0]),
        send(b.id(), ZERO, &[tag(0, 0, 0)]),
        receive(a.id(), crate::steps::milliseconds(1)),
        action(Action::GetVectors, 0, 0, 0),
    ];
    for (place, step) in steps.iter_mut().skip(1).zip(calls) {
        *place = Some(step);
    }
    let steps = steps.map(|step| step.unwrap_or_else(clock));
    stage.go(a, &steps)?;
    let registers = stage.finish(a)?.registers;
    equal("XMM0", 0xaaaa, registers.rax)?;
    equal("XMM15", 0xaaaa, registers.rcx)?;
    equal("the x87 stack", 12345, registers.rdx)?;
    let registers = stage.finish(b)?.registers;
    equal("XMM0 of the other", 0xbbbb, registers.rax)?;
    equal("the x87 stack of the other", 7, registers.rdx)
}

fn flags_do_no_harm(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    const DIRECTION: u64 = 1 << 10;
    const ALIGNMENT: u64 = 1 << 18;
    for flags in [DIRECTION, ALIGNMENT, DIRECTION | ALIGNMENT] {
        let output = stage.run(probe, clock().with_flags(0x202 | flags))?;
        at_least("the clock", 1, output.registers.rax)?;
        equal("interrupts are enabled", 0x200, output.flags & 0x200)?;
        // One that goes through another thread's turn, and one that copies.
        let sleep = receive(probe.id(), crate::steps::milliseconds(1));
        let output = stage.run(probe, sleep.with_flags(0x202 | flags))?;
        output.failed("a sleep", crate::steps::RECEIVE_TIMEOUT)?;
        let other = stage.probe()?;
        let mut words = [7; 64];
        words[0] = tag(1, 63, 0);
        stage.go(other, &[receive(probe.id(), NEVER).with_flags(0x202 | flags)])?;
        stage.block_receiving(other)?;
        let step = send(other.id(), NEVER, &words).with_flags(0x202 | flags);
        stage.run(probe, step)?.succeeded("a long message")?;
        let output = stage.finish(other)?.succeeded("its receive")?;
        equal("the last word", 7, output.message_register(63))?;
    }
    Ok(())
}

fn no_kernel_addresses(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    for step in harmless_calls() {
        let output = stage.run(probe, step)?;
        let Registers { rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15 } =
            output.registers;
        for value in [rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15] {
            let is_stub = SystemCall::ALL.iter().any(|call| raw::stub(*call) >> 12 == value >> 12);
            if value >> 47 != 0 && !is_stub {
                return fail("a register without an address of the kernel", value);
            }
        }
    }
    Ok(())
}

fn system_call_instruction_elsewhere(stage: &mut Stage) -> Checked {
    let (a, b) = (stage.probe()?, stage.probe()?);
    for number in [0, 1, 8, u64::MAX] {
        let registers = Registers { rax: number, ..numbered() };
        stage.go(a, &[Step::new(Target::Action(Action::Syscall), registers)])?;
        equal("the exception's number", 6, stage.exception(a)?.vector())?;
        stage.reset(a)?;
    }
    // Others are as they were.
    let output = stage.run(b, ipc(a.id(), NIL, Timeouts::new(ZERO, NEVER), &[0]))?;
    output.failed("a send to a thread that waits for its driver", SEND_TIMEOUT)?;
    stage.go(b, &[call(a.id(), &[tag(1, 0, 0)])])?;
    let output = stage.run(a, receive(b.id(), NEVER))?;
    equal("a message", tag(1, 0, 0), output.registers.r9)
}

fn stubs_are_not_writable(stage: &mut Stage) -> Checked {
    let probe = stage.probe()?;
    let stub = raw::stub(SystemCall::SystemClock);
    let other = stage.page();
    stage.go(probe, &[action(Action::Write, stub & !7, 0, 0)])?;
    for _ in 0..2 {
        let fault = stage.page_fault(probe)?;
        equal("a write", 2, fault.access)?;
        stage.map_to(probe.id(), stage.mapping(other, RWX, stub & !0xfff))?;
    }
    stage.page_fault(probe)?;
    stage.reset(probe)?;
    let output = stage.run(probe, clock())?;
    at_least("the clock", 1, output.registers.rax)?;
    let word = output.word(ControlWord::MyGlobalId as isize);
    equal("the thread", probe.id().0, word)
}
