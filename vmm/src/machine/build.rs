//! Putting a machine together.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use gracefault_guest::abi::{self, device};

use super::config::HostLimits;
use super::exit_path::Shared;
use super::gate::Gate;
use super::guest_pages::{GuestPages, Task};
use super::handle::{DeviceAt, Inner};
use super::layout::Layout;
use super::{MachineConfig, MachineError, image};
use crate::devices::{
    Console, DmaDevice, ExitDevice, HotplugController, SerialConsole, TestDevice,
};
use crate::hotplug::HotplugRegion;
use crate::kvm::boot::{self, Start, TABLES_GPA, TABLES_ROOM};
use crate::kvm::{Found, Kvm, MemSlot, SlotAccess, Vcpu, VcpuFilter, Vm};
use crate::memory::{Backend, Device, GuestSpace, Mapping, RamSizes, RamSource, sigbus};
use crate::mm::{AddrRange, KillFlag};

/// A machine that has not run yet. Dropping it gives everything back.
#[derive(Debug)]
pub struct Machine {
    pub(super) config: MachineConfig,
    pub(super) vcpus: Vec<Vcpu>,
    pub(super) shared: Arc<Shared>,
    pub(super) test_device: Arc<TestDevice>,
    pub(super) dma: Arc<DmaDevice>,
    pub(super) region: Arc<HotplugRegion>,
    pub(super) pages: GuestPages,
    pub(super) serial: Arc<SerialConsole>,
    /// Taken when the run ends.
    pub(super) console: Option<Console>,
    /// What its handles share.
    pub(super) inner: Arc<Inner>,
    /// Whether KVM says that it counts exits.
    pub(super) kvm_counts: bool,
    /// Boot RAM's slots. They keep their memory.
    boot_slots: Arc<[MemSlot]>,
}

impl Machine {
    /// Makes the machine that `config` describes; the guest's console output goes
    /// to `console`, line by line. No vCPU runs yet.
    pub fn new(
        config: MachineConfig,
        console: Box<dyn Write + Send>,
    ) -> Result<Self, MachineError> {
        let kvm = Kvm::open_path(&config.kvm_device)?;
        let host = HostLimits {
            vcpus: kvm.max_vcpus(),
            slots: kvm.max_slots(),
            physical_bits: kvm.physical_bits(),
        };
        let is_there = |found: &Found| found.capability.name == "BINARY_STATS_FD" && found.is_met();
        let kvm_counts = kvm.capabilities().iter().any(is_there);
        config.check(&host)?;
        let layout = Layout::new(&config, &host)?;
        config.memory.check_slots(&host)?;
        let filter = filter(&config)?;
        // Before boot RAM is touched: a file can be cut short at any time.
        sigbus::install().map_err(MachineError::Sigbus)?;
        let vm = Arc::new(Vm::new(&kvm)?);
        let ram = Arc::new(ram_source(&vm, &config)?);

        let memory = Arc::new(GuestSpace::physical_with(
            physical_range(host.physical_bits),
            config.space,
        ));
        let (low, slots) = boot_ram(&vm, &memory, &layout, &ram, config.dirty_log)?;
        let image = image::load(&config, &layout, &low)?;
        write_tables(&low, &layout, vm.physical_bits())?;

        let vcpu_count = config.vcpus as usize;
        let exit_device = Arc::new(ExitDevice::new(vcpu_count));
        let test_device = Arc::new(TestDevice::new(vcpu_count));
        let controller = Arc::new(HotplugController::new(vcpu_count));
        let kill = Arc::new(KillFlag::new());
        let dma = Arc::new(DmaDevice::new(Arc::downgrade(&memory), kill.clone()));
        let devices: [(u64, u64, Arc<dyn Device>); device::COUNT] = [
            (abi::TEST_GPA, test_device.len(), test_device.clone()),
            (abi::EXIT_GPA, exit_device.len(), exit_device.clone()),
            (abi::HOTPLUG_GPA, controller.len(), controller.clone()),
            (abi::DMA_GPA, DmaDevice::LEN, dma.clone()),
        ];
        let mut known = Vec::new();
        let mut knows = |is_port, start, len, device: &dyn Device| {
            known.push(DeviceAt {
                is_port,
                start,
                len,
                name: device.name().to_owned(),
            });
        };
        for (gpa, len, device) in devices {
            knows(false, gpa, len, &*device);
            memory.map_device(range(gpa, len), device)?;
        }
        let ports = Arc::new(GuestSpace::ports());
        let console = Console::new(console).map_err(MachineError::Console)?;
        let serial = SerialConsole::new(console.input());
        knows(true, abi::SERIAL_PORT.into(), serial.len(), &*serial);
        ports.map_device(range(abi::SERIAL_PORT.into(), serial.len()), serial.clone())?;

        let pages = GuestPages::new(low, &layout);
        let mut vcpus = vcpus(&vm, &config, &layout, image.entry)?;
        let confine = |vcpu: &mut Vcpu| vcpu.confine(filter.clone());
        vcpus.iter_mut().for_each(confine);
        let task = Task {
            workload: config.workload,
            vcpus: config.vcpus,
            tsc_khz: vcpus[0].tsc_khz()?.into(),
            block_size: config.memory.block,
            image_end: image.end,
        };
        pages.write_task(&task, &layout)?;
        let blocks = config.memory.hotplug_size / config.memory.block;
        let region = HotplugRegion::new(
            vm,
            memory.clone(),
            controller.clone(),
            layout.hotplug.start,
            config.memory.block,
            u32::try_from(blocks).expect("checked against the number of memslots"),
        );
        let region = region.with_ram(ram).lazy(config.memory.lazy);
        let region = Arc::new(region.with_dirty_log(config.dirty_log));
        let live = Shared::live(vcpu_count);
        let shared = Shared {
            memory,
            ports,
            exit_device,
            controller,
            kill,
            gate: Gate::new(live.clone()),
            live,
        };
        let shared = Arc::new(shared);
        let boot_slots = slots.iter().map(|slot| (slot.gpa(), slot.id())).collect();
        let inner = Inner::new(
            config.clone(),
            shared.clone(),
            region.clone(),
            dma.clone(),
            pages.clone(),
            known,
            boot_slots,
        );
        Ok(Self {
            config,
            vcpus,
            shared,
            test_device,
            dma,
            region,
            pages,
            serial,
            console: Some(console),
            inner,
            kvm_counts,
            boot_slots: slots.into(),
        })
    }
}

