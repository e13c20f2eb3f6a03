// Local training: minibatch SGD on the unified local objective, one call per round.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fedge/network.hpp"

namespace fedge {

// d = g(w) + proximal (w - anchor) + correction;  v = momentum v + d;  w -= learning_rate v.
//   FedProx:  correction = 0.
//   FedDyn:   correction = -g_k, proximal = alpha.
//   SCAFFOLD: proximal = 0, correction = c_server - c_k.
struct LocalObjective {
    float learning_rate;
    float momentum = 0.0F;
    float proximal = 0.0F;
    const float* anchor = nullptr;      // (P), needed where proximal != 0
    const float* correction = nullptr;  // (P), or null for zero
};

// One step on w (P) and its velocity v (P). g (P) brings the gradient and leaves holding d.
void sgd_step(float* w, float* v, float* g, const LocalObjective& objective, std::size_t P) noexcept;

// Rows drawn from x (N, I) and the targets, B at a time; the last batch may be short.
template <class Index>
struct Minibatches {
    const float* x;
    Targets targets;
    const Index* order;  // (draws), each in [0, N)
    std::size_t draws;
    std::size_t B;
};

struct TrainResult {
    double loss;  // mean over the draws, each taken before its batch's step
    bool finite;  // false: some weight became NaN or infinite, and params was left alone
};

// Bytes that train needs, or Arena::too_large.
std::size_t train_workspace_size(const Network& net, std::size_t B) noexcept;

// Trains params (P) in place from zero velocity. Weights are worked on in the workspace and copied back at the end, so
// anchor may be params itself. Index is int32_t or int64_t.
template <class Index>
TrainResult train(float* params, const Network& net, const Minibatches<Index>& batches, const LocalObjective& objective,
                  std::byte* workspace) noexcept;

}  // namespace fedge
