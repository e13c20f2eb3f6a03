#include "fedge/loss.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "../src/kernels.hpp"
#include "check.hpp"

using namespace fedge;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr Arithmetic both[] = {Arithmetic::reproducible, Arithmetic::fast};

// Numbers in [-3, 3), the same ones everywhere.
std::vector<float> numbers(std::size_t n, std::uint32_t state) {
    std::vector<float> v(n);
    for (float& x : v) {
        state = state * 1664525 + 1013904223;
        x = static_cast<float>(state >> 8) * 0x6p-24F - 3.0F;
    }
    return v;
}

struct Case {
    Loss loss;
    std::size_t B, O;
    std::vector<float> y, values;
    std::vector<std::int32_t> labels;

    Case(Loss kind, std::size_t rows, std::size_t outputs) : loss(std::move(kind)), B(rows), O(outputs) {
        y = numbers(B * O, 11);
        values = numbers(B * O, 17);
        for (std::size_t b = 0; b < B; ++b) labels.push_back(static_cast<std::int32_t>((b * 7 + 3) % O));
        if (loss.kind == LossKind::binary_cross_entropy) {
            for (float& t : values) t = (t + 3.0F) / 6.0F;
        } else if (loss.kind == LossKind::hinge) {
            for (float& t : values) t = t > 0.0F ? 1.0F : -1.0F;
        }
    }

    Targets targets(std::size_t first = 0) const {
        return loss.labelled() ? Targets{labels.data() + first, nullptr} : Targets{nullptr, values.data() + first * O};
    }

    // The loss of row b by its definition, with logit o moved by `move`.
    double row(std::size_t b, std::size_t moved = 0, double move = 0.0) const {
        std::vector<double> z(y.begin() + static_cast<std::ptrdiff_t>(b * O),
                              y.begin() + static_cast<std::ptrdiff_t>((b + 1) * O));
        z[moved] += move;
        if (loss.labelled()) {
            double sum = 0.0;
            for (const double v : z) sum += std::exp(v);
            const auto label = static_cast<std::size_t>(labels[b]);
            const double weight = loss.class_weights.empty() ? 1.0 : static_cast<double>(loss.class_weights[label]);
            return -weight * std::log(std::exp(z[label]) / sum);
        }
        double sum = 0.0;
        for (std::size_t o = 0; o < O; ++o) {
            const double t = static_cast<double>(values[b * O + o]), e = z[o] - t;
            const double delta = static_cast<double>(loss.huber_delta);
            switch (loss.kind) {
                case LossKind::binary_cross_entropy: {
                    const double p = 1.0 / (1.0 + std::exp(-z[o]));
                    sum -= t * std::log(p) + (1.0 - t) * std::log(1.0 - p);
                    break;
                }
                case LossKind::mse: sum += e * e; break;
                case LossKind::huber:
                    sum += std::fabs(e) <= delta ? e * e / 2.0 : delta * (std::fabs(e) - delta / 2.0);
                    break;
                default: sum += std::max(0.0, 1.0 - t * z[o]);
            }
        }
        return sum / static_cast<double>(O);
    }
};

const LossKind kinds[] = {LossKind::softmax_cross_entropy, LossKind::binary_cross_entropy, LossKind::mse,
                          LossKind::huber, LossKind::hinge};

void value_and_slope_match_the_definitions_and_their_differences(const Case& at) {
    for (const Arithmetic arithmetic : both) {
        const FloatKernels& kernels = float_kernels(arithmetic);
        std::vector<float> dy(at.B * at.O, 99.0F);
        const float scale = 0.25F;
        const double value = loss_and_slope(dy.data(), at.y.data(), at.targets(), scale, at.B, at.O, at.loss, kernels);
        double want = 0.0;
        for (std::size_t b = 0; b < at.B; ++b) want += at.row(b);
        CHECK(std::fabs(value - want) <= 2e-6 * want);
        std::size_t wrong = 0;
        for (std::size_t b = 0; b < at.B; ++b) {
            for (std::size_t o = 0; o < at.O; ++o) {
                const double step = 1e-5, above = at.row(b, o, step), below = at.row(b, o, -step);
                const double slope = static_cast<double>(scale) * (above - below) / (2.0 * step);
                wrong += std::fabs(static_cast<double>(dy[b * at.O + o]) - slope) <= 1e-6 ? 0 : 1;
            }
        }
        CHECK(wrong == 0);
    }
}

void the_value_needs_no_slope_and_a_cut_batch_gives_the_same_slopes(const Case& at) {
    const FloatKernels& kernels = float_kernels(Arithmetic::reproducible);
    std::vector<float> whole(at.B * at.O), cut(at.B * at.O);
    const double value = loss_and_slope(whole.data(), at.y.data(), at.targets(), 0.5F, at.B, at.O, at.loss, kernels);
    CHECK(value == loss_and_slope(nullptr, at.y.data(), at.targets(), 0.5F, at.B, at.O, at.loss, kernels));
    double sum = 0.0;
    for (std::size_t first = 0; first < at.B; first += 3) {
        const std::size_t rows = std::min<std::size_t>(3, at.B - first), skip = first * at.O;
        sum += loss_and_slope(cut.data() + skip, at.y.data() + skip, at.targets(first), 0.5F, rows, at.O, at.loss,
                              kernels);
    }
    CHECK(std::fabs(sum - value) <= 1e-12 * value);
    CHECK(std::memcmp(whole.data(), cut.data(), whole.size() * sizeof(float)) == 0);
}

