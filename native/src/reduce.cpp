#include "fedge/reduce.hpp"

#include <algorithm>
#include <atomic>
#include <bit>

#include "kernels.hpp"
#include "parallel.hpp"

namespace fedge {
namespace {

constexpr std::size_t block = 1024;           // columns: their sums take 8 KiB of the first cache
constexpr std::size_t range = std::size_t{1} << 16;  // of columns, one thread's at a time

// As all_finite, for the 11 bits of a double's exponent.
bool sums_finite(const double* x, std::size_t n) noexcept {
    std::uint64_t carry = 0;
    for (std::size_t i = 0; i < n; ++i) {
        carry |= (std::bit_cast<std::uint64_t>(x[i]) & 0x7fffffffffffffffU) + 0x0010000000000000U;
    }
    return (carry >> 63) == 0;
}

// Calls finish(sums, from, count) for each block of columns. A NaN or infinity among the terms is one in their sum, so
// looking at the sums is enough.
template <class Finish>
bool sum_blocks(const double* start, const float* const* rows, const double* weights, std::size_t n, std::size_t d,
                std::size_t threads, const Finish& finish) {
    std::atomic<bool> finite{true};
    for_each_range((d + range - 1) / range, threads, [&](std::size_t index, std::size_t) {
        double sums[block];
        const std::size_t end = std::min(d, (index + 1) * range);
        for (std::size_t from = index * range; from < end; from += block) {
            const std::size_t count = std::min(block, end - from);
            if (start != nullptr) std::copy_n(start + from, count, sums);
            else std::fill_n(sums, count, 0.0);
            kernels().accumulate_rows(sums, rows, weights, n, from, count);
            if (!sums_finite(sums, count)) finite = false;
            finish(sums, from, count);
        }
    });
    return finite;
}

}  // namespace

bool all_finite(const float* x, std::size_t n) noexcept {
    // An exponent field of all ones is NaN or infinity; adding one to that field carries into the (cleared) sign bit.
    std::uint32_t carry = 0;
    for (std::size_t i = 0; i < n; ++i) carry |= (std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffU) + 0x00800000U;
    return (carry >> 31) == 0;
}

std::size_t first_not_finite(const float* const* rows, std::size_t n, std::size_t d) noexcept {
    for (std::size_t i = 0; i < n; ++i) {
        if (!all_finite(rows[i], d)) return i;
    }
    return n;
}

template <class Index>
std::size_t first_out_of_range(const Index* values, std::size_t n, std::size_t bound) noexcept {
    for (std::size_t i = 0; i < n; ++i) {
        if (values[i] < 0 || static_cast<std::uint64_t>(values[i]) >= bound) return i;
    }
    return n;
}

template std::size_t first_out_of_range(const std::int32_t*, std::size_t, std::size_t) noexcept;
template std::size_t first_out_of_range(const std::int64_t*, std::size_t, std::size_t) noexcept;

bool accumulate_f32(double* acc, const float* x, double weight, std::size_t d) noexcept {
    if (!all_finite(x, d)) return false;
    kernels().accumulate_rows(acc, &x, &weight, 1, 0, d);
    return true;
}

bool weighted_sum(double* out, const double* start, const float* const* rows, const double* weights, std::size_t n,
                  std::size_t d, std::size_t threads) {
    return sum_blocks(start, rows, weights, n, d, threads,
                      [out](const double* sums, std::size_t from, std::size_t count) {
                          std::copy_n(sums, count, out + from);
                      });
}

bool weighted_mean(float* out, const float* const* rows, const double* weights, std::size_t n, std::size_t d,
                   std::size_t threads) {
    double total = 0.0;
    for (std::size_t i = 0; i < n; ++i) total += weights[i];
    return sum_blocks(nullptr, rows, weights, n, d, threads,
                      [out, total](const double* sums, std::size_t from, std::size_t count) {
                          for (std::size_t j = 0; j < count; ++j) out[from + j] = static_cast<float>(sums[j] / total);
                      });
}

bool accumulate_i32(std::int64_t* acc, const std::int32_t* x, std::size_t d) noexcept {
    std::uint64_t overflow = 0;
    for (std::size_t i = 0; i < d; ++i) {
        const auto a = static_cast<std::uint64_t>(acc[i]);
        const auto b = static_cast<std::uint64_t>(static_cast<std::int64_t>(x[i]));
        const std::uint64_t sum = a + b;
        overflow |= (a ^ sum) & (b ^ sum);  // the sign bit: both terms differ in sign from their sum
    }
    if ((overflow >> 63) != 0) return false;
    for (std::size_t i = 0; i < d; ++i) acc[i] += x[i];
    return true;
}

void accumulate_u32(std::uint32_t* acc, const std::uint32_t* x, std::size_t d) noexcept {
    kernels().add_words(acc, x, d);
}

std::uint64_t integer_l1_norm(const std::int32_t* values, std::size_t n) noexcept {
    std::uint64_t norm = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const auto bits = static_cast<std::uint32_t>(values[i]);
        norm += values[i] < 0 ? 0U - bits : bits;
    }
    return norm;
}

}  // namespace fedge
