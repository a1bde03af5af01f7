//! Root's loop: starts the programs, then serves their faults and requests until all have ended.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use heliox_boot::elf::{FileBytes, UnreadableFile};
use heliox_l4::boot_info::BootInfo;
use heliox_l4::control::{self, ForeignThread, Refused, Space};
use heliox_l4::message::{Mapping, Message, Received};
use heliox_l4::protocol::{Request, TEXT_BYTES, TextWords, kernel_label};
use heliox_l4::sigma0::PhysicalBytes;
use heliox_l4::start::BootMemory;
use heliox_l4::{
    Flexpage, FlexpageKind, GlobalId, KernelLabel, ThreadId, heap, println, raw, reply_wait,
    schedule, utcb, wait,
};
use heliox_root::arguments;
use heliox_root::console::Line;
use heliox_root::image::{
    Access, Image, KERNEL_INTERFACE_PAGE, UTCB_AREA, allows, flexpage_rights,
};

use crate::frames::{Frame, Frames};

/// Status of a program that was ended because of what it did.
const CRASHED: u8 = 62;
/// The priority of a program's first thread.
const PRIORITY: u8 = 100;
/// The highest priority that a program can have a thread made with.
const MOST_PRIORITY: u64 = 200;
/// Log2 of the memory that the heap is given at the start.
const HEAP_BITS: u32 = 20;
/// Longest command line that is kept.
const COMMAND_LINE_BYTES: usize = 1024;
/// UTCBs of a space.
const UTCBS: usize = 1 << (UTCB_AREA.1 - heliox_l4::abi::utcb::BITS);
/// Address spaces of a program.
const SPACES: usize = 2;

/// A boot module, as a file.
struct ModuleFile(PhysicalBytes);

impl FileBytes for ModuleFile {
    fn size(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), UnreadableFile> {
        let bytes = buffer.len() as u64;
        if self.0.read(offset, buffer) { Ok(()) } else { Err(UnreadableFile { offset, bytes }) }
    }
}

/// A thread of a program.
struct ProgramThread {
    program: usize,
    space: usize,
    utcb: usize,
    thread: ForeignThread,
}

struct Program {
    name: String,
    command_line: String,
    image: Image,
    file: ModuleFile,
    pages: BTreeMap<u64, Frame>,
    line: Line,
    utcbs: [[bool; UTCBS]; SPACES],
    running: bool,
}

#[derive(Default)]
struct Root {
    frames: Frames,
    programs: Vec<Program>,
    threads: BTreeMap<u32, ProgramThread>,
    next_number: u32,
    /// The first status that was not 0.
    status: u8,
}

/// Why a thread could not be made.
#[derive(Debug)]
enum ThreadError {
    /// The space has no UTCB left.
    NoUtcb,
    /// There are no thread numbers left.
    NoNumber,
    /// The kernel refused.
    Refused(Refused),
    /// It did not take its start message.
    NotStarted,
}

impl ThreadError {
    /// The reason that the program is told.
    fn word(&self) -> u64 {
        match self {
            Self::NoUtcb => 0x101,
            Self::NoNumber => 0x102,
            Self::Refused(Refused(code)) => *code,
            Self::NotStarted => 0x103,
        }
    }
}

pub(crate) fn main() -> u8 {
    if !heap::grow(HEAP_BITS) {
        println!("root: sigma0 gives no memory");
    }
    let mut root = Root { next_number: raw::page().user_base() + 3, ..Root::default() };
    root.start_modules();
    if root.programs.is_empty() {
        println!("root: there is nothing to run");
    }
    root.serve();
    root.status
}

impl Root {
    /// Starts every module behind sigma0's and root's own.
    fn start_modules(&mut self) {
        let Some(memory) = BootMemory::get() else { return };
        let info = match BootInfo::parse(&memory) {
            Ok(info) => info,
            Err(error) => return println!("root: the boot information is unusable: {error:?}"),
        };
        let mut buffer = [0; COMMAND_LINE_BYTES];
        for module in info.modules().skip(2) {
            let bytes = info.command_line(&module, &mut buffer);
            let command_line = core::str::from_utf8(bytes).unwrap_or("").to_string();
            let name = arguments::name(&command_line).to_string();
            let file = match PhysicalBytes::get(module.start, module.bytes) {
                Ok(bytes) => ModuleFile(bytes),
                Err(error) => {
                    println!("root: {name}: its file cannot be had: {error:?}");
                    self.note_status(CRASHED);
                    continue;
                }
            };
            self.start(name, command_line, file);
        }
    }

