// Rows of a table, by number. What is no row's number is refused by first_bad_input before any training starts; the
// kernels clamp all the same, so that nothing is ever read or written beyond the table.
#include <cstdint>
#include <stdexcept>

#include "layers.hpp"

namespace fedge {
namespace {

constexpr std::size_t max_vocabulary = std::size_t{1} << 24;  // float32 has every whole number up to here

class Embedding final : public Layer {
  public:
    Embedding(Shape input, std::size_t vocabulary, std::size_t units)
        : Layer(input, Shape{1, input.width, units}), T(input.width), V(vocabulary), U(units) {
        // Rows of length 1, about.
        parameters_.push_back({"weight", {V, U}, std::sqrt(3.0 / static_cast<double>(U))});
    }

    const char* kind() const noexcept override { return "embedding"; }
    bool ghost() const noexcept override { return true; }
    std::size_t kept_size(std::size_t) const noexcept override { return T; }

    std::size_t first_bad_input(const float* x, std::size_t n) const noexcept override {
        for (std::size_t i = 0; i < n; ++i) {
            const bool within = x[i] >= 0.0F && x[i] < static_cast<float>(V);  // false for NaN
            if (!within || x[i] != std::trunc(x[i])) return i;
        }
        return n;
    }

    void forward(float* y, const float* x, const float* w, float*, float*, const Pass& pass) const noexcept override {
        for (std::size_t i = 0; i < pass.B * T; ++i) std::copy_n(w + row_of(x[i]) * U, U, y + i * U);
    }

    // Row numbers have no slope.
    void backward(float* dx, const float*, const float*, const float*, float*, float*,
                  const Pass& pass) const noexcept override {
        if (dx != nullptr) std::fill_n(dx, pass.B * T, 0.0F);
    }

    void parameter_gradient(float* dw, const float* dy, const float* x, const float*, float*, std::size_t first,
                            std::size_t count, const Pass&) const noexcept override {
        for (std::size_t i = first * T; i < (first + count) * T; ++i) {
            float* const row = dw + row_of(x[i]) * U;
            for (std::size_t u = 0; u < U; ++u) row[u] += dy[i * U + u];
        }
    }

    // A row of the gradient is a sum over the positions that name it. Sorting brings them together; the first takes the
    // sum and the others nothing.
    void example_norms(double* total, float* dy, const float* x, float* kept, Norm norm,
                       const Pass& pass) const noexcept override {
        auto* const order = reinterpret_cast<std::uint32_t*>(kept);
        for (std::size_t b = 0; b < pass.B; ++b) {
            const float* const ids = x + b * T;
            float* const slopes = dy + b * T * U;
            for (std::size_t t = 0; t < T; ++t) order[t] = static_cast<std::uint32_t>(t);
            std::sort(order, order + T, [this, ids](std::uint32_t s, std::uint32_t t) {
                const std::size_t row_s = row_of(ids[s]), row_t = row_of(ids[t]);
                return row_s != row_t ? row_s < row_t : s < t;
            });
            for (std::size_t t = 0; t < T;) {
                float* const sum = slopes + order[t] * U;
                const std::size_t row = row_of(ids[order[t]]);
                for (++t; t < T && row_of(ids[order[t]]) == row; ++t) {
                    float* const again = slopes + order[t] * U;
                    for (std::size_t u = 0; u < U; ++u) sum[u] += again[u], again[u] = 0.0F;
                }
                total[b] += measure(sum, U, norm, pass.kernels);
            }
        }
    }

  private:
    std::size_t row_of(float id) const noexcept {
        if (!(id > 0.0F)) return 0;  // NaN as well
        return std::min(static_cast<std::size_t>(std::min(id, static_cast<float>(V))), V - 1);
    }

    std::size_t T, V, U;
};

}  // namespace

std::unique_ptr<Layer> make_embedding(Shape input, std::size_t vocabulary, std::size_t units) {
    if (input.height != 1 || input.channels != 1) {
        throw std::invalid_argument("takes a sequence of whole numbers (steps, 1); got " + shape_words(input));
    }
    check_range("steps", input.width, 1, UINT32_MAX);
    check_range("vocabulary", vocabulary, 1, max_vocabulary);
    check_range("units", units, 1, max_units);
    return std::make_unique<Embedding>(input, vocabulary, units);
}

}  // namespace fedge
