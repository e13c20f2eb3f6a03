#include "fedge/clip.hpp"

#include <algorithm>
#include <cmath>

#include "fedge/workspace.hpp"

namespace fedge {
namespace {

// Sum of f(x[i]) in eight interleaved partial sums, folded in the order of the dense layer's dot products.
template <class F>
double sum_of(const float* x, std::size_t n, F f) noexcept {
    double sum[8] = {};
    std::size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        for (std::size_t l = 0; l < 8; ++l) sum[l] += f(static_cast<double>(x[i + l]));
    }
    for (std::size_t l = 0; i < n; ++i, ++l) sum[l] += f(static_cast<double>(x[i]));
    return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

void clip_to(float* update, double norm, double bound, std::size_t n) noexcept {
    if (!(norm > bound) || !std::isfinite(norm)) return;
    const double factor = bound / norm;
    for (std::size_t i = 0; i < n; ++i) {
        const double exact = static_cast<double>(update[i]) * factor;
        const auto nearest = static_cast<float>(exact);
        const bool outward = std::fabs(static_cast<double>(nearest)) > std::fabs(exact);
        update[i] = outward ? std::nextafter(nearest, 0.0F) : nearest;
    }
}

// What taking one unit off a coordinate of this magnitude, at least 1, takes off its power.
constexpr std::uint64_t relief(std::uint64_t magnitude, int power) noexcept { return power == 1 ? 1 : 2 * magnitude - 1; }

std::uint64_t magnitude_of(std::int32_t q) noexcept {
    return q < 0 ? 0 - static_cast<std::uint64_t>(std::int64_t{q}) : static_cast<std::uint64_t>(q);
}

constexpr unsigned bin_bits = 11;
constexpr std::size_t bins = std::size_t{1} << bin_bits;

struct ShrinkWorkspace {
    explicit ShrinkWorkspace(Arena& arena, std::size_t n)
        : fractions(arena.take<std::uint32_t>(n)), keys(arena.take<std::uint64_t>(n)), in_bin(arena.take<std::uint64_t>(bins)) {}

