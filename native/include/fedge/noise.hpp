// Discrete Laplace noise: exact up to a table rounded at 64 bits, integers only, in constant time. docs/noise.md has
// the proofs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fedge/csprng.hpp"

namespace fedge {

inline constexpr unsigned max_log2_scale = 32;

// digit_threshold[s - 1] = round(2^64 p_s) with p_s = 1 / (1 + 2^(2^-s)), s = 1..32: the chance that the binary digit
// of weight 2^-s octaves is set. One table serves every scale.
extern const std::uint64_t digit_threshold[max_log2_scale];

// out (n) = independent draws X with P(X = x) proportional to r^max(x, -x-1), r = 2^(-2^-m): symmetric about -1/2,
// scale 2^m / ln 2. Overwrites out. Needs m <= max_log2_scale. Every |X| is below 2^(m+6).
//
// Which instructions run and which addresses they touch depends on n and m alone. For 64 samples at a time the stream
// is read as 64 words for A, then 64 words for each digit s = 1..m, then one word of 64 signs; a last short block is
// drawn whole.
void discrete_laplace(std::int64_t* out, ChaChaStream& rng, std::size_t n, unsigned m) noexcept;

}  // namespace fedge
