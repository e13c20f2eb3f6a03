#include "fedge/network.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "fedge/workspace.hpp"
#include "pass.hpp"

namespace fedge {

Network::Network(std::vector<PlacedLayer> layers, Loss loss) : layers_(std::move(layers)), loss_(std::move(loss)) {
    if (layers_.empty()) throw std::invalid_argument("want at least one layer; got none");
    for (std::size_t l = 0; l < layers_.size(); ++l) {
        const std::size_t count = layers_[l].layer->parameter_count();
        layers_[l].offset = parameters_;
        if (__builtin_add_overflow(parameters_, count, &parameters_) || parameters_ > max_parameters) {
            throw std::invalid_argument("want at most " + std::to_string(max_parameters) + " parameters; layer " +
                                        std::to_string(l) + " brings more");
        }
        if (!trains(l)) continue;
        if (!trained_.empty() && trained_.back().offset + trained_.back().count == layers_[l].offset) {
            trained_.back().count += count;
        } else {
            trained_.push_back({layers_[l].offset, count});
        }
    }
    while (lowest_trained_ < layers_.size() && !trains(lowest_trained_)) ++lowest_trained_;
    if (!loss_.class_weights.empty() && loss_.class_weights.size() != outputs()) {
        throw std::invalid_argument("want one class weight for each of the " + std::to_string(outputs()) +
                                    " outputs; got " + std::to_string(loss_.class_weights.size()));
    }
}

std::size_t Network::trained_count() const noexcept {
    std::size_t count = 0;
    for (const Stretch& stretch : trained_) count += stretch.count;
    return count;
}

// A layer in place overwrites its input. The first must not: the input is the caller's; nor one whose predecessor still
// needs its own output to go back.
bool Network::own_output(std::size_t l) const noexcept {
    const Layer& layer = *layers_[l].layer;
    if (!layer.in_place() || l == 0) return true;
    if (!layer.changes_values()) return false;
    for (std::size_t below = l; below-- > 0;) {
        const Layer& previous = *layers_[below].layer;
        if (previous.changes_values()) return previous.in_place();
        if (below == 0) return false;  // a layer that changes nothing has copied the input
    }
    return true;
}

std::size_t Network::first_bad_input(const float* x, std::size_t B) const noexcept {
    return layers_.front().layer->first_bad_input(x, B * inputs());
}

std::size_t rows_at_once(const Network& net, std::size_t B) noexcept {
    constexpr std::size_t cached = std::size_t{768} << 10, fewest = 16;
    const std::size_t row = (gradient_workspace_size(net, 65) - gradient_workspace_size(net, 1)) / 64;
    const std::size_t most = std::max(cached / std::max<std::size_t>(row, 1), fewest);
    const std::size_t pieces = B / most + (B % most != 0 ? 1 : 0);
    return pieces == 0 ? 1 : B / pieces + (B % pieces != 0 ? 1 : 0);
}

std::size_t predict_workspace_size(const Network& net, std::size_t B) noexcept {
    Arena arena(nullptr);
    Trace::carve(arena, net, B);
    return arena.used();
}

void network_predict(float* y, const Network& net, const float* params, const float* x, std::size_t B, Mode mode,
                     std::byte* workspace) noexcept {
    Arena arena(workspace);
    const Trace trace = Trace::carve(arena, net, B);
    const float* last = forward(trace, net, params, x, make_pass(mode, B, 0));
    std::memcpy(y, last, B * net.outputs() * sizeof(float));
}

double network_loss(const Network& net, const float* params, const float* x, Targets targets, std::size_t B, Mode mode,
                    std::byte* workspace) noexcept {
    Arena arena(workspace);
    const Trace trace = Trace::carve(arena, net, B);
    const Pass pass = make_pass(mode, B, 0);
    const float* y = forward(trace, net, params, x, pass);
    return loss_and_slope(nullptr, y, targets, 1.0F, B, net.outputs(), net.loss(), pass.kernels);
}

namespace {

struct Buffers {
    Trace trace;
    float* delta[2];
};

Buffers carve(Arena& arena, const Network& net, std::size_t B) noexcept {
    Buffers at{};
    at.trace = Trace::carve(arena, net, B);
    for (float*& delta : at.delta) delta = arena.take<float>(saturating_product(B, widest_delta(net)));
    return at;
}

}  // namespace

std::size_t gradient_workspace_size(const Network& net, std::size_t B) noexcept {
    Arena arena(nullptr);
    carve(arena, net, B);
    return arena.used();
}

double network_gradient(float* grad, const Network& net, const float* params, const float* x, Targets targets,
                        float scale, std::size_t B, std::size_t first, Mode mode, std::byte* workspace) noexcept {
    Arena arena(workspace);
    const Buffers at = carve(arena, net, B);
    const Pass pass = make_pass(mode, B, first);
    const float* y = forward(at.trace, net, params, x, pass);
    float* dy = at.delta[0];
    float* dx = at.delta[1];
    const double loss = loss_and_slope(dy, y, targets, scale, B, net.outputs(), net.loss(), pass.kernels);
    for (std::size_t l = net.layers().size(); l-- > net.lowest_trained();) {
        backward_through(l, dy, dx, at.trace, net, params, x, pass);
        const PlacedLayer& placed = net.layers()[l];
        if (net.trains(l)) {
            placed.layer->parameter_gradient(grad + placed.offset, dy, at.trace.input(l, x), at.trace.kept[l],
                                             at.trace.scratch, 0, B, pass);
        }
        if (!placed.layer->in_place()) std::swap(dy, dx);
    }
    return loss;
}

}  // namespace fedge
