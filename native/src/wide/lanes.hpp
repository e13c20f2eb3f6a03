// Lanes of 32 bits.
#pragma once

#include "vectors.hpp"

namespace fedge {
namespace {

using I32 = std::int32_t __attribute__((vector_size(width)));
using I64 = long long __attribute__((vector_size(width)));

inline U32 load32(const std::uint32_t* p) noexcept {
    U32 v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

inline void store32(std::uint32_t* p, U32 v) noexcept { std::memcpy(p, &v, sizeof v); }

// Numbers in an order that signed comparison sees: x86 has no other before AVX-512.
inline I32 ordered(U32 v) noexcept { return (I32)(v ^ 0x80000000); }

#if defined(__x86_64__) && !defined(__clang__)
// GCC does not see that the upper halves of 64-bit factors are unused.
inline U64 multiply_low_halves(U64 a, U64 b) noexcept {
#if FEDGE_WIDTH == 64
    return (U64)__builtin_ia32_pmuludq512_mask((I32)a, (I32)b, I64{}, 0xff);
#elif FEDGE_WIDTH == 32
    return (U64)__builtin_ia32_pmuludq256((I32)a, (I32)b);
#else
    return (U64)__builtin_ia32_pmuludq128((I32)a, (I32)b);
#endif
}
#endif

// The high halves of the products.
inline U32 mul_high(U32 a, U32 b) noexcept {
#if defined(__x86_64__) && !defined(__clang__)
    const U64 even = multiply_low_halves((U64)a, (U64)b), odd = multiply_low_halves((U64)a >> 32, (U64)b >> 32);
    return (U32)((even >> 32) | (odd & 0xffffffff00000000));
#else
    U32 products;
    for (std::size_t i = 0; i < lanes32; ++i) {
        products[i] = static_cast<std::uint32_t>((std::uint64_t{a[i]} * b[i]) >> 32);
    }
    return products;
#endif
}

// Each lane by its own amount below 32, which may be secret.
inline U32 shift_right(U32 v, U32 by) noexcept {
#if defined(__SSE2__) && !defined(__AVX2__)  // no such instruction: in steps of powers of two
    for (unsigned k = 0; k < 5; ++k) {
        const U32 taken = 0 - ((by >> k) & 1);
        v = ((v >> (1U << k)) & taken) | (v & ~taken);
    }
    return v;
#else
    return v >> by;
#endif
}

template <std::size_t... i>
U32 lane_numbers(Indices<i...>) noexcept {
    return U32{static_cast<std::uint32_t>(i)...};
}

inline U32 lane_numbers() noexcept { return lane_numbers(typename IndicesUpTo<lanes32>::type{}); }

// All ones where v is not zero.
inline std::uint64_t mask_nonzero(std::uint64_t v) noexcept { return 0 - ((v | (0 - v)) >> 63); }

}  // namespace
}  // namespace fedge
