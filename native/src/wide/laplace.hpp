// One block of discrete Laplace draws, bit-sliced: docs/noise.md has the construction and its proof. Which instructions
// run and which addresses they touch depends on m alone; the masks below stand where a plain program would branch.
#pragma once

#include "fedge/laplace_block.hpp"
#include "rows.hpp"

namespace fedge {
namespace {

struct LaplaceWorkspace {
    Row octave[octave_bits];  // A in binary
    Row set[compared_digits + 1];
    Row open[1 + compared_digits + 1];  // the ties: of the coins, then of the comparisons
    Row drop_lane[drop_spares];
    Row row[64];
    // Of these the inner dimension is worked through a vector at a time, past what m needs of it.
    std::uint64_t below_rest[tie_spares][8];
    std::uint64_t drop_at[drop_spares][max_log2_scale + 8];
    std::uint64_t allowed[max_log2_scale];
};
static_assert(sizeof(LaplaceWorkspace) <= laplace_workspace_bytes && compared_digits < 8);

// All ones where u < t, else zero: the borrow out of u - t, in arithmetic so that no compiler makes it a jump (Warren,
// Hacker's Delight, 2-13). For words and for vectors of them.
template <class Word>
Word mask_less(const Word& u, const Word& t) noexcept {
    return 0 - (((~u & t) | ((~u | t) & (u - t))) >> 63);
}

// All ones where bit b of v is set, else zero.
inline std::uint64_t mask_of_bit(std::uint64_t v, unsigned b) noexcept { return 0 - ((v >> b) & 1); }

// How many of the low `coins` bits of w are zero before the first that is one: the ones of an isolated-bit mask,
// counted by halves (Warren, 5-1), as a count-zeros instruction may take its own time.
inline std::uint64_t zeros_before_one(std::uint64_t w, unsigned coins) noexcept {
    const std::uint64_t bounded = w | (std::uint64_t{1} << coins);
    std::uint64_t v = (bounded & (0 - bounded)) - 1;
    v = v - ((v >> 1) & 0x5555555555555555);
    v = (v & 0x3333333333333333) + ((v >> 2) & 0x3333333333333333);
    v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0f;
    v += v >> 8;
    v += v >> 16;
    v += v >> 32;
    return v & 127;
}

// octave = the coins before the first that shows 1, of first_bits; returns the lanes where none does.
inline Row count_coins(Row* octave, const std::uint64_t* coins) noexcept {
    Row alive = broadcast(~std::uint64_t{0});
    for (unsigned b = 0; b < octave_bits; ++b) octave[b] = broadcast(0);
    for (unsigned j = 0; j < first_bits; ++j) {
        alive = alive & ~load_row(coins + laplace_columns * j);
        Row carry = alive;
        for (unsigned b = 0; b < 4; ++b) {  // first_bits < 16
            const Row next = octave[b] & carry;
            octave[b] = octave[b] ^ carry;
            carry = next;
        }
    }
    return alive;
}

// The first stage of a row of comparisons u < threshold, most significant bit first: `below` where the bits so far are
// less, `tie` where they are equal. The threshold is public; its bits are applied as masks all the same.
inline void compare_first_bits(Row& below, Row& tie, const std::uint64_t* bits, std::uint64_t threshold) noexcept {
    Row less = broadcast(0), equal = broadcast(~std::uint64_t{0});
    for (unsigned j = 0; j < first_bits; ++j) {
        const Row differ = load_row(bits + laplace_columns * j) ^ broadcast(mask_of_bit(threshold, 63 - j));
        less = less | (equal & differ & broadcast(mask_of_bit(threshold, 63 - j)));
        equal = equal & ~differ;
    }
    below = less;
    tie = equal;
}

// Each spare settles one tie: of the first lane that has any, the first in the order of `open`.
inline void settle_ties(LaplaceWorkspace& at, const std::uint64_t* spare, unsigned comparisons) noexcept {
    std::uint64_t rest[8] = {};
    for (unsigned k = 0; k <= compared_digits; ++k) rest[k] = comparison_threshold[k] << first_bits;
    for (std::size_t q = 0; q < tie_spares; ++q) {
        const U64 u = U64{} + spare[q];
        for (unsigned k = 0; k < 8; k += lanes64) store_lanes(at.below_rest[q] + k, mask_less(u, load_lanes(rest + k)));
    }
    Row lanes = at.open[0];
    for (unsigned k = 1; k <= comparisons; ++k) lanes = lanes | at.open[k];
    for (std::size_t q = 0; q < tie_spares; ++q) {
        const Row lane = first_lane(lanes);
        const Row coin = at.open[0] & lane;
        const std::uint64_t flips = (first_bits + zeros_before_one(spare[q], 63 - first_bits)) ^ first_bits;
        for (unsigned b = 0; b < octave_bits; ++b) {
            at.octave[b] = at.octave[b] ^ (coin & broadcast(mask_of_bit(flips, b)));
        }
        Row unserved = lane ^ coin, remaining = broadcast(0);
        at.open[0] = at.open[0] ^ coin;
        for (unsigned k = 1; k <= comparisons; ++k) {
            const Row tie = at.open[k] & unserved;
            unserved = unserved ^ tie;
            at.set[k - 1] = at.set[k - 1] | (tie & broadcast(at.below_rest[q][k - 1]));
            at.open[k] = at.open[k] ^ tie;
            remaining = remaining | at.open[k];
        }
        lanes = lanes & (~lane | remaining);
    }
}

// Each pair of spares makes one drop, for the first lane that awaits one. Its first word says at which digit, and that
// counts only if it lies past the lane's earlier drops; its second, whether the lane goes on to the next pair.
// drop_at[q][k] = all ones where pair q drops the low digit k, if any lane takes it.
inline void place_drops(LaplaceWorkspace& at, const Row& drops, const std::uint64_t* spare, unsigned low) noexcept {
    // First, drop_at[q][k + 1] = all ones where the pair's digit is k or before it.
    for (std::size_t q = 0; q < drop_spares; ++q) {
        const U64 u = U64{} + spare[2 * q];
        at.drop_at[q][0] = 0;
        for (unsigned k = 0; k < low; k += lanes64) {
            store_lanes(at.drop_at[q] + k + 1, mask_less(u, load_lanes(first_drop + k)));
        }
    }
    for (std::uint64_t& any : at.allowed) any = ~std::uint64_t{0};
    Row lanes = drops;
    for (std::size_t q = 0; q < drop_spares; ++q) {
        const std::uint64_t again = mask_less(spare[2 * q + 1], comparison_threshold[compared_digits]);
        for (unsigned k = 0; k < low; k += lanes64) {
            const U64 before = load_lanes(at.drop_at[q] + k), allowed = load_lanes(at.allowed + k);
            store_lanes(at.drop_at[q] + k, load_lanes(at.drop_at[q] + k + 1) & ~before & allowed);
            store_lanes(at.allowed + k, ~again | (allowed & before));
        }
        at.drop_lane[q] = first_lane(lanes);
        lanes = lanes ^ (at.drop_lane[q] & broadcast(~again));
    }
}

// out (laplace_draws) from `words`, which laplace_block.hpp lays out. For int32, m <= max_log2_scale_32.
template <class Out>
void laplace_block(Out* out, const std::uint64_t* words, unsigned m, std::byte* workspace) noexcept {
    LaplaceWorkspace& at = *reinterpret_cast<LaplaceWorkspace*>(workspace);
    const unsigned comparisons = m < compared_digits + 1 ? m : compared_digits + 1;
    const unsigned low = m < compared_digits ? 0 : m - compared_digits;
    const std::uint64_t* const coins = words + laplace_columns;
    const std::uint64_t* const compared = coins + laplace_columns * first_bits;
    const std::uint64_t* const fair = compared + laplace_columns * first_bits * comparisons;
    const std::uint64_t* const spare = fair + laplace_columns * low;

    at.open[0] = count_coins(at.octave, coins);
    for (unsigned k = 0; k < comparisons; ++k) {
        compare_first_bits(at.set[k], at.open[k + 1], compared + laplace_columns * first_bits * k,
                           comparison_threshold[k]);
    }
    settle_ties(at, spare, comparisons);

    // Row k is bit k of all results: G's digits, xor the sign, which also fills the rows above.
    for (std::size_t k = 0; k < 8 * sizeof(Out); ++k) at.row[k] = load_row(words);
    for (unsigned b = 0; b < octave_bits; ++b) at.row[m + b] = at.row[m + b] ^ at.octave[b];
    for (unsigned s = 1; s <= m && s <= compared_digits; ++s) at.row[m - s] = at.row[m - s] ^ at.set[s - 1];
    if (low > 0) {
        place_drops(at, at.set[compared_digits], spare + tie_spares, low);
        for (unsigned k = 0; k < low; ++k) {
            Row dropped = broadcast(0);
            for (std::size_t q = 0; q < drop_spares; ++q) {
                dropped = dropped | (at.drop_lane[q] & broadcast(at.drop_at[q][k]));
            }
            Row& row = at.row[low - 1 - k];
            row = row ^ (load_row(fair + laplace_columns * k) & ~dropped);
        }
    }
    store_transposed(out, at.row);
}

}  // namespace
}  // namespace fedge
