#include "fedge/clip.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "check.hpp"
#include "fedge/reduce.hpp"

using namespace fedge;

namespace {

bool quantize(std::vector<std::int32_t>& q, const std::vector<float>& update, double clip, std::int32_t levels) {
    q.assign(update.size(), 0);
    std::vector<std::byte> workspace(quantize_workspace_size(update.size()));
    return quantize_l1(q.data(), update.data(), clip, levels, workspace.data(), update.size());
}

// Magnitudes from 2^-149 to 2^127, both signs: every bit pattern whose exponent is not all ones is a finite float.
std::vector<float> any_floats(std::size_t n, std::uint32_t seed) {
    std::vector<float> values(n);
    for (float& v : values) {
        do {
            seed = seed * 1664525U + 1013904223U;
            const std::uint32_t bits = seed ^ (seed >> 16);
            static_assert(sizeof bits == sizeof v);
            __builtin_memcpy(&v, &bits, sizeof v);
        } while (!std::isfinite(v));
    }
    return values;
}

void integers_keep_the_bound_for_every_finite_input() {
    constexpr float largest = std::numeric_limits<float>::max(), tiniest = std::numeric_limits<float>::denorm_min();
    std::vector<std::vector<float>> updates = {
        {},
        {0.0F},
        {largest},
        {-largest, largest, largest},
        {tiniest},
        {tiniest, -tiniest, largest},
        std::vector<float>(1000, 0.6F),
        std::vector<float>(1001, -0.5F),
        std::vector<float>(1000, largest),
    };
    for (std::uint32_t seed = 0; seed < 20; ++seed) updates.push_back(any_floats(257, seed));
    std::vector<std::int32_t> q;
    for (const auto& update : updates) {
        for (const double clip : {1e-300, 1e-40, 0.3, 1.0, 600.0, 1e30, 1e300}) {
            for (const std::int32_t levels : {1, 2, 3, 600, 1 << 20, max_levels}) {
                CHECK(quantize(q, update, clip, levels));
                CHECK(integer_l1_norm(q.data(), q.size()) <= static_cast<std::uint64_t>(levels));
                std::vector<std::byte> workspace(quantize_workspace_size(update.size()));
                CHECK(quantize_l2(q.data(), update.data(), clip, levels, workspace.data(), update.size()));
                const auto bound = static_cast<std::uint64_t>(levels);
                CHECK(integer_l2_squared(q.data(), q.size()) <= bound * bound);
            }
        }
    }
}

void the_excess_comes_off_where_rounding_went_outward_most() {
    std::vector<std::int32_t> q;
    // In levels: 2.5 -> 2, 0.75 -> 1, 0.75 -> 1, 1.0 -> 1: five, exactly the bound.
    CHECK(quantize(q, {2.5F, 0.75F, -0.75F, 1.0F}, 5.0, 5));
    CHECK((q == std::vector<std::int32_t>{2, 1, -1, 1}));
    // 0.75, 0.625, 0.625 -> 1, 1, 1 against a bound of two: the first of the two carried furthest gives way.
    CHECK(quantize(q, {0.75F, -0.625F, 0.625F}, 2.0, 2));
    CHECK((q == std::vector<std::int32_t>{1, 0, 1}));
}

void clipping_keeps_to_the_bound_and_leaves_the_small_alone() {
    std::vector<float> update = {3.0F, -4.0F};
    CHECK(clip_l1(update.data(), 7.0, 2) == 7.0 && update[0] == 3.0F && update[1] == -4.0F);
    CHECK(clip_l2(update.data(), 5.0, 2) == 5.0 && update[0] == 3.0F);
    CHECK(clip_l2(update.data(), 2.5, 2) == 5.0 && l2_norm(update.data(), 2) <= 2.5);
    update = any_floats(5000, 9);
    const double before = l1_norm(update.data(), update.size());
    CHECK(clip_l1(update.data(), 1e-3, update.size()) == before);
    CHECK(l1_norm(update.data(), update.size()) <= 1e-3);
}

void nan_and_infinity_are_refused_untouched() {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
        std::vector<float> update(11, 100.0F);
        update[10] = bad;
        std::vector<std::int32_t> q;
        std::vector<double> acc(11, 1.0);
        CHECK(!std::isfinite(clip_l1(update.data(), 1.0, update.size())));
        CHECK(!std::isfinite(clip_l2(update.data(), 1.0, update.size())));
        CHECK(update[0] == 100.0F);
        CHECK(!quantize(q, update, 1.0, 10));
        CHECK(!accumulate_f32(acc.data(), update.data(), 1.0, acc.size()) && acc[0] == 1.0);
    }
}

void integer_sums_are_exact_and_refuse_to_wrap() {
    constexpr auto low = std::numeric_limits<std::int32_t>::min();
    const std::vector<std::int32_t> x = {low, low, 1};
    CHECK(integer_l1_norm(x.data(), x.size()) == (std::uint64_t{1} << 32) + 1);
    std::vector<std::int64_t> acc = {0, std::numeric_limits<std::int64_t>::min(),
                                     std::numeric_limits<std::int64_t>::max()};
    const auto before = acc;
    CHECK(!accumulate_i32(acc.data(), x.data(), 3) && acc == before);
    CHECK(accumulate_i32(acc.data(), x.data(), 1) && acc[0] == low);
}

}  // namespace

int main() {
    return check::run([] {
        integers_keep_the_bound_for_every_finite_input();
        the_excess_comes_off_where_rounding_went_outward_most();
        clipping_keeps_to_the_bound_and_leaves_the_small_alone();
        nan_and_infinity_are_refused_untouched();
        integer_sums_are_exact_and_refuse_to_wrap();
    });
}
