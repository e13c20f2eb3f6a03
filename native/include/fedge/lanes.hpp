// Four floats in one register, and the fixed order in which eight of them are summed.
//
// Every float32 dot product in fedge adds element i into lane i mod 8 and then folds the lanes in one fixed tree. The
// order is part of the contract: whichever instruction set runs it, and however a kernel blocks its loops, the bits are
// the same. The vector type is the compilers' own extension (GCC, Clang): SSE2 on x86-64, NEON on aarch64, plain
// scalars elsewhere.
#pragma once

#include <cstddef>
#include <cstring>

namespace fedge {

using f32x4 = float __attribute__((vector_size(16)));

struct Lanes8 {
    f32x4 lo, hi;
};

inline Lanes8 load8(const float* p) noexcept {
    Lanes8 v;
    std::memcpy(&v.lo, p, 16);
    std::memcpy(&v.hi, p + 4, 16);
    return v;
}

// The last n < 8 elements of a row, padded with zeros: a padded lane adds 0 * 0.
inline Lanes8 load_tail(const float* p, std::size_t n) noexcept {
    float padded[8] = {};
    std::memcpy(padded, p, n * sizeof(float));
    return load8(padded);
}

inline void store8(float* p, const Lanes8& v) noexcept {
    std::memcpy(p, &v.lo, 16);
    std::memcpy(p + 4, &v.hi, 16);
}

inline void store_tail(float* p, const Lanes8& v, std::size_t n) noexcept {
    float padded[8];
    store8(padded, v);
    std::memcpy(p, padded, n * sizeof(float));
}

inline f32x4 broadcast(float a) noexcept { return f32x4{a, a, a, a}; }

// ((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7))
inline float fold(const Lanes8& v) noexcept {
    const f32x4 s = v.lo + v.hi;
    return (s[0] + s[2]) + (s[1] + s[3]);
}

}  // namespace fedge
