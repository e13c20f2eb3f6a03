// Sums over many updates, streamed one at a time or several at once, and the checks that guard them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fedge {

// True where x (n) holds no NaN and no infinity.
bool all_finite(const float* x, std::size_t n) noexcept;

// The first of n rows (d) that holds NaN or infinity, or n.
std::size_t first_not_finite(const float* const* rows, std::size_t n, std::size_t d) noexcept;

// The position of the first of values (n) outside [0, bound), or n. Index is int32_t or int64_t.
template <class Index>
std::size_t first_out_of_range(const Index* values, std::size_t n, std::size_t bound) noexcept;

// acc (d) += weight * x (d), or false with acc untouched where x holds NaN or an infinity. Needs 0 <= weight <= 2^64:
// then no addition exceeds 2^192, and no number of them that a machine could make reaches the largest double.
bool accumulate_f32(double* acc, const float* x, double weight, std::size_t d) noexcept;

// out (d) = start (d) + sum of weights[i] * rows[i] (d) over n rows, start null for zero: the bits of accumulate_f32 once
// a row, in one pass over them. Weights as there, and `start` finite. False where a row holds NaN or infinity, for then
// and only then a sum does; out is spoilt, and start, which is apart from it, as it was.
bool weighted_sum(double* out, const double* start, const float* const* rows, const double* weights, std::size_t n,
                  std::size_t d, std::size_t threads);

// out (d) = the same from zero, divided by the sum of the weights (positive), rounded once to float.
bool weighted_mean(float* out, const float* const* rows, const double* weights, std::size_t n, std::size_t d,
                   std::size_t threads);

// acc (d) += x (d) exactly, in any order the same; or false with acc untouched where a coordinate would leave int64.
bool accumulate_i32(std::int64_t* acc, const std::int32_t* x, std::size_t d) noexcept;

// acc (d) += x (d) modulo 2^32: sums of masked vectors, whose masks cancel.
void accumulate_u32(std::uint32_t* acc, const std::uint32_t* x, std::size_t d) noexcept;

// Sum of |values (n)|, exact: |INT32_MIN| is 2^31 and the sum stays below 2^64 for n < 2^33.
std::uint64_t integer_l1_norm(const std::int32_t* values, std::size_t n) noexcept;

}  // namespace fedge
