// 128-bit fixed-point arithmetic for the samplers' exact paths: no jump, no address and no instruction count depends on
// a value, apart from `divide`, which is for public set-up. Qn means that the unit is 2^-n. docs/noise.md, section 8.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fedge/gaussian_block.hpp"

namespace fedge {

// The largest that `mask_less` takes.
inline constexpr U128 half_of_all{~std::uint64_t{0} >> 1, ~std::uint64_t{0}};

// The full product from four of 32 bits; sums by carries in arithmetic (Warren, Hacker's Delight, 2-13).
inline U128 product_by_halves(std::uint64_t a, std::uint64_t b) noexcept {
    constexpr std::uint64_t low = 0xffffffff;
    const std::uint64_t ll = (a & low) * (b & low), lh = (a & low) * (b >> 32), hl = (a >> 32) * (b & low);
    const std::uint64_t middle = (ll >> 32) + (lh & low) + (hl & low);
    return {(a >> 32) * (b >> 32) + (lh >> 32) + (hl >> 32) + (middle >> 32), (middle << 32) | (ll & low)};
}

inline U128 add_by_halves(U128 a, U128 b) noexcept {
    const std::uint64_t lo = a.lo + b.lo;
    return {a.hi + b.hi + (((a.lo & b.lo) | ((a.lo | b.lo) & ~lo)) >> 63), lo};
}

inline U128 subtract_by_halves(U128 a, U128 b) noexcept {
    const std::uint64_t lo = a.lo - b.lo;
    return {a.hi - b.hi - (((~a.lo & b.lo) | ((~a.lo | b.lo) & lo)) >> 63), lo};
}

// The same in one type where there is one. Multiplications take the same time for all values on the processors this
// runs on: Arm's DIT and Intel's DOIT lists have them.
#ifdef __SIZEOF_INT128__
__extension__ using Wide = unsigned __int128;

inline Wide wide(U128 v) noexcept { return static_cast<Wide>(v.hi) << 64 | v.lo; }
inline U128 halves(Wide v) noexcept { return {static_cast<std::uint64_t>(v >> 64), static_cast<std::uint64_t>(v)}; }

inline U128 product(std::uint64_t a, std::uint64_t b) noexcept { return halves(static_cast<Wide>(a) * b); }
inline U128 add(U128 a, U128 b) noexcept { return halves(wide(a) + wide(b)); }
inline U128 subtract(U128 a, U128 b) noexcept { return halves(wide(a) - wide(b)); }
#else
inline U128 product(std::uint64_t a, std::uint64_t b) noexcept { return product_by_halves(a, b); }
inline U128 add(U128 a, U128 b) noexcept { return add_by_halves(a, b); }
inline U128 subtract(U128 a, U128 b) noexcept { return subtract_by_halves(a, b); }
#endif

// All ones where a < b, else zero: the sign of a - b. Both are below 2^127.
inline std::uint64_t mask_less(U128 a, U128 b) noexcept { return 0 - (subtract(a, b).hi >> 63); }

// v / 2^by, by < 64; no shift by 64, whatever `by` is.
inline U128 shift_right(U128 v, unsigned by) noexcept { return {v.hi >> by, (v.lo >> by) | (v.hi << 1 << (63 - by))}; }

// a b / 2^128, less at most 3 units: the product of the low halves is left out.
inline U128 multiply_high(U128 a, U128 b) noexcept {
    const U128 high = product(a.hi, b.hi);
    return add(high, add({0, product(a.hi, b.lo).hi}, {0, product(a.lo, b.hi).hi}));
}

// 2^-f as Q127 for f Q128, off by less than 2^-95 (docs/noise.md, section 8).
U128 exp2_of_minus(U128 f) noexcept;

// a 2^shift / b as Q0, rounded down; the quotient must be less than 2^128, shift at most 128 and b nonzero.
U128 divide(U128 a, unsigned shift, U128 b) noexcept;

}  // namespace fedge
