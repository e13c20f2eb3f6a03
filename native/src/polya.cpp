#include <algorithm>

#include "fedge/noise.hpp"
#include "fixed128.hpp"
#include "kernels.hpp"

namespace fedge {
namespace {

constexpr U128 half_log2_e{0xb8aa3b295c17f0bb, 0xbe87fed0691d3e89};  // log2(e) / 2, Q128

// 2^-(j / 2^m), Q127, j < 2^(m + 6).
U128 ratio_to_the(std::uint64_t j, unsigned m) noexcept {
    return shift_right(exp2_of_minus({j << 1 << (63 - m), 0}), static_cast<unsigned>((j >> m) & 63));
}

std::uint64_t square_root_above(std::uint64_t v) noexcept {
    std::uint64_t root = 0;
    for (std::uint64_t bit = std::uint64_t{1} << 31; bit != 0; bit >>= 1) {
        if ((root | bit) * (root | bit) <= v) root |= bit;
    }
    return root + 1;
}

// How many of the limits are at or below u.
template <std::size_t n>
std::uint64_t passed(U128 u, const U128 (&limits)[n]) noexcept {
    std::uint64_t count = 0;
    for (const U128& limit : limits) count += 1 + mask_less(u, limit);
    return count;
}

struct Jump {
    std::uint64_t draw;
    std::uint64_t size;  // two's complement; zero if it is refused
};

Jump jump(const std::uint64_t* words, const PolyaPlan& plan) noexcept {
    // With each octave passed `low` doubles and `inverse`, 2^63 / low, halves.
    const U128 u = shift_right({words[2], words[1]}, 1);
    std::uint64_t low = 1, inverse = std::uint64_t{1} << 63;
    for (const U128& limit : plan.octave_limit) {
        const std::uint64_t past = ~mask_less(u, limit);
        low += low & past;
        inverse -= (inverse >> 1) & past;
    }
    // Uniform in its octave it is kept with chance 2^-(j / 2^m) low / (low + j): where the toss times (low + j) / low is
    // less than that power. The product may be 2: both sides in Q126.
    const std::uint64_t j = words[0] & (low - 1);
    const U128 scaled = multiply_high({words[4], words[3]}, {(low + j) * inverse, 0});  // Q127
    const std::uint64_t kept =
        mask_less(shift_right(scaled, 1), shift_right(ratio_to_the(j, plan.log2_scale), 1));
    const std::uint64_t negative = 0 - ((words[0] >> 54) & 1);
    return {words[0] >> 55, (((low + j) ^ negative) - negative) & kept};
}

template <class Out>
void draw(Out* out, ChaChaStream& rng, std::size_t n, const PolyaPlan& plan) noexcept {
    std::uint32_t sums[polya_draws];
    for (std::size_t start = 0; start < n; start += polya_draws) {
        polya_block(reinterpret_cast<std::int32_t*>(sums), rng, plan);
        const std::size_t wanted = std::min(polya_draws, n - start);
        for (std::size_t i = 0; i < wanted; ++i) out[start + i] = static_cast<std::int32_t>(sums[i]);
    }
    wipe(sums, sizeof sums);
}

}  // namespace

PolyaPlan polya_plan(unsigned m, std::int64_t shares) noexcept {
    PolyaPlan plan{};
    plan.log2_scale = m;
    // The octave [2^e, 2^(e+1)) weighs q^(2^e) = 2^-(2^(e-m)), down to 2^-64.
    U128 up_to[polya_octaves], total{0, 0};  // Q122
    for (unsigned e = 0; e < m + 7; ++e) {
        const U128 weight = e < m ? exp2_of_minus({std::uint64_t{1} << (64 - (m - e)), 0})
                                  : shift_right(shift_right({std::uint64_t{1} << 63, 0}, 1U << (e - m) >> 1),
                                                (1U << (e - m)) - (1U << (e - m) >> 1));
        total = add(total, shift_right(weight, 5));
        up_to[e] = total;
    }
    for (unsigned e = 0; e < polya_octaves - 1; ++e) {
        plan.octave_limit[e] = e < m + 6 ? divide(up_to[e], 127, total) : half_of_all;
    }
    // A block expects 2 * 512 total / shares jumps, in counts of mean below 8.
    const auto n = static_cast<std::uint64_t>(shares);
    const std::uint64_t expected = (total.hi >> 48) / n;  // whole jumps: 1024 = 2^10, Q122 = 2^(64 + 48 + 10)
    plan.counts = static_cast<std::size_t>(expected / 8 + 1);
    const U128 mean = divide(total, 12, {0, n * plan.counts});  // Q124
    // exp(-mean) = 2^-(mean log2(e)); the product is half of that in Q124, hence in Q123.
    const U128 exponent = multiply_high(mean, half_log2_e);
    U128 p = shift_right(exp2_of_minus({exponent.hi << 5 | exponent.lo >> 59, exponent.lo << 5}),
                         static_cast<unsigned>(exponent.hi >> 59) + 4);  // Q123
    U128 below{0, 0};
    std::uint64_t enough = 0;
    for (std::size_t k = 0; k < polya_count_limits; ++k) {
        below = add(below, p);
        const bool one = below.hi >> 59 != 0;
        plan.count_limit[k] = one ? half_of_all : U128{below.hi << 4 | below.lo >> 60, below.lo << 4};
        const U128 missing = subtract(half_of_all, plan.count_limit[k]);
        if (enough == 0 && missing.hi == 0 && missing.lo >> 35 == 0) enough = k;  // 2^-92
        const U128 next = multiply_high(p, mean);  // Q119
        const U128 share = divide(next, 4, {0, k + 1});
        p = share;
    }
    // P(Poisson(L) >= L + x) <= exp(-x^2 / (2 (L + x / 3))) < 2^-92 for x >= 22 + sqrt(456 + 128 L) (Bernstein).
    const std::uint64_t above = expected + 1;
    plan.most = static_cast<std::size_t>(plan.counts == 1 ? enough : above + 22 + square_root_above(456 + 128 * above));
    return plan;
}

void polya_block(std::int32_t* out, ChaChaStream& rng, const PolyaPlan& plan) noexcept {
    std::uint64_t words[5 * polya_chunk];
    std::uint32_t where[polya_chunk], sizes[polya_chunk];
    std::uint64_t jumps = 0;
    for (std::size_t done = 0; done < plan.counts; done += polya_chunk) {
        const std::size_t now = std::min(polya_chunk, plan.counts - done);
        rng.fill(words, 2 * now);
        for (std::size_t i = 0; i < now; ++i) {
            jumps += passed(shift_right({words[2 * i + 1], words[2 * i]}, 1), plan.count_limit);
        }
    }
    std::fill_n(out, polya_draws, 0);
    for (std::size_t done = 0; done < plan.most; done += polya_chunk) {
        const std::size_t now = std::min(polya_chunk, plan.most - done);
        rng.fill(words, 5 * now);
        for (std::size_t i = 0; i < now; ++i) {
            const Jump one = jump(words + 5 * i, plan);
            const std::uint64_t live = mask_less(U128{0, done + i}, U128{0, jumps});
            where[i] = static_cast<std::uint32_t>(one.draw);
            sizes[i] = static_cast<std::uint32_t>(one.size & live);
        }
        kernels().add_scattered(reinterpret_cast<std::uint32_t*>(out), where, sizes, polya_draws, now);
    }
    wipe(words, sizeof words);
    wipe(where, sizeof where);
    wipe(sizes, sizeof sizes);
}

void laplace_share(std::int64_t* out, ChaChaStream& rng, std::size_t n, unsigned m, std::int64_t shares) noexcept {
    draw(out, rng, n, polya_plan(m, shares));
}

void laplace_share(std::int32_t* out, ChaChaStream& rng, std::size_t n, unsigned m, std::int64_t shares) noexcept {
    draw(out, rng, n, polya_plan(m, shares));
}

}  // namespace fedge
