// The per-example clipped gradient: one forward, one backward, norms on the way, one weighted sum at the end.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "fedge/network.hpp"
#include "fedge/workspace.hpp"
#include "layers/layers.hpp"
#include "pass.hpp"

namespace fedge {
namespace {

struct Buffers {
    Trace trace;
    float* delta[2];
    // For each layer that trains: dy (B, output) of a ghost layer, or (B, P) gradients, one for each example.
    float** saved;
    double* norm;   // (groups, B): the norms, as sums on the way
    float* factor;  // (groups, B)
};

std::size_t saved_size(const Network& net, std::size_t l, std::size_t B) noexcept {
    const Layer& layer = *net.layers()[l].layer;
    return saturating_product(B, layer.ghost() ? layer.output().size() : layer.parameter_count());
}

Buffers carve(Arena& arena, const Network& net, std::size_t B) noexcept {
    const std::size_t L = net.layers().size();
    Buffers at{};
    at.trace = Trace::carve(arena, net, B);
    for (float*& delta : at.delta) delta = arena.take<float>(saturating_product(B, widest_delta(net)));
    at.saved = arena.take<float*>(L);
    for (std::size_t l = 0; l < L; ++l) {
        if (!net.trains(l)) continue;
        float* const saved = arena.take<float>(saved_size(net, l, B));
        if (at.saved != nullptr) at.saved[l] = saved;
    }
    at.norm = arena.take<double>(saturating_product(L, B));  // as many groups as layers, at most
    at.factor = arena.take<float>(saturating_product(L, B));
    return at;
}

// Scales a gradient of this norm to the bound: never rounded up, and short of it by what scaling a float32 may add.
float clip_factor(double norm, double bound) noexcept {
    if (norm <= bound) return 1.0F;
    const double exact = bound / norm * (1.0 - 0x1p-23);
    const auto factor = static_cast<float>(exact);
    return static_cast<double>(factor) > exact ? std::nextafter(factor, 0.0F) : factor;
}

// Leaves in `saved` what the weighted sum needs of layer l, and adds to norm (B) each example's share of the norm.
void measure(const Buffers& at, std::size_t l, double* norm, const Network& net, const float* dy, const float* x,
             Norm kind, const Pass& pass) noexcept {
    const Layer& layer = *net.layers()[l].layer;
    const float* const input = at.trace.input(l, x);
    if (layer.ghost()) {
        std::memcpy(at.saved[l], dy, pass.B * layer.output().size() * sizeof(float));
        layer.example_norms(norm, at.saved[l], input, at.trace.kept[l], kind, pass);
        return;
    }
    const std::size_t P = layer.parameter_count();
    for (std::size_t b = 0; b < pass.B; ++b) {
        float* const gradient = at.saved[l] + b * P;
        std::fill_n(gradient, P, 0.0F);
        layer.parameter_gradient(gradient, dy, input, at.trace.kept[l], at.trace.scratch, b, 1, pass);
        norm[b] += fedge::measure(gradient, P, kind, pass.kernels);
    }
}

// grad += sum over b of factor[b] * the gradient of example b. An example that is refused is zero wherever it entered:
// its factor is 0, and 0 times an infinity would not be.
void add_weighted(float* grad, const Buffers& at, std::size_t l, const float* factor, const Network& net,
                  const float* x, const Pass& pass) noexcept {
    const PlacedLayer& placed = net.layers()[l];
    const Layer& layer = *placed.layer;
    const std::size_t B = pass.B, P = layer.parameter_count(), row = saved_size(net, l, 1);
    for (std::size_t b = 0; b < B; ++b) {
        float* const saved = at.saved[l] + b * row;
        if (factor[b] == 0.0F) {
            std::fill_n(saved, row, 0.0F);
            if (layer.ghost() && l > 0) {
                std::fill_n(at.trace.output[l - 1] + b * layer.input().size(), layer.input().size(), 0.0F);
            }
        } else if (layer.ghost() && factor[b] != 1.0F) {
            pass.kernels.scale(saved, factor[b], row);
        }
    }
    if (layer.ghost()) {
        layer.parameter_gradient(grad + placed.offset, at.saved[l], at.trace.input(l, x), at.trace.kept[l],
                                 at.trace.scratch, 0, B, pass);
    } else {
        pass.kernels.multiply(grad + placed.offset, factor, at.saved[l], nullptr, {1, P, 1, B, 1, 0, 0, 0, 1, P, P});
    }
}

}  // namespace

std::size_t clipped_workspace_size(const Network& net, std::size_t B) noexcept {
    Arena arena(nullptr);
    carve(arena, net, B);
    return arena.used();
}

Clipped network_clipped_gradient(float* grad, double* norms, const Network& net, const float* params, const float* x,
                                 Targets targets, const Clipping& clipping, std::size_t B, std::size_t first, Mode mode,
                                 std::byte* workspace) noexcept {
    Arena arena(workspace);
    const Buffers at = carve(arena, net, B);
    const Pass pass = make_pass(mode, B, first);
    const std::size_t groups = clipping.bounds.size();
    Clipped result;
    const float* y = forward(at.trace, net, params, x, pass);
    float* dy = at.delta[0];
    float* dx = at.delta[1];
    result.loss = loss_and_slope(dy, y, targets, 1.0F, B, net.outputs(), net.loss(), pass.kernels);

    std::fill_n(at.norm, groups * B, 0.0);
    std::size_t group = groups;
    for (std::size_t l = net.layers().size(); l-- > net.lowest_trained();) {
        backward_through(l, dy, dx, at.trace, net, params, x, pass);
        if (net.trains(l)) {
            group = groups == 1 ? 0 : group - 1;
            measure(at, l, at.norm + group * B, net, dy, x, clipping.norm, pass);
        }
        if (!net.layers()[l].layer->in_place()) std::swap(dy, dx);
    }

    for (std::size_t b = 0; b < B; ++b) {
        bool within = true, finite = true;
        for (std::size_t g = 0; g < groups; ++g) {
            double& norm = at.norm[g * B + b];
            if (clipping.norm == Norm::l2) norm = std::sqrt(norm);
            finite = finite && std::isfinite(norm);
            within = within && norm <= clipping.bounds[g];
        }
        for (std::size_t g = 0; g < groups; ++g) {
            at.factor[g * B + b] = finite ? clip_factor(at.norm[g * B + b], clipping.bounds[g]) * clipping.share : 0.0F;
        }
        result.refused += finite ? 0 : 1;
        result.within += finite && within ? 1 : 0;
    }
    if (norms != nullptr) std::copy_n(at.norm, groups * B, norms);

    group = 0;
    for (std::size_t l = net.lowest_trained(); l < net.layers().size(); ++l) {
        if (!net.trains(l)) continue;
        add_weighted(grad, at, l, at.factor + group * B, net, x, pass);
        if (groups > 1) ++group;
    }
    return result;
}

}  // namespace fedge
