// Trains small networks reproducibly, from inputs made with integers alone, and compares a hash of the final weights with
// golden.txt: the same numbers on every processor, instruction set and C library. tests/native/test_golden.py trains the
// same networks through Python.
//
// native_golden GOLDEN.txt checks; without an argument it prints.

#include <cstring>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "check.hpp"
#include "fedge/network.hpp"
#include "fedge/train.hpp"

using namespace fedge;

namespace {

constexpr std::size_t rows = 24, draws = 60, batch = 7;
const char* golden_path = nullptr;

// Multiples of 2^-23 in [-1, 1), of a linear congruential generator.
std::vector<float> numbers(std::size_t n, std::uint32_t seed) {
    std::vector<float> values(n);
    for (float& v : values) {
        seed = seed * 1664525U + 1013904223U;
        v = static_cast<float>(seed >> 8) / 8388608.0F - 1.0F;
    }
    return values;
}

// FNV-1a over the little-endian bytes.
std::uint64_t hash_of(const std::vector<float>& values) {
    std::uint64_t hash = 0xcbf29ce484222325;
    for (const float v : values) {
        std::uint32_t bits = 0;
        std::memcpy(&bits, &v, sizeof bits);
        for (unsigned shift = 0; shift < 32; shift += 8) hash = (hash ^ ((bits >> shift) & 0xff)) * 0x100000001b3;
    }
    return hash;
}

class Layers {
  public:
    explicit Layers(Shape input) : shape_(input) {}

    template <class Make, class... Arguments>
    Layers&& add(Make make, Arguments... arguments) {
        layers_.push_back({make(shape_, arguments...)});
        shape_ = layers_.back().layer->output();
        return std::move(*this);
    }

    Network with(LossKind loss) { return Network(std::move(layers_), Loss{loss, {}, 1.0F}); }

  private:
    Shape shape_;
    std::vector<PlacedLayer> layers_;
};

struct Recipe {
    OptimizerKind optimizer = OptimizerKind::sgd;
    bool whole_numbers = false;  // x in 0..9, for an embedding
    const Norm* clip = nullptr;
};

std::uint64_t trained(const Network& net, Recipe recipe) {
    auto params = numbers(net.parameter_count(), 7), x = numbers(rows * net.inputs(), 11);
    for (float& w : params) w *= 0.5F;
    if (recipe.whole_numbers) {
        for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 7 % 10);
    }
    auto values = numbers(rows * net.outputs(), 13);
    std::vector<std::int32_t> labels(rows), order(draws);
    for (std::size_t i = 0; i < rows; ++i) labels[i] = static_cast<std::int32_t>((7 * i + 3) % net.outputs());
    for (std::size_t i = 0; i < draws; ++i) order[i] = static_cast<std::int32_t>(5 * i % rows);
    for (float& v : values) {
        if (net.loss().kind == LossKind::binary_cross_entropy) v = v > 0.0F ? 1.0F : 0.0F;
        if (net.loss().kind == LossKind::hinge) v = v > 0.0F ? 1.0F : -1.0F;
    }
    std::uint8_t key[32];
    for (std::uint8_t i = 0; i < 32; ++i) key[i] = i;
    const std::vector<float> rates((draws + batch - 1) / batch, 0.0625F), anchor = numbers(params.size(), 17);
    const double bound = 0.5;
    Training training;
    training.optimizer.kind = recipe.optimizer;
    if (recipe.optimizer == OptimizerKind::sgd) training.optimizer.momentum = 0.5F;
    training.objective.proximal = 0.125F;
    training.objective.anchor = anchor.data();
    training.learning_rates = rates.data();
    training.arithmetic = Arithmetic::reproducible;
    training.dropout_key = key;
    training.rows = 5;
    PrivateStep clipping;
    if (recipe.clip != nullptr) {
        clipping.clipping = {*recipe.clip, {&bound, 1}};
        clipping.expected_batch = batch;
        training.privacy = &clipping;
    }
    const Targets targets = net.loss().labelled() ? Targets{labels.data(), nullptr} : Targets{nullptr, values.data()};
    std::vector<std::byte> workspace(train_workspace_size(net, training, rows));
    const Minibatches<std::int32_t> batches{x.data(), targets, order.data(), draws, batch, rows};
    CHECK(train(params.data(), net, batches, training, workspace.data()).finite);
    return hash_of(params);
}

