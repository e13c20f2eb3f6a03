// exp, log and their kin on float vectors, from IEEE + - * / and integer operations on bits alone: in a reproducible
// unit every width and instruction set gives the same bits, and so does the same text on scalars in C99 with
// contraction off. Expressions are evaluated as they are bracketed, polynomials by Horner's rule from the highest
// coefficient down.
//
// Worst errors, in units in the last place, without and with fused multiply-add (tests/math.cpp holds them to it): exp
// 1.01 and 1.04, log 0.89, tanh 1.34, sigmoid 1.87 and 1.67, softplus 1.68. Of exp and log every float was tried, of the
// others every one from 2^-5 to where they are flat or straight, and one in 257 beyond. NaN gives NaN; what overflows or
// vanishes does so where the exact value does.
//
// The polynomials minimise the largest relative error (Lawson's iteration), each coefficient rounded to float32 in turn
// from the lowest up and those above it fitted again.
#pragma once

#include "places.hpp"

namespace fedge {
namespace {

inline U32 bits(F32 v) noexcept { return (U32)v; }
inline F32 from_bits(U32 v) noexcept { return (F32)v; }
inline F32 broadcast(float v) noexcept { return F32{} + v; }

inline F32 magnitude(F32 x) noexcept { return from_bits(bits(x) & 0x7fffffffU); }
inline F32 with_sign_of(F32 size, F32 sign) noexcept { return from_bits(bits(size) | (bits(sign) & 0x80000000U)); }

// Both let NaN through, wherever it stands.
inline F32 at_most(F32 x, float bound) noexcept { return x > bound ? broadcast(bound) : x; }
inline F32 at_least(F32 x, float bound) noexcept { return x < bound ? broadcast(bound) : x; }

// 1.5 * 2^23: adding it leaves a whole number in the low bits.
constexpr float whole = 12582912.0F;
constexpr std::uint32_t whole_bits = 0x4b400000;

// log 2 in two parts; the first has 15 bits, so that its product with an exponent is exact.
constexpr float log2_high = 0x1.62e4p-1F, log2_low = 0x1.7f7d1cp-20F;

// x = n log 2 + r with |r| <= 0.347, for |x| <= 104; `biased` is n + 254. small: exp(r) - 1.
struct Reduced {
    U32 biased;
    F32 small;
};

inline Reduced reduce(F32 x) noexcept {
    const F32 shifted = x * 0x1.715476p+0F + whole;
    const F32 n = shifted - whole;
    const F32 r = (x - n * log2_high) - n * log2_low;
    F32 p = broadcast(0x1.6b9ce8p-10F);
    p = p * r + 0x1.12256cp-7F;
    p = p * r + 0x1.5556f2p-5F;
    p = p * r + 0x1.5554b4p-3F;
    p = p * r + 0x1.fffffep-2F;
    return {bits(shifted) - (whole_bits - 254), (r * r) * p + r};
}

inline F32 exp(F32 x) noexcept {
    const Reduced at = reduce(at_least(at_most(x, 89.0F), -104.0F));
    // The power of two in two factors: neither leaves the range, and only the second product rounds.
    const U32 half = at.biased >> 1;
    return (1.0F + at.small) * from_bits(half << 23) * from_bits((at.biased - half) << 23);
}

// 1 - exp(-x) for x >= 0, without cancellation.
inline F32 one_minus_exp_of_minus(F32 x) noexcept {
    const Reduced at = reduce(-at_most(x, 87.0F));
    const F32 power = from_bits((at.biased - 127) << 23);
    return (1.0F - power) - power * at.small;
}

// k log 2 + log(1 + f) for f in [-1/4, 1/2] and whole k.
inline F32 log_of_parts(F32 k, F32 f) noexcept {
    F32 p = broadcast(-0x1.71e32cp-5F);
    p = p * f + 0x1.acf4a8p-4F;
    p = p * f - 0x1.0d98f0p-3F;
    p = p * f + 0x1.28807ap-3F;
    p = p * f - 0x1.54ed96p-3F;
    p = p * f + 0x1.99699ep-3F;
    p = p * f - 0x1.00004ap-2F;
    p = p * f + 0x1.5555a4p-2F;
    const F32 square = f * f;
    const F32 rest = ((square * f) * p + k * log2_low) - 0.5F * square;
    return (f + rest) + k * log2_high;
}

inline F32 log(F32 x) noexcept {
    const auto tiny = x < 0x1p-126F;
    const U32 scaled = bits(tiny ? x * 0x1p23F : x);
    // The exponent, chosen so that the fraction lies in [3/4, 3/2).
    const U32 exponent = (scaled + 0x400000U) >> 23;
    const F32 f = from_bits(scaled - ((exponent - 127U) << 23)) - 1.0F;
    const F32 k = from_bits(exponent + whole_bits) - (tiny ? broadcast(whole + 150.0F) : broadcast(whole + 127.0F));
    const F32 beyond = from_bits(x == 0.0F ? U32{} + 0xff800000U : U32{} + 0x7fc00000U);  // -infinity, NaN
    const F32 value = log_of_parts(k, f);
    return x > 0.0F ? (x > 0x1.fffffep+127F ? x : value) : (x <= 0.0F ? beyond : x);
}

// log(1 + u) for u in [0, 1].
inline F32 log_one_plus(F32 u) noexcept {
    const auto upper = u > 0.5F;
    return log_of_parts(upper ? broadcast(1.0F) : F32{}, upper ? (u - 1.0F) * 0.5F : u);
}

inline F32 tanh(F32 x) noexcept {
    const F32 size = magnitude(x), square = x * x;
    F32 p = broadcast(-0x1.750ce4p-8F);
    p = p * square + 0x1.51f8cep-6F;
    p = p * square - 0x1.b835a4p-5F;
    p = p * square + 0x1.1106f6p-3F;
    p = p * square - 0x1.555532p-2F;
    const F32 near = (size * square) * p + size;
    const F32 far = 1.0F - 2.0F / (exp(at_most(size, 10.0F) * 2.0F) + 1.0F);
    return with_sign_of(size < 0.625F ? near : far, x);
}

// With e = exp(-|x|): 1 - e / (1 + e), or e times that. The plain quotients take on more roundings.
inline F32 sigmoid(F32 x) noexcept {
    const F32 e = exp(-magnitude(x)), share = e / (1.0F + e);
    const F32 size = x < 0.0F ? e : broadcast(1.0F);
    return size - size * share;
}

inline F32 softplus(F32 x) noexcept { return at_least(x, 0.0F) + log_one_plus(exp(-magnitude(x))); }

}  // namespace
}  // namespace fedge
