// Whole-update clipping in floats, and the quantizer whose bound holds in integers.
//
// Sums run in double: every |x| and x^2 of a float32 is exact there, none overflows, and eight interleaved partial sums
// bring the relative error of a norm of n terms to at most (n / 8 + 4) 2^-53, 1.4e-11 for a million. Not-a-number and
// infinity are refused by the norm itself: a sum of finite float32 magnitudes stays finite, so the norm is finite
// exactly where every element is.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fedge {

double l1_norm(const float* x, std::size_t n) noexcept;
double l2_norm(const float* x, std::size_t n) noexcept;

// Scales update (n) in place so that its norm is at most `bound` times 1 + (n / 8 + 8) 2^-53, the error of the norm
// itself: products are rounded toward zero, so rounding to float32 adds nothing. An update whose norm is within the
// bound is untouched. Returns the norm before. A norm that is not finite means refused, update untouched. Needs bound >
// 0 and finite.
double clip_l1(float* update, double bound, std::size_t n) noexcept;
double clip_l2(float* update, double bound, std::size_t n) noexcept;

inline constexpr std::int32_t max_levels = std::int32_t{1} << 30;
inline constexpr std::size_t max_quantized = std::size_t{1} << 30;  // coordinates

// Bytes that quantize_l1 and quantize_l2 need, or Arena::too_large.
std::size_t quantize_workspace_size(std::size_t n) noexcept;

// q (n) = update (n) clipped to L1 norm `clip`, in units of clip / levels, with sum |q_j| <= levels EXACTLY, for every
// finite input. Overwrites q. Returns false, q unspecified, where update holds NaN or an infinity. Needs clip > 0 and
// finite, 1 <= levels <= max_levels, n <= max_quantized.
//
// Rounding is to nearest, ties to even, and can push the sum of magnitudes over `levels`. The excess is taken back one
// unit a coordinate, always toward zero, from the coordinates that rounding had carried furthest outward, the lower
// index first among equals: the choice that moves the result least in L1. It depends on the input alone, so a device's
// release can be replayed.
bool quantize_l1(std::int32_t* q, const float* update, double clip, std::int32_t levels, std::byte* workspace,
                 std::size_t n) noexcept;

// The same for the L2 norm: sum q_j^2 <= levels^2 EXACTLY. A unit off |q_j| takes 2 |q_j| - 1 off the sum.
bool quantize_l2(std::int32_t* q, const float* update, double clip, std::int32_t levels, std::byte* workspace,
                 std::size_t n) noexcept;

// sum q_j^2 modulo 2^64: exact for what quantize_l2 gives.
std::uint64_t integer_l2_squared(const std::int32_t* q, std::size_t n) noexcept;

}  // namespace fedge
