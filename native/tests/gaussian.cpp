#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "../src/fixed128.hpp"
#include "check.hpp"
#include "fedge/noise.hpp"

using namespace fedge;

namespace {

// One trial at a time, with jumps, from the same words: what the lanes must equal.
class PlainBlock {
  public:
    PlainBlock(const std::vector<std::uint32_t>& words, const GaussianPlan& plan) : words_(words), plan_(plan) {}

    std::vector<std::int64_t> accepted() {
        std::vector<std::size_t> spare_of(gaussian_trials, gaussian_spares);
        for (std::size_t c = 0; c < gaussian_columns; ++c) {
            for (std::size_t b = 0; b < 64; ++b) {
                const std::size_t i = gaussian_columns * b + c;
                if (undecided(i)) spare_of[i] = open++;
            }
        }
        std::vector<std::int64_t> values;
        for (std::size_t i = 0; i < gaussian_trials; ++i) {
            std::uint64_t strip_rest = 0, toss_rest = 0;
            if (undecided(i)) {
                if (spare_of[i] >= gaussian_spares) continue;
                const std::uint32_t* const spare = words_.data() + 3 * gaussian_trials + 4 * spare_of[i];
                strip_rest = std::uint64_t{spare[1]} << 32 | spare[0];
                toss_rest = std::uint64_t{spare[3]} << 32 | spare[2];
            }
            const U128 u = number(strip_word(i), strip_rest);
            std::uint64_t strip = 0;
            while (strip < gaussian_strips - 1 && mask_less(u, plan_.threshold[strip]) == 0) ++strip;
            if (mask_less(number(toss_word(i), toss_rest), chance(strip, into(i))) == 0) continue;
            const std::int64_t place = static_cast<std::int64_t>(into(i)) - (negative(i) ? 1 : 0);
            const std::int64_t g = static_cast<std::int64_t>(strip << plan_.lanes.place_bits) + place;
            values.push_back(negative(i) ? -g - 1 : g);
        }
        return values;
    }

    // exp(-into (2 strip width + into) / (2 sigma^2)), Q127
    U128 chance(std::uint64_t strip, std::uint64_t into) const {
        const std::uint64_t n = into * ((strip << (plan_.lanes.place_bits + 1)) + into);
        U128 low = product(n, plan_.steepness.lo), high = add(product(n, plan_.steepness.hi), {0, low.hi});
        std::uint64_t rest = low.lo;
        for (unsigned i = 0; i < 2 * plan_.lanes.place_bits; ++i) {
            rest = rest >> 1 | high.lo << 63;
            high = shift_right(high, 1);
        }
        U128 power = exp2_of_minus(U128{high.lo, rest});
        for (std::uint64_t i = 0; i < high.hi; ++i) power = shift_right(power, 1);
        return power;
    }

    std::uint64_t into(std::size_t i) const {
        const std::uint32_t place = words_[gaussian_trials + i];
        return ((place & 0x7fffffff) >> (31 - plan_.lanes.place_bits)) + (place >> 31);
    }

    std::size_t open = 0;

  private:
    static U128 number(std::uint32_t first, std::uint64_t rest) {
        return shift_right({std::uint64_t{first} << 32 | rest >> 32, rest << 32}, 1);
    }
    std::uint32_t strip_word(std::size_t i) const { return words_[i]; }
    std::uint32_t toss_word(std::size_t i) const { return words_[2 * gaussian_trials + i]; }
    bool negative(std::size_t i) const { return words_[gaussian_trials + i] >> 31 != 0; }

    // The 32-bit arithmetic written out: it is part of what the stream means, as it says which trials take spares.
    bool undecided(std::size_t i) const {
        const auto high = [](std::uint64_t a, std::uint64_t b) { return (a * b) >> 32; };
        std::uint64_t strip = 0;
        for (const std::uint32_t near : plan_.lanes.near) {
            if (strip_word(i) == near) return true;
            strip += strip_word(i) > near;
        }
        const std::uint64_t q31 = into(i) << (31 - plan_.lanes.place_bits);
        const std::uint64_t exponent = high(high(q31, (strip << 27) + (q31 >> 5)) << 1, plan_.lanes.steepness);
        const std::uint64_t f = (exponent << 6) & 0xffffffff;
        std::uint64_t h = 0x003e860a;
        for (const std::uint64_t c : {0x025cca86U, 0x0e293c22U, 0x3d7ce05aU, 0xb171e9b3U}) h = c - high(f, h);
        const std::uint64_t approximate = (0xffffffff - high(f, h)) >> (exponent >> 26);
        const double gap = std::fabs(static_cast<double>(approximate) -
                                     std::ldexp(static_cast<double>(chance(strip, into(i)).hi), -31));
        worst_gap = std::max(worst_gap, gap);
        const std::uint64_t above = (toss_word(i) - approximate + toss_margin) & 0xffffffff;
        return above <= 2 * toss_margin;
    }

