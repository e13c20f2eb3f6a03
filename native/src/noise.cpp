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
constexpr unsigned octave_bits = 6;  // of A, which is at most 63

// 1 where u < t, else 0: the borrow out of u - t, in arithmetic so that no compiler makes it a jump (Warren, Hacker's
// Delight, 2-13).
inline std::uint64_t less_than(std::uint64_t u, std::uint64_t t) noexcept {
    return ((~u & t) | ((~u | t) & (u - t))) >> 63;
}

// All ones where v is zero, else zero.
inline std::uint64_t mask_of_zero(std::uint64_t v) noexcept { return ((v | (0 - v)) >> 63) - 1; }

// octave (6) = A in binary, sample i in bit i of each word: the coins before the first that shows 1, counted while
// alive.
inline void count_coins(std::uint64_t* octave, const std::uint64_t* coins) noexcept {
    std::uint64_t alive = ~std::uint64_t{0};
    std::fill_n(octave, octave_bits, 0);
    for (std::size_t j = 0; j < laplace_coins; ++j) {
        alive &= ~coins[j];
        std::uint64_t carry = alive;
        for (unsigned b = 0; b < octave_bits; ++b) {
            const std::uint64_t next = octave[b] & carry;
            octave[b] ^= carry;
            carry = next;
        }
    }
}

// The first stage of 64 comparisons u < threshold, most significant bit first: `below` where the bits so far are less,
// `tie` where they are equal. The threshold is public; its bits are applied as masks all the same.
inline void compare_first_bits(std::uint64_t& below, std::uint64_t& tie, const std::uint64_t* bits,
                               std::uint64_t threshold) noexcept {
    below = 0;
    tie = ~std::uint64_t{0};
    for (std::size_t j = 0; j < first_bits; ++j) {
        const std::uint64_t want = 0 - ((threshold >> (63 - j)) & 1);
        below |= tie & want & ~bits[j];
        tie &= ~(bits[j] ^ want);
    }
}

// rows (64), in place: bit i of row k becomes bit k of row i (Warren, 7-3).
inline void transpose(std::uint64_t* rows) noexcept {
    std::uint64_t mask = 0x00000000ffffffff;
    for (std::size_t half = 32; half != 0; half >>= 1, mask ^= mask << half) {
        for (std::size_t base = 0; base < 64; base += 2 * half) {
            for (std::size_t k = base; k < base + half; ++k) {
                const std::uint64_t swap = ((rows[k] >> half) ^ rows[k + half]) & mask;
                rows[k] ^= swap << half;
                rows[k + half] ^= swap;
            }
        }
    }
}

}  // namespace

void settle_ties(std::uint64_t* digit, std::uint64_t* tie, const std::uint64_t* spare, unsigned m) noexcept {
    for (std::size_t k = 0; k < laplace_spares; ++k) {
        std::uint64_t open = ~std::uint64_t{0};  // until this spare has found its tie
        for (unsigned s = 1; s <= m; ++s) {
            const std::uint64_t first = tie[s - 1] & (0 - tie[s - 1]) & open;
            const std::uint64_t set = 0 - less_than(spare[k], digit_threshold[s - 1] << first_bits);
            digit[s - 1] |= first & set;
            tie[s - 1] ^= first;
            open &= mask_of_zero(first);
        }
    }
}

void discrete_laplace(std::int64_t* out, ChaChaStream& rng, std::size_t n, unsigned m) noexcept {
    std::uint64_t words[laplace_coins];
    std::uint64_t octave[octave_bits], digit[max_log2_scale], tie[max_log2_scale], rows[block];
    for (std::size_t start = 0; start < n; start += block) {
        rng.fill(words, laplace_coins);
        count_coins(octave, words);
        for (unsigned s = 1; s <= m; ++s) {
            rng.fill(words, first_bits);
            compare_first_bits(digit[s - 1], tie[s - 1], words, digit_threshold[s - 1]);
        }
        rng.fill(words, laplace_spares);
        settle_ties(digit, tie, words, m);
        rng.fill(words, 1);
        // Row k is bit k of all 64 results: G's digits below the octaves, xor the sign, which also fills the rows
        // above.
        std::fill_n(rows, block, words[0]);
        for (unsigned s = 1; s <= m; ++s) rows[m - s] ^= digit[s - 1];
        for (unsigned b = 0; b < octave_bits; ++b) rows[m + b] ^= octave[b];
        transpose(rows);
        const std::size_t wanted = std::min(block, n - start);
        for (std::size_t i = 0; i < wanted; ++i) out[start + i] = static_cast<std::int64_t>(rows[i]);
    }
    wipe(words, sizeof words);
    wipe(octave, sizeof octave);
    wipe(digit, sizeof digit);
    wipe(tie, sizeof tie);
    wipe(rows, sizeof rows);
}

}  // namespace fedge
