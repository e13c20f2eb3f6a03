// The activations, in place.
#pragma once

#include "math.hpp"

namespace fedge {
namespace {

// A vector's worth of every array at one place, or the last few floats of each.
struct Whole {
    std::size_t i;
    F32 get(const float* p) const noexcept { return load(p + i); }
    void put(float* p, F32 v) const noexcept { std::memcpy(p + i, &v, sizeof v); }
};

struct Rest {
    std::size_t i, n;
    F32 get(const float* p) const noexcept { return load_part(p + i, n); }
    void put(float* p, F32 v) const noexcept {
#if defined(__AVX512F__)
        _mm512_mask_storeu_ps(p + i, static_cast<__mmask16>((1U << n) - 1), (__m512)v);
#else
        for (std::size_t lane = 0; lane < n; ++lane) p[i + lane] = v[lane];
#endif
    }
};

// body at every place of arrays of n floats. What it computes for one element depends on that element's alone.
template <class Body>
inline void everywhere(std::size_t n, Body body) noexcept {
    std::size_t i = 0;
    for (; i + lanes <= n; i += lanes) body(Whole{i});
    if (i < n) body(Rest{i, n - i});
}

template <F32 (*function)(F32) noexcept>
void apply(float* y, std::size_t n) noexcept {
    everywhere(n, [y](auto at) noexcept { at.put(y, function(at.get(y))); });
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
