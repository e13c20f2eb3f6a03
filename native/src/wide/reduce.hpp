// Sums over several rows at once, by blocks of columns that stay in the first cache.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fedge {
namespace {

// A row's next columns are far from its last ones and from the other rows': no prefetcher guesses them. `ahead` floats
// on, which may lie past the end, for a prefetch does not fault.
inline void fetch(const float* row, std::size_t ahead) noexcept { __builtin_prefetch(row + ahead, 0, 2); }

// acc (count) += sum over n rows of weights[i] * rows[i][from + j]: each coordinate one sum, over the rows in order, so
// that rows taken together and one after the other give the same bits. Four rows a pass spare acc three trips.
void accumulate_rows(double* __restrict acc, const float* const* rows, const double* weights, std::size_t n,
                     std::size_t from, std::size_t count) noexcept {
    constexpr std::size_t line = 16;
    std::size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        const float *const a = rows[i] + from, *const b = rows[i + 1] + from, *const c = rows[i + 2] + from,
                    *const d = rows[i + 3] + from;
        const double wa = weights[i], wb = weights[i + 1], wc = weights[i + 2], wd = weights[i + 3];
        const auto add = [&](std::size_t j) {
            double sum = acc[j];
            sum += wa * static_cast<double>(a[j]);
            sum += wb * static_cast<double>(b[j]);
            sum += wc * static_cast<double>(c[j]);
            sum += wd * static_cast<double>(d[j]);
            acc[j] = sum;
        };
        std::size_t j = 0;
        for (; j + line <= count; j += line) {
            fetch(a + j, count), fetch(b + j, count), fetch(c + j, count), fetch(d + j, count);
            for (std::size_t k = 0; k < line; ++k) add(j + k);
        }
        for (; j < count; ++j) add(j);
    }
    for (; i < n; ++i) {
        const float* const a = rows[i] + from;
        const double wa = weights[i];
        for (std::size_t j = 0; j < count; ++j) acc[j] += wa * static_cast<double>(a[j]);
    }
}

// acc (n) += x (n), or acc -= x, modulo 2^32.
void add_words(std::uint32_t* __restrict acc, const std::uint32_t* __restrict x, std::size_t n) noexcept {
    for (std::size_t i = 0; i < n; ++i) acc[i] += x[i];
}

void subtract_words(std::uint32_t* __restrict acc, const std::uint32_t* __restrict x, std::size_t n) noexcept {
    for (std::size_t i = 0; i < n; ++i) acc[i] -= x[i];
}

}  // namespace
}  // namespace fedge
