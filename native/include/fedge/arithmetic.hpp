// The two ways of computing with floats.
#pragma once

#include <cstdint>

namespace fedge {

// fast: fused multiply-add where the processor has it. reproducible: every operation rounds by itself and in a fixed
// order, so that x86-64, aarch64, armv7 and a microcontroller give the same bits.
enum class Arithmetic : std::uint8_t { fast, reproducible };

}  // namespace fedge
