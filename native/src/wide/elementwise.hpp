// The activations, in place.
#pragma once

#include "math.hpp"
#include "places.hpp"

namespace fedge {
namespace {

template <F32 (*function)(F32) noexcept>
void apply(float* y, std::size_t n) noexcept {
    everywhere(n, [y](auto at) noexcept { at.put(y, function(at.get(y))); });
}

void scale(float* x, float factor, std::size_t n) noexcept {
    everywhere(n, [x, factor](auto at) noexcept { at.put(x, at.get(x) * factor); });
}

// dy *= slope(y).
template <F32 (*slope)(F32) noexcept>
void apply_slope(float* dy, const float* y, std::size_t n) noexcept {
    everywhere(n, [dy, y](auto at) noexcept { at.put(dy, at.get(dy) * slope(at.get(y))); });
}

inline F32 relu(F32 x) noexcept { return at_least(x, 0.0F); }
inline F32 tanh_slope(F32 y) noexcept { return 1.0F - y * y; }
inline F32 sigmoid_slope(F32 y) noexcept { return y * (1.0F - y); }

// By selection, not by a product: an infinite dy of a quiet unit is dropped. relu'(0) = 0.
void relu_slope(float* dy, const float* y, std::size_t n) noexcept {
    everywhere(n, [dy, y](auto at) noexcept { at.put(dy, at.get(y) <= 0.0F ? F32{} : at.get(dy)); });
}

}  // namespace
}  // namespace fedge
