#include "fedge/optimizer.hpp"

#include <cmath>

#include "kernels.hpp"

namespace fedge {
namespace {

// base^n by squaring: the same bits from every library.
double power(double base, std::uint64_t n) noexcept {
    double result = 1.0;
    for (; n != 0; n >>= 1, base *= base) {
        if ((n & 1) != 0) result *= base;
    }
    return result;
}

}  // namespace

std::size_t optimizer_buffers(const Optimizer& optimizer) noexcept {
    if (optimizer.kind != OptimizerKind::sgd) return 2;
    return optimizer.momentum != 0.0F ? 1 : 0;
}

void optimizer_step(float* w, float* g, float* state, std::size_t stride, std::size_t P, std::uint64_t step,
                    float learning_rate, const Optimizer& optimizer, const LocalObjective& objective,
                    const FloatKernels& kernels) noexcept {
    Descent at{};
    at.anchor = objective.proximal != 0.0F ? objective.anchor : nullptr;
    at.correction = objective.correction;
    at.proximal = objective.proximal;
    at.decay = optimizer.weight_decay;
    at.rate = learning_rate;
    if (optimizer.kind == OptimizerKind::sgd) {
        at.momentum = optimizer.momentum;
        at.nesterov = optimizer.nesterov;
        kernels.sgd(w, g, optimizer.momentum != 0.0F ? state : nullptr, P, at);
        return;
    }
    const double rate = static_cast<double>(learning_rate), decay = static_cast<double>(optimizer.weight_decay);
    const double beta1 = optimizer.beta1, beta2 = optimizer.beta2;
    at.rate = static_cast<float>(rate / (1.0 - power(beta1, step)));
    at.mean_gain = static_cast<float>(1.0 - beta1);
    at.square_keep = static_cast<float>(beta2);
    at.square_gain = static_cast<float>(1.0 - beta2);
    at.square_unbias = static_cast<float>(1.0 / std::sqrt(1.0 - power(beta2, step)));
    at.epsilon = optimizer.epsilon;
    at.shrink = 1.0F;
    if (optimizer.kind == OptimizerKind::adamw) {
        at.shrink = static_cast<float>(1.0 - rate * decay);
        at.decay = 0.0F;
    }
    kernels.adam(w, g, state, state + stride, P, at);
}

}  // namespace fedge
