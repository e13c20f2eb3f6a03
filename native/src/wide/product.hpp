// The matrix product under every layer. Rows and columns of c are blocked to fit the registers; each sum runs in the
// order that kernels.hpp promises.
#pragma once

#include "../kernels.hpp"
#include "vectors.hpp"

namespace fedge {
namespace {

using F32 = float __attribute__((vector_size(width)));

constexpr std::size_t lanes = width / sizeof(float);

inline F32 load(const float* p) noexcept {
    F32 v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

// The first n of a vector, 0 < n < lanes, then zeros. Nothing past them is touched.
inline F32 load_part(const float* p, std::size_t n) noexcept {
#if defined(__AVX512F__)
    return (F32)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << n) - 1), p);
#elif defined(__AVX2__)
    static const int ones_then_zeros[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    __m256i mask;
    std::memcpy(&mask, ones_then_zeros + 8 - n, sizeof mask);
    return (F32)_mm256_maskload_ps(p, mask);
#else
    switch (n) {
        case 1: return F32{p[0]};
        case 2: return F32{p[0], p[1]};
        default: return F32{p[0], p[1], p[2]};
    }
#endif
}

// As many sums as the registers hold beside a row of b: 16 registers, or 32.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr std::size_t tile_rows = 6, tile_vectors = 4;
#elif defined(__AVX2__)
constexpr std::size_t tile_rows = 6, tile_vectors = 2;
#else
constexpr std::size_t tile_rows = 3, tile_vectors = 4;
#endif
constexpr std::size_t most_tail = lanes - 1;

// MR rows of c and the columns of NV vectors, the last of them `tail` long where it is not whole.
template <std::size_t MR, std::size_t NV, bool whole>
void product_tile(float* c, const float* const* a, const float* b, const float* start, const Product& shape,
                  std::size_t tail) noexcept {
    const auto load_row = [tail](const float* p, std::size_t v) {
        return whole || v + 1 < NV ? load(p + v * lanes) : load_part(p + v * lanes, tail);
    };
    F32 sum[MR][NV];
    for (std::size_t m = 0; m < MR; ++m) {
        for (std::size_t v = 0; v < NV; ++v) sum[m][v] = load_row(start != nullptr ? start : c + m * shape.c_row, v);
    }
    for (std::size_t s = 0; s < shape.S; ++s) {
        std::size_t at = s * shape.a_segment;
        for (std::size_t k = 0; k < shape.K; ++k, at += shape.a_step, b += shape.b_row) {
            F32 row[NV];
#pragma GCC unroll 4
            for (std::size_t v = 0; v < NV; ++v) row[v] = load_row(b, v);
#pragma GCC unroll 6
            for (std::size_t m = 0; m < MR; ++m) {
                const float scale = a[m][at];
#pragma GCC unroll 4
                for (std::size_t v = 0; v < NV; ++v) sum[m][v] += scale * row[v];
            }
        }
    }
    for (std::size_t m = 0; m < MR; ++m) {
        for (std::size_t v = 0; v < NV; ++v) {
            std::memcpy(c + m * shape.c_row + v * lanes, &sum[m][v],
                        (whole || v + 1 < NV ? lanes : tail) * sizeof(float));
        }
    }
}

template <std::size_t NV, bool whole>
void product_columns(float* c, const float* a, const float* b, const float* start, const Product& shape,
                     std::size_t tail) noexcept {
    const float* rows[tile_rows] = {};
    for (std::size_t m = 0; m < shape.M; m += tile_rows) {
        const std::size_t count = shape.M - m < tile_rows ? shape.M - m : tile_rows;
        for (std::size_t i = 0; i < count; ++i) {
            rows[i] = a + (m + i) / shape.J * shape.a_outer + (m + i) % shape.J * shape.a_inner;
        }
        float* const corner = c + m * shape.c_row;
        if (count == tile_rows) {
            product_tile<tile_rows, NV, whole>(corner, rows, b, start, shape, tail);
            continue;
        }
        std::size_t i = 0;
        for (; i + 2 <= count; i += 2) {
            product_tile<2, NV, whole>(corner + i * shape.c_row, rows + i, b, start, shape, tail);
        }
        if (i < count) product_tile<1, NV, whole>(corner + i * shape.c_row, rows + i, b, start, shape, tail);
    }
}

// NV vectors of columns, n of them floats.
template <std::size_t NV>
void product_panel(float* c, const float* a, const float* b, const float* start, const Product& shape,
                   std::size_t n) noexcept {
    if (n == NV * lanes) {
        product_columns<NV, true>(c, a, b, start, shape, lanes);
    } else {
        product_columns<NV, false>(c, a, b, start, shape, n - (NV - 1) * lanes);
    }
}

// Columns are the outer loop: those of b stay in the nearest cache that holds them while every row of c passes.
void multiply(float* c, const float* a, const float* b, const float* start, const Product& shape) noexcept {
    constexpr std::size_t panel = tile_vectors * lanes;
    for (std::size_t n = 0; n < shape.N; n += panel) {
        const std::size_t take = shape.N - n < panel ? shape.N - n : panel;
        const float* const begin = start != nullptr ? start + n : nullptr;
        switch ((take + most_tail) / lanes) {
            case 1: product_panel<1>(c + n, a, b + n, begin, shape, take); break;
            case 2: product_panel<2>(c + n, a, b + n, begin, shape, take); break;
            case 3:
                if constexpr (tile_vectors > 2) product_panel<3>(c + n, a, b + n, begin, shape, take);
                break;
            default:
                if constexpr (tile_vectors > 2) product_panel<4>(c + n, a, b + n, begin, shape, take);
        }
    }
}

}  // namespace
}  // namespace fedge