void far_logits_do_not_overflow() {
    const FloatKernels& kernels = float_kernels(Arithmetic::fast);
    const float far[] = {1e30F, -1e30F, 0.0F, -3e38F, 3e38F, 1.0F};
    const std::int32_t labels[] = {0, 1};
    float dy[6];
    double value = loss_and_slope(dy, far, {labels, nullptr}, 1.0F, 2, 3, Loss{}, kernels);
    CHECK(std::fabs(value) < 1e-6 && std::all_of(dy, dy + 6, [](float d) { return d == 0.0F; }));
    const std::int32_t others[] = {1, 0};
    value = loss_and_slope(dy, far, {others, nullptr}, 1.0F, 2, 3, Loss{}, kernels);
    CHECK(std::fabs(value / (2.0 * static_cast<double>(1e30F) + 2.0 * static_cast<double>(3e38F)) - 1.0) < 1e-12);
    CHECK(dy[0] == 1.0F && dy[1] == -1.0F && dy[2] == 0.0F && dy[3] == -1.0F && dy[4] == 1.0F && dy[5] == 0.0F);

    const float ones[] = {1.0F, 1.0F, 0.0F, 0.0F, 1.0F, 0.0F};
    value =
        loss_and_slope(dy, far, {nullptr, ones}, 3.0F, 2, 3, Loss{LossKind::binary_cross_entropy, {}, 1.0F}, kernels);
    CHECK(std::fabs(value * 3.0 - 1e30) < 1e24);
    CHECK(dy[0] == 0.0F && dy[1] == -1.0F && dy[2] == 0.5F && dy[3] == 0.0F && dy[4] == 0.0F && dy[5] > 0.7F);
    // Well inside one side the loss keeps its relative precision: log(1 + e^-20).
    const float sure = 20.0F, one = 1.0F;
    value = loss_and_slope(nullptr, &sure, {nullptr, &one}, 1.0F, 1, 1, Loss{LossKind::binary_cross_entropy, {}, 1.0F},
                           kernels);
    CHECK(std::fabs(value / std::log1p(std::exp(-20.0)) - 1.0) < 1e-6);
}

// What is not a number must not look like an example that has been learnt.
void nan_and_infinity_show_in_the_value_and_in_their_own_row_alone() {
    for (const LossKind kind : kinds) {
        for (const float bad : {nan, infinity, -infinity}) {
            for (std::size_t o = 0; o < 3; ++o) {
                Case at(Loss{kind, {}, 1.0F}, 3, 3);
                const FloatKernels& kernels = float_kernels(Arithmetic::reproducible);
                std::vector<float> clean(9), dy(9);
                loss_and_slope(clean.data(), at.y.data(), at.targets(), 1.0F, 3, 3, at.loss, kernels);
                at.y[3 + o] = bad;
                const double value = loss_and_slope(dy.data(), at.y.data(), at.targets(), 1.0F, 3, 3, at.loss, kernels);
                if (std::isnan(bad)) CHECK(std::isnan(value) && std::isnan(dy[3 + o]));
                CHECK(std::memcmp(dy.data(), clean.data(), 3 * sizeof(float)) == 0);
                CHECK(std::memcmp(dy.data() + 6, clean.data() + 6, 3 * sizeof(float)) == 0);
            }
        }
    }
}

}  // namespace

int main() {
    return check::run([] {
        for (const LossKind kind : kinds) {
            for (const std::size_t B : {1, 7, 64}) {
                for (const std::size_t O : {1, 2, 6, 19}) {
                    const Case at(Loss{kind, {}, 0.75F}, B, O);
                    value_and_slope_match_the_definitions_and_their_differences(at);
                    the_value_needs_no_slope_and_a_cut_batch_gives_the_same_slopes(at);
                }
            }
            for (const std::size_t O : {511, 512, 513, 1300}) {
                the_value_needs_no_slope_and_a_cut_batch_gives_the_same_slopes(Case(Loss{kind, {}, 0.75F}, 11, O));
            }
        }
        const Case weighted(Loss{LossKind::softmax_cross_entropy, {0.5F, 2.0F, 0.0F, 3.5F, 1.0F}, 1.0F}, 20, 5);
        value_and_slope_match_the_definitions_and_their_differences(weighted);
        the_value_needs_no_slope_and_a_cut_batch_gives_the_same_slopes(weighted);
        far_logits_do_not_overflow();
        nan_and_infinity_show_in_the_value_and_in_their_own_row_alone();
    });
}
