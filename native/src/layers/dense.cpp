// y = x @ w + b. The weight is stored (I, O), input-major: every product then reads and writes rows of outputs.
#include <cmath>
#include <stdexcept>

#include "../kernels.hpp"
#include "fedge/clip.hpp"
#include "fedge/layer.hpp"
#include "layers.hpp"

namespace fedge {
namespace {

class Dense final : public Layer {
  public:
    Dense(Shape input, std::size_t units, bool bias)
        : Layer(input, Shape{1, 1, units}), I(input.channels), O(units), bias_(bias) {
        parameters_.push_back({"weight", {I, O}, glorot_bound(I, O)});
        if (bias) parameters_.push_back({"bias", {O}});
    }

    const char* kind() const noexcept override { return "dense"; }
    bool ghost() const noexcept override { return true; }
    std::size_t scratch_size(std::size_t) const noexcept override { return saturating_product(I, O); }

    void forward(float* y, const float* x, const float* w, float*, float*, const Pass& pass) const noexcept override {
        const std::size_t B = pass.B;
        const float* start = w + I * O;
        if (!bias_) std::fill_n(y, B * O, 0.0F), start = nullptr;
        pass.kernels.multiply(y, x, w, start, {B, O, 1, I, B, 0, I, 0, 1, O, O});
    }

    void backward(float* dx, const float* dy, const float*, const float* w, float*, float* scratch,
                  const Pass& pass) const noexcept override {
        if (dx == nullptr) return;
        const std::size_t B = pass.B;
        transpose(scratch, w, I, O);
        std::fill_n(dx, B * I, 0.0F);
        pass.kernels.multiply(dx, dy, scratch, nullptr, {B, I, 1, O, B, 0, O, 0, 1, I, I});
    }

    void parameter_gradient(float* dw, const float* dy, const float* x, const float*, float*, std::size_t first,
                            std::size_t count, const Pass& pass) const noexcept override {
        const float* const rows = dy + first * O;
        pass.kernels.multiply(dw, x + first * I, rows, nullptr, {I, O, 1, count, I, 0, 1, 0, I, O, O});
        if (bias_) sum_rows(dw + I * O, rows, count, O, pass.kernels);
    }

    // The gradient is the outer product of x and dy, so its norm is the product of theirs, in l1 as in l2.
    void example_norms(double* total, float* dy, const float* x, float*, Norm norm,
                       const Pass& pass) const noexcept override {
        const double one = bias_ ? 1.0 : 0.0;
        for (std::size_t b = 0; b < pass.B; ++b) {
            total[b] += (measure(x + b * I, I, norm, pass.kernels) + one) * measure(dy + b * O, O, norm, pass.kernels);
        }
    }

  private:
    std::size_t I, O;
    bool bias_;
};

}  // namespace

std::unique_ptr<Layer> make_dense(Shape input, std::size_t units, bool bias) {
    if (input.height != 1 || input.width != 1) {
        throw std::invalid_argument("takes a vector; got " + shape_words(input) + ": put a flatten layer before it");
    }
    check_range("units", units, 1, max_units);
    return std::make_unique<Dense>(input, units, bias);
}

}  // namespace fedge
