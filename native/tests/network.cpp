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

// Dense layers over `widths`, tanh between them.
Network dense(const std::vector<std::size_t>& widths, LossKind loss, bool tanh_last = false) {
    std::vector<PlacedLayer> layers;
    for (std::size_t i = 1; i < widths.size(); ++i) {
        const Shape input{1, 1, widths[i - 1]};
        layers.push_back({make_dense(input, widths[i], true)});
        if (i + 1 < widths.size() || tanh_last) layers.push_back({make_tanh({1, 1, widths[i]})});
    }
    return Network(std::move(layers), Loss{loss, {}, 1.0F});
}

// Float32 losses carry about 1e-7 of relative noise: at a step of 1e-2 the central difference is good to a few 1e-4.
void gradient_matches_central_differences(const Network& net, std::size_t B, Mode mode) {
    auto params = numbers(net.parameter_count(), 7);
    const auto x = numbers(B * net.inputs(), 11), values = numbers(B * net.outputs(), 13);
    std::vector<std::int32_t> labels(B);
    for (std::size_t b = 0; b < B; ++b) labels[b] = static_cast<std::int32_t>(b % net.outputs());
    const Targets targets =
        net.loss().labelled() ? Targets{labels.data(), nullptr} : Targets{nullptr, values.data()};
    auto memory = room(gradient_workspace_size(net, B));
    const auto loss_at = [&] {
        return network_loss(net, params.data(), x.data(), targets, B, mode, memory.data());
    };
    std::vector<float> grad(net.parameter_count(), 0.0F);
    const double loss =
        network_gradient(grad.data(), net, params.data(), x.data(), targets, 1.0F, B, 0, mode, memory.data());
    CHECK(loss == loss_at());
    for (std::size_t p = 0; p < params.size(); ++p) {
        const float keep = params[p], step = 0.01F;
        params[p] = keep + step;
        const double above = loss_at();
        params[p] = keep - step;
        const double below = loss_at();
        params[p] = keep;
        const double want = (above - below) / (2.0 * static_cast<double>(step));
        CHECK(std::fabs(static_cast<double>(grad[p]) - want) < 3e-3 * (1.0 + std::fabs(want)));
    }
}

void training_lowers_the_loss_and_refuses_to_diverge() {
    const Network net = dense({5, 7, 3}, LossKind::softmax_cross_entropy);
    const auto start = numbers(net.parameter_count(), 3);
    auto params = start;
    const auto x = numbers(12 * 5, 5);
    std::vector<std::int32_t> labels(12), order(600);
    for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = x[5 * i] > 0.0F ? 2 : 0;
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i * 5 % 12);
    std::vector<float> rates(120, 0.3F);
    Training training;
    training.optimizer.momentum = 0.5F;
    training.learning_rates = rates.data();
    training.rows = 5;
    auto memory = room(train_workspace_size(net, training, 12)), reading = room(predict_workspace_size(net, 12));
    const Minibatches<std::int32_t> batches{x.data(), {labels.data(), nullptr}, order.data(), order.size(), 5, 12};
    const auto loss = [&] {
        return network_loss(net, params.data(), x.data(), batches.targets, 12, {}, reading.data());
    };
    const double before = loss();
    CHECK(train(params.data(), net, batches, training, memory.data()).finite);
    CHECK(loss() < 0.2 * before);

    params = start;
    const std::vector<float> push(params.size(), 1e30F);
    rates.assign(rates.size(), 1e30F);
    training.objective.correction = push.data();
    CHECK(!train(params.data(), net, batches, training, memory.data()).finite);
    CHECK(params == start);
}

bool refused(const std::vector<std::size_t>& widths) {
    try {
        dense(widths, LossKind::mse);
    } catch (const std::invalid_argument&) {
        return true;
    }
    return false;
}

void absurd_shapes_are_refused() {
    CHECK(refused({4}));
    CHECK(refused({4, 0}));
    CHECK(refused({1 << 14, 1 << 14}));
    CHECK(refused({4, std::size_t{1} << 62}));
    CHECK(!refused({3, 2}));
    const Network net = dense({3, 2}, LossKind::mse);
    CHECK(gradient_workspace_size(net, SIZE_MAX / 2) == Arena::too_large);
    Training training;
    training.rows = SIZE_MAX;
    CHECK(train_workspace_size(net, training, 0) == Arena::too_large);
}

}  // namespace

int main() {
    return check::run([] {
        for (const Arithmetic arithmetic : {Arithmetic::fast, Arithmetic::reproducible}) {
            gradient_matches_central_differences(dense({9, 5, 4, 3}, LossKind::softmax_cross_entropy), 7, {arithmetic});
            gradient_matches_central_differences(dense({9, 5, 4, 3}, LossKind::mse, true), 3, {arithmetic});
        }
        training_lowers_the_loss_and_refuses_to_diverge();
        absurd_shapes_are_refused();
    });
}
