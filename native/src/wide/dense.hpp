// The dense layer's matrix products. Only the order of each single sum is promised, the same at every width.
#pragma once

#include "../kernels.hpp"
#include "vectors.hpp"

namespace fedge {
namespace {

constexpr std::size_t eight_width = width < 32 ? width : 32;

using F32 = float __attribute__((vector_size(width)));
using F32x4 = float __attribute__((vector_size(16)));
using F32Part = float __attribute__((vector_size(eight_width)));

// Eight partial sums. Every float32 dot product in fedge adds element i into lane i mod 8 and folds the lanes in one
// fixed tree, so the bits do not depend on how a kernel blocks its loops.
struct Eight {
    F32Part part[32 / eight_width];
};

inline Eight load_eight(const float* p) noexcept {
    Eight v;
    for (std::size_t part = 0; part < 32 / eight_width; ++part) {
        std::memcpy(&v.part[part], p + part * eight_width / 4, eight_width);
    }
    return v;
}

// The last n < 8 elements of a row, padded with zeros: a padded lane adds 0 * 0.
inline Eight load_tail(const float* p, std::size_t n) noexcept {
    float padded[8] = {};
    switch (n) {
        case 7: padded[6] = p[6]; [[fallthrough]];
        case 6: padded[5] = p[5]; [[fallthrough]];
        case 5: padded[4] = p[4]; [[fallthrough]];
        case 4: padded[3] = p[3]; [[fallthrough]];
        case 3: padded[2] = p[2]; [[fallthrough]];
        case 2: padded[1] = p[1]; [[fallthrough]];
        default: padded[0] = p[0];
    }
    return load_eight(padded);
}

// ((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7)). A template, so that the branch for other widths is not compiled.
template <class V>
float fold(const V& v) noexcept {
    F32x4 s;
    if constexpr (eight_width == 16) {
        s = v.part[0] + v.part[1];
    } else {
        s = __builtin_shufflevector(v.part[0], v.part[0], 0, 1, 2, 3) +
            __builtin_shufflevector(v.part[0], v.part[0], 4, 5, 6, 7);
    }
    return (s[0] + s[2]) + (s[1] + s[3]);
}

// As many sums as the registers hold beside their operands: 16 of them before AVX-512, 32 with it.
constexpr std::size_t block_rows = width == 64 ? 4 : 2;
constexpr std::size_t block_outputs = width == 16 ? 2 : 4;

// Rows of w (NB, I) as they lie.
struct WeightRows {
    const float* w;
    std::size_t I;

    Eight eight(std::size_t n, std::size_t i) const noexcept { return load_eight(w + n * I + i); }
    Eight tail(std::size_t n, std::size_t i) const noexcept { return load_tail(w + n * I + i, I - i); }
};

// block_outputs rows of w, packed eight by eight in the order of use and padded with zeros: no load crosses a cache
// line, while rows of any length make most of them do so.
struct PackedRows {
    const float* packed;

