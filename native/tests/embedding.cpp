#include <cmath>
#include <limits>

#include "layer_oracle.hpp"

using namespace fedge;
using namespace layer_oracle;

namespace {

// The product with a row of zeros and a one.
Forward oracle(std::size_t T, std::size_t V, std::size_t U) {
    return [=](const std::vector<double>& w, const std::vector<double>& x) {
        std::vector<double> y(T * U, 0.0);
        for (std::size_t t = 0; t < T; ++t) {
            for (std::size_t v = 0; v < V; ++v) {
                for (std::size_t u = 0; u < U; ++u) y[t * U + u] += (x[t] == static_cast<double>(v)) * w[v * U + u];
            }
        }
        return y;
    };
}

// Numbers in [0, V), most of them several times in one example.
Given with_ids(const Layer& layer, std::size_t V, std::size_t B) {
    Given in = given(layer, B);
    for (float& v : in.x) v = std::floor((v * 0.5F + 0.5F) * static_cast<float>(V));
    return in;
}

void matches_the_one_hot_product_and_its_norms() {
    struct Case {
        std::size_t T, V, U, B;
    };
    for (const auto& [T, V, U, B] : {Case{1, 1, 1, 2}, Case{6, 3, 5, 4}, Case{9, 20, 3, 3}, Case{5, 2, 130, 2}}) {
        const auto layer = make_embedding({1, T, 1}, V, U);
        CHECK(layer->output() == (Shape{1, T, U}));
        const Given in = with_ids(*layer, V, B);
        CHECK(layer->first_bad_input(in.x.data(), in.x.size()) == in.x.size());
        for (const Arithmetic arithmetic : {Arithmetic::fast, Arithmetic::reproducible}) {
            matches(*layer, in, oracle(T, V, U), arithmetic, 1e-5, false);
            cut_anywhere_gives_the_same_bits(*layer, in, arithmetic);
        }
    }
}

// One number at two positions whose slopes cancel: the gradient is zero, the sum of the rows' own norms is not.
void repeated_numbers_are_summed_before_the_norm() {
    const auto layer = make_embedding({1, 2, 1}, 4, 3);
    const Given in{numbers(12, 1), {2.0F, 2.0F}, {1.0F, -2.0F, 3.0F, -1.0F, 2.0F, -3.0F}, 1};
    const Slopes got = run(*layer, in, Arithmetic::fast);
    CHECK(got.norms[0][0] == 0.0 && got.norms[1][0] == 0.0);
    for (const float v : got.dw) CHECK(v == 0.0F);
}

void what_is_no_row_is_found_and_touches_nothing() {
    const auto layer = make_embedding({1, 1, 1}, 5, 2);
    const float infinity = std::numeric_limits<float>::infinity();
    for (const float bad : {-1.0F, -0.5F, 0.5F, 4.5F, 5.0F, 3e9F, 1e30F, infinity, -infinity, std::nanf("")}) {
        const float x[] = {4.0F, 0.0F, bad, 7.0F};
        CHECK(layer->first_bad_input(x, 4) == 2);
        // The second wall: the sanitizers see whether any of it leaves the table.
        const Given in{numbers(10, 1), {bad}, {1.0F, 1.0F}, 1};
        const Slopes got = run(*layer, in, Arithmetic::fast);
        bool some_row = false;
        for (std::size_t row = 0; row < 5; ++row)
            some_row |= got.y[0] == in.w[2 * row] && got.y[1] == in.w[2 * row + 1];
        CHECK(some_row);
        CHECK(got.norms[0][0] == 2.0 && got.norms[1][0] == 2.0);
    }
    const float fine[] = {0.0F, -0.0F, 4.0F};
    CHECK(layer->first_bad_input(fine, 3) == 3);
}

void reproducible_bits_are_those_of_every_processor() {
    const auto layer = make_embedding({1, 11, 1}, 7, 21);
    has_fingerprint(run(*layer, with_ids(*layer, 7, 5), Arithmetic::reproducible), 0xef3d6e9ca57dfa90);
}

void absurd_shapes_are_refused() {
    CHECK(refused([] { make_embedding({2, 3, 1}, 5, 2); }));
    CHECK(refused([] { make_embedding({1, 3, 2}, 5, 2); }));
    CHECK(refused([] { make_embedding({1, 3, 1}, 0, 2); }));
    CHECK(refused([] { make_embedding({1, 3, 1}, 5, 0); }));
    CHECK(refused([] { make_embedding({1, 3, 1}, (std::size_t{1} << 24) + 1, 2); }));
    CHECK(!refused([] { make_embedding({1, 3, 1}, std::size_t{1} << 24, 2); }));
}

}  // namespace

int main() {
    return check::run([] {
        matches_the_one_hot_product_and_its_norms();
        repeated_numbers_are_summed_before_the_norm();
        what_is_no_row_is_found_and_touches_nothing();
        reproducible_bits_are_those_of_every_processor();
        absurd_shapes_are_refused();
    });
}
