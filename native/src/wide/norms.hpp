// Norms of float32 numbers in double: every term is exact, eight interleaved partial sums meet in one tree.
#pragma once

#include "../kernels.hpp"
#include "vectors.hpp"

namespace fedge {
namespace {

using F64 = double __attribute__((vector_size(width)));
using I64 = std::int64_t __attribute__((vector_size(width)));
using HalfF32 = float __attribute__((vector_size(width / 2)));  // as many floats as F64 has doubles

constexpr std::size_t lanes_f64 = width / sizeof(double);
constexpr std::size_t sum_parts = 8 / lanes_f64;

// sum (8) += term of x (8), in registers of the set: GCC 12 takes wider vectors through memory, lane by lane.
template <class Term>
inline void add_eight(F64* sum, const float* x, Term term) noexcept {
#pragma GCC unroll 4
    for (std::size_t p = 0; p < sum_parts; ++p) {
        HalfF32 v;
        std::memcpy(&v, x + p * lanes_f64, sizeof v);
        term(sum[p], __builtin_convertvector(v, F64));
    }
}

// A template, so that no vector crosses a call.
template <class Term>
inline double eight_sums(const float* x, std::size_t n, Term term) noexcept {
    F64 sum[sum_parts] = {};
    std::size_t i = 0;
    for (; i + 8 <= n; i += 8) add_eight(sum, x + i, term);
    if (i < n) {
        float rest[8] = {};
        for (std::size_t lane = 0; i < n; ++i, ++lane) rest[lane] = x[i];
        add_eight(sum, rest, term);
    }
    double lane[8];
    std::memcpy(lane, sum, sizeof lane);
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

double magnitude_sum(const float* x, std::size_t n) noexcept {
    return eight_sums(x, n, [](F64& sum, const F64& v) noexcept { sum += (F64)((I64)v & INT64_MAX); });
}

double square_sum(const float* x, std::size_t n) noexcept {
    return eight_sums(x, n, [](F64& sum, const F64& v) noexcept { sum += v * v; });
}

}  // namespace
}  // namespace fedge