    fn start(&mut self, name: String, command_line: String, mut file: ModuleFile) {
        let image = match Image::parse(&mut file) {
            Ok(image) => image,
            Err(error) => {
                println!("root: {name} is not started: {error}");
                return self.note_status(CRASHED);
            }
        };
        let entry = image.entry();
        let index = self.programs.len();
        self.programs.push(Program {
            name,
            command_line,
            image,
            file,
            pages: BTreeMap::new(),
            line: Line::default(),
            utcbs: [[false; UTCBS]; SPACES],
            running: true,
        });
        if let Err(error) = self.create_thread(index, 0, entry, 0, PRIORITY) {
            println!("root: {} cannot be started: {error:?}", self.programs[index].name);
            self.end(index, CRASHED);
        }
    }

    /// Makes a thread in one of a program's spaces, and the space with it if it is the first.
    fn create_thread(
        &mut self,
        index: usize,
        space_index: usize,
        instruction: u64,
        stack: u64,
        priority: u8,
    ) -> Result<GlobalId, ThreadError> {
        let utcbs = &self.programs[index].utcbs[space_index];
        let slot = utcbs.iter().position(|taken| !taken).ok_or(ThreadError::NoUtcb)?;
        let number = self.next_number;
        let id = GlobalId::new(number, 1).ok_or(ThreadError::NoNumber)?;
        if raw::page().thread_bits() < 32 && number >> raw::page().thread_bits() != 0 {
            return Err(ThreadError::NoNumber);
        }
        let me = utcb::global_id();
        let same_space =
            |thread: &&ProgramThread| (thread.program, thread.space) == (index, space_index);
        let space = match self.threads.values().find(same_space) {
            Some(other) => Space::of(other.thread),
            None => {
                let space = Space::create(id, me).map_err(ThreadError::Refused)?;
                let (page, page_bits) = KERNEL_INTERFACE_PAGE;
                let (area, area_bits) = UTCB_AREA;
                let configured = space.configure(
                    Flexpage::memory(page, page_bits, 0),
                    Flexpage::memory(area, area_bits, 0),
                    ThreadId::NIL,
                );
                if let Err(refused) = configured {
                    let _ = control::delete(id);
                    return Err(ThreadError::Refused(refused));
                }
                space
            }
        };
        let address = UTCB_AREA.0 + ((slot as u64) << heliox_l4::abi::utcb::BITS);
        let started =
            space.thread(id, me, me, address).map_err(ThreadError::Refused).and_then(|thread| {
                schedule::set_priority(id.into(), priority).map_err(ThreadError::Refused)?;
                thread.start_by_message(stack, instruction).map_err(|_| ThreadError::NotStarted)?;
                Ok(thread)
            });
        let thread = match started {
            Ok(thread) => thread,
            Err(error) => {
                let _ = control::delete(id);
                return Err(error);
            }
        };
        self.next_number += 1;
        self.programs[index].utcbs[space_index][slot] = true;
        let record = ProgramThread { program: index, space: space_index, utcb: slot, thread };
        self.threads.insert(number, record);
        Ok(id)
    }

    fn delete_thread(&mut self, number: u32) {
        if let Some(record) = self.threads.remove(&number) {
            // It exists, and root may: nothing can go wrong.
            let _ = control::delete(record.thread.id());
            self.programs[record.program].utcbs[record.space][record.utcb] = false;
        }
    }

    fn note_status(&mut self, status: u8) {
        if self.status == 0 {
            self.status = status;
        }
    }

    /// Ends a program that did what it may not, and says what that was.
    fn crash(&mut self, index: usize, what: core::fmt::Arguments<'_>) {
        let Program { name, line, .. } = &mut self.programs[index];
        line.flush(|text| println!("{name}: {text}"));
        println!("root: {name}: {what}");
        self.end(index, CRASHED);
    }

