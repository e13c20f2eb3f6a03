#include <cmath>
#include <limits>

#include "fedge/csprng.hpp"
#include "layer_oracle.hpp"

using namespace fedge;
using namespace layer_oracle;

namespace {

constexpr std::uint8_t key[32] = {1, 2, 3, 4, 5};

struct Masked {
    std::vector<float> y, dx;
};

Masked masked(const Layer& layer, std::vector<float> y, std::size_t B, std::uint64_t step, std::size_t first,
              const std::uint8_t* with = key) {
    std::vector<float> kept(layer.kept_size(B), std::nanf("")), dx(y.size(), 1.0F);
    const Pass pass{float_kernels(Arithmetic::reproducible), B, with, step, first};
    layer.forward(y.data(), y.data(), nullptr, kept.data(), nullptr, pass);
    layer.backward(dx.data(), dx.data(), y.data(), nullptr, kept.data(), nullptr, pass);
    return {y, dx};
}

std::vector<float> ones(std::size_t n) { return std::vector<float>(n, 1.0F); }

// The mask, bit for bit, from the blocks that the header promises: rows from blocks of their own, 32 elements each.
void the_mask_is_the_keystreams() {
    const std::size_t n = 70, B = 3, row_blocks = 3;
    const std::uint64_t step = 9, number = 5, first = 4;
    const auto layer = make_dropout({1, 7, 10}, 0.3, number);
    const Masked got = masked(*layer, ones(B * n), B, step, first);
    const auto threshold = static_cast<unsigned>(std::lround(0.3 * 65536.0));
    const auto kept = static_cast<float>(65536.0 / (65536.0 - threshold));
    for (std::size_t b = 0; b < B; ++b) {
        for (std::size_t i = 0; i < n; ++i) {
            std::uint8_t block[64];
            chacha20_block(block, key, (first + b) * row_blocks + i / 32, step * 65536 + number);
            const unsigned value = block[i % 32 * 2] + 256U * block[i % 32 * 2 + 1];
            CHECK(got.y[b * n + i] == (value < threshold ? 0.0F : kept));
        }
    }
    CHECK(got.dx == got.y);
}

void the_rate_is_met_and_the_mean_kept() {
    const std::size_t n = std::size_t{1} << 16;
    for (const double rate : {0.1, 0.5, 0.9}) {
        const auto layer = make_dropout({1, 1, n}, rate, 0);
        const Masked got = masked(*layer, ones(n), 1, 0, 0);
        double dropped = 0.0, sum = 0.0;
        for (const float v : got.y) dropped += v == 0.0F, sum += static_cast<double>(v);
        const double deviation = std::sqrt(rate * (1.0 - rate) / static_cast<double>(n));
        CHECK(std::fabs(dropped / static_cast<double>(n) - rate) < 4.0 * deviation);
        CHECK(std::fabs(sum / static_cast<double>(n) - 1.0) < 4.0 * deviation / (1.0 - rate));
    }
}

void steps_layers_and_rows_have_masks_of_their_own() {
    const std::size_t n = 128;
    const auto layer = make_dropout({1, 1, n}, 0.5, 1), other = make_dropout({1, 1, n}, 0.5, 2);
    const auto at = [&](const Layer& which, std::uint64_t step, std::size_t first) {
        return masked(which, ones(n), 1, step, first).y;
    };
    CHECK(at(*layer, 0, 0) == at(*layer, 0, 0));
    CHECK(at(*layer, 0, 0) != at(*layer, 1, 0));
    CHECK(at(*layer, 0, 0) != at(*layer, 0, 1));
    CHECK(at(*layer, 0, 0) != at(*other, 0, 0));
}

void a_batch_cut_anywhere_has_the_same_masks() {
    const std::size_t n = 45, B = 70;
    const auto layer = make_dropout({1, 5, 9}, 0.4, 3);
    const auto x = numbers(B * n, 5);
    const Masked whole = masked(*layer, x, B, 2, 10);
    for (const std::size_t cut : {std::size_t{1}, std::size_t{33}, B - 1}) {
        const auto middle = x.begin() + static_cast<std::ptrdiff_t>(cut * n);
        Masked pieces = masked(*layer, {x.begin(), middle}, cut, 2, 10);
        const Masked rest = masked(*layer, {middle, x.end()}, B - cut, 2, 10 + cut);
        pieces.y.insert(pieces.y.end(), rest.y.begin(), rest.y.end());
        pieces.dx.insert(pieces.dx.end(), rest.dx.begin(), rest.dx.end());
        CHECK(pieces.y == whole.y && pieces.dx == whole.dx);
    }
}

void without_a_key_or_a_rate_nothing_is_dropped() {
    const auto x = numbers(40, 5);
    CHECK(masked(*make_dropout({1, 4, 5}, 0.5, 0), x, 2, 0, 0, nullptr).y == x);
    CHECK(masked(*make_dropout({1, 4, 5}, 0.5, 0), x, 2, 0, 0, nullptr).dx == ones(40));
    CHECK(masked(*make_dropout({1, 4, 5}, 0.0, 0), x, 2, 0, 0).y == x);
}

void what_is_not_a_number_stays_so() {
    for (const float v : masked(*make_dropout({1, 1, 64}, 0.5, 0), std::vector<float>(64, std::nanf("")), 1, 0, 0).y) {
        CHECK(std::isnan(v));
    }
}

void flatten_renames_and_changes_nothing() {
    const auto layer = make_flatten({2, 3, 4});
    CHECK(layer->output() == (Shape{1, 1, 24}));
    CHECK(layer->in_place() && !layer->changes_values());
    const Given in = given(*layer, 2);
    const Slopes got = run(*layer, in, Arithmetic::fast);
    CHECK(got.y == in.x && got.dx == in.dy);
}

void absurd_rates_are_refused() {
    for (const double rate : {-0.1, 1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
        CHECK(refused([rate] { make_dropout({1, 1, 5}, rate, 0); }));
    }
    CHECK(refused([] { make_dropout({1, 1, 5}, 0.5, 65536); }));
    CHECK(!refused([] { make_dropout({1, 1, 5}, 0.0, 65535); }));
    CHECK(!refused([] { make_dropout({1, 1, 5}, 0.9999999, 0); }));
}

}  // namespace

int main() {
    return check::run([] {
        the_mask_is_the_keystreams();
        the_rate_is_met_and_the_mean_kept();
        steps_layers_and_rows_have_masks_of_their_own();
        a_batch_cut_anywhere_has_the_same_masks();
        without_a_key_or_a_rate_nothing_is_dropped();
        what_is_not_a_number_stays_so();
        flatten_renames_and_changes_nothing();
        absurd_rates_are_refused();
    });
}
