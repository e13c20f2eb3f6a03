#include "fedge/dense.hpp"

#include <cmath>

#include "fedge/lanes.hpp"

namespace fedge {
namespace {

// y[m, n] = b[n] + x[m] . w[n] for an MB x NB corner of y (row stride O). 2 x 2 keeps eight accumulators and their
// operands in the sixteen registers of the x86-64 and aarch64 baselines.
template <std::size_t MB, std::size_t NB>
inline void forward_block(float* y, const float* x, const float* w, const float* b, std::size_t I,
                          std::size_t O) noexcept {
    Lanes8 sum[MB][NB] = {};
    const auto step = [&](const Lanes8(&xs)[MB], const Lanes8(&ws)[NB]) {
        for (std::size_t m = 0; m < MB; ++m) {
            for (std::size_t n = 0; n < NB; ++n) {
                sum[m][n].lo += xs[m].lo * ws[n].lo;
                sum[m][n].hi += xs[m].hi * ws[n].hi;
            }
        }
    };
    Lanes8 xs[MB], ws[NB];
    std::size_t i = 0;
    for (; i + 8 <= I; i += 8) {
        for (std::size_t m = 0; m < MB; ++m) xs[m] = load8(x + m * I + i);
        for (std::size_t n = 0; n < NB; ++n) ws[n] = load8(w + n * I + i);
        step(xs, ws);
    }
    if (i < I) {
        for (std::size_t m = 0; m < MB; ++m) xs[m] = load_tail(x + m * I + i, I - i);
        for (std::size_t n = 0; n < NB; ++n) ws[n] = load_tail(w + n * I + i, I - i);
        step(xs, ws);
    }
    for (std::size_t m = 0; m < MB; ++m) {
        for (std::size_t n = 0; n < NB; ++n) y[m * O + n] = b[n] + fold(sum[m][n]);
    }
}

template <std::size_t MB>
inline void forward_rows(float* y, const float* x, const float* w, const float* b, std::size_t I,
                         std::size_t O) noexcept {
    std::size_t o = 0;
    for (; o + 2 <= O; o += 2) forward_block<MB, 2>(y + o, x, w + o * I, b + o, I, O);
    if (o < O) forward_block<MB, 1>(y + o, x, w + o * I, b + o, I, O);
}

// Where a(m, k) lies: dy^T and dy are the same memory walked two ways.
struct Strides {
    std::size_t m, k;
};

// c[m, 0:width] += sum over k, in order, of a(m, k) * b[k, 0:width] for MB rows of c and at most eight columns.
template <std::size_t MB>
inline void product_block(float* c, const float* a, Strides at, const float* b, std::size_t N, std::size_t K,
                          std::size_t width) noexcept {
    Lanes8 sum[MB];
    for (std::size_t m = 0; m < MB; ++m) sum[m] = width == 8 ? load8(c + m * N) : load_tail(c + m * N, width);
    for (std::size_t k = 0; k < K; ++k) {
        const Lanes8 row = width == 8 ? load8(b + k * N) : load_tail(b + k * N, width);
        for (std::size_t m = 0; m < MB; ++m) {
            const f32x4 scale = broadcast(a[m * at.m + k * at.k]);
            sum[m].lo += scale * row.lo;
            sum[m].hi += scale * row.hi;
        }
    }
    for (std::size_t m = 0; m < MB; ++m) {
        if (width == 8) {
            store8(c + m * N, sum[m]);
        } else {
            store_tail(c + m * N, sum[m], width);
        }
    }
}

// c (M, N) += a (M, K) @ b (K, N), a read through its strides. Columns are the outer loop: eight columns of b stay in
// the first-level cache while every row of c passes over them.
void accumulate_product(float* c, const float* a, Strides at, const float* b, std::size_t M, std::size_t N,
                        std::size_t K) noexcept {
    const auto columns = [&](std::size_t n, std::size_t width) {
        std::size_t m = 0;
        for (; m + 4 <= M; m += 4) product_block<4>(c + m * N + n, a + m * at.m, at, b + n, N, K, width);
        for (; m < M; ++m) product_block<1>(c + m * N + n, a + m * at.m, at, b + n, N, K, width);
    };
    std::size_t n = 0;
    for (; n + 8 <= N; n += 8) columns(n, 8);
    if (n < N) columns(n, N - n);
}

}  // namespace

void dense_forward(float* y, const float* x, const float* w, const float* b, std::size_t B, std::size_t I,
                   std::size_t O) noexcept {
    std::size_t row = 0;
    for (; row + 2 <= B; row += 2) forward_rows<2>(y + row * O, x + row * I, w, b, I, O);
    if (row < B) forward_rows<1>(y + row * O, x + row * I, w, b, I, O);
}

void dense_backward(float* dx, float* dw, float* db, const float* dy, const float* x, const float* w, std::size_t B,
                    std::size_t I, std::size_t O) noexcept {
    if (dx != nullptr) accumulate_product(dx, dy, {O, 1}, w, B, I, O);
    accumulate_product(dw, dy, {1, O}, x, O, I, B);
    for (std::size_t row = 0; row < B; ++row) {
        for (std::size_t o = 0; o < O; ++o) db[o] += dy[row * O + o];
    }
}

void relu_forward(float* y, std::size_t n) noexcept {
    for (std::size_t i = 0; i < n; ++i) y[i] = y[i] < 0.0F ? 0.0F : y[i];
}

void tanh_forward(float* y, std::size_t n) noexcept {
    for (std::size_t i = 0; i < n; ++i) y[i] = std::tanh(y[i]);
}

void relu_backward(float* dy, const float* y, std::size_t n) noexcept {
    for (std::size_t i = 0; i < n; ++i) dy[i] = y[i] > 0.0F ? dy[i] : 0.0F;
}

void tanh_backward(float* dy, const float* y, std::size_t n) noexcept {
    for (std::size_t i = 0; i < n; ++i) dy[i] *= 1.0F - y[i] * y[i];
}

}  // namespace fedge