    Eight eight(std::size_t n, std::size_t i) const noexcept { return load_eight(packed + block_outputs * i + 8 * n); }
    Eight tail(std::size_t n, std::size_t i) const noexcept { return eight(n, i); }
};

constexpr bool packing = width > 16;  // shorter vectors seldom cross a line
constexpr std::size_t packed_floats = 6144;  // 24 KiB of the stack, and of the first-level cache
constexpr std::size_t worth_packing = 8 * block_rows;  // rows of x

inline PackedRows pack_rows(float* packed, const float* w, std::size_t I) noexcept {
    for (std::size_t i = 0; i < I; i += 8) {
        for (std::size_t n = 0; n < block_outputs; ++n) {
            const Eight v = i + 8 <= I ? load_eight(w + n * I + i) : load_tail(w + n * I + i, I - i);
            std::memcpy(packed + block_outputs * i + 8 * n, &v, sizeof v);
        }
    }
    return {packed};
}

// y[m, n] = b[n] + x[m] . w[n] for an MB x NB corner of y (row stride O). The pragmas keep the sums in registers.
template <std::size_t MB, std::size_t NB, class Weights>
void forward_block(float* y, const float* x, Weights w, const float* b, std::size_t I, std::size_t O) noexcept {
    Eight sum[MB][NB] = {};
    const auto step = [&sum](const Eight(&xs)[MB], auto weights) {
#pragma GCC unroll 4
        for (std::size_t n = 0; n < NB; ++n) {
            const Eight ws = weights(n);
#pragma GCC unroll 4
            for (std::size_t m = 0; m < MB; ++m) {
#pragma GCC unroll 2
                for (std::size_t p = 0; p < 32 / eight_width; ++p) sum[m][n].part[p] += xs[m].part[p] * ws.part[p];
            }
        }
    };
    Eight xs[MB];
    std::size_t i = 0;
    for (; i + 8 <= I; i += 8) {
#pragma GCC unroll 4
        for (std::size_t m = 0; m < MB; ++m) xs[m] = load_eight(x + m * I + i);
        step(xs, [&](std::size_t n) { return w.eight(n, i); });
    }
    if (i < I) {
#pragma GCC unroll 4
        for (std::size_t m = 0; m < MB; ++m) xs[m] = load_tail(x + m * I + i, I - i);
        step(xs, [&](std::size_t n) { return w.tail(n, i); });
    }
    for (std::size_t m = 0; m < MB; ++m) {
        for (std::size_t n = 0; n < NB; ++n) y[m * O + n] = b[n] + fold(sum[m][n]);
    }
}

// NB columns of y.
template <std::size_t NB, class Weights>
void forward_outputs(float* y, const float* x, Weights w, const float* b, std::size_t B, std::size_t I,
                     std::size_t O) noexcept {
    std::size_t row = 0;
    for (; row + block_rows <= B; row += block_rows) {
        forward_block<block_rows, NB>(y + row * O, x + row * I, w, b, I, O);
    }
    for (; row < B; ++row) forward_block<1, NB>(y + row * O, x + row * I, w, b, I, O);
}

// Columns of y are the outer loop: their rows of w stay in the first-level cache while all of x passes over them.
void forward_product(float* y, const float* x, const float* w, const float* b, std::size_t B, std::size_t I,
                     std::size_t O) noexcept {
    alignas(64) float packed[packed_floats];
    const bool pack = packing && B >= worth_packing && block_outputs * (I + 7) <= packed_floats;
    std::size_t o = 0;
    for (; o + block_outputs <= O; o += block_outputs) {
        if (pack) {
            forward_outputs<block_outputs>(y + o, x, pack_rows(packed, w + o * I, I), b + o, B, I, O);
        } else {
            forward_outputs<block_outputs>(y + o, x, WeightRows{w + o * I, I}, b + o, B, I, O);
        }
    }
    for (; o < O; ++o) forward_outputs<1>(y + o, x, WeightRows{w + o * I, I}, b + o, B, I, O);
}

constexpr std::size_t product_rows = 4;

template <class V>
V load_as(const float* p) noexcept {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

// c[m, ...] += sum over k, in order, of a(m, k) * b[k, ...] for MB rows of c and the columns of NV vectors V.
template <class V, std::size_t MB, std::size_t NV>
void product_block(float* c, const float* a, Strides at, const float* b, std::size_t N, std::size_t K) noexcept {
    constexpr std::size_t lanes = sizeof(V) / sizeof(float);
    V sum[MB][NV];
    for (std::size_t m = 0; m < MB; ++m) {
        for (std::size_t v = 0; v < NV; ++v) sum[m][v] = load_as<V>(c + m * N + v * lanes);
    }
    for (std::size_t k = 0; k < K; ++k) {
        V row[NV];
        for (std::size_t v = 0; v < NV; ++v) row[v] = load_as<V>(b + k * N + v * lanes);
        for (std::size_t m = 0; m < MB; ++m) {
            const float scale = a[m * at.m + k * at.k];
            for (std::size_t v = 0; v < NV; ++v) sum[m][v] += scale * row[v];
        }
    }
    for (std::size_t m = 0; m < MB; ++m) {
        for (std::size_t v = 0; v < NV; ++v) std::memcpy(c + m * N + v * lanes, &sum[m][v], sizeof(V));
    }
}

template <class V, std::size_t NV>
void product_columns(float* c, const float* a, Strides at, const float* b, std::size_t M, std::size_t N,
                     std::size_t K) noexcept {
    std::size_t m = 0;
    for (; m + product_rows <= M; m += product_rows) {
        product_block<V, product_rows, NV>(c + m * N, a + m * at.m, at, b, N, K);
    }
    for (; m < M; ++m) product_block<V, 1, NV>(c + m * N, a + m * at.m, at, b, N, K);
}

// Columns are the outer loop: those of b stay in the first-level cache while every row of c passes over them.
void accumulate_product(float* c, const float* a, Strides at, const float* b, std::size_t M, std::size_t N,
                        std::size_t K) noexcept {
    constexpr std::size_t lanes = width / sizeof(float);
    std::size_t n = 0;
    for (; n + 2 * lanes <= N; n += 2 * lanes) product_columns<F32, 2>(c + n, a, at, b + n, M, N, K);
    for (; n + lanes <= N; n += lanes) product_columns<F32, 1>(c + n, a, at, b + n, M, N, K);
    for (; n + 4 <= N; n += 4) product_columns<F32x4, 1>(c + n, a, at, b + n, M, N, K);
    for (; n < N; ++n) product_columns<float, 1>(c + n, a, at, b + n, M, N, K);
}

}  // namespace
}  // namespace fedge
