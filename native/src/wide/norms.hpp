// Norms of float32 numbers in double: every term is exact, eight interleaved partial sums meet in one tree.
#pragma once

#include "../kernels.hpp"
#include "vectors.hpp"

namespace fedge {
namespace {

using F32x8 = float __attribute__((vector_size(32)));
using F64x8 = double __attribute__((vector_size(64)));
using I64x8 = std::int64_t __attribute__((vector_size(64)));

// A template, so that its vectors, wider than the registers of most sets, never cross a call.
template <class Term>
inline double eight_sums(const float* x, std::size_t n, Term term) noexcept {
    F64x8 sum{};
    std::size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        F32x8 v;
        std::memcpy(&v, x + i, sizeof v);
        term(sum, __builtin_convertvector(v, F64x8));
    }
    if (i < n) {
        F32x8 v{};
        for (std::size_t lane = 0; i < n; ++i, ++lane) v[lane] = x[i];
        term(sum, __builtin_convertvector(v, F64x8));
    }
    return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

double magnitude_sum(const float* x, std::size_t n) noexcept {
    return eight_sums(x, n, [](F64x8& sum, const F64x8& v) noexcept { sum += (F64x8)((I64x8)v & INT64_MAX); });
}

double square_sum(const float* x, std::size_t n) noexcept {
    return eight_sums(x, n, [](F64x8& sum, const F64x8& v) noexcept { sum += v * v; });
}

}  // namespace
}  // namespace fedge
