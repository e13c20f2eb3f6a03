#include "fedge/clip.hpp"

#include <algorithm>
#include <cmath>

#include "fedge/reduce.hpp"
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

// Takes one unit off up to `excess` nonzero q: those with the largest |q_j| - |update_j * scale| first. Returns what is
// left. A key is the outward error as a fixed-point fraction, inverted, above the index: sorting ascending is the rule.
// The error of rounding lies in [-1/2, 1/2]; a second pass over the same coordinates may see less, and clamps.
std::uint64_t shrink(std::int32_t* q, const float* update, double scale, std::uint64_t excess, std::uint64_t* keys,
                     std::size_t n) noexcept {
    std::size_t candidates = 0;
    for (std::size_t j = 0; j < n; ++j) {
        if (q[j] == 0) continue;
        const double outward = std::fabs(static_cast<double>(q[j])) - std::fabs(static_cast<double>(update[j]) * scale);
        const double fraction = std::clamp(outward + 0.5, 0.0, 1.0);
        const auto inverted = static_cast<std::uint64_t>((1.0 - fraction) * 4294967295.0);
        keys[candidates++] = (inverted << 32) | j;
    }
    const std::size_t taken = excess < candidates ? static_cast<std::size_t>(excess) : candidates;
    if (taken < candidates) std::nth_element(keys, keys + taken, keys + candidates);
    for (std::size_t k = 0; k < taken; ++k) {
        const auto j = static_cast<std::size_t>(keys[k] & 0xffffffffU);
        q[j] += q[j] > 0 ? -1 : 1;
    }
    return excess - taken;
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

std::size_t quantize_l1_workspace_size(std::size_t n) noexcept {
    Arena arena(nullptr);
    arena.take<std::uint64_t>(n);
    return arena.used();
}

bool quantize_l1(std::int32_t* q, const float* update, double clip, std::int32_t levels, std::byte* workspace,
                 std::size_t n) noexcept {
    const double norm = l1_norm(update, n);
    if (!std::isfinite(norm)) return false;
    if (norm == 0.0) {
        std::fill_n(q, n, 0);
        return true;
    }
    // A nonzero norm is at least 2^-149, so the scale is at most 2^179; and |update_j| <= norm (1 + 2^-26) for n <=
    // 2^30, so each product is at most 2^30 + 16 + a half and fits.
    const double scale = static_cast<double>(levels) / std::max(clip, norm);
    for (std::size_t j = 0; j < n; ++j) {
        q[j] = static_cast<std::int32_t>(std::nearbyint(static_cast<double>(update[j]) * scale));
    }
    // Each coordinate carried outward by rounding went at most a half, so about twice as many are outward as there are
    // units over, and one pass is enough; the loop makes the bound unconditional. It ends: a sum above `levels` >= 1
    // has nonzero terms.
    const std::uint64_t magnitude = integer_l1_norm(q, n);
    const auto limit = static_cast<std::uint64_t>(levels);
    std::uint64_t excess = magnitude > limit ? magnitude - limit : 0;
    Arena arena(workspace);
    auto* keys = arena.take<std::uint64_t>(n);
    while (excess > 0) excess = shrink(q, update, scale, excess, keys, n);
    return true;
}

}  // namespace fedge
