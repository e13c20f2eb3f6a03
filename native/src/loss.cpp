#include "fedge/loss.hpp"

#include <algorithm>
#include <cmath>

#include "kernels.hpp"

namespace fedge {
namespace {

// Numbers on the stack at a time.
constexpr std::size_t block = 512;

// The sum over i < n of term(i) in double, in eight interleaved parts where there are so many.
template <class Term>
double sum_of(std::size_t n, Term term) noexcept {
    double part[8] = {};
    std::size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        for (std::size_t lane = 0; lane < 8; ++lane) part[lane] += term(i + lane);
    }
    double sum = ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
    for (; i < n; ++i) sum += term(i);
    return sum;
}

// total (rows) = step(... step(total, x[b, 0]) ..., x[b, n - 1]) for each row of x (rows, n). Every fold waits for
// itself at each step, so eight go side by side.
template <class Step>
void fold_rows(float* total, const float* x, std::size_t rows, std::size_t n, Step step) noexcept {
    constexpr std::size_t side = 8;
    std::size_t b = 0;
    for (; b + side <= rows; b += side) {
        float now[side];
        std::copy_n(total + b, side, now);
        for (std::size_t i = 0; i < n; ++i) {
            for (std::size_t r = 0; r < side; ++r) now[r] = step(now[r], x[(b + r) * n + i]);
        }
        std::copy_n(now, side, total + b);
    }
    for (; b < rows; ++b) {
        for (std::size_t i = 0; i < n; ++i) total[b] = step(total[b], x[b * n + i]);
    }
}

float sum(float a, float b) noexcept { return a + b; }
// A NaN after the first place is passed over here; it comes back in the exponentials.
float larger(float a, float b) noexcept { return b > a ? b : a; }

// With the largest logit taken off, every exponential is at most one and one of them is exactly one: the sum lies in
// [1, O] and its logarithm is never taken of zero.
double softmax_cross_entropy(float* dy, const float* y, const std::int32_t* labels, const float* weights, float scale,
                             std::size_t B, std::size_t O, const FloatKernels& kernels) noexcept {
    float room[block], top[block], total[block];
    // Rows at a time: what stays in the nearest cache, or fits the room.
    const std::size_t rows =
        dy != nullptr ? std::clamp<std::size_t>(8 * block / O, 8, block) : std::clamp<std::size_t>(block / O, 1, block);
    double loss = 0.0;
    for (std::size_t first = 0; first < B; first += rows) {
        const std::size_t count = std::min(rows, B - first);
        const float* const z = y + first * O;
        for (std::size_t b = 0; b < count; ++b) top[b] = z[b * O];
        fold_rows(top, z, count, O, larger);
        std::fill_n(total, count, 0.0F);
        // Without dy, the exponentials go where there is room, and those of a wide row in pieces.
        float* const out = dy != nullptr ? dy + first * O : room;
        const std::size_t piece = dy != nullptr ? O : std::min(O, block);
        for (std::size_t start = 0; start < O; start += piece) {
            const std::size_t n = std::min(piece, O - start);
            for (std::size_t b = 0; b < count; ++b) {
                for (std::size_t o = 0; o < n; ++o) out[b * n + o] = z[b * O + start + o] - top[b];
            }
            kernels.exp(out, count * n);
            fold_rows(total, out, count, n, sum);
        }
        for (std::size_t b = 0; b < count && dy != nullptr; ++b) {
            const auto label = static_cast<std::size_t>(labels[first + b]);
            const float weight = weights != nullptr ? scale * weights[label] : scale;
            const float share = weight / total[b];
            for (std::size_t o = 0; o < O; ++o) out[b * O + o] *= share;
            out[b * O + label] -= weight;
        }
        kernels.log(total, count);
        for (std::size_t b = 0; b < count; ++b) {
            const auto label = static_cast<std::size_t>(labels[first + b]);
            const double weight = weights != nullptr ? static_cast<double>(weights[label]) : 1.0;
            const double below = static_cast<double>(top[b]) - static_cast<double>(z[b * O + label]);
            loss += weight * (static_cast<double>(total[b]) + below);
        }
    }
    return loss;
}

// log(1 + e^y) - t y = max(y, 0) - t y + log(1 + e^-|y|): the last is at most log 2, the first two are exact enough in
// double. Returns the sum over n; overwrites dy with slope (sigmoid(y) - t).
double binary_cross_entropy(float* dy, const float* y, const float* t, float slope, std::size_t n,
                            const FloatKernels& kernels) noexcept {
    float rest[block];
    double loss = 0.0;
    for (std::size_t first = 0; first < n; first += block) {
        const std::size_t count = std::min(block, n - first);
        const float *const logit = y + first, *const want = t + first;
        for (std::size_t i = 0; i < count; ++i) rest[i] = -std::fabs(logit[i]);
        kernels.softplus(rest, count);
        loss += sum_of(count, [=, &rest](std::size_t i) {
            const double v = static_cast<double>(logit[i]);
            return (v < 0.0 ? 0.0 : v) - static_cast<double>(want[i]) * v + static_cast<double>(rest[i]);
        });
        if (dy == nullptr) continue;
        float* const out = dy + first;
        std::copy_n(logit, count, out);
        kernels.sigmoid(out, count);
        for (std::size_t i = 0; i < count; ++i) out[i] = slope * (out[i] - want[i]);
    }
    return loss;
}

double squared_error(float* dy, const float* y, const float* t, float slope, std::size_t n) noexcept {
    if (dy != nullptr) {
        for (std::size_t i = 0; i < n; ++i) dy[i] = slope * (y[i] - t[i]);
    }
    return sum_of(n, [=](std::size_t i) {
        const double e = static_cast<double>(y[i]) - static_cast<double>(t[i]);
        return e * e;
    });
}

double huber(float* dy, const float* y, const float* t, float slope, std::size_t n, float delta) noexcept {
    if (dy != nullptr) {
        for (std::size_t i = 0; i < n; ++i) {
            const float e = y[i] - t[i], below = e > delta ? delta : e;  // NaN stays
            dy[i] = slope * (below < -delta ? -delta : below);
        }
    }
    return sum_of(n, [=, bound = static_cast<double>(delta)](std::size_t i) {
        const double e = std::fabs(static_cast<double>(y[i]) - static_cast<double>(t[i]));
        return e <= bound ? 0.5 * e * e : bound * (e - 0.5 * bound);
    });
}

double hinge(float* dy, const float* y, const float* t, float slope, std::size_t n) noexcept {
    if (dy != nullptr) {
        for (std::size_t i = 0; i < n; ++i) {
            const float margin = 1.0F - t[i] * y[i];
            dy[i] = margin > 0.0F ? -slope * t[i] : (margin <= 0.0F ? 0.0F : margin);
        }
    }
    return sum_of(n, [=](std::size_t i) {
        const double margin = 1.0 - static_cast<double>(t[i]) * static_cast<double>(y[i]);
        return margin <= 0.0 ? 0.0 : margin;
    });
}

}  // namespace

double loss_and_slope(float* dy, const float* y, Targets targets, float scale, std::size_t B, std::size_t O,
                      const Loss& loss, const FloatKernels& kernels) noexcept {
    const std::size_t n = B * O;
    const float slope = scale / static_cast<float>(O);
    const double outputs = static_cast<double>(O);
    switch (loss.kind) {
        case LossKind::softmax_cross_entropy: {
            const float* const weights = loss.class_weights.empty() ? nullptr : loss.class_weights.data();
            return softmax_cross_entropy(dy, y, targets.labels, weights, scale, B, O, kernels);
        }
        case LossKind::binary_cross_entropy:
            return binary_cross_entropy(dy, y, targets.values, slope, n, kernels) / outputs;
        case LossKind::mse: return squared_error(dy, y, targets.values, 2.0F * slope, n) / outputs;
        case LossKind::huber: return huber(dy, y, targets.values, slope, n, loss.huber_delta) / outputs;
        case LossKind::hinge: return hinge(dy, y, targets.values, slope, n) / outputs;
    }
    return 0.0;
}

}  // namespace fedge
