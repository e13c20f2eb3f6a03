#include <cmath>

#include "layer_oracle.hpp"

using namespace fedge;
using namespace layer_oracle;

namespace {

constexpr double epsilon = 1e-3;

// Every element by itself: group (position, channel) says with whom it is normalized.
Forward oracle(Shape shape, std::size_t groups, bool each_position) {
    return [=](const std::vector<double>& w, const std::vector<double>& x) {
        const std::size_t C = shape.channels, D = C / groups;
        const auto group = [=](std::size_t i) { return (each_position ? i / C * groups : 0) + i % C / D; };
        std::vector<double> y(x.size());
        for (std::size_t i = 0; i < x.size(); ++i) {
            double n = 0.0, mean = 0.0, variance = 0.0;
            for (std::size_t k = 0; k < x.size(); ++k) {
                if (group(k) == group(i)) n += 1.0, mean += x[k];
            }
            mean /= n;
            for (std::size_t k = 0; k < x.size(); ++k) {
                if (group(k) == group(i)) variance += (x[k] - mean) * (x[k] - mean);
            }
            y[i] = (x[i] - mean) / std::sqrt(variance / n + epsilon) * w[i % C] + w[C + i % C];
        }
        return y;
    };
}

// Away from a mean of zero, where a variance of squares would lose its digits.
Given off_center(const Layer& layer, std::size_t B) {
    Given in = given(layer, B);
    for (float& v : in.x) v = v * 0.5F + 3.0F;
    return in;
}

void check(const Layer& layer, std::size_t groups, bool each_position) {
    const Given in = off_center(layer, 4);
    for (const Arithmetic arithmetic : {Arithmetic::fast, Arithmetic::reproducible}) {
        matches(layer, in, oracle(layer.input(), groups, each_position), arithmetic, 1e-4);
        cut_anywhere_gives_the_same_bits(layer, in, arithmetic);
    }
}

void group_norm_matches_its_definition() {
    check(*make_group_norm({1, 1, 6}, 2, epsilon), 2, false);
    check(*make_group_norm({1, 5, 3}, 1, epsilon), 1, false);
    check(*make_group_norm({2, 3, 4}, 4, epsilon), 4, false);
    check(*make_group_norm({1, 3, 20}, 4, epsilon), 4, false);
    check(*make_group_norm({1, 2, 34}, 2, epsilon), 2, false);
    check(*make_group_norm({1, 1, 37}, 1, epsilon), 1, false);
}

void layer_norm_matches_its_definition() {
    check(*make_layer_norm({1, 1, 2}, epsilon), 1, true);
    check(*make_layer_norm({1, 3, 5}, epsilon), 1, true);
    check(*make_layer_norm({2, 2, 16}, epsilon), 1, true);
    check(*make_layer_norm({1, 2, 51}, epsilon), 1, true);
}

// Two passes: at a mean of 4096 and a deviation of 1 the difference of mean squares would have no correct digit.
void statistics_survive_a_large_mean() {
    const auto layer = make_group_norm({1, 64, 2}, 1, 1e-5);
    Given in = given(*layer, 1);
    in.w = {1.0F, 1.0F, 0.0F, 0.0F};
    for (std::size_t i = 0; i < in.x.size(); ++i) in.x[i] = i % 2 == 0 ? 4095.0F : 4097.0F;
    const Slopes got = run(*layer, in, Arithmetic::fast);
    for (std::size_t i = 0; i < in.x.size(); ++i)
        close("y", i, static_cast<double>(got.y[i]), i % 2 ? 1.0 : -1.0, 1e-4);
}

void a_constant_input_gives_the_bias() {
    const auto layer = make_layer_norm({1, 2, 19}, 1e-5);
    Given in = given(*layer, 2);
    std::fill(in.x.begin(), in.x.end(), 0.25F);
    const Slopes got = run(*layer, in, Arithmetic::reproducible);
    for (std::size_t i = 0; i < got.y.size(); ++i) CHECK(got.y[i] == in.w[19 + i % 19]);
}

void not_a_number_stays_within_its_example() {
    const auto layer = make_group_norm({1, 4, 6}, 3, epsilon);
    Given in = given(*layer, 3);
    const Slopes clean = run(*layer, in, Arithmetic::fast);
    in.x[24] = std::nanf("");
    const Slopes got = run(*layer, in, Arithmetic::fast);
    for (std::size_t i = 0; i < 24; ++i) {
        CHECK(got.y[i] == clean.y[i] && got.y[48 + i] == clean.y[48 + i]);
        CHECK(std::isnan(got.y[24 + i]) == (i % 6 < 2));
    }
}

void reproducible_bits_are_those_of_every_processor() {
    const auto groups = make_group_norm({3, 7, 20}, 4, epsilon);
    has_fingerprint(run(*groups, off_center(*groups, 5), Arithmetic::reproducible), 0x584d705d99452f58);
    const auto positions = make_layer_norm({1, 7, 53}, epsilon);
    has_fingerprint(run(*positions, off_center(*positions, 5), Arithmetic::reproducible), 0xc3ea030125886f69);
}

void absurd_shapes_are_refused() {
    CHECK(refused([] { make_group_norm({1, 5, 6}, 4, epsilon); }));
    CHECK(refused([] { make_group_norm({1, 5, 6}, 0, epsilon); }));
    CHECK(refused([] { make_group_norm({1, 5, 6}, 12, epsilon); }));
    CHECK(refused([] { make_group_norm({1, 1, 6}, 6, epsilon); }));
    CHECK(refused([] { make_layer_norm({1, 5, 1}, epsilon); }));
    CHECK(refused([] { make_layer_norm({1, 5, 6}, 0.0); }));
    CHECK(refused([] { make_layer_norm({1, 5, 6}, std::nan("")); }));
    CHECK(!refused([] { make_group_norm({1, 2, 6}, 6, epsilon); }));
}

}  // namespace

int main() {
    return check::run([] {
        group_norm_matches_its_definition();
        layer_norm_matches_its_definition();
        statistics_survive_a_large_mean();
        a_constant_input_gives_the_bias();
        not_a_number_stays_within_its_example();
        reproducible_bits_are_those_of_every_processor();
        absurd_shapes_are_refused();
    });
}
