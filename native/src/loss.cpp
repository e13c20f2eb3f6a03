#include "fedge/loss.hpp"

#include <cmath>

namespace fedge {

double softmax_cross_entropy(float* dlogits, const float* logits, const std::int32_t* labels, float scale,
                             std::size_t B, std::size_t O) noexcept {
    double loss = 0.0;
    for (std::size_t b = 0; b < B; ++b) {
        const float* z = logits + b * O;
        const auto label = static_cast<std::size_t>(labels[b]);
        float top = z[0];
        for (std::size_t o = 1; o < O; ++o) top = z[o] > top ? z[o] : top;
        // With the largest logit taken off, every exponential is at most one and one of them is exactly one: the sum
        // lies in [1, O] and its logarithm is never taken of zero.
        double sum = 0.0;
        for (std::size_t o = 0; o < O; ++o) {
            const float e = std::exp(z[o] - top);
            if (dlogits != nullptr) dlogits[b * O + o] = e;
            sum += static_cast<double>(e);
        }
        loss += std::log(sum) - (static_cast<double>(z[label]) - static_cast<double>(top));
        if (dlogits == nullptr) continue;
        const auto inverse = static_cast<float>(static_cast<double>(scale) / sum);
        for (std::size_t o = 0; o < O; ++o) dlogits[b * O + o] *= inverse;
        dlogits[b * O + label] -= scale;
    }
    return loss;
}

double squared_error(float* dy, const float* y, const float* target, float scale, std::size_t B,
                     std::size_t O) noexcept {
    double sum = 0.0;
    const float slope = 2.0F * scale / static_cast<float>(O);
    for (std::size_t i = 0; i < B * O; ++i) {
        const float error = y[i] - target[i];
        sum += static_cast<double>(error) * static_cast<double>(error);
        if (dy != nullptr) dy[i] = slope * error;
    }
    return sum / static_cast<double>(O);
}

}  // namespace fedge