    /// Ends a program: its threads, and its memory.
    fn end(&mut self, index: usize, status: u8) {
        let numbers: Vec<u32> = self
            .threads
            .iter()
            .filter(|(_, thread)| thread.program == index)
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            self.delete_thread(number);
        }
        let program = &mut self.programs[index];
        let name = program.name.clone();
        program.line.flush(|text| println!("{name}: {text}"));
        program.running = false;
        for frame in core::mem::take(&mut program.pages).into_values() {
            self.frames.give_back(frame);
        }
        println!("root: {name} ended with status {status}");
        self.note_status(status);
    }

    fn serve(&mut self) {
        let mut received = None;
        while self.programs.iter().any(|program| program.running) {
            let message = match received.take().unwrap_or_else(wait) {
                Ok(message) => message,
                // Nobody can make a receive from anybody fail but by aborting it.
                Err(_) => continue,
            };
            if let Some(answer) = self.answer(&message) {
                received = Some(reply_wait(message.from, &answer));
            }
        }
    }

    fn answer(&mut self, message: &Received) -> Option<Message<'static>> {
        let from = message.from.global()?;
        let index = self.threads.get(&from.number())?.program;
        match kernel_label(message.label()) {
            Some((KernelLabel::PageFault, low)) => {
                self.page_fault(index, from, Access::from_label(low), message)
            }
            Some((KernelLabel::PortFault, _)) => self.port_fault(index, message),
            Some((KernelLabel::Exception, _)) => {
                let [vector, code, at, stack] = [19, 20, 1, 17].map(|index| message.word(index));
                let what = format_args!(
                    "thread {from}: exception {vector}, error code {code:#x}, at {at:#x}, stack \
                     {stack:#x}"
                );
                self.crash(index, what);
                None
            }
            Some(_) => None,
            None => self.request(index, Request::from_label(message.label())?, message),
        }
    }

    fn page_fault(
        &mut self,
        index: usize,
        from: GlobalId,
        access: Access,
        message: &Received,
    ) -> Option<Message<'static>> {
        let (address, at) = (message.word(1), message.word(2));
        let program = &mut self.programs[index];
        let page = program.image.page(address).filter(|page| allows(page.rights, access));
        let Some(page) = page else {
            let what = format_args!(
                "thread {from}: {access:?} at {address:#x}, where it may not, by the instruction at \
                 {at:#x}"
            );
            self.crash(index, what);
            return None;
        };
        let number = address >> 12;
        let frame = match program.pages.get(&number) {
            Some(frame) => *frame,
            None => {
                let Some(frame) = self.frames.take() else {
                    self.crash(index, format_args!("there is no memory left"));
                    return None;
                };
                let mut bytes = [0; 512];
                for done in (0..page.bytes).step_by(bytes.len()) {
                    let count = (page.bytes - done).min(bytes.len() as u64) as usize;
                    let piece = &mut bytes[..count];
                    // The image's parser saw to it that the file has all of it.
                    let _ = program.file.0.read(page.file_offset + done, piece);
                    self.frames.write(frame, page.start + done, piece);
                }
                program.pages.insert(number, frame);
                frame
            }
        };
        let rights = flexpage_rights(page.rights);
        answer_with(self.frames.map(frame, rights, address & !0xfff))
    }

    fn port_fault(&mut self, index: usize, message: &Received) -> Option<Message<'static>> {
        let program = &self.programs[index];
        match Flexpage(message.word(1)).kind() {
            FlexpageKind::Ports(ports)
                if arguments::allows_ports(&program.command_line, ports.first, ports.bits) =>
            {
                answer_with(Mapping::ports(ports.first, ports.bits))
            }
            _ => {
                let (ports, at) = (Flexpage(message.word(1)), message.word(2));
                let what = format_args!(
                    "uses {ports:?}, which it may not (see ports=), by the instruction at {at:#x}"
                );
                self.crash(index, what);
                None
            }
        }
    }

    fn request(
        &mut self,
        index: usize,
        request: Request,
        message: &Received,
    ) -> Option<Message<'static>> {
        match request {
            Request::Write => {
                let mut buffer = [0; TEXT_BYTES];
                let count = TextWords::read(message.untyped(), &mut buffer);
                let program = &mut self.programs[index];
                let name = program.name.clone();
                program.line.add(&buffer[..count], |text| println!("{name}: {text}"));
                Some(Message::new(0))
            }
            Request::Exit => {
                self.end(index, u8::try_from(message.word(1)).unwrap_or(u8::MAX));
                None
            }
            Request::CommandLine => {
                let line = self.programs[index].command_line.as_bytes();
                let offset = usize::try_from(message.word(1)).unwrap_or(usize::MAX);
                let text = TextWords::new(line.get(offset..).unwrap_or(&[]));
                Some(Message::of(0, text.words()))
            }
            Request::CreateThread => {
                let [home, instruction, stack, priority] = [1, 2, 3, 4].map(|at| message.word(at));
                // At most 200.
                let priority = priority.min(MOST_PRIORITY) as u8;
                let space = if home == 0 { 0 } else { 1 };
                let words = match self.create_thread(index, space, instruction, stack, priority) {
                    Ok(id) => [id.word(), 0],
                    Err(error) => [0, error.word()],
                };
                Some(Message::of(0, &words))
            }
            Request::DeleteThread => {
                let id = ThreadId(message.word(1)).global();
                let own = id.filter(|id| {
                    self.threads.get(&id.number()).is_some_and(|thread| thread.program == index)
                });
                if let Some(id) = own {
                    self.delete_thread(id.number());
                }
                Some(Message::of(0, &[u64::from(own.is_some())]))
            }
        }
    }
}

fn answer_with(mapping: Mapping) -> Option<Message<'static>> {
    let mut message = Message::new(0);
    // An empty message has room for an item.
    message.push_mapping(mapping).ok()?;
    Some(message)
}
