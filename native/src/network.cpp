#include "fedge/network.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "fedge/dense.hpp"
#include "fedge/loss.hpp"
#include "fedge/workspace.hpp"

namespace fedge {

Network::Network(std::span<const std::int64_t> widths, std::span<const Activation> activations, Loss loss)
    : loss_(loss) {
    if (widths.size() < 2) {
        throw std::invalid_argument("want widths [inputs, ..., outputs], at least 2; got " +
                                    std::to_string(widths.size()));
    }
    if (activations.size() != widths.size() - 1) {
        throw std::invalid_argument("want one activation per layer, " + std::to_string(widths.size() - 1) + "; got " +
                                    std::to_string(activations.size()));
    }
    constexpr auto limit = static_cast<std::int64_t>(max_parameters);
    for (const std::int64_t width : widths) {
        if (width < 1 || width > limit) {
            throw std::invalid_argument("want widths in [1, " + std::to_string(limit) + "]; got " +
                                        std::to_string(width));
        }
    }
    std::uint64_t offset =
        0;  // each product below is at most 2^56: no 64-bit sum of it with `offset` <= 2^28 overflows
    for (std::size_t l = 0; l + 1 < widths.size(); ++l) {
        const auto I = static_cast<std::uint64_t>(widths[l]);
        const auto O = static_cast<std::uint64_t>(widths[l + 1]);
        const std::uint64_t bias = offset + O * I;
        if (bias + O > max_parameters) {
            throw std::invalid_argument("want at most " + std::to_string(limit) + " parameters; layer " +
                                        std::to_string(l) + " (" + std::to_string(O) + ", " + std::to_string(I) +
                                        ") brings them to " + std::to_string(bias + O));
        }
        layers_.push_back({static_cast<std::size_t>(I), static_cast<std::size_t>(O), activations[l],
                           static_cast<std::size_t>(offset), static_cast<std::size_t>(bias)});
        widest_ = std::max(widest_, static_cast<std::size_t>(O));
        offset = bias + O;
    }
    parameters_ = static_cast<std::size_t>(offset);
}

namespace {

// All layers' outputs one after another, layer l's (B, O_l) block starting where the previous ended, and two gradients
// in turn.
struct Buffers {
    float* outputs;
    float* delta[2];
};

Buffers carve(Arena& arena, const Network& net, std::size_t B) noexcept {
    std::size_t widths = 0;
    for (const DenseLayer& layer : net.layers()) widths += layer.outputs;  // at most 2^28: one bias each
    Buffers buffers{};
    buffers.outputs = arena.take<float>(saturating_product(B, widths));
    for (float*& delta : buffers.delta) delta = arena.take<float>(saturating_product(B, net.widest()));
    return buffers;
}

// Runs every layer; returns the last one's output, which ends the block of outputs.
const float* forward(float* outputs, const Network& net, const float* params, const float* x, std::size_t B) noexcept {
    for (const DenseLayer& layer : net.layers()) {
        dense_forward(outputs, x, params + layer.weight_offset, params + layer.bias_offset, B, layer.inputs,
                      layer.outputs);
        const std::size_t n = B * layer.outputs;
        switch (layer.activation) {
            case Activation::identity: break;
            case Activation::relu: relu_forward(outputs, n); break;
            case Activation::tanh: tanh_forward(outputs, n); break;
        }
        x = outputs;
        outputs += n;
    }
    return x;
}

double loss_and_slope(float* dy, const Network& net, const float* y, Targets targets, float scale,
                      std::size_t B) noexcept {
    if (net.loss() == Loss::softmax_cross_entropy) {
        return softmax_cross_entropy(dy, y, targets.labels, scale, B, net.outputs());
    }
    return squared_error(dy, y, targets.values, scale, B, net.outputs());
}

}  // namespace

std::size_t network_workspace_size(const Network& net, std::size_t B) noexcept {
    Arena arena(nullptr);
    carve(arena, net, B);
    return arena.used();
}

void network_predict(float* y, const Network& net, const float* params, const float* x, std::size_t B,
                     std::byte* workspace) noexcept {
    Arena arena(workspace);
    const float* last = forward(carve(arena, net, B).outputs, net, params, x, B);
    std::memcpy(y, last, B * net.outputs() * sizeof(float));
}

double network_loss(const Network& net, const float* params, const float* x, Targets targets, std::size_t B,
                    std::byte* workspace) noexcept {
    Arena arena(workspace);
    const float* y = forward(carve(arena, net, B).outputs, net, params, x, B);
    return loss_and_slope(nullptr, net, y, targets, 1.0F, B);
}

double network_gradient(float* grad, const Network& net, const float* params, const float* x, Targets targets,
                        float scale, std::size_t B, std::byte* workspace) noexcept {
    Arena arena(workspace);
    Buffers buffers = carve(arena, net, B);
    const float* y = forward(buffers.outputs, net, params, x, B);
    float* dy = buffers.delta[0];
    float* dx = buffers.delta[1];
    const double loss = loss_and_slope(dy, net, y, targets, scale, B);
    for (std::size_t l = net.layers().size(); l-- > 0;) {
        const DenseLayer& layer = net.layers()[l];
        switch (layer.activation) {
            case Activation::identity: break;
            case Activation::relu: relu_backward(dy, y, B * layer.outputs); break;
            case Activation::tanh: tanh_backward(dy, y, B * layer.outputs); break;
        }
        const float* input = l == 0 ? x : y - B * layer.inputs;
        if (l > 0) std::memset(dx, 0, B * layer.inputs * sizeof(float));
        dense_backward(l > 0 ? dx : nullptr, grad + layer.weight_offset, grad + layer.bias_offset, dy, input,
                       params + layer.weight_offset, B, layer.inputs, layer.outputs);
        std::swap(dy, dx);
        y = input;
    }
    return loss;
}

}  // namespace fedge
