// The matrix product under every layer. Rows and columns of c are blocked to fit the registers; each sum runs in the
// order that kernels.hpp promises.
#pragma once

#include "../kernels.hpp"
#include "places.hpp"

namespace fedge {
namespace {

// As many sums as the registers hold beside a row of b: 16 registers, or 32. Never more than 8 rows, whose addresses
// take registers too, and whose 8 sums hide an addition's latency.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr std::size_t tile_sums = 24, tile_vectors = 4;
#elif defined(__AVX2__)
constexpr std::size_t tile_sums = 12, tile_vectors = 2;
#else
constexpr std::size_t tile_sums = 12, tile_vectors = 4;
#endif
constexpr std::size_t most_tail = lanes - 1;

// Where the rows of the left factor begin, one after the other. Counted in offsets, for what lies past the last row
// need not be an address.
class RowWalk {
  public:
    RowWalk(const float* a, const Product& shape) noexcept : a_(a), shape_(shape), left_(shape.J) {}

    const float* next() noexcept {
        const float* const row = a_ + at_;
        at_ += shape_.a_inner;
        if (--left_ == 0) at_ = outer_ += shape_.a_outer, left_ = shape_.J;
        return row;
    }

  private:
    const float* a_;
    const Product& shape_;
    std::size_t left_, outer_ = 0, at_ = 0;
};

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
#pragma GCC unroll 8
            for (std::size_t m = 0; m < MR; ++m) {
                const float scale = a[m][at];
#pragma GCC unroll 4
                for (std::size_t v = 0; v < NV; ++v) sum[m][v] += scale * row[v];
            }
        }
    }
    for (std::size_t m = 0; m < MR; ++m) {
        for (std::size_t v = 0; v < NV; ++v) {
            float* const to = c + m * shape.c_row + v * lanes;
            if (whole || v + 1 < NV) {
                std::memcpy(to, &sum[m][v], sizeof sum[m][v]);
            } else {
                store_part(to, sum[m][v], tail);
            }
        }
    }
}

// The tile for `count` rows, at most MR.
template <std::size_t MR, std::size_t NV, bool whole>
void product_rows(std::size_t count, float* c, const float* const* a, const float* b, const float* start,
                  const Product& shape, std::size_t tail) noexcept {
    if constexpr (MR > 1) {
        if (count < MR) return product_rows<MR - 1, NV, whole>(count, c, a, b, start, shape, tail);
    }
    product_tile<MR, NV, whole>(c, a, b, start, shape, tail);
}

template <std::size_t NV, bool whole>
void product_columns(float* c, const float* a, const float* b, const float* start, const Product& shape,
                     std::size_t tail) noexcept {
    constexpr std::size_t most = tile_sums / NV < 8 ? tile_sums / NV : 8;
    RowWalk walk(a, shape);
    for (std::size_t left = shape.M; left > 0;) {
        // The last two share what is left, for a tile of few rows waits for its own additions.
        const std::size_t count = left <= most ? left : left < 2 * most ? (left + 1) / 2 : most;
        const float* rows[most] = {};
        for (std::size_t i = 0; i < count; ++i) rows[i] = walk.next();
        product_rows<most, NV, whole>(count, c, rows, b, start, shape, tail);
        c += count * shape.c_row;
        left -= count;
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
