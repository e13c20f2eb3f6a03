// What a device sends instead of every float: few coordinates, few bits, or signs. Nothing here knows about bytes on the
// wire except pack_bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fedge {

// Quantizers refuse a norm beyond this: a coordinate and what stands for it might differ by more than a float holds.
constexpr float max_norm = 0x1p126F;
constexpr std::size_t max_compressed = std::size_t{1} << 30;

// n codes of `bits` (1..32) each, one after the other from the lowest bit of the first byte up; the last byte's upper
// bits are zero. packed: packed_bytes(n, bits); codes below 2^bits.
std::size_t packed_bytes(std::size_t n, unsigned bits) noexcept;
void pack_bits(std::uint8_t* packed, const std::uint32_t* codes, unsigned bits, std::size_t n) noexcept;
void unpack_bits(std::uint32_t* codes, const std::uint8_t* packed, unsigned bits, std::size_t n) noexcept;

// The k coordinates of x (d) of largest magnitude, the lower index first among equals: indices and values (k), in the
// order of the indices. residual, null or x itself, gets zeros in their places. k <= d <= max_compressed. False, nothing
// written, where x holds NaN or infinity.
bool top_k(std::uint32_t* indices, float* values, const float* x, float* residual, std::size_t k,
           std::size_t d) noexcept;

// The largest magnitude in x (d), and the L2 norm rounded up to a float. NaN where x holds NaN or infinity.
float max_magnitude(const float* x, std::size_t d) noexcept;
float l2_norm_above(const float* x, std::size_t d) noexcept;

// Stochastic quantization (QSGD, Alistarh et al. 2017) of x (d), |x_i| <= norm <= max_norm, to `bits` 1, 2, 4 or 8.
//
// Two bits and more: levels -s..s times norm / s, s = 2^(bits - 1) - 1, as codes 0..2s. One bit: -norm and norm as codes
// 0 and 1. Each coordinate takes one of the two levels around it, by the uniform of word i of the keystream under `key`,
// so that its expectation is x_i to 2^-31 of a level. residual, null or x itself, -= what the code stands for.
void quantize(std::uint8_t* packed, const float* x, float* residual, const std::uint8_t key[32], float norm,
              unsigned bits, std::size_t d) noexcept;

// out (d) = what the codes stand for; or false where one is beyond the last level.
bool dequantize(float* out, const std::uint8_t* packed, float norm, unsigned bits, std::size_t d) noexcept;

// Signs (1 is negative) packed by eights; returns ||x||_1 / d, which scales them (Karimireddy et al. 2019). residual,
// null or x itself, -= scale * sign(x). Needs |x_i| <= max_norm.
float pack_signs(std::uint8_t* packed, const float* x, float* residual, std::size_t d) noexcept;
void unpack_signs(float* out, const std::uint8_t* packed, float scale, std::size_t d) noexcept;

}  // namespace fedge
