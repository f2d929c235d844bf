//! What a guest sees of its processor: the host's features, as far as KVM
//! supports them, and an APIC id of its own.
use kvm_bindings::CpuId;

/// KVM reports the APIC id of whichever host CPU was asked: each vCPU needs its
/// own instead.
pub(super) fn with_apic_id(cpuid: &CpuId, id: u32) -> CpuId {
    let mut cpuid = cpuid.clone();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            0x1 => entry.ebx = entry.ebx & 0x00ff_ffff | id << 24,
            // x2APIC ids of the topology leaves, 32 bits.
            0xb | 0x1f => entry.edx = id,
            0x8000_001e => entry.eax = id,
            _ => {}
        }
    }
    cpuid
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::kvm_cpuid_entry2;

    #[test]
    fn each_vcpu_has_its_own_apic_id() {
        let entry = |function, ebx| kvm_cpuid_entry2 {
            function,
            ebx,
            ..Default::default()
        };
        let host = [
            entry(1, 0x5502_0800),
            entry(0xb, 1),
            entry(0x8000_001e, 2),
            entry(7, 9),
        ];
        let guest = with_apic_id(&CpuId::from_entries(&host).unwrap(), 3);
        let guest = guest.as_slice();
        assert_eq!(guest[0].ebx, 0x0302_0800);
        assert_eq!(guest[1].edx, 3);
        assert_eq!(guest[2].eax, 3);
        assert_eq!(guest[3], host[3]);
        // Beyond 8 bits only the x2APIC id is whole.
        let wide = with_apic_id(&CpuId::from_entries(&host).unwrap(), 0x104);
        assert_eq!(
            (wide.as_slice()[0].ebx >> 24, wide.as_slice()[1].edx),
            (4, 0x104)
        );
    }
}