    std::uint32_t* fractions;  // of nonzero coordinates, 2^32 - 1 minus their outward error as a fraction
    std::uint64_t* keys;
    std::uint64_t* in_bin;
};

// Takes one unit off nonzero q until `excess` is gone or each has given one: those with the largest |q_j| - |update_j *
// scale| first, the lower index first among equals. Returns what is left. The error of rounding lies in [-1/2, 1/2]; a
// second pass over the same coordinates may see less, and clamps. One pass over bins of equal errors finds the bin where
// the excess ends; only that one is sorted.
std::uint64_t shrink(std::int32_t* q, const float* update, double scale, int power, std::uint64_t excess,
                     const ShrinkWorkspace& at, std::size_t n) noexcept {
    std::fill_n(at.in_bin, bins, 0);
    for (std::size_t j = 0; j < n; ++j) {
        const double outward = std::fabs(static_cast<double>(q[j])) - std::fabs(static_cast<double>(update[j]) * scale);
        const double fraction = std::clamp(outward + 0.5, 0.0, 1.0);
        at.fractions[j] = static_cast<std::uint32_t>((1.0 - fraction) * 4294967295.0);
        if (q[j] != 0) at.in_bin[at.fractions[j] >> (32 - bin_bits)] += relief(magnitude_of(q[j]), power);
    }
    std::size_t last = 0;
    std::uint64_t before = 0;
    while (last < bins && before + at.in_bin[last] <= excess) before += at.in_bin[last++];
    std::size_t candidates = 0;
    const auto take = [&](std::size_t j) {
        const std::uint64_t gain = relief(magnitude_of(q[j]), power);
        q[j] += q[j] > 0 ? -1 : 1;
        excess -= std::min(excess, gain);
    };
    for (std::size_t j = 0; j < n; ++j) {
        const std::size_t bin = at.fractions[j] >> (32 - bin_bits);
        if (q[j] == 0 || bin > last) continue;
        if (bin == last) {
            at.keys[candidates++] = std::uint64_t{at.fractions[j]} << 32 | j;
        } else {
            take(j);
        }
    }
    if (excess > 0) std::sort(at.keys, at.keys + candidates);
    for (std::size_t k = 0; k < candidates && excess > 0; ++k) take(static_cast<std::size_t>(at.keys[k] & 0xffffffffU));
    return excess;
}

std::uint64_t power_sum(const std::int32_t* q, int power, std::size_t n) noexcept {
    std::uint64_t sum = 0;
    for (std::size_t j = 0; j < n; ++j) {
        const std::uint64_t magnitude = magnitude_of(q[j]);
        sum += power == 1 ? magnitude : magnitude * magnitude;
    }
    return sum;
}

// sum |q_j|^power <= levels^power.
bool quantize(std::int32_t* q, const float* update, double norm, double clip, std::int32_t levels, int power,
              std::byte* workspace, std::size_t n) noexcept {
    if (!std::isfinite(norm)) return false;
    if (norm == 0.0) {
        std::fill_n(q, n, 0);
        return true;
    }
    // A nonzero norm is at least 2^-149, so the scale is at most 2^179; and |update_j| <= norm (1 + 2^-26) for n <=
    // 2^30, so each product is at most 2^30 + 16 + a half and fits. Squares then sum up to less than (2^30 + 16 + 2^14)^2
    // (1 + 2^-25), as rounding moves the norm by at most a half times the root of n: less than 2^61.
    const double scale = static_cast<double>(levels) / std::max(clip, norm);
    for (std::size_t j = 0; j < n; ++j) {
        q[j] = static_cast<std::int32_t>(std::nearbyint(static_cast<double>(update[j]) * scale));
    }
    // Without the coordinates that rounding carried outward the bound would hold, but for the error of the norm, so one
    // pass is nearly always enough; the loop makes the bound unconditional. It ends: a sum above levels^power >= 1 has
    // nonzero terms.
    const auto limit = static_cast<std::uint64_t>(levels) * (power == 1 ? 1 : static_cast<std::uint64_t>(levels));
    const std::uint64_t sum = power_sum(q, power, n);
    std::uint64_t excess = sum > limit ? sum - limit : 0;
    Arena arena(workspace);
    const ShrinkWorkspace at(arena, n);
    while (excess > 0) excess = shrink(q, update, scale, power, excess, at, n);
    return true;
}

}  // namespace

double l1_norm(const float* x, std::size_t n) noexcept {
    return sum_of(x, n, [](double v) { return std::fabs(v); });
}

double l2_norm(const float* x, std::size_t n) noexcept {
    return std::sqrt(sum_of(x, n, [](double v) { return v * v; }));
}

double clip_l1(float* update, double bound, std::size_t n) noexcept {
    const double norm = l1_norm(update, n);
    clip_to(update, norm, bound, n);
    return norm;
}

double clip_l2(float* update, double bound, std::size_t n) noexcept {
    const double norm = l2_norm(update, n);
    clip_to(update, norm, bound, n);
    return norm;
}

std::size_t quantize_workspace_size(std::size_t n) noexcept {
    Arena arena(nullptr);
    const ShrinkWorkspace at(arena, n);
    static_cast<void>(at);
    return arena.used();
}

bool quantize_l1(std::int32_t* q, const float* update, double clip, std::int32_t levels, std::byte* workspace,
                 std::size_t n) noexcept {
    return quantize(q, update, l1_norm(update, n), clip, levels, 1, workspace, n);
}

bool quantize_l2(std::int32_t* q, const float* update, double clip, std::int32_t levels, std::byte* workspace,
                 std::size_t n) noexcept {
    return quantize(q, update, l2_norm(update, n), clip, levels, 2, workspace, n);
}

std::uint64_t integer_l2_squared(const std::int32_t* q, std::size_t n) noexcept { return power_sum(q, 2, n); }

}  // namespace fedge
