// What one block of the discrete Laplace sampler reads, and the tables it compares with: docs/noise.md, section 2.
// Constants only, as every instruction set's unit includes them (src/kernels.hpp).
#pragma once

#include <cstddef>
#include <cstdint>

namespace fedge {

inline constexpr unsigned max_log2_scale = 32;
inline constexpr unsigned max_log2_scale_32 = 24;  // of draws that fit int32

// A block is 512 draws: 8 columns of 64 bits, together one row. Bit i of column c belongs to draw 8 i + c.
inline constexpr std::size_t laplace_columns = 8;
inline constexpr std::size_t laplace_draws = 64 * laplace_columns;

inline constexpr unsigned first_bits = 12;      // of every comparison, and of the octaves' coins
inline constexpr unsigned compared_digits = 6;  // the digits after these are fair coins with drops
inline constexpr unsigned low_digits = max_log2_scale - compared_digits;
inline constexpr unsigned octave_bits = 6;  // of A, which is at most 63

// Spare words: one settles a tie, a pair makes one drop.
inline constexpr std::size_t tie_spares = 24;
inline constexpr std::size_t drop_spares = 36;

// round(2^64 p_s) for s = 1..compared_digits, and last round(2^64 f), f the chance that a draw has any drop.
extern const std::uint64_t comparison_threshold[compared_digits + 1];

// first_drop[k] = round(2^64 P(a draw's first drop is at digit compared_digits + 1 + k or before, given that it has
// one)), k < low_digits, and then zeros, for those who compare a vector at a time.
extern const std::uint64_t first_drop[max_log2_scale];

// The words of a block, in order: a row of signs; first_bits rows of coins, which make A; for each of min(m,
// compared_digits + 1) comparisons first_bits rows, most significant first, the digits in order and then whether
// anything drops; a row of coins for each digit left, s = compared_digits + 1..m; tie_spares; and, where there are such
// digits, 2 drop_spares.
inline constexpr std::size_t max_laplace_words =
    laplace_columns * (1 + first_bits * (2 + compared_digits) + low_digits) + tie_spares + 2 * drop_spares;

inline constexpr std::size_t laplace_workspace_bytes = 24576;

}  // namespace fedge
