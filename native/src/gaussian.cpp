#include <algorithm>
#include <bit>

#include "fedge/noise.hpp"
#include "fixed128.hpp"
#include "kernels.hpp"

namespace fedge {
namespace {

constexpr U128 half_log2_e{0xb8aa3b295c17f0bb, 0xbe87fed0691d3e89};  // log2(e) / 2, Q128

// exp(-n / (2 sigma^2)) as Q127, where n / 2^by, by < 64, counts squares of a strip's width; the exponent in binary must
// be below 128.
U128 chance_of(std::uint64_t n, unsigned by, const GaussianPlan& plan) noexcept {
    const U128 low = product(n, plan.steepness.lo), high = add(product(n, plan.steepness.hi), {0, low.hi});
    const U128 whole_and_more = shift_right(high, by);  // Q64
    const U128 fraction{whole_and_more.lo, shift_right({high.lo, low.lo}, by).lo};
    const auto whole = static_cast<unsigned>(whole_and_more.hi);
    return shift_right(shift_right(exp2_of_minus(fraction), whole / 2), whole - whole / 2);
}

// 96 bits as Q127: 32 from the block's rows, 64 from a spare.
U128 number(std::uint32_t first, const std::uint32_t* spare) noexcept {
    return shift_right({std::uint64_t{first} << 32 | spare[1], std::uint64_t{spare[0]} << 32}, 1);
}

// What 96 bits say of the chosen trials. Trials that are not there are decided too.
void decide_chosen(GaussianBlock& at, const std::uint32_t* words, const GaussianPlan& plan) noexcept {
    const unsigned bits = plan.lanes.place_bits;
    for (std::size_t q = 0; q < gaussian_spares; ++q) {
        const std::uint32_t* const spare = words + 3 * gaussian_trials + 4 * q;
        const U128 u = number(at.chosen_words[0][q], spare), toss = number(at.chosen_words[2][q], spare + 2);
        std::uint64_t strip = 0;
        for (std::size_t t = 0; t < gaussian_strips - 1; ++t) {
            strip += 1 + mask_less(u, plan.threshold[t]);
        }
        const std::uint64_t place = at.chosen_words[1][q];
        const std::uint64_t into = ((place & 0x7fffffff) >> (31 - bits)) + (place >> 31);
        const U128 chance = chance_of(into * ((strip << (bits + 1)) + into), 2 * bits, plan);
        at.decided_strip[q] = static_cast<std::uint32_t>(strip);
        at.decided[q] = static_cast<std::uint32_t>(mask_less(toss, chance));
    }
}

template <class Out>
void draw(Out* out, ChaChaStream& rng, std::size_t n, const GaussianPlan& plan) noexcept {
    std::uint32_t words[gaussian_words];
    GaussianBlock at;
    Out last[gaussian_trials];
    for (std::size_t have = 0; have < n;) {
        rng.fill(words, gaussian_words);
        const bool whole = n - have >= gaussian_trials;
        const std::size_t accepted = gaussian_block(whole ? out + have : last, words, plan, at);
        if (!whole) std::copy_n(last, std::min(accepted, n - have), out + have);
        have += std::min(accepted, n - have);
    }
    wipe(words, sizeof words);
    wipe(&at, sizeof at);
    wipe(last, sizeof last);
}

}  // namespace

GaussianPlan gaussian_plan(std::int64_t sigma) noexcept {
    GaussianPlan plan{};
    const auto s = static_cast<std::uint64_t>(sigma);
    const unsigned bits = s < 2 ? 0 : static_cast<unsigned>(std::bit_width(s - 1)) - 1;
    plan.steepness = divide(half_log2_e, 2 * bits, {0, s * s});
    plan.lanes.place_bits = bits;
    plan.lanes.steepness = static_cast<std::uint32_t>(plan.steepness.hi >> 32);

    // Strips up to 10.4 sigma, the k-th of weight exp(-(k width)^2 / (2 sigma^2)).
    const std::uint64_t width = std::uint64_t{1} << bits, strips = (52 * s + 5 * width - 1) / (5 * width);
    U128 up_to[gaussian_strips], total{0, 0};  // Q124
    for (std::uint64_t k = 0; k < strips; ++k) {
        total = add(total, shift_right(chance_of(k * k, 0, plan), 3));
        up_to[k] = total;
    }
    for (std::size_t t = 0; t < gaussian_strips - 1; ++t) {
        plan.threshold[t] = t + 1 < strips ? divide(up_to[t], 127, total) : half_of_all;
        if (t < gaussian_near_strips - 1) plan.lanes.near[t] = static_cast<std::uint32_t>(plan.threshold[t].hi >> 31);
    }
    return plan;
}

std::size_t gaussian_block(std::int64_t* out, const std::uint32_t* words, const GaussianPlan& plan,
                           GaussianBlock& at) noexcept {
    kernels().gaussian_decide(at, words, plan.lanes);
    decide_chosen(at, words, plan);
    return kernels().gaussian_collect(out, at, words, plan.lanes.place_bits);
}

std::size_t gaussian_block(std::int32_t* out, const std::uint32_t* words, const GaussianPlan& plan,
                           GaussianBlock& at) noexcept {
    kernels().gaussian_decide(at, words, plan.lanes);
    decide_chosen(at, words, plan);
    return kernels().gaussian_collect_32(out, at, words, plan.lanes.place_bits);
}

void discrete_gaussian(std::int64_t* out, ChaChaStream& rng, std::size_t n, std::int64_t sigma) noexcept {
    draw(out, rng, n, gaussian_plan(sigma));
}

void discrete_gaussian(std::int32_t* out, ChaChaStream& rng, std::size_t n, std::int64_t sigma) noexcept {
    draw(out, rng, n, gaussian_plan(sigma));
}

}  // namespace fedge
