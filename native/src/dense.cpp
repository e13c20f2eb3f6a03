#include "fedge/dense.hpp"

#include <cmath>

#include "kernels.hpp"

namespace fedge {

void dense_forward(float* y, const float* x, const float* w, const float* b, std::size_t B, std::size_t I,
                   std::size_t O) noexcept {
    kernels().dense_forward(y, x, w, b, B, I, O);
}

void dense_backward(float* dx, float* dw, float* db, const float* dy, const float* x, const float* w, std::size_t B,
                    std::size_t I, std::size_t O) noexcept {
    if (dx != nullptr) kernels().accumulate_product(dx, dy, {O, 1}, w, B, I, O);
    kernels().accumulate_product(dw, dy, {1, O}, x, O, I, B);
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
