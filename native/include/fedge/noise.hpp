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
// scale 2^m / ln 2. Overwrites out. Needs m <= max_log2_scale. Every |X| is at most 2^(m+6).
//
// Which instructions run and which addresses they touch depends on n and m alone. Samples are drawn 64 at a time,
// sample i in bit i of every word; a last short block is drawn whole. A block reads the stream as laplace_coins words
// of coins, then for each digit s = 1..m its first_bits words, most significant first, then laplace_spares words, then
// one word of signs.
void discrete_laplace(std::int64_t* out, ChaChaStream& rng, std::size_t n, unsigned m) noexcept;

inline constexpr std::size_t laplace_coins = 63;
inline constexpr std::size_t first_bits = 16;
inline constexpr std::size_t laplace_spares = 10;

// The second stage of a block's comparisons. Bit i of tie (m) marks a digit of sample i whose first_bits random bits
// equal those of its threshold. The k-th tie in the order of digits, then samples, is settled by spare[k]: its bit in
// digit (m) is set where spare[k] < threshold << first_bits. Settled ties are cleared; ties past laplace_spares stay,
// their digits zero.
void settle_ties(std::uint64_t* digit, std::uint64_t* tie, const std::uint64_t* spare, unsigned m) noexcept;

}  // namespace fedge
