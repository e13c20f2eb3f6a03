#include "fedge/train.hpp"

#include <algorithm>
#include <cstring>

#include "fedge/reduce.hpp"
#include "fedge/workspace.hpp"

namespace fedge {

void sgd_step(float* w, float* v, float* g, const LocalObjective& objective, std::size_t P) noexcept {
    if (objective.proximal != 0.0F) {
        for (std::size_t i = 0; i < P; ++i) g[i] += objective.proximal * (w[i] - objective.anchor[i]);
    }
    if (objective.correction != nullptr) {
        for (std::size_t i = 0; i < P; ++i) g[i] += objective.correction[i];
    }
    for (std::size_t i = 0; i < P; ++i) {
        v[i] = objective.momentum * v[i] + g[i];
        w[i] -= objective.learning_rate * v[i];
    }
}

namespace {

struct Buffers {
    float *w, *v, *g;
    float* x;
    std::int32_t* labels;
    float* values;
    std::byte* network;
};

Buffers carve(Arena& arena, const Network& net, std::size_t B) noexcept {
    const bool classes = net.loss() == Loss::softmax_cross_entropy;
    Buffers buffers{};
    for (float** piece : {&buffers.w, &buffers.v, &buffers.g}) *piece = arena.take<float>(net.parameter_count());
    buffers.x = arena.take<float>(saturating_product(B, net.inputs()));
    buffers.labels = arena.take<std::int32_t>(classes ? B : 0);
    buffers.values = arena.take<float>(classes ? 0 : saturating_product(B, net.outputs()));
    buffers.network = arena.take<std::byte>(network_workspace_size(net, B));
    return buffers;
}

}  // namespace

std::size_t train_workspace_size(const Network& net, std::size_t B) noexcept {
    Arena arena(nullptr);
    carve(arena, net, B);
    return arena.used();
}

template <class Index>
TrainResult train(float* params, const Network& net, const Minibatches<Index>& batches, const LocalObjective& objective,
                  std::byte* workspace) noexcept {
    Arena arena(workspace);
    const Buffers at = carve(arena, net, batches.B);
    const std::size_t P = net.parameter_count(), I = net.inputs(), O = net.outputs();
    std::copy_n(params, P, at.w);
    std::fill_n(at.v, P, 0.0F);
    double loss = 0.0;
    for (std::size_t start = 0; start < batches.draws; start += std::min(batches.B, batches.draws - start)) {
        const std::size_t B = std::min(batches.B, batches.draws - start);
        for (std::size_t b = 0; b < B; ++b) {
            const auto row = static_cast<std::size_t>(batches.order[start + b]);
            std::copy_n(batches.x + row * I, I, at.x + b * I);
            if (batches.targets.labels != nullptr) {
                at.labels[b] = batches.targets.labels[row];
            } else {
                std::copy_n(batches.targets.values + row * O, O, at.values + b * O);
            }
        }
        std::fill_n(at.g, P, 0.0F);
        loss += network_gradient(at.g, net, at.w, at.x, {at.labels, at.values}, 1.0F / static_cast<float>(B), B,
                                 at.network);
        sgd_step(at.w, at.v, at.g, objective, P);
    }
    // One look at the end sees every accident: a weight that is NaN or infinite stays so, since infinity minus anything
    // is infinite or NaN.
    const bool finite = all_finite(at.w, P);
    if (finite) std::copy_n(at.w, P, params);
    return {loss / static_cast<double>(batches.draws), finite};
}

template TrainResult train(float*, const Network&, const Minibatches<std::int32_t>&, const LocalObjective&,
                           std::byte*) noexcept;
template TrainResult train(float*, const Network&, const Minibatches<std::int64_t>&, const LocalObjective&,
                           std::byte*) noexcept;

}  // namespace fedge
