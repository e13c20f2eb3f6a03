// Losses, each forward and backward in one: the gradient falls out of what the value needed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fedge {

// Returns the sum over B of -log softmax(logits (B, O))[labels (B)]. Overwrites dlogits (B, O) with
// scale * (softmax - onehot), or leaves it out when null. Needs 0 <= labels[b] < O.
double softmax_cross_entropy(float* dlogits, const float* logits, const std::int32_t* labels, float scale,
                             std::size_t B, std::size_t O) noexcept;

// Returns the sum over B of the mean over O of (y - target)^2, both (B, O). Overwrites dy (B, O) with
// scale * (2 / O) * (y - target), or leaves it out when null.
double squared_error(float* dy, const float* y, const float* target, float scale, std::size_t B,
                     std::size_t O) noexcept;

}  // namespace fedge
