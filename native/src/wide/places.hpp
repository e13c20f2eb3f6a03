// Going through arrays a vector at a time, with the last few floats in a vector of their own.
#pragma once

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

inline void store_part(float* p, F32 v, std::size_t n) noexcept {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1U << n) - 1), (__m512)v);
#else
    for (std::size_t lane = 0; lane < n; ++lane) p[lane] = v[lane];
#endif
}

// A vector's worth of every array at one place, or the last few floats of each.
struct Whole {
    std::size_t i;
    F32 get(const float* p) const noexcept { return load(p + i); }
    void put(float* p, F32 v) const noexcept { std::memcpy(p + i, &v, sizeof v); }
};

struct Rest {
    std::size_t i, n;
    F32 get(const float* p) const noexcept { return load_part(p + i, n); }
    void put(float* p, F32 v) const noexcept { store_part(p + i, v, n); }
};

// body at every place of arrays of n floats. What it computes for one element depends on that element's alone.
template <class Body>
inline void everywhere(std::size_t n, Body body) noexcept {
    std::size_t i = 0;
    for (; i + lanes <= n; i += lanes) body(Whole{i});
    if (i < n) body(Rest{i, n - i});
}

}  // namespace
}  // namespace fedge
