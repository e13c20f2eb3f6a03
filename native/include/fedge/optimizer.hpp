// One step of local training on a flat buffer, or on a stretch of it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fedge {

struct FloatKernels;

// d = g(w) + proximal (w - anchor) + correction: what the optimizer descends along.
//   FedProx:  correction = 0.
//   FedDyn:   correction = -g_k, proximal = alpha.
//   SCAFFOLD: proximal = 0, correction = c_server - c_k.
struct LocalObjective {
    float proximal = 0.0F;
    const float* anchor = nullptr;      // (P), needed where proximal != 0
    const float* correction = nullptr;  // (P), or null for zero
};

enum class OptimizerKind : std::uint8_t { sgd, adam, adamw };

// As torch.optim.SGD, Adam and AdamW define them:
// sgd:   d += weight_decay w;  v = momentum v + d;  w -= rate (nesterov ? d + momentum v : v).
// adam:  d += weight_decay w;  m, v as Kingma & Ba 2015 with bias correction;  w -= rate m^ / (sqrt(v^) + epsilon).
// adamw: w -= rate weight_decay w first, then as adam without it (Loshchilov & Hutter 2019).
struct Optimizer {
    OptimizerKind kind = OptimizerKind::sgd;
    float momentum = 0.0F;
    bool nesterov = false;
    float weight_decay = 0.0F;
    double beta1 = 0.9, beta2 = 0.999;  // 1 - beta2 is what counts: float32 would be off by 1e-5
    float epsilon = 1e-8F;
};

// How many buffers of P floats the optimizer keeps from step to step; they start at zero.
std::size_t optimizer_buffers(const Optimizer& optimizer) noexcept;

// Step `step` (1, 2, ...) on w (P). g (P) brings the gradient and leaves holding the objective's d, before weight
// decay. state: buffers of `stride` floats, this stretch's part at the same place in each; null where there are none.
void optimizer_step(float* w, float* g, float* state, std::size_t stride, std::size_t P, std::uint64_t step,
                    float learning_rate, const Optimizer& optimizer, const LocalObjective& objective,
                    const FloatKernels& kernels) noexcept;

}  // namespace fedge
