// The dense layer and the elementwise activations. Row-major, no aliasing; forward overwrites, backward accumulates.
#pragma once

#include <cstddef>

namespace fedge {

// y (B, O) = x (B, I) @ w (O, I)^T + b (O). Overwrites y.
void dense_forward(float* y, const float* x, const float* w, const float* b, std::size_t B, std::size_t I,
                   std::size_t O) noexcept;

// dx (B, I) += dy (B, O) @ w (O, I);  dw (O, I) += dy^T @ x (B, I);  db (O) += sum over B of dy.
// dx may be null: the first layer has nobody to pass it to. Each sum runs over its rows in order and starts from what
// is already there, so a batch fed in pieces gives the same bits as the whole batch.
void dense_backward(float* dx, float* dw, float* db, const float* dy, const float* x, const float* w, std::size_t B,
                    std::size_t I, std::size_t O) noexcept;

// In place on y (n). NaN passes through both: an input that is not a number must not look like a quiet unit.
void relu_forward(float* y, std::size_t n) noexcept;
void tanh_forward(float* y, std::size_t n) noexcept;

// In place on dy (n), from the activation's own output y (n): dy *= f'(.). relu'(0) = 0.
void relu_backward(float* dy, const float* y, std::size_t n) noexcept;
void tanh_backward(float* dy, const float* y, std::size_t n) noexcept;

}  // namespace fedge
