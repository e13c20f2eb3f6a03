// Integer noise onto a sum, on its grid.
#pragma once

#include "../kernels.hpp"
#include "vectors.hpp"

namespace fedge {
namespace {

constexpr std::size_t pairs = width / sizeof(double);  // numbers worked on at a time

using F64 = double __attribute__((vector_size(width)));
using F32Half = float __attribute__((vector_size(width / 2)));
using I32Half = std::int32_t __attribute__((vector_size(width / 2)));

// Adding and taking away 1.5 * 2^52, where doubles are whole numbers, rounds to nearest; nothing here comes near it.
template <class Number, class Whole>
inline Number noised(const Number& sum, const Whole& noise, const NoiseGrid& grid) noexcept {
    const Number rounded = (sum * grid.levels + 0x1.8p52) - 0x1.8p52;
    return (rounded + noise - grid.center) * grid.step;
}

void add_noise(float* g, const float* sum, const std::int32_t* noise, std::size_t n, const NoiseGrid& grid) noexcept {
    std::size_t i = 0;
    for (; i + pairs <= n; i += pairs) {
        F32Half terms;
        I32Half draws;
        std::memcpy(&terms, sum + i, sizeof terms);
        std::memcpy(&draws, noise + i, sizeof draws);
        const F64 result =
            noised(__builtin_convertvector(terms, F64), __builtin_convertvector(draws, F64), grid);
        terms = __builtin_convertvector(result, F32Half);
        std::memcpy(g + i, &terms, sizeof terms);
    }
    for (; i < n; ++i) {
        g[i] = static_cast<float>(noised(static_cast<double>(sum[i]), static_cast<double>(noise[i]), grid));
    }
}

}  // namespace
}  // namespace fedge
