// Sums over many updates, streamed one update at a time, and the checks that guard them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fedge {

// True where x (n) holds no NaN and no infinity.
bool all_finite(const float* x, std::size_t n) noexcept;

// The position of the first of values (n) outside [0, bound), or n. Index is int32_t or int64_t.
template <class Index>
std::size_t first_out_of_range(const Index* values, std::size_t n, std::size_t bound) noexcept;

// acc (d) += weight * x (d), or false with acc untouched where x holds NaN or an infinity. Needs 0 <= weight <= 2^64:
// then no addition exceeds 2^192, and no number of them that a machine could make reaches the largest double.
bool accumulate_f32(double* acc, const float* x, double weight, std::size_t d) noexcept;

// acc (d) += x (d) exactly, in any order the same; or false with acc untouched where a coordinate would leave int64.
bool accumulate_i32(std::int64_t* acc, const std::int32_t* x, std::size_t d) noexcept;

// Sum of |values (n)|, exact: |INT32_MIN| is 2^31 and the sum stays below 2^64 for n < 2^33.
std::uint64_t integer_l1_norm(const std::int32_t* values, std::size_t n) noexcept;

}  // namespace fedge
