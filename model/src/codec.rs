//! States as a few bytes, so that millions of them can be kept.

use crate::machine::{Cpu, Frame, Level, Machine, VirtualPage};
use crate::state::{
    Debts, Entry, Mapping, Owner, Page, Region, Rights, Share, Stale, State, Status, StatusKind,
    Table,
};

/// Writes numbers: below 0xf0 in one byte, larger ones in nine.
struct Writer<'bytes>(&'bytes mut Vec<u8>);

impl Writer<'_> {
    fn number(&mut self, number: u64) {
        match u8::try_from(number) {
            Ok(byte) if byte < 0xf0 => self.0.push(byte),
            _ => {
                self.0.push(0xff);
                self.0.extend_from_slice(&number.to_le_bytes());
            }
        }
    }

    fn owner(&mut self, owner: Owner) {
        self.number(match owner {
            Owner::Hypervisor => 0,
            Owner::Nobody => 1,
            Owner::Domain(number) => u64::from(number) + 2,
        });
    }

    fn entry(&mut self, entry: Entry) {
        match entry {
            Entry::Absent => self.number(0),
            Entry::Table(frame) => {
                self.number(1);
                self.number(frame.0.into());
            }
            Entry::Page(Mapping { frame, rights, user, foreign }) => {
                let flags = rights.bits() | u8::from(user) << 2 | u8::from(foreign) << 3;
                self.number(u64::from(flags) + 2);
                self.number(frame.0.into());
            }
        }
    }

    fn table(&mut self, table: &Table) {
        let present = table.entries().iter().filter(|entry| **entry != Entry::Absent);
        self.number(present.count() as u64);
        for (index, entry) in table.entries().iter().enumerate() {
            if *entry != Entry::Absent {
                self.number(index as u64);
                self.entry(*entry);
            }
        }
    }
}

struct Reader<'bytes>(&'bytes [u8]);

impl Reader<'_> {
    fn number(&mut self) -> u64 {
        match self.0.split_first() {
            Some((0xff, rest)) => {
                let (number, rest) = rest.split_at(8);
                self.0 = rest;
                u64::from_le_bytes(number.try_into().expect("eight bytes"))
            }
            Some((byte, rest)) => {
                self.0 = rest;
                u64::from(*byte)
            }
            None => panic!("the bytes are a state's"),
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "it was written from a u32")]
    fn small(&mut self) -> u32 {
        self.number() as u32
    }

    #[allow(clippy::cast_possible_truncation, reason = "it was written from a u8")]
    fn byte(&mut self) -> u8 {
        self.number() as u8
    }

    #[allow(clippy::cast_possible_truncation, reason = "it was written from a u16")]
    fn owner(&mut self) -> Owner {
        match self.number() {
            0 => Owner::Hypervisor,
            1 => Owner::Nobody,
            number => Owner::Domain((number - 2) as u16),
        }
    }

    fn entry(&mut self) -> Entry {
        match self.byte() {
            0 => Entry::Absent,
            1 => Entry::Table(Frame(self.small())),
            flags => {
                let flags = flags - 2;
                Entry::Page(Mapping {
                    frame: Frame(self.small()),
                    rights: Rights::from_bits(flags),
                    user: flags & 4 != 0,
                    foreign: flags & 8 != 0,
                })
            }
        }
    }

    fn table(&mut self, entries: u32) -> Table {
        let mut table = vec![Entry::Absent; entries as usize];
        for _ in 0..self.number() {
            let index = self.small() as usize;
            table[index] = self.entry();
        }
        Table::new(table)
    }
}