void compare(const std::string& name, std::uint64_t hash) {
    if (golden_path == nullptr) {
        std::printf("%s %016llx\n", name.c_str(), static_cast<unsigned long long>(hash));
        return;
    }
    std::ifstream file(golden_path);
    std::string known, digits;
    while (file >> known >> digits && known != name) {
    }
    const bool same = known == name && std::stoull(digits, nullptr, 16) == hash;
    if (!same) std::fprintf(stderr, "%s: %016llx, not golden\n", name.c_str(), static_cast<unsigned long long>(hash));
    CHECK(same);
}

void golden() {
    constexpr auto sgd = OptimizerKind::sgd, adam = OptimizerKind::adam, adamw = OptimizerKind::adamw;
    const Norm l1 = Norm::l1, l2 = Norm::l2;
    const auto tanh = [] {
        return Layers({1, 1, 5}).add(make_dense, 9U, true).add(make_tanh).add(make_dense, 4U, true).with(
            LossKind::softmax_cross_entropy);
    };
    compare("tanh", trained(tanh(), {sgd}));
    compare("tanh_clipped_l2", trained(tanh(), {sgd, false, &l2}));
    compare("tanh_clipped_l1", trained(tanh(), {sgd, false, &l1}));
    const auto relu = [] {
        return Layers({1, 1, 11}).add(make_dense, 17U, true).add(make_relu).add(make_dense, 3U, false);
    };
    compare("relu", trained(relu().with(LossKind::mse), {adam}));
    compare("sigmoid", trained(relu().add(make_sigmoid).with(LossKind::huber), {adamw}));
    compare("softplus", trained(relu().add(make_softplus).with(LossKind::hinge), {sgd}));
    compare("dropout", trained(relu().add(make_dropout, 0.25, std::size_t{3}).with(LossKind::mse), {sgd}));
    compare("conv1d", trained(Layers({1, 12, 2})
                                  .add(make_conv, 4U, Window{{1, 3}, {1, 1}, {0, 1}}, true)
                                  .add(make_relu)
                                  .add(make_max_pool, Window{{1, 2}, {1, 2}, {0, 0}})
                                  .add(make_flatten)
                                  .add(make_dense, 3U, true)
                                  .with(LossKind::softmax_cross_entropy),
                              {sgd, false, &l2}));
    compare("conv2d", trained(Layers({7, 6, 2})
                                  .add(make_conv, 5U, Window{{3, 3}, {1, 1}, {1, 1}}, true)
                                  .add(make_depthwise_conv, Window{{3, 2}, {2, 1}, {0, 0}}, true)
                                  .add(make_tanh)
                                  .add(make_average_pool, Window{{2, 2}, {2, 2}, {0, 0}})
                                  .add(make_flatten)
                                  .add(make_dense, 3U, true)
                                  .with(LossKind::mse),
                              {adam}));
    const auto sequence = [](bool sequences) {
        Layers layers({1, 6, 3});
        layers.add(make_gru, 5U, sequences);
        if (sequences) layers.add(make_layer_norm, 1e-5).add(make_flatten);
        return layers.add(make_dense, 3U, true).with(LossKind::binary_cross_entropy);
    };
    compare("gru", trained(sequence(false), {sgd}));
    compare("gru_layer_norm", trained(sequence(true), {adam}));
    compare("embedding_group_norm", trained(Layers({1, 4, 1})
                                                .add(make_embedding, 10U, 6U)
                                                .add(make_group_norm, 2U, 1e-5)
                                                .add(make_flatten)
                                                .add(make_dense, 3U, true)
                                                .with(LossKind::softmax_cross_entropy),
                                            {sgd, true}));
}

}  // namespace

int main(int count, char** arguments) {
    if (count > 1) golden_path = arguments[1];
    return check::run(golden);
}
