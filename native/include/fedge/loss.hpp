// Losses, each forward and backward in one: the gradient falls out of what the value needed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fedge {

struct FloatKernels;

enum class LossKind : std::uint8_t { softmax_cross_entropy, binary_cross_entropy, mse, huber, hinge };

struct Loss {
    LossKind kind = LossKind::softmax_cross_entropy;
    std::vector<float> class_weights;  // (O) for softmax_cross_entropy, or empty for ones
    float huber_delta = 1.0F;

    bool labelled() const noexcept { return kind == LossKind::softmax_cross_entropy; }
};

// What the loss compares with: `labels` (B) in [0, O) for softmax_cross_entropy, `values` (B, O) for the others
// (0..1 for binary_cross_entropy, -1 or 1 for hinge); the other is null.
struct Targets {
    const std::int32_t* labels = nullptr;
    const float* values = nullptr;
};

// Returns the sum over B of the loss of the network's outputs y (B, O):
//   softmax_cross_entropy  -class_weights[label] log softmax(y)[label]
//   binary_cross_entropy   mean over O of log(1 + e^y) - t y: y are logits
//   mse                    mean over O of (y - t)^2
//   huber                  mean over O of e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2); e = y - t
//   hinge                  mean over O of max(0, 1 - t y)
// Overwrites dy (B, O) with scale * the gradient, or leaves it out when null. Slopes are worked out in float32, sums
// over a row in the order of its outputs, and no row's depend on another's; the value is summed in double. Logits of
// any size are fine; an output that is NaN gives a NaN value and a NaN slope, an infinite one infinities or NaN.
double loss_and_slope(float* dy, const float* y, Targets targets, float scale, std::size_t B, std::size_t O,
                      const Loss& loss, const FloatKernels& kernels) noexcept;

}  // namespace fedge
