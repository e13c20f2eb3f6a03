// Blocks of trials of the discrete Gaussian sampler in 32-bit lanes: docs/noise.md, section 8. Which instructions run
// and which addresses they touch depends on the plan alone, except that accepted values are stored next to each other.
#pragma once

#include "fedge/gaussian_block.hpp"
#include "lanes.hpp"

namespace fedge {
namespace {

// 2^-f in units of 2^-32 for f Q32: the minimax polynomial of degree 5 with value 1 at 0, within 259 units of the truth
// and never above 2^32 - 1.
inline U32 exp2_of_minus(U32 f) noexcept {
    U32 h = U32{} + 0x003e860a;
    h = 0x025cca86 - mul_high(f, h);
    h = 0x0e293c22 - mul_high(f, h);
    h = 0x3d7ce05a - mul_high(f, h);
    h = 0xb171e9b3 - mul_high(f, h);
    return ~mul_high(f, h);
}

// For every trial its strip and whether it is accepted, as far as 32 bits tell; the first trials of which they do not,
// in `chosen`, with their words.
void gaussian_decide(GaussianBlock& at, const std::uint32_t* words, const GaussianLanes& plan) noexcept {
    constexpr std::size_t parts32 = gaussian_columns / lanes32, thresholds = gaussian_near_strips - 1;
    const std::uint32_t* const strips = words;
    const std::uint32_t* const places = words + gaussian_trials;
    const std::uint32_t* const tosses = words + 2 * gaussian_trials;
    const unsigned bits = plan.place_bits;
    I32 near[thresholds];
    for (std::size_t t = 0; t < thresholds; ++t) near[t] = ordered(U32{} + plan.near[t]);

    // open[half][c] = which of the half's trials of column c are undecided
    std::uint32_t open[2][gaussian_columns];
    for (std::size_t half = 0; half < 2; ++half) {
        U32 undecided[parts32] = {};
        for (std::uint32_t b = 0; b < 32; ++b) {
            for (std::size_t part = 0; part < parts32; ++part) {
                const std::size_t i = 512 * half + gaussian_columns * b + lanes32 * part;
                const I32 u = ordered(load32(strips + i));
                I32 count{}, tie{};
                for (std::size_t t = 0; t < thresholds; ++t) {
                    count -= u > near[t];
                    tie |= u == near[t];
                }
                const U32 strip = (U32)count, place = load32(places + i), toss = load32(tosses + i);
                // How far into the strip, Q31 of its width; that times (2 strip + itself), Q26; the exponent, Q26.
                const U32 into = (((place & 0x7fffffff) >> (31 - bits)) + (place >> 31)) << (31 - bits);
                const U32 area = mul_high(into, (strip << 27) + (into >> 5)) << 1;
                const U32 exponent = mul_high(area, U32{} + plan.steepness);
                const U32 chance = shift_right(exp2_of_minus(exponent << 6), exponent >> 26);
                const I32 close = ordered(U32{} + (2 * toss_margin + 1)) > ordered(toss - chance + toss_margin);
                const U32 unsure = (U32)(tie | close);
                store32(at.strip + i, strip);
                store32(at.accepted + i, (U32)(ordered(chance) > ordered(toss)) & ~unsure);
                undecided[part] |= unsure & (std::uint32_t{1} << b);
            }
        }
        for (std::size_t part = 0; part < parts32; ++part) store32(open[half] + lanes32 * part, undecided[part]);
    }

    // The first open trials, columns in order and bits within them; what is chosen closes.
    std::uint64_t column[gaussian_columns];
    for (std::size_t c = 0; c < gaussian_columns; ++c) column[c] = std::uint64_t{open[1][c]} << 32 | open[0][c];
    constexpr std::uint64_t with_bit[6] = {0xaaaaaaaaaaaaaaaa, 0xcccccccccccccccc, 0xf0f0f0f0f0f0f0f0,
                                           0xff00ff00ff00ff00, 0xffff0000ffff0000, 0xffffffff00000000};
    for (std::size_t q = 0; q < gaussian_spares; ++q) {
        std::uint64_t earlier = 0;
        std::uint32_t trial = 0;
        for (std::uint32_t c = 0; c < gaussian_columns; ++c) {
            const std::uint64_t first = column[c] & (0 - column[c]) & ~earlier;
            const std::uint64_t any = mask_nonzero(first);
            for (unsigned k = 0; k < 6; ++k) {
                trial |= static_cast<std::uint32_t>(mask_nonzero(first & with_bit[k]) & (gaussian_columns << k));
            }
            trial |= static_cast<std::uint32_t>(any) & c;
            column[c] ^= first;
            earlier |= any;
        }
        at.chosen[q] = trial | static_cast<std::uint32_t>(~earlier);
    }

    // A chosen trial's words are picked out by passing over all.
    U32 found[3][gaussian_spares] = {};
    U32 id = lane_numbers();
    for (std::size_t i = 0; i < gaussian_trials; i += lanes32, id += lanes32) {
        const U32 word[3] = {load32(strips + i), load32(places + i), load32(tosses + i)};
        for (std::size_t q = 0; q < gaussian_spares; ++q) {
            const U32 here = (U32)(id == at.chosen[q]);
            for (std::size_t w = 0; w < 3; ++w) found[w][q] |= word[w] & here;
        }
    }
    for (std::size_t w = 0; w < 3; ++w) {
        for (std::size_t q = 0; q < gaussian_spares; ++q) {
            std::uint32_t all = 0;
            for (std::size_t lane = 0; lane < lanes32; ++lane) all |= found[w][q][lane];
            at.chosen_words[w][q] = all;
        }
    }
}

// The accepted values in the order of their trials, to out, which has room for gaussian_trials. Returns their number.
// Where a value goes depends on which trials are accepted, which says nothing about the values.
template <class Out>
std::size_t gaussian_collect(Out* out, GaussianBlock& at, const std::uint32_t* words, unsigned bits) noexcept {
    const std::uint32_t* const places = words + gaussian_trials;
    constexpr unsigned narrow_bits = 26;  // 21 strips of 2^26 lie within int32
    U32 id = lane_numbers();
    for (std::size_t i = 0; i < gaussian_trials; i += lanes32, id += lanes32) {
        U32 strip = load32(at.strip + i), accepted = load32(at.accepted + i);
        for (std::size_t q = 0; q < gaussian_spares; ++q) {
            const U32 here = (U32)(id == at.chosen[q]);
            strip ^= (strip ^ at.decided_strip[q]) & here;
            accepted |= at.decided[q] & here;
        }
        const U32 place = load32(places + i);
        store32(at.strip + i, strip);
        store32(at.accepted + i, accepted);
        if (bits <= narrow_bits) {
            const U32 size = (strip << bits) + ((place & 0x7fffffff) >> (31 - bits));
            store32(reinterpret_cast<std::uint32_t*>(at.narrow) + i, size ^ (0 - (place >> 31)));
        }
    }
    std::size_t n = 0;
    if (bits <= narrow_bits) {
        for (std::size_t i = 0; i < gaussian_trials; ++i) {
            out[n] = at.narrow[i];
            n += at.accepted[i] & 1;
        }
        return n;
    }
    for (std::size_t i = 0; i < gaussian_trials; ++i) {
        const std::uint32_t place = places[i];
        const std::int64_t size =
            (std::int64_t{at.strip[i]} << bits) + static_cast<std::int64_t>((place & 0x7fffffff) >> (31 - bits));
        out[n] = static_cast<Out>(size ^ -static_cast<std::int64_t>(place >> 31));
        n += at.accepted[i] & 1;
    }
    return n;
}

}  // namespace
}  // namespace fedge
