// Discrete Laplace noise: exact up to a table rounded at 64 bits, integers only, in constant time. docs/noise.md has
// the proofs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fedge/csprng.hpp"
#include "fedge/gaussian_block.hpp"
#include "fedge/laplace_block.hpp"
#include "fedge/polya_block.hpp"

namespace fedge {

// out (n) = independent draws X with P(X = x) proportional to r^max(x, -x-1), r = 2^(-2^-m): symmetric about -1/2,
// scale 2^m / ln 2. Overwrites out. Needs m <= max_log2_scale; for int32, m <= max_log2_scale_32. Every |X| is at most
// 2^(m+6). Both types get the same numbers.
//
// Which instructions run and which addresses they touch depends on n and m alone. Samples are drawn laplace_draws at a
// time, each block from the next laplace_words(m) words of the stream; a last short block is drawn whole.
void discrete_laplace(std::int64_t* out, ChaChaStream& rng, std::size_t n, unsigned m) noexcept;
void discrete_laplace(std::int32_t* out, ChaChaStream& rng, std::size_t n, unsigned m) noexcept;

// The words that a block reads.
std::size_t laplace_words(unsigned m) noexcept;

// One block: out (laplace_draws) from words (laplace_words(m)). workspace (laplace_workspace_bytes) is aligned to 64
// bytes; the caller wipes it.
void laplace_block(std::int64_t* out, const std::uint64_t* words, unsigned m, std::byte* workspace) noexcept;
void laplace_block(std::int32_t* out, const std::uint64_t* words, unsigned m, std::byte* workspace) noexcept;

// out (n) = independent draws X with P(X = x) proportional to exp(-x^2 / (2 sigma^2)), 1 <= sigma <= max_sigma; for
// int32, at most max_sigma_32. Overwrites out. Every |X| is at most 22 * 2^29.
//
// The time a trial takes depends on sigma alone. How many trials it takes and which of them are accepted says nothing
// about the values that are.
void discrete_gaussian(std::int64_t* out, ChaChaStream& rng, std::size_t n, std::int64_t sigma) noexcept;
void discrete_gaussian(std::int32_t* out, ChaChaStream& rng, std::size_t n, std::int64_t sigma) noexcept;

// What every block for one sigma shares.
GaussianPlan gaussian_plan(std::int64_t sigma) noexcept;

// One block: the accepted values to out, which has room for gaussian_trials, from words (gaussian_words). Returns their
// number. The caller wipes `at`.
std::size_t gaussian_block(std::int64_t* out, const std::uint32_t* words, const GaussianPlan& plan,
                           GaussianBlock& at) noexcept;
std::size_t gaussian_block(std::int32_t* out, const std::uint32_t* words, const GaussianPlan& plan,
                           GaussianBlock& at) noexcept;

// out (n) = independent shares: the difference of two Polya (negative binomial) variables of parameters 1 / shares and
// q = 2^(-2^-m). The sum of `shares` of them has P(x) proportional to q^|x|, the discrete Laplace law that is symmetric
// about 0, of scale 2^m / ln 2. Overwrites out. Needs m <= max_share_log2_scale, 1 <= shares <= max_shares.
//
// Which instructions run and which addresses they touch depends on n, m and shares alone.
void laplace_share(std::int64_t* out, ChaChaStream& rng, std::size_t n, unsigned m, std::int64_t shares) noexcept;
void laplace_share(std::int32_t* out, ChaChaStream& rng, std::size_t n, unsigned m, std::int64_t shares) noexcept;

// What every block of shares has in common, and one block: out (polya_draws).
PolyaPlan polya_plan(unsigned m, std::int64_t shares) noexcept;
void polya_block(std::int32_t* out, ChaChaStream& rng, const PolyaPlan& plan) noexcept;

}  // namespace fedge
