// Masks for secure aggregation: keystream as integers modulo 2^32.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fedge {

// With a 32-bit block counter, 2^32 blocks of 16 words are the most that one nonce masks.
constexpr std::size_t max_masked = std::size_t{1} << (sizeof(std::size_t) > 4 ? 36 : 29);

enum class Mask { add, subtract };

// values (d) += mask, or -= mask, modulo 2^32. Word j of the mask is word j of ChaCha20's keystream (RFC 8439) under
// `key` and `nonce` from block counter 0, little-endian. Two parties of which one adds and one subtracts cancel exactly.
// Needs d <= max_masked.
void apply_mask(std::uint32_t* values, const std::uint8_t key[32], const std::uint8_t nonce[12], Mask sign,
                std::size_t d) noexcept;

}  // namespace fedge
