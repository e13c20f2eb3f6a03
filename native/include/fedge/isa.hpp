// Which instruction set the kernels of this process use. Reproducible results do not depend on it, bit for bit; only time
// does.
#pragma once

namespace fedge {

// baseline is what every processor of the architecture runs. On aarch64 that has NEON already, and both names mean the
// same kernels; on 32-bit ARM neon is NEON with VFPv4, whose fused multiply-add every board since the Raspberry Pi 2 has.
enum class Isa { baseline, neon, avx2, avx512 };

// The set that the environment variable FEDGE_ISA names (baseline, neon, avx2 or avx512) or, where it is unset or empty, the
// widest that this processor and its operating system run. Decided at the first call, which throws std::runtime_error
// where FEDGE_ISA names nothing known or more than this machine has. The kernels themselves cannot throw: a program
// that lets the environment choose makes the first call itself.
Isa isa();

const char* isa_name(Isa isa) noexcept;

// Whether this build and this machine have it.
bool isa_available(Isa isa) noexcept;

}  // namespace fedge
