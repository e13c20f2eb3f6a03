// The depthwise product, and sums over positions.
#pragma once

#include "product.hpp"

namespace fedge {
namespace {

// MR rows of c and the columns of one vector: a is read at its column, so that only b's rows are shared.
template <std::size_t MR, class At>
inline void channel_tile(float* c, const float* const* a, const float* b, const float* start, const Product& shape,
                         At at) noexcept {
    F32 sum[MR];
    for (std::size_t m = 0; m < MR; ++m) sum[m] = at.get(start != nullptr ? start : c + m * shape.c_row);
    for (std::size_t s = 0; s < shape.S; ++s) {
        std::size_t term = s * shape.a_segment;
        for (std::size_t k = 0; k < shape.K; ++k, term += shape.a_step, b += shape.b_row) {
            const F32 row = at.get(b);
#pragma GCC unroll 8
            for (std::size_t m = 0; m < MR; ++m) sum[m] += at.get(a[m] + term) * row;
        }
    }
    for (std::size_t m = 0; m < MR; ++m) at.put(c + m * shape.c_row, sum[m]);
}

template <class At>
inline void channel_columns(float* c, const float* a, const float* b, const float* start, const Product& shape,
                            At at) noexcept {
    constexpr std::size_t most = 8;
    RowWalk walk(a, shape);
    for (std::size_t m = 0; m < shape.M;) {
        const float* rows[most] = {};
        const std::size_t left = shape.M - m, count = left >= most ? most : left >= 4 ? 4 : 1;
        for (std::size_t i = 0; i < count; ++i) rows[i] = walk.next();
        float* const corner = c + m * shape.c_row;
        switch (count) {
            case most: channel_tile<most>(corner, rows, b, start, shape, at); break;
            case 4: channel_tile<4>(corner, rows, b, start, shape, at); break;
            default: channel_tile<1>(corner, rows, b, start, shape, at);
        }
        m += count;
    }
}

void multiply_channels(float* c, const float* a, const float* b, const float* start, const Product& shape) noexcept {
    everywhere(shape.N, [=, &shape](auto at) noexcept { channel_columns(c, a, b, start, shape, at); });
}

// Four sums at once, for one alone would wait for every addition.
void add_rows(float* total, const float* x, std::size_t rows, std::size_t n) noexcept {
    everywhere(n, [=](auto at) noexcept {
        F32 sum[4] = {};
        const float* p = x;
        std::size_t r = 0;
        for (; r + 4 <= rows; r += 4) {
            for (F32& s : sum) s += at.get(p), p += n;
        }
        for (; r < rows; ++r, p += n) sum[r % 4] += at.get(p);
        at.put(total, at.get(total) + ((sum[0] + sum[2]) + (sum[1] + sum[3])));
    });
}

}  // namespace
}  // namespace fedge
