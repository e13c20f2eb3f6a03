// What one block of Polya shares reads, and what it compares with: docs/noise.md, section 9. Constants and plain data
// only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fedge/gaussian_block.hpp"

namespace fedge {

inline constexpr unsigned max_share_log2_scale = 24;
inline constexpr std::int64_t max_shares = std::int64_t{1} << 20;

inline constexpr std::size_t polya_draws = 512;       // of a block, each the sum of the jumps that fall on it
inline constexpr std::size_t polya_octaves = 31;      // of jump sizes, at most: [1, 2), [2, 4), ...
inline constexpr std::size_t polya_count_limits = 64;  // of one Poisson count of mean below 8
inline constexpr std::size_t polya_chunk = 64;        // jumps that are placed together

// The words of a block, in order: `counts` pairs, low words first, whose Poisson counts sum up to the number of jumps;
// `most` times five words, a jump each: its draw, sign and place; a pair for its octave; a pair to toss.
struct PolyaPlan {
    unsigned log2_scale;
    std::size_t counts;
    std::size_t most;                      // jumps of a block; more come with chance below 2^-91 and are left out
    U128 count_limit[polya_count_limits];  // P(a count is at most k), Q127
    U128 octave_limit[polya_octaves - 1];  // P(a jump's octave is at most e), Q127, padded with ones
};

}  // namespace fedge
