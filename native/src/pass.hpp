// One pass through a network, forward and back: what the plain and the clipped gradient share.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "fedge/network.hpp"
#include "fedge/workspace.hpp"
#include "kernels.hpp"

namespace fedge {

// Where every layer's output and what it keeps lie. Arrays of pointers, one for each layer.
struct Trace {
    float** output;
    float** kept;
    float* scratch;

    static Trace carve(Arena& arena, const Network& net, std::size_t B) noexcept {
        const std::size_t L = net.layers().size();
        Trace at{};
        at.output = arena.take<float*>(L);
        at.kept = arena.take<float*>(L);
        std::size_t scratch = 0;
        for (std::size_t l = 0; l < L; ++l) {
            const Layer& layer = *net.layers()[l].layer;
            float* output = nullptr;
            if (net.own_output(l)) {
                output = arena.take<float>(saturating_product(B, layer.output().size()));
            } else if (at.output != nullptr) {
                output = at.output[l - 1];
            }
            float* const kept = arena.take<float>(layer.kept_size(B));
            if (at.output != nullptr) at.output[l] = output, at.kept[l] = kept;
            scratch = std::max(scratch, layer.scratch_size(B));
        }
        at.scratch = arena.take<float>(scratch);
        return at;
    }

    const float* input(std::size_t l, const float* x) const noexcept { return l == 0 ? x : output[l - 1]; }
};

inline Pass make_pass(Mode mode, std::size_t B, std::size_t first) noexcept {
    return {float_kernels(mode.arithmetic), B, mode.dropout_key, mode.step, first};
}

// Returns the last layer's output.
inline const float* forward(const Trace& at, const Network& net, const float* params, const float* x,
                            const Pass& pass) noexcept {
    for (std::size_t l = 0; l < net.layers().size(); ++l) {
        const PlacedLayer& placed = net.layers()[l];
        const float* input = at.input(l, x);
        if (placed.layer->in_place()) {
            if (at.output[l] != input) std::memcpy(at.output[l], input, pass.B * placed.layer->input().size() * 4);
            input = at.output[l];
        }
        placed.layer->forward(at.output[l], input, params + placed.offset, at.kept[l], at.scratch, pass);
    }
    return at.output[net.layers().size() - 1];
}

// The floats of one example that a gradient on its way down may have.
inline std::size_t widest_delta(const Network& net) noexcept {
    std::size_t widest = net.outputs();
    for (std::size_t l = net.layers().size(); l-- > net.lowest_trained();) {
        const Layer& layer = *net.layers()[l].layer;
        widest = std::max(widest, layer.output().size());
        if (l > net.lowest_trained()) widest = std::max(widest, layer.input().size());
    }
    return widest;
}

// dx from dy through layer l, which leaves what parameter_gradient needs. A layer in place turns dy itself.
inline void backward_through(std::size_t l, float* dy, float* dx, const Trace& at, const Network& net,
                             const float* params, const float* x, const Pass& pass) noexcept {
    const PlacedLayer& placed = net.layers()[l];
    const bool passed_on = l > net.lowest_trained();
    if (placed.layer->in_place()) {
        placed.layer->backward(dy, dy, at.output[l], params + placed.offset, at.kept[l], at.scratch, pass);
    } else {
        placed.layer->backward(passed_on ? dx : nullptr, dy, at.input(l, x), params + placed.offset, at.kept[l],
                               at.scratch, pass);
    }
}

}  // namespace fedge
