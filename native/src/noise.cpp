#include "fedge/noise.hpp"

#include <algorithm>

namespace fedge {

const std::uint64_t digit_threshold[max_log2_scale] = {
    0x6a09e667f3bcc909, 0x74eff3d0d4ef5fbe, 0x7a75526cdfa755eb, 0x7d3a5409cc18c5b4, 0x7e9d1f5d668b23a9,
    0x7f4e8e59b3fa2add, 0x7fa747023998c8b6, 0x7fd3a37bc8bc03b9, 0x7fe9d1bd39dbd710, 0x7ff4e8de879da539,
    0x7ffa746f4124c9cb, 0x7ffd3a37a03d23cb, 0x7ffe9d1bd013e9c2, 0x7fff4e8de8089fdd, 0x7fffa746f404254e,
    0x7fffd3a37a020d53, 0x7fffe9d1bd0105ff, 0x7ffff4e8de8082ea, 0x7ffffa746f404172, 0x7ffffd3a37a020b9,
    0x7ffffe9d1bd0105c, 0x7fffff4e8de8082e, 0x7fffffa746f40417, 0x7fffffd3a37a020c, 0x7fffffe9d1bd0106,
    0x7ffffff4e8de8083, 0x7ffffffa746f4041, 0x7ffffffd3a37a021, 0x7ffffffe9d1bd010, 0x7fffffff4e8de808,
    0x7fffffffa746f404, 0x7fffffffd3a37a02,
};

namespace {

constexpr std::size_t block = 64;

// 1 where u < t, else 0: the borrow out of u - t, in arithmetic so that no compiler turns it into a jump. For t < 2^63
// and the general case alike (Warren, Hacker's Delight, 2-13).
inline std::uint64_t less_than(std::uint64_t u, std::uint64_t t) noexcept {
    return ((~u & t) | ((~u | t) & (u - t))) >> 63;
}

// Trailing zeros of u, 63 for u = 0: the ones below the lowest set bit, counted by shifts, masks and adds. The
// compiler's builtin becomes a jump or a table on some 32-bit targets.
inline std::uint64_t trailing_zeros(std::uint64_t u) noexcept {
    u |= std::uint64_t{1} << 63;
    std::uint64_t ones = (u & (0 - u)) - 1;
    ones -= (ones >> 1) & 0x5555555555555555;
    ones = (ones & 0x3333333333333333) + ((ones >> 2) & 0x3333333333333333);
    ones = (ones + (ones >> 4)) & 0x0f0f0f0f0f0f0f0f;
    ones += ones >> 8;
    ones += ones >> 16;
    ones += ones >> 32;
    return ones & 0x7f;
}

}  // namespace

void discrete_laplace(std::int64_t* out, ChaChaStream& rng, std::size_t n, unsigned m) noexcept {
    std::uint64_t words[block];
    std::uint64_t magnitude[block];
    for (std::size_t start = 0; start < n; start += block) {
        rng.fill(words, block);
        for (std::size_t i = 0; i < block; ++i) magnitude[i] = trailing_zeros(words[i]) << m;
        for (unsigned s = 1; s <= m; ++s) {
            rng.fill(words, block);
            const std::uint64_t threshold = digit_threshold[s - 1];
            for (std::size_t i = 0; i < block; ++i) magnitude[i] |= less_than(words[i], threshold) << (m - s);
        }
        rng.fill(words, 1);
        const std::uint64_t signs = words[0];
        for (std::size_t i = 0; i < block; ++i) magnitude[i] ^= 0 - ((signs >> i) & 1);
        const std::size_t wanted = std::min(block, n - start);
        for (std::size_t i = 0; i < wanted; ++i) out[start + i] = static_cast<std::int64_t>(magnitude[i]);
    }
    wipe(words, sizeof words);
    wipe(magnitude, sizeof magnitude);
}

}  // namespace fedge
