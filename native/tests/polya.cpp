#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "../src/fixed128.hpp"
#include "check.hpp"
#include "fedge/noise.hpp"

using namespace fedge;

namespace {

std::array<std::uint8_t, 32> key(unsigned a) { return {static_cast<std::uint8_t>(a), 17}; }

// One jump at a time, with jumps and loops, from the same stream.
std::vector<std::int32_t> plain_block(ChaChaStream& stream, const PolyaPlan& plan, std::size_t& expected_jumps) {
    const auto number = [&stream] {
        std::uint64_t word[2];
        stream.fill(word, 2);
        return U128{word[1], word[0]};
    };
    std::size_t jumps = 0;
    for (std::size_t i = 0; i < plan.counts; ++i) {
        const U128 u = shift_right(number(), 1);
        for (std::size_t k = 0; k < polya_count_limits && mask_less(u, plan.count_limit[k]) == 0; ++k) ++jumps;
    }
    expected_jumps += jumps;
    std::vector<std::int32_t> sums(polya_draws);
    for (std::size_t i = 0; i < plan.most; ++i) {
        std::uint64_t word = 0;
        stream.fill(&word, 1);
        const U128 u = shift_right(number(), 1), toss = number();
        if (i >= jumps) continue;
        unsigned octave = 0;
        while (octave < polya_octaves - 1 && mask_less(u, plan.octave_limit[octave]) == 0) ++octave;
        const std::uint64_t size = (std::uint64_t{1} << octave) + (word & ((std::uint64_t{1} << octave) - 1));
        // Against the chance in long double, which is undecided by no toss of these tests.
        const long double j = static_cast<long double>(size - (std::uint64_t{1} << octave));
        const long double chance =
            std::exp2(-j / std::exp2(static_cast<long double>(plan.log2_scale))) * std::exp2(octave) / size;
        const long double tossed = std::ldexp(static_cast<long double>(toss.hi), -64);
        CHECK(std::fabs(tossed - chance) > 1e-17L);
        if (tossed >= chance) continue;
        const auto step = static_cast<std::int32_t>(size);
        sums[word >> 55] += ((word >> 54) & 1) != 0 ? -step : step;
    }
    return sums;
}

void shares_follow_the_documented_stream(unsigned m, std::int64_t shares) {
    const PolyaPlan plan = polya_plan(m, shares);
    ChaChaStream stream(key(m)), again(key(m));
    const std::size_t blocks = shares < 10 ? 1 : 10;
    std::vector<std::int64_t> got(polya_draws * blocks - 5);
    laplace_share(got.data(), stream, got.size(), m, shares);
    std::size_t jumps = 0;
    for (std::size_t block = 0; block < blocks; ++block) {
        const auto want = plain_block(again, plan, jumps);
        const std::size_t start = polya_draws * block;
        CHECK(std::equal(got.begin() + static_cast<std::ptrdiff_t>(start),
                         got.begin() + static_cast<std::ptrdiff_t>(std::min(got.size(), start + polya_draws)),
                         want.begin()));
    }
    CHECK(jumps > 0 || shares > 1000);
    CHECK(jumps <= plan.most * blocks);
}

// From 70-digit decimal arithmetic: the number of counts; the limits of the first octave and of the one that begins at
// the scale; the chances of no jump and of at most three in a count.
void plans_are_those_of_decimal_arithmetic() {
    struct Known {
        unsigned m;
        std::int64_t shares;
        std::size_t counts;
        U128 first, middle, none, three;
    };
    constexpr Known known[] = {
        {0, 1, 105, {0x4e6410ab0746edb1, 0x490d21cac8bb98d8}, {0x4e6410ab0746edb1, 0x490d21cac8bb98d8},
         {0x000b6ae66b6551df, 0x624023cb9b672868}, {0x0590bb2a15d10fb7, 0x91b80c24ddb743ce}},
        {16, 10, 208, {0x07e730b39e5688e1, 0xb36c64f6a5ab4ff4}, {0x7d7fcff4345c1caa, 0x80f7dc7a3f5b81cd},
         {0x000b49d5583f0ed2, 0x4b3baa36cbeb2a20}, {0x0585d77a6d35e530, 0xb5fc56253fbf4cbf}},
        {20, 1000, 3, {0x06567f262a4ee75d, 0xdbdbc21b648cc710}, {0x7dfe9b58296a6bb8, 0xaa42d4142ac8db10},
         {0x00213c677df9c411, 0x4992693c31471e7e}, {0x0b32b329d8b01556, 0x65d935c8be03deab}},
        {24, 1048576, 1, {0x054a45ae2a76915d, 0x066c838aeece140d}, {0x7e537aa87090df39, 0xc8969bb4096fe8af},
         {0x7d02cda5c63294dd, 0x9ddc21533d32f253}, {0x7fffffe4a10fc64d, 0x065742b7ae5e8fbe}},
    };
    const auto near = [](U128 a, U128 b) {  // 2^-87
        const U128 gap = subtract(a, b), back = subtract(b, a);
        return (gap.hi == 0 && gap.lo >> 40 == 0) || (back.hi == 0 && back.lo >> 40 == 0);
    };
    for (const Known& k : known) {
        const PolyaPlan plan = polya_plan(k.m, k.shares);
        CHECK(plan.counts == k.counts);
        CHECK(near(plan.octave_limit[0], k.first) && near(plan.octave_limit[k.m], k.middle));
        CHECK(near(plan.count_limit[0], k.none) && near(plan.count_limit[3], k.three));
    }
}

// Limits rise to 1, so every number finds its place, and a block's jumps exceed `most` less than once in 2^88 blocks.
void limits_rise_and_most_is_enough() {
    for (unsigned m = 0; m <= max_share_log2_scale; m += 4) {
        for (std::int64_t shares = 1; shares <= max_shares; shares = shares * 40 + 1) {
            const PolyaPlan plan = polya_plan(m, shares);
            for (std::size_t k = 1; k < polya_count_limits; ++k) {
                CHECK(mask_less(plan.count_limit[k], plan.count_limit[k - 1]) == 0);
            }
            for (std::size_t e = 1; e < polya_octaves - 1; ++e) {
                CHECK(mask_less(plan.octave_limit[e], plan.octave_limit[e - 1]) == 0);
            }
            CHECK(subtract(half_of_all, plan.count_limit[polya_count_limits - 1]).hi == 0);
            // Chernoff: P(Poisson(L) >= k) <= e^-L (e L / k)^k for k > L.
            double expected = 0;
            for (unsigned e = 0; e < m + 7; ++e) {
                expected += 1024.0 * std::exp2(-std::exp2(static_cast<double>(e) - m)) / static_cast<double>(shares);
            }
            const double k = static_cast<double>(plan.most) + 1;
            const double log2_tail = (-expected + k * (1 + std::log(expected / k))) / std::log(2.0);
            CHECK(k > expected && log2_tail < -88);  // Chernoff's own looseness
        }
    }
}

void sums_of_shares_have_the_moments_of_the_law() {
    constexpr unsigned m = 6;
    constexpr std::int64_t shares = 5;
    constexpr std::size_t n = 1 << 14;
    ChaChaStream stream(key(1));
    std::vector<std::int32_t> sum(n), share(n);
    for (std::int64_t i = 0; i < shares; ++i) {
        laplace_share(share.data(), stream, n, m, shares);
        for (std::size_t k = 0; k < n; ++k) sum[k] += share[k];
    }
    const double q = std::exp2(-std::exp2(-static_cast<double>(m))), variance = 2 * q / ((1 - q) * (1 - q));
    double mean = 0, squares = 0;
    for (const std::int32_t v : sum) mean += v, squares += static_cast<double>(v) * v;
    CHECK(std::fabs(mean / n) < 4 * std::sqrt(variance / n));
    CHECK(std::fabs(squares / n / variance - 1) < 4 * std::sqrt(5.0 / n));
}

}  // namespace

int main() {
    return check::run([] {
        plans_are_those_of_decimal_arithmetic();
        limits_rise_and_most_is_enough();
        for (const unsigned m : {0U, 1U, 6U, 16U, 24U}) {
            for (const std::int64_t shares : {std::int64_t{1}, std::int64_t{3}, std::int64_t{100}, max_shares}) {
                shares_follow_the_documented_stream(m, shares);
            }
        }
        sums_of_shares_have_the_moments_of_the_law();
    });
}