    const std::vector<std::uint32_t>& words_;
    const GaussianPlan& plan_;

  public:
    mutable double worst_gap = 0;  // of the chances in 32 bits, in their units
};

std::vector<std::int64_t> block(const std::vector<std::uint32_t>& words, const GaussianPlan& plan) {
    GaussianBlock at;
    std::vector<std::int64_t> out(gaussian_trials);
    out.resize(gaussian_block(out.data(), words.data(), plan, at));
    if (plan.lanes.place_bits <= 26) {
        std::vector<std::int32_t> narrow(gaussian_trials);
        narrow.resize(gaussian_block(narrow.data(), words.data(), plan, at));
        CHECK(std::equal(narrow.begin(), narrow.end(), out.begin(), out.end()));
    }
    return out;
}

void trials_follow_the_documented_stream(std::int64_t sigma) {
    const std::array<std::uint8_t, 32> key{static_cast<std::uint8_t>(sigma)};
    ChaChaStream stream(key), again(key);
    const GaussianPlan plan = gaussian_plan(sigma);
    constexpr std::size_t n = 3000;
    std::vector<std::int64_t> got(n), want;
    discrete_gaussian(got.data(), stream, n, sigma);
    std::vector<std::uint32_t> words(gaussian_words);
    while (want.size() < n) {
        again.fill(words.data(), words.size());
        PlainBlock plain(words, plan);
        const auto values = plain.accepted();
        want.insert(want.end(), values.begin(), values.end());
        CHECK(plain.worst_gap < toss_margin);
    }
    CHECK(std::equal(got.begin(), got.end(), want.begin()));
}

// Undecided trials are too rare to crowd on their own. Here strips' first words are those of thresholds, and tosses lie
// at the chances, so that up to all trials need a spare; the spares' words lie at the rest of some threshold.
void crowded_blocks_take_their_spares_in_order(std::int64_t sigma) {
    const std::array<std::uint8_t, 32> key{9};
    ChaChaStream stream(key);
    const GaussianPlan plan = gaussian_plan(sigma);
    std::size_t most_open = 0;
    bool seen[2] = {};
    for (unsigned round = 0; round < 20; ++round) {
        std::vector<std::uint32_t> words(gaussian_words), noise(gaussian_trials);
        stream.fill(words.data(), words.size());
        stream.fill(noise.data(), noise.size());
        const PlainBlock trials(words, plan);
        for (std::size_t i = 0; i < gaussian_trials; ++i) {
            if (noise[i] >> (22 + round % 10) != 0) continue;  // this many are left as they are
            std::uint64_t strip = 0;
            while (strip < gaussian_strips - 1 &&
                   mask_less({std::uint64_t{words[i]} << 31, 0}, plan.threshold[strip]) == 0) {
                ++strip;
            }
            if (round % 3 == 0 && strip > 0) {
                words[i] = static_cast<std::uint32_t>(plan.threshold[strip - 1].hi >> 31);
            } else {
                const std::uint64_t chance = trials.chance(strip, trials.into(i)).hi >> 31;
                words[2 * gaussian_trials + i] =
                    static_cast<std::uint32_t>(std::min<std::uint64_t>(chance, 0xffffffff) + noise[i] % 3 - 1);
            }
        }
        // Spares equal to the rest of a threshold: the last bits decide.
        for (std::size_t q = 0; q < gaussian_spares && round % 2 == 0; ++q) {
            const U128 t = plan.threshold[q];
            std::uint32_t* const spare = words.data() + 3 * gaussian_trials + 4 * q;
            spare[1] = static_cast<std::uint32_t>(t.hi << 1), spare[0] = static_cast<std::uint32_t>(t.lo >> 31);
        }
        PlainBlock plain(words, plan);
        const auto want = plain.accepted();
        CHECK(block(words, plan) == want);
        most_open = std::max(most_open, plain.open);
        seen[plain.open > gaussian_spares] = true;
    }
    CHECK(most_open > gaussian_spares && seen[0] && seen[1]);
}

// From 70-digit decimal arithmetic: the steepness, and where strips 1 and 5 begin.
void plans_are_those_of_decimal_arithmetic() {
    struct Known {
        std::int64_t sigma;
        U128 steepness, first, fifth;
    };
    constexpr Known known[] = {
        {1, {0xb8aa3b295c17f0bb, 0xbe87fed0691d3e89}, {0x92025b19482ce72b, 0xd40242871f795acf},
         {0xffffdc31b8ef5942, 0x488c44e42106a30a}},
        {2, {0x2e2a8eca5705fc2e, 0xefa1ffb41a474fa2}, {0x55252c92c6309bbb, 0xefd834316ac6e0b2},
         {0xfb1833430a9d94bd, 0x5f737fabc0e1102f}},
        {3, {0x5212c4f5f00aa3e1, 0xaa038db1f5d41bcb}, {0x6b9077b49295bfb6, 0x647a54070734df48},
         {0xff8bc6aaed5b717a, 0x2060464995bfb4c4}},
        {94548, {0x58b944d548b2471e, 0x97c81fba7815788d}, {0x6ee968dc7b5e0eb6, 0x971a49e1b3e7d4f7},
         {0xffb4d090ad56d48e, 0xf01fe6ddb259b12a}},
        {max_sigma, {0x2e2a8eca5705fc2e, 0xefa1ffb41a474fa2}, {0x55252c92c6309bbb, 0xefd834316ac6e0b2},
         {0xfb1833430a9d94bd, 0x5f737fabc0e1102f}},
    };
    const auto near = [](U128 a, U128 b, unsigned bits) {
        const U128 gap = subtract(a, b), back = subtract(b, a);
        return (gap.hi == 0 && gap.lo >> bits == 0) || (back.hi == 0 && back.lo >> bits == 0);
    };
    for (const auto& [sigma, steepness, first, fifth] : known) {
        const GaussianPlan plan = gaussian_plan(sigma);
        CHECK(near(plan.steepness, steepness, 2));
        CHECK(near(plan.threshold[0], shift_right(first, 1), 36) &&
              near(plan.threshold[4], shift_right(fifth, 1), 36));
    }
    // The lanes look at the first thresholds only; all others begin with 32 ones, which is a tie.
    for (std::int64_t sigma = 1; sigma < max_sigma; sigma += sigma / 2 + 1) {
        const GaussianPlan plan = gaussian_plan(sigma);
        for (std::size_t t = gaussian_near_strips - 1; t < gaussian_strips - 1; ++t) {
            CHECK(plan.threshold[t].hi >> 31 == 0xffffffff);
        }
        CHECK(plan.lanes.place_bits <= 29 && (sigma == 1 || std::int64_t{1} << plan.lanes.place_bits < sigma));
    }
}

void moments_are_those_of_the_law() {
    const std::array<std::uint8_t, 32> key{42};
    ChaChaStream stream(key);
    constexpr std::size_t n = 1 << 17;
    std::vector<std::int64_t> x(n);
    discrete_gaussian(x.data(), stream, n, 100);
    double sum = 0.0, squares = 0.0;
    for (const std::int64_t v : x) {
        sum += static_cast<double>(v);
        squares += static_cast<double>(v) * static_cast<double>(v);
    }
    CHECK(std::fabs(sum / n) < 4.0 * 100 / std::sqrt(n));
    CHECK(std::fabs(squares / n / 1e4 - 1.0) < 4.0 * std::sqrt(2.0 / n));
}

}  // namespace

int main() {
    return check::run([] {
        plans_are_those_of_decimal_arithmetic();
        for (const std::int64_t sigma : {std::int64_t{1}, std::int64_t{2}, std::int64_t{3}, std::int64_t{100},
                                         std::int64_t{94548}, std::int64_t{1} << 27, max_sigma}) {
            trials_follow_the_documented_stream(sigma);
            crowded_blocks_take_their_spares_in_order(sigma);
        }
        moments_are_those_of_the_law();
    });
}