impl Machine {
    /// The region that blocks are plugged into. It may be used, also by a
    /// [`Resizer`](crate::hotplug::Resizer), while the machine runs; best without
    /// the run's own churn.
    pub fn hotplug(&self) -> &Arc<HotplugRegion> {
        &self.region
    }

    /// The memslots of boot RAM, one for what lies below the devices and, with more than
    /// fits there, one for what lies above. With a
    /// [dirty log](MachineConfig::dirty_log) each tells
    /// [which pages are written](MemSlot::take_dirty_pages), from the making of the
    /// machine on, and also while it runs. Whoever keeps this keeps the memory, and the
    /// VM, of a machine that has ended.
    pub fn boot_slots(&self) -> Arc<[MemSlot]> {
        self.boot_slots.clone()
    }

    /// The guest's memory and devices. It may be looked up and changed while the
    /// machine runs, as long as the guest finds what it expects.
    pub fn memory(&self) -> &Arc<GuestSpace> {
        &self.shared.memory
    }

    /// Set, it lets a running machine end its guest before the duration is over.
    pub fn finish_flag(&self) -> Arc<AtomicBool> {
        self.inner.finish.clone()
    }
}

/// What the vCPUs' threads are confined by, if they are.
fn filter(config: &MachineConfig) -> Result<Option<Arc<VcpuFilter>>, MachineError> {
    // Whoever lingers at the windows of the protocol may sleep there.
    let lingers = config.space.at_window.map(|_| libc::SYS_clock_nanosleep);
    Ok(VcpuFilter::new(config.seccomp, lingers.as_slice())?)
}

fn physical_range(bits: u32) -> AddrRange {
    range(0, 1 << bits.min(52))
}

fn range(start: u64, len: u64) -> AddrRange {
    AddrRange::new(start, len).expect("the layout has no empty range")
}

/// Where boot RAM and the blocks come from; refused if the host has not got it.
fn ram_source(vm: &Vm, config: &MachineConfig) -> Result<RamSource, MachineError> {
    let (options, memory) = (config.ram.clone(), config.memory);
    let sizes = RamSizes {
        boot: memory.size,
        hotplug: memory.hotplug_size,
        block: memory.block,
    };
    if options.backend == Backend::GuestMemfd {
        let make = |len| Ok(vm.create_guest_memfd(len)?);
        return RamSource::of_guest_memfd(options, sizes, make);
    }
    Ok(RamSource::open(options, sizes)?)
}

/// Boot RAM: a memslot and a VMA each, for what lies below the devices and above.
/// Returns the lower memory, which holds all that the VMM shares with the guest.
fn boot_ram(
    vm: &Vm,
    memory: &GuestSpace,
    layout: &Layout,
    source: &RamSource,
    dirty_log: bool,
) -> Result<(Arc<Mapping>, Vec<MemSlot>), MachineError> {
    let mut offset = 0;
    let mut rams = Vec::new();
    let mut slots = Vec::new();
    for part in [&layout.low, &layout.high]
        .into_iter()
        .filter(|part| !part.is_empty())
    {
        let len = part.end - part.start;
        let no_memory = |source| MachineError::NoMemory { len, source };
        let mut ram = source.map_boot(offset, len).map_err(no_memory)?;
        let mut access = SlotAccess::ReadWrite;
        if dirty_log {
            (ram, access) = (ram.with_dirty_pages(), SlotAccess::Logged);
        }
        let ram = Arc::new(ram);
        offset += len;
        slots.push(vm.add_slot(part.start, ram.clone(), access)?);
        memory.map_ram(range(part.start, len), ram.clone())?;
        rams.push(ram);
    }
    Ok((rams.swap_remove(0), slots))
}

fn write_tables(low: &Mapping, layout: &Layout, bits: u32) -> Result<(), MachineError> {
    let room = match layout.tables {
        TABLES_GPA => TABLES_ROOM,
        tables => layout.reports - tables,
    };
    let mut write = |gpa: u64, bytes: &[u8]| Ok(low.write(gpa, bytes)?);
    boot::write_tables(layout.mapped_end, bits, layout.tables, room, &mut write)?;
    Ok(())
}

fn vcpus(
    vm: &Vm,
    config: &MachineConfig,
    layout: &Layout,
    entry: u64,
) -> Result<Vec<Vcpu>, MachineError> {
    let mut vcpus = Vec::new();
    for id in 0..config.vcpus {
        let mut vcpu = vm.create_vcpu(id)?;
        vcpu.start_at(&Start {
            entry,
            params: abi::PARAMS_GPA,
            stack_top: layout.stack_top(id),
            report: layout.report(id),
            tables: layout.tables,
        })?;
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}
