//! A chain, and what reads and writes it.

use std::io::{Read, Write};

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{DescriptorChain, Reader, Writer};
use vm_memory::bitmap::BS;
use vm_memory::{GuestAddress, GuestAddressSpace, GuestMemory, Permissions};

use crate::conformance::log::{Log, digest};

/// Each descriptor, what is to be read, and what is to be written, which is done: how
/// many bytes.
pub(super) fn chain_of<A: GuestAddressSpace>(
    chain: &DescriptorChain<A::T>,
    memory: &A::M,
    log: &mut Log,
) -> u32 {
    let facts = |descriptor: Descriptor| {
        (
            (descriptor.addr(), descriptor.len(), descriptor.flags()),
            (descriptor.next(), descriptor.has_next()),
            (
                descriptor.is_write_only(),
                descriptor.refers_to_indirect_table(),
            ),
        )
    };
    let all: Vec<_> = chain.clone().map(facts).collect();
    log.note("descriptors", all);
    let readable: Vec<_> = chain.clone().readable().map(facts).collect();
    log.note("readable", readable);
    let writable: Vec<_> = chain.clone().writable().map(facts).collect();
    log.note("writable", writable);
    let own = chain.memory();
    log.note(
        "memory()",
        own.check_range(GuestAddress(0), 1, Permissions::ReadWrite),
    );

    match chain.clone().reader(memory) {
        Ok(reader) => read_all::<A>(reader, log),
        Err(error) => log.note("reader", error),
    }
    match chain.clone().writer(memory) {
        Ok(writer) => write_all::<A>(writer, log),
        Err(error) => {
            log.note("writer", error);
            0
        }
    }
}

type Slices<'a, A> = BS<'a, <<A as GuestAddressSpace>::M as GuestMemory>::Bitmap>;

fn read_all<'a, A: GuestAddressSpace>(mut reader: Reader<'a, Slices<'a, A>>, log: &mut Log) {
    let there = reader.available_bytes();
    log.note("available_bytes", there);
    log.note("split past", reader.split_at(there + 1).map(|_| ()));
    let mut again = reader.clone();
    let mut bytes = Vec::new();
    log.note("read_to_end", again.read_to_end(&mut bytes).ok());
    log.note("read", (digest(&bytes), again.bytes_read()));
    // 5 bytes, then what is left of it, of which the first across the seam.
    let mut rest = match reader.split_at(there.min(5)) {
        Ok(rest) => rest,
        Err(error) => return log.note("split_at", error),
    };
    log.note("read_obj", reader.read_obj::<u32>().ok());
    log.note("read_obj", reader.read_obj::<u32>().ok());
    log.note("left", (reader.available_bytes(), reader.bytes_read()));
    log.note("read_obj", rest.read_obj::<u64>().ok());
    log.note("left", (rest.available_bytes(), rest.bytes_read()));
}

fn write_all<'a, A: GuestAddressSpace>(
    mut writer: Writer<'a, Slices<'a, A>>,
    log: &mut Log,
) -> u32 {
    let there = writer.available_bytes();
    log.note("available_bytes", there);
    log.note("split past", writer.split_at(there + 1).map(|_| ()));
    let mut rest = match writer.split_at(there.min(98)) {
        Ok(rest) => rest,
        Err(error) => {
            log.note("split_at", error);
            return 0;
        }
    };
    let data: Vec<u8> = (0..there as u32).map(|i| (i * 5 + 7) as u8).collect();
    log.note("write_obj", writer.write_obj(0x1122_3344_u32).is_ok());
    log.note("write", writer.write(&data).ok());
    log.note("flush", writer.flush().is_ok());
    // Across the seam.
    log.note("write_obj", rest.write_obj(0x5566_7788_u32).is_ok());
    log.note("write_all", rest.write_all(&data).is_ok());
    log.note("left", (rest.available_bytes(), writer.bytes_written()));
    (writer.bytes_written() + rest.bytes_written()) as u32
}
