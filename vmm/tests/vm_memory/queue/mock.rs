//! The driver's side of the crate, by which others' tests are written.

use virtio_queue::desc::{RawDescriptor, packed, split::Descriptor};
use virtio_queue::mock::{DescriptorTable, MockSplitQueue};
use virtio_queue::{QueueSync, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::driver::{SIZE, TABLE, WRITE, contents};
use crate::PAGE;
use crate::conformance::log::Log;

pub(super) fn with_mock<A: GuestAddressSpace>(space: &A) -> Log {
    let mut log = Log::default();
    let memory = space.memory();
    let memory = &*memory;
    let start = GuestAddress(0x2000_0000);
    let mut mock = MockSplitQueue::create(memory, start, SIZE);
    log.note("start", (mock.start(), mock.end(), mock.desc_table_addr()));
    log.note("rings", (mock.avail_addr(), mock.used_addr()));
    let ring = (mock.avail().start(), mock.avail().end());
    log.note("avail", (ring, mock.avail().idx().load()));
    mock.add_chain(3).unwrap();
    mock.add_indirect_chain(4).unwrap();
    let mut queue: QueueSync = mock.create_queue().unwrap();
    while let Some(chain) = queue.pop_descriptor_chain(space.memory()) {
        let descriptors: Vec<_> = chain.clone().map(|d| (d.addr(), d.len())).collect();
        log.note("chain", (chain.head_index(), descriptors));
        queue.add_used(memory, chain.head_index(), 7).unwrap();
    }
    let used = mock.used().ring().ref_at(1).unwrap().load();
    log.note("used", (mock.used().idx().load(), used.id(), used.len()));
    log.note("no such", mock.used().ring().ref_at(16).err());
    let idx = mock.avail().ring().ref_at(1).unwrap();
    idx.store(idx.load());

    let end = Descriptor::new(12 * PAGE, 8, 0, 0);
    let raw = RawDescriptor::from(end);
    let other = MockSplitQueue::create(memory, GuestAddress(0x2000_0000 + 2 * PAGE), SIZE);
    let chain = other.build_desc_chain(&[raw, raw]).unwrap();
    let built: Vec<_> = chain.map(|d| (d.addr(), d.flags())).collect();
    log.note("built", built);
    let chain = other.build_multiple_desc_chains(&[raw]).unwrap();
    log.note("built", chain.head_index());
    log.note("added", other.add_desc_chains(&[raw, raw], 3).is_ok());
    log.note("no room", other.desc_table().store(SIZE, raw).err());
    let table = DescriptorTable::new(memory, GuestAddress(TABLE), SIZE);
    table.store(2, raw).unwrap();
    let loaded = Descriptor::from(table.load(2).unwrap());
    log.note("loaded", (loaded.addr(), loaded.len(), table.total_size()));

    let mut packed = packed::Descriptor::new(12 * PAGE, 8, 3, WRITE);
    packed.set_len(9);
    let across = GuestAddress(13 * PAGE - 5);
    memory
        .write_obj(RawDescriptor::from(packed), across)
        .unwrap();
    let back = packed::Descriptor::from(memory.read_obj::<RawDescriptor>(across).unwrap());
    log.note("packed", (back.addr(), back.len(), back.id(), back.flags()));
    log.note("memory", contents(memory));
    log
}
