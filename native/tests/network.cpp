#include "fedge/network.hpp"

#include <cmath>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "fedge/train.hpp"
#include "fedge/workspace.hpp"

using namespace fedge;

namespace {

// Uniform in [-1, 1): a linear congruential generator is random enough for weights.
std::vector<float> numbers(std::size_t n, std::uint32_t seed) {
    std::vector<float> values(n);
    for (float& v : values) {
        seed = seed * 1664525U + 1013904223U;
        v = static_cast<float>(seed >> 8) / 8388608.0F - 1.0F;
    }
    return values;
}

std::vector<std::byte> room(std::size_t bytes) { return std::vector<std::byte>(bytes); }

// Float32 losses carry about 1e-7 of relative noise: at a step of 1e-2 the central difference is good to a few 1e-4.
void gradient_matches_central_differences(const Network& net, std::size_t B) {
    auto params = numbers(net.parameter_count(), 7);
    const auto x = numbers(B * net.inputs(), 11), values = numbers(B * net.outputs(), 13);
    std::vector<std::int32_t> labels(B);
    for (std::size_t b = 0; b < B; ++b) labels[b] = static_cast<std::int32_t>(b % net.outputs());
    const Targets targets = net.loss() == Loss::mse ? Targets{nullptr, values.data()} : Targets{labels.data(), nullptr};
    auto memory = room(network_workspace_size(net, B));
    std::vector<float> grad(net.parameter_count(), 0.0F);
    const double loss = network_gradient(grad.data(), net, params.data(), x.data(), targets, 1.0F, B, memory.data());
    CHECK(loss == network_loss(net, params.data(), x.data(), targets, B, memory.data()));
    for (std::size_t p = 0; p < params.size(); ++p) {
        const float keep = params[p], step = 0.01F;
        params[p] = keep + step;
        const double above = network_loss(net, params.data(), x.data(), targets, B, memory.data());
        params[p] = keep - step;
        const double below = network_loss(net, params.data(), x.data(), targets, B, memory.data());
        params[p] = keep;
        const double want = (above - below) / (2.0 * static_cast<double>(step));
        CHECK(std::fabs(static_cast<double>(grad[p]) - want) < 3e-3 * (1.0 + std::fabs(want)));
    }
}

void training_lowers_the_loss_and_refuses_to_diverge() {
    const std::int64_t widths[] = {5, 7, 3};
    const Activation activations[] = {Activation::tanh, Activation::identity};
    const Network net(widths, activations, Loss::softmax_cross_entropy);
    const auto start = numbers(net.parameter_count(), 3);
    auto params = start;
    const auto x = numbers(12 * 5, 5);
    std::vector<std::int32_t> labels(12), order(600);
    for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = x[5 * i] > 0.0F ? 2 : 0;
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i * 5 % 12);
    auto memory = room(train_workspace_size(net, 5));
    const Minibatches<std::int32_t> batches{x.data(), {labels.data(), nullptr}, order.data(), order.size(), 5};
    const double before =
        network_loss(net, params.data(), x.data(), batches.targets, 12, room(network_workspace_size(net, 12)).data());
    CHECK(train(params.data(), net, batches, {.learning_rate = 0.3F, .momentum = 0.5F}, memory.data()).finite);
    const double after =
        network_loss(net, params.data(), x.data(), batches.targets, 12, room(network_workspace_size(net, 12)).data());
    CHECK(after < 0.2 * before);

    params = start;
    const std::vector<float> push(params.size(), 1e30F);
    CHECK(
        !train(params.data(), net, batches, {.learning_rate = 1e30F, .correction = push.data()}, memory.data()).finite);
    CHECK(params == start);
}

bool refused(std::vector<std::int64_t> widths) {
    const std::vector<Activation> activations(widths.size() - 1, Activation::relu);
    try {
        const Network net(widths, activations, Loss::mse);
    } catch (const std::invalid_argument&) {
        return true;
    }
    return false;
}

void absurd_shapes_are_refused() {
    CHECK(refused({4}));
    CHECK(refused({0, 4}));
    CHECK(refused({-1, 4}));
    CHECK(refused({1 << 14, 1 << 14}));
    CHECK(refused({std::int64_t{1} << 62, 4}));
    CHECK(refused({1 << 28, 1 << 28, 1 << 28}));
    CHECK(!refused({3, 2}));
    const std::int64_t widths[] = {3, 2};
    const Activation activations[] = {Activation::relu};
    const Network net(widths, activations, Loss::mse);
    CHECK(network_workspace_size(net, SIZE_MAX / 2) == Arena::too_large);
    CHECK(train_workspace_size(net, SIZE_MAX) == Arena::too_large);
}

}  // namespace

int main() {
    return check::run([] {
        const std::int64_t widths[] = {9, 5, 4, 3};
        const Activation smooth[] = {Activation::tanh, Activation::tanh, Activation::identity};
        const Activation mixed[] = {Activation::identity, Activation::tanh, Activation::identity};
        gradient_matches_central_differences(Network(widths, smooth, Loss::softmax_cross_entropy), 7);
        gradient_matches_central_differences(Network(widths, mixed, Loss::mse), 3);
        training_lowers_the_loss_and_refuses_to_diverge();
        absurd_shapes_are_refused();
    });
}
