#include "fedge/isa.hpp"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "kernels.hpp"

#ifdef FEDGE_ARMV7
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace fedge {
namespace {

constexpr Isa every_isa[] = {Isa::baseline, Isa::neon, Isa::avx2, Isa::avx512};

Isa choose() {
    const char* const forced = std::getenv("FEDGE_ISA");
    if (forced == nullptr || *forced == '\0') {
        Isa widest = Isa::baseline;
        for (const Isa candidate : every_isa) {
            if (isa_available(candidate)) widest = candidate;
        }
        return widest;
    }
    for (const Isa candidate : every_isa) {
        if (std::string_view(forced) != isa_name(candidate)) continue;
        if (isa_available(candidate)) return candidate;
        throw std::runtime_error("FEDGE_ISA=" + std::string(forced) + ", which this machine lacks; unset it");
    }
    throw std::runtime_error("want FEDGE_ISA among baseline, neon, avx2, avx512; got '" + std::string(forced) + "'");
}

// Fused multiply-add has a bit of its own; every processor with AVX2 that was ever sold in numbers sets it.
bool fused() noexcept {
#ifdef FEDGE_X86_64
    return __builtin_cpu_supports("fma");
#else
    return true;
#endif
}

const FloatKernels& float_table(Isa chosen, Arithmetic arithmetic) noexcept {
    const bool fast = arithmetic == Arithmetic::fast && fused();
#ifdef FEDGE_X86_64
    if (chosen == Isa::avx512) return fast ? avx512_fast_float : avx512_float;
    if (chosen == Isa::avx2) return fast ? avx2_fast_float : avx2_float;
#endif
#ifdef FEDGE_ARMV7
    if (chosen == Isa::neon) return fast ? neon_fast_float : neon_float;
#endif
#ifdef FEDGE_FAST_BASELINE
    if (fast) return baseline_fast_float;
#endif
    static_cast<void>(chosen);
    static_cast<void>(fast);
    return baseline_float;
}

const Kernels& table(Isa chosen) noexcept {
#ifdef FEDGE_X86_64
    if (chosen == Isa::avx512) return avx512_kernels;
    if (chosen == Isa::avx2) return avx2_kernels;
#endif
#ifdef FEDGE_ARMV7
    if (chosen == Isa::neon) return neon_kernels;
#endif
    static_cast<void>(chosen);
    return baseline_kernels;
}

}  // namespace

const char* isa_name(Isa isa) noexcept {
    switch (isa) {
        case Isa::neon: return "neon";
        case Isa::avx2: return "avx2";
        case Isa::avx512: return "avx512";
        case Isa::baseline: break;
    }
    return "baseline";
}

bool isa_available(Isa isa) noexcept {
#ifdef FEDGE_X86_64
    // The builtin also asks whether the operating system saves the wide registers. AVX-512 means the sets of every
    // server core that has it: F, BW, DQ and VL.
    if (isa == Isa::avx2) return __builtin_cpu_supports("avx2");
    if (isa == Isa::avx512) {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    }
#endif
#if defined(__aarch64__)
    if (isa == Isa::neon) return true;
#elif defined(FEDGE_ARMV7)
    constexpr unsigned long needed = HWCAP_NEON | HWCAP_VFPv4;
    if (isa == Isa::neon) return (getauxval(AT_HWCAP) & needed) == needed;
#endif
    return isa == Isa::baseline;
}

Isa isa() {
    static const Isa chosen = choose();
    return chosen;
}

const FloatKernels& float_kernels(Arithmetic arithmetic) noexcept {
    static const FloatKernels& fast = float_table(isa(), Arithmetic::fast);
    static const FloatKernels& reproducible = float_table(isa(), Arithmetic::reproducible);
    return arithmetic == Arithmetic::fast ? fast : reproducible;
}

const Kernels& kernels() noexcept {
    static const Kernels& chosen = table(isa());
    return chosen;
}

}  // namespace fedge
