#include <cmath>

#include "layer_oracle.hpp"

using namespace fedge;
using namespace layer_oracle;

namespace {

double sigmoid(double v) { return 1.0 / (1.0 + std::exp(-v)); }

// PyTorch's equations, gate by gate.
Forward oracle(std::size_t T, std::size_t F, std::size_t H, bool sequences) {
    return [=](const std::vector<double>& w, const std::vector<double>& x) {
        const double* const ih = w.data();
        const double* const hh = ih + F * 3 * H;
        const double* const b_ih = hh + H * 3 * H;
        const double* const b_hh = b_ih + 3 * H;
        std::vector<double> h(H, 0.0), all;
        for (std::size_t t = 0; t < T; ++t) {
            const auto from_x = [&](std::size_t gate, std::size_t j) {
                double sum = b_ih[gate * H + j];
                for (std::size_t f = 0; f < F; ++f) sum += x[t * F + f] * ih[f * 3 * H + gate * H + j];
                return sum;
            };
            const auto from_h = [&](std::size_t gate, std::size_t j) {
                double sum = b_hh[gate * H + j];
                for (std::size_t k = 0; k < H; ++k) sum += h[k] * hh[k * 3 * H + gate * H + j];
                return sum;
            };
            std::vector<double> next(H);
            for (std::size_t j = 0; j < H; ++j) {
                const double r = sigmoid(from_x(0, j) + from_h(0, j)), z = sigmoid(from_x(1, j) + from_h(1, j));
                const double n = std::tanh(from_x(2, j) + r * from_h(2, j));
                next[j] = (1.0 - z) * n + z * h[j];
            }
            h = next;
            if (sequences) all.insert(all.end(), h.begin(), h.end());
        }
        return sequences ? all : h;
    };
}

void matches_pytorchs_equations() {
    struct Case {
        std::size_t T, F, H, B;
    };
    for (const auto& [T, F, H, B] : {Case{1, 1, 1, 1}, Case{3, 2, 5, 4}, Case{5, 3, 17, 3}, Case{2, 2, 33, 1}}) {
        for (const bool sequences : {false, true}) {
            const auto layer = make_gru({1, T, F}, H, sequences);
            CHECK(layer->output() == (Shape{1, sequences ? T : 1, H}));
            CHECK(layer->parameter_count() == 3 * H * (F + H + 2));
            const Given in = given(*layer, B);
            for (const Arithmetic arithmetic : {Arithmetic::fast, Arithmetic::reproducible}) {
                matches(*layer, in, oracle(T, F, H, sequences), arithmetic, 2e-5);
                cut_anywhere_gives_the_same_bits(*layer, in, arithmetic);
            }
        }
    }
}

// Gates driven to their ends: 1e3 times the weights saturates every sigmoid and tanh.
void saturated_gates_stay_finite_and_pass_nothing_back() {
    const auto layer = make_gru({1, 3, 2}, 5, true);
    Given in = given(*layer, 2);
    for (float& v : in.w) v *= 1e3F;
    const Slopes got = run(*layer, in, Arithmetic::reproducible);
    for (const float v : got.y) CHECK(std::fabs(v) <= 1.0F);
    for (const float v : got.dx) CHECK(std::isfinite(v));
    for (const float v : got.dw) CHECK(std::isfinite(v));
}

void not_a_number_stays_within_its_example() {
    const auto layer = make_gru({1, 4, 3}, 6, false);
    Given in = given(*layer, 3);
    const Slopes clean = run(*layer, in, Arithmetic::fast);
    in.x[4 * 3 + 1] = std::nanf("");
    const Slopes got = run(*layer, in, Arithmetic::fast);
    for (std::size_t o = 0; o < 6; ++o) {
        CHECK(got.y[o] == clean.y[o]);
        CHECK(std::isnan(got.y[6 + o]));
        CHECK(got.y[12 + o] == clean.y[12 + o]);
    }
}

void the_first_layer_needs_no_dx() {
    const auto layer = make_gru({1, 4, 3}, 6, false);
    const Given in = given(*layer, 3);
    const std::size_t P = layer->parameter_count();
    const Slopes want = run(*layer, in, Arithmetic::fast);
    std::vector<float> kept(layer->kept_size(3)), scratch(layer->scratch_size(3)), y(18), dw(P, 0.0F);
    const Pass pass{float_kernels(Arithmetic::fast), 3};
    layer->forward(y.data(), in.x.data(), in.w.data(), kept.data(), scratch.data(), pass);
    layer->backward(nullptr, in.dy.data(), in.x.data(), in.w.data(), kept.data(), scratch.data(), pass);
    layer->parameter_gradient(dw.data(), in.dy.data(), in.x.data(), kept.data(), scratch.data(), 0, 3, pass);
    CHECK(dw == want.dw);
}

void reproducible_bits_are_those_of_every_processor() {
    const auto layer = make_gru({1, 5, 3}, 19, true);
    has_fingerprint(run(*layer, given(*layer, 7), Arithmetic::reproducible), 0x4bc3cfad5179a633);
}

void absurd_shapes_are_refused() {
    CHECK(refused([] { make_gru({2, 3, 4}, 5, false); }));
    CHECK(refused([] { make_gru({1, 3, 4}, 0, false); }));
    CHECK(refused([] { make_gru({1, 3, 4}, std::size_t{1} << 21, false); }));
    const auto layer = make_gru({1, SIZE_MAX / 8, 4}, 1 << 20, false);
    CHECK(layer->kept_size(SIZE_MAX / 2) == SIZE_MAX);
    CHECK(layer->scratch_size(SIZE_MAX / 2) == SIZE_MAX);
}

}  // namespace

int main() {
    return check::run([] {
        matches_pytorchs_equations();
        saturated_gates_stay_finite_and_pass_nothing_back();
        not_a_number_stays_within_its_example();
        the_first_layer_needs_no_dx();
        reproducible_bits_are_those_of_every_processor();
        absurd_shapes_are_refused();
    });
}
