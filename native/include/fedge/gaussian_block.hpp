// What one block of the discrete Gaussian sampler reads, and what it compares with: docs/noise.md, section 8. Constants
// and plain data only, as every instruction set's unit includes them (src/kernels.hpp).
#pragma once

#include <cstddef>
#include <cstdint>

namespace fedge {

inline constexpr std::int64_t max_sigma = std::int64_t{1} << 30;
inline constexpr std::int64_t max_sigma_32 = std::int64_t{1} << 27;

// A block is 1,024 trials. Trial 16 b + c is bit b of column c where trials are rows of bits.
inline constexpr std::size_t gaussian_columns = 16;
inline constexpr std::size_t gaussian_trials = 64 * gaussian_columns;
inline constexpr std::size_t gaussian_spares = 4;  // trials of a block that 32 bits may leave undecided

inline constexpr std::size_t gaussian_strips = 21;       // at most
inline constexpr std::size_t gaussian_near_strips = 15;  // past these every threshold begins with 32 ones
inline constexpr std::uint32_t toss_margin = 512;        // by how much a chance of 32 bits may be off

// The words (32 bits) of a block, in order: of every trial the first 32 bits of the number that chooses its strip; of
// every trial a sign and a place; of every trial the first 32 bits of the number that is tossed against its chance; for
// each spare the 64 bits that follow in either number, as four words, low words first.
inline constexpr std::size_t gaussian_words = 3 * gaussian_trials + 4 * gaussian_spares;

// What 32-bit lanes need to know of sigma, and nothing secret.
struct GaussianLanes {
    unsigned place_bits;       // a strip is 2^place_bits wide
    std::uint32_t steepness;   // floor(2^32 width^2 log2(e) / (2 sigma^2))
    std::uint32_t near[gaussian_near_strips - 1];  // the first 32 bits of strips' thresholds, padded with ones
};

struct U128 {
    std::uint64_t hi, lo;
};

struct GaussianPlan {
    GaussianLanes lanes;
    U128 steepness;                       // width^2 log2(e) / (2 sigma^2), Q128
    U128 threshold[gaussian_strips - 1];  // where strips 1, 2, ... begin, Q127, padded with ones
};

// A block in progress. The caller wipes it.
struct alignas(64) GaussianBlock {
    std::uint32_t strip[gaussian_trials];
    std::uint32_t accepted[gaussian_trials];  // all ones or zero
    std::uint32_t chosen[gaussian_spares];    // the trial that a spare decides; at least gaussian_trials if none
    // That trial's words; then, decided, its strip and whether it is accepted.
    std::uint32_t chosen_words[3][gaussian_spares];
    std::uint32_t decided_strip[gaussian_spares], decided[gaussian_spares];
    std::int32_t narrow[gaussian_trials];
};

}  // namespace fedge
