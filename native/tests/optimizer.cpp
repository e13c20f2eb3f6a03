#include "fedge/optimizer.hpp"

#include <cmath>
#include <cstring>
#include <vector>

#include "../src/kernels.hpp"
#include "check.hpp"

using namespace fedge;

namespace {

constexpr Arithmetic both[] = {Arithmetic::reproducible, Arithmetic::fast};

std::vector<float> numbers(std::size_t n, std::uint32_t state) {
    std::vector<float> v(n);
    for (float& x : v) {
        state = state * 1664525 + 1013904223;
        x = static_cast<float>(state >> 8) * 0x1p-23F - 1.0F;
    }
    return v;
}

// One weight by the definitions of torch.optim.SGD, Adam and AdamW, in double.
struct Oracle {
    double w, m = 0.0, v = 0.0;

    double step(double g, double anchor, double correction, double rate, double t, const Optimizer& o,
                const LocalObjective& objective) {
        const auto wide = [](float x) { return static_cast<double>(x); };
        const double d = g + wide(objective.proximal) * (w - anchor) + correction;
        double descent = d;
        if (o.kind == OptimizerKind::adamw) {
            w *= 1.0 - rate * wide(o.weight_decay);
        } else {
            descent += wide(o.weight_decay) * w;
        }
        if (o.kind == OptimizerKind::sgd) {
            if (o.momentum != 0.0F) {
                m = wide(o.momentum) * m + descent;
                descent = o.nesterov ? descent + wide(o.momentum) * m : m;
            }
            w -= rate * descent;
            return d;
        }
        m = o.beta1 * m + (1.0 - o.beta1) * descent;
        v = o.beta2 * v + (1.0 - o.beta2) * descent * descent;
        const double mean = m / (1.0 - std::pow(o.beta1, t)), square = v / (1.0 - std::pow(o.beta2, t));
        w -= rate * mean / (std::sqrt(square) + wide(o.epsilon));
        return d;
    }
};

void steps_match_the_definitions(const Optimizer& optimizer, bool anchored, bool corrected) {
    constexpr std::size_t P = 53, stride = 60, steps = 25;
    const auto start = numbers(P, 1), anchor = numbers(P, 2), correction = numbers(P, 3);
    LocalObjective objective;
    if (anchored) objective = {0.3F, anchor.data(), nullptr};
    if (corrected) objective.correction = correction.data();
    for (const Arithmetic arithmetic : both) {
        std::vector<float> w = start, state(stride * optimizer_buffers(optimizer), 0.0F);
        std::vector<Oracle> oracle;
        for (const float v : start) oracle.push_back({static_cast<double>(v)});
        std::size_t wrong = 0;
        for (std::size_t t = 1; t <= steps; ++t) {
            std::vector<float> g = numbers(P, static_cast<std::uint32_t>(100 + t)), d = g;
            const float rate = 0.05F / static_cast<float>(t);
            optimizer_step(w.data(), d.data(), state.empty() ? nullptr : state.data(), stride, P, t, rate, optimizer,
                           objective, float_kernels(arithmetic));
            for (std::size_t i = 0; i < P; ++i) {
                const double want =
                    oracle[i].step(static_cast<double>(g[i]), static_cast<double>(anchor[i]),
                                   corrected ? static_cast<double>(correction[i]) : 0.0, static_cast<double>(rate),
                                   static_cast<double>(t), optimizer, objective);
                wrong += std::fabs(static_cast<double>(d[i]) - want) <= 1e-6 ? 0 : 1;
                wrong += std::fabs(static_cast<double>(w[i]) - oracle[i].w) <= 2e-6 ? 0 : 1;
            }
        }
        CHECK(wrong == 0);
        for (std::size_t buffer = 0; buffer < optimizer_buffers(optimizer); ++buffer) {
            for (std::size_t i = P; i < stride; ++i) CHECK(state[buffer * stride + i] == 0.0F);
        }
    }
}

void a_stretch_at_a_time_gives_the_same_bits(const Optimizer& optimizer) {
    constexpr std::size_t P = 91;
    const auto start = numbers(P, 1), anchor = numbers(P, 2), correction = numbers(P, 3);
    const FloatKernels& kernels = float_kernels(Arithmetic::reproducible);
    std::vector<float> whole = start, cut = start, state(2 * P, 0.0F), cut_state(2 * P, 0.0F);
    for (std::size_t t = 1; t <= 4; ++t) {
        auto g = numbers(P, static_cast<std::uint32_t>(t)), h = g;
        optimizer_step(whole.data(), g.data(), state.data(), P, P, t, 0.1F, optimizer,
                       {0.1F, anchor.data(), correction.data()}, kernels);
        for (const auto& [first, count] : {std::pair<std::size_t, std::size_t>{0, 1}, {1, 40}, {41, 50}}) {
            optimizer_step(cut.data() + first, h.data() + first, cut_state.data() + first, P, count, t, 0.1F, optimizer,
                           {0.1F, anchor.data() + first, correction.data() + first}, kernels);
        }
    }
    CHECK(std::memcmp(whole.data(), cut.data(), P * sizeof(float)) == 0);
    CHECK(std::memcmp(state.data(), cut_state.data(), 2 * P * sizeof(float)) == 0);
}

void plain_sgd_keeps_nothing_from_step_to_step() {
    CHECK(optimizer_buffers(Optimizer{}) == 0);
    CHECK(optimizer_buffers(Optimizer{.momentum = 0.9F}) == 1);
    CHECK(optimizer_buffers(Optimizer{.kind = OptimizerKind::adam}) == 2);
    CHECK(optimizer_buffers(Optimizer{.kind = OptimizerKind::adamw}) == 2);
    float w = 1.0F, g = 2.0F, other = 7.0F;  // nesterov without momentum is plain
    optimizer_step(&w, &g, &other, 1, 1, 1, 0.25F, Optimizer{.nesterov = true}, {}, float_kernels(Arithmetic::fast));
    CHECK(w == 0.5F && g == 2.0F && other == 7.0F);
    optimizer_step(&w, &g, nullptr, 0, 1, 2, 0.25F, Optimizer{}, {}, float_kernels(Arithmetic::fast));
    CHECK(w == 0.0F);
}

// beta^step underflows long before: the correction is gone then, not NaN.
void the_billionth_step_is_a_step() {
    for (const OptimizerKind kind : {OptimizerKind::adam, OptimizerKind::adamw}) {
        float w = 1.0F, g = 1.0F, state[2] = {1.0F, 1.0F};
        optimizer_step(&w, &g, state, 1, 1, 1'000'000'000'000, 0.5F, Optimizer{.kind = kind}, {},
                       float_kernels(Arithmetic::reproducible));
        CHECK(std::fabs(w - 0.5F) < 1e-6F);
    }
}

}  // namespace

int main() {
    return check::run([] {
        const Optimizer optimizers[] = {
            {},
            {.weight_decay = 0.02F},
            {.momentum = 0.9F},
            {.momentum = 0.8F, .weight_decay = 0.1F},
            {.momentum = 0.9F, .nesterov = true, .weight_decay = 0.01F},
            {.kind = OptimizerKind::adam},
            {.kind = OptimizerKind::adam, .weight_decay = 0.05F, .beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-3F},
            {.kind = OptimizerKind::adamw, .weight_decay = 0.05F},
        };
        for (const Optimizer& optimizer : optimizers) {
            for (const bool anchored : {false, true}) {
                for (const bool corrected : {false, true}) steps_match_the_definitions(optimizer, anchored, corrected);
            }
            a_stretch_at_a_time_gives_the_same_bits(optimizer);
        }
        plain_sgd_keeps_nothing_from_step_to_step();
        the_billionth_step_is_a_step();
    });
}