/// Appends a state to `bytes`.
pub(crate) fn encode(state: &State, bytes: &mut Vec<u8>) {
    let mut writer = Writer(bytes);
    state.cr3.iter().for_each(|frame| writer.number(frame.0.into()));
    writer.number(state.owed.bits().into());
    for page in &state.pages {
        writer.number(page.status.kind() as u64);
        writer.owner(page.owner);
        writer.number(page.waits.bits().into());
        writer.number(page.references.into());
        match &page.status {
            Status::Environment(data) | Status::Normal(data) | Status::Io(data) => {
                writer.number((*data).into());
            }
            Status::PageDirectory(table) | Status::PageTable(table) => writer.table(table),
            Status::NotInstalled | Status::Supplied | Status::Draining => {}
        }
    }
    writer.number(state.stale.len() as u64);
    for stale in &state.stale {
        let (kind, level, rights) = match stale {
            Stale::Page { level, rights, .. } => (0, level, *rights),
            Stale::Table { level, .. } => (1, level, Rights::READ),
        };
        writer.number(kind);
        writer.number(stale.cpu().0.into());
        writer.number(stale.first().0);
        writer.number(level.0.into());
        writer.number(stale.frame().0.into());
        writer.number(rights.bits().into());
    }
    writer.number(state.shares.len() as u64);
    for share in &state.shares {
        writer.number(share.region.first.0.into());
        writer.number(share.region.pages.into());
        writer.number(share.owner.into());
        writer.owner(share.grantee);
        writer.number(share.rights.bits().into());
    }
    writer.number(state.divided.len() as u64);
    for region in &state.divided {
        writer.number(region.first.0.into());
        writer.number(region.pages.into());
    }
}

/// The state that was written to `bytes`.
///
/// # Panics
///
/// If `bytes` does not begin with a state of `machine`.
pub(crate) fn decode(machine: &Machine, bytes: &[u8]) -> State {
    let mut reader = Reader(bytes);
    let cr3 = machine.cpus().map(|_| Frame(reader.small())).collect();
    let owed = Debts::from_bits(reader.byte());
    let mut pages = Vec::with_capacity(machine.frames() as usize);
    for _ in machine.all_frames() {
        let kind = reader.byte();
        let owner = reader.owner();
        let waits = Debts::from_bits(reader.byte());
        let references = reader.small();
        let status = match kind {
            kind if kind == StatusKind::Environment as u8 => Status::Environment(reader.byte()),
            kind if kind == StatusKind::Normal as u8 => Status::Normal(reader.byte()),
            kind if kind == StatusKind::Io as u8 => Status::Io(reader.byte()),
            kind if kind == StatusKind::Supplied as u8 => Status::Supplied,
            kind if kind == StatusKind::Draining as u8 => Status::Draining,
            kind if kind == StatusKind::PageDirectory as u8 => {
                Status::PageDirectory(reader.table(machine.root_entries()))
            }
            kind if kind == StatusKind::PageTable as u8 => {
                Status::PageTable(reader.table(machine.sizes().entries))
            }
            _ => Status::NotInstalled,
        };
        pages.push(Page { status, owner, waits, references });
    }
    let mut stale = Vec::new();
    for _ in 0..reader.number() {
        let kind = reader.byte();
        let cpu = Cpu(reader.byte());
        let first = VirtualPage(reader.number());
        let level = Level(reader.byte());
        let frame = Frame(reader.small());
        let rights = Rights::from_bits(reader.byte());
        stale.push(match kind {
            0 => Stale::Page { cpu, first, level, frame, rights },
            _ => Stale::Table { cpu, first, level, frame },
        });
    }
    let mut shares = Vec::new();
    for _ in 0..reader.number() {
        let region = Region { first: Frame(reader.small()), pages: reader.small() };
        #[allow(clippy::cast_possible_truncation, reason = "it was written from a u16")]
        let owner = reader.number() as u16;
        let grantee = reader.owner();
        shares.push(Share { region, owner, grantee, rights: Rights::from_bits(reader.byte()) });
    }
    let mut divided = Vec::new();
    for _ in 0..reader.number() {
        divided.push(Region { first: Frame(reader.small()), pages: reader.small() });
    }
    State { cr3, pages, owed, stale, shares, divided }
}
