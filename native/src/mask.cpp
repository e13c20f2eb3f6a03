#include "fedge/mask.hpp"

#include <algorithm>
#include <bit>

#include "fedge/csprng.hpp"
#include "kernels.hpp"

namespace fedge {
namespace {

constexpr std::size_t block_words = 16, blocks_at_once = 64;  // 4 KiB of keystream stay in the first cache

std::uint64_t load_le(const std::uint8_t* p, int bytes) noexcept {
    std::uint64_t v = 0;
    for (int i = 0; i < bytes; ++i) v |= static_cast<std::uint64_t>(p[i]) << (8 * i);
    return v;
}

}  // namespace

void apply_mask(std::uint32_t* values, const std::uint8_t key[32], const std::uint8_t nonce[12], Mask sign,
                std::size_t d) noexcept {
    // RFC 8439's counter is the lower half of ours, and the first third of its nonce the upper one, which no carry
    // reaches.
    const std::uint64_t first = load_le(nonce, 4) << 32, rest = load_le(nonce + 4, 8);
    const auto apply = sign == Mask::add ? kernels().add_words : kernels().subtract_words;
    std::uint32_t mask[block_words * blocks_at_once];
    for (std::size_t at = 0; at < d; at += std::size(mask)) {
        const std::size_t words = std::min(d - at, std::size(mask));
        chacha20_keystream(reinterpret_cast<std::uint8_t*>(mask), key, first + at / block_words, rest,
                           (words + block_words - 1) / block_words);
        if constexpr (std::endian::native == std::endian::big) {
            for (std::uint32_t& word : mask) word = __builtin_bswap32(word);
        }
        apply(values + at, mask, words);
    }
    wipe(mask, sizeof mask);
}

}  // namespace fedge
