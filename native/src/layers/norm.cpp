// Normalization without a batch: every example by itself, so per-example gradients stay what they claim to be. Each
// position of a layer norm is an example of one position and one group to the kernels.
#include <stdexcept>

#include "layers.hpp"

namespace fedge {
namespace {

class Normalization final : public Layer {
  public:
    Normalization(const char* kind, Shape shape, std::size_t rows, std::size_t groups, double epsilon)
        : Layer(shape, shape),
          kind_(kind),
          rows_(rows),
          P(shape.height * shape.width / rows),
          G(groups),
          C(shape.channels),
          epsilon_(static_cast<float>(epsilon)) {
        parameters_.push_back({.name = "weight", .shape = {C}, .fresh = 1.0F});
        parameters_.push_back({.name = "bias", .shape = {C}});
    }

    const char* kind() const noexcept override { return kind_; }
    std::size_t kept_size(std::size_t B) const noexcept override { return saturating_product(2 * rows_ * G, B); }
    std::size_t scratch_size(std::size_t) const noexcept override { return 2 * G; }

    void forward(float* y, const float* x, const float* w, float* kept, float*,
                 const Pass& pass) const noexcept override {
        const Statistics at = statistics(kept, pass.B);
        pass.kernels.norm_moments(at.mean, at.inverse, x, shape(pass.B));
        for (std::size_t i = 0; i < pass.B * rows_ * G; ++i) at.inverse[i] = 1.0F / std::sqrt(at.inverse[i] + epsilon_);
        pass.kernels.norm_apply(y, x, at.mean, at.inverse, w, shape(pass.B));
    }

    void backward(float* dx, const float* dy, const float* x, const float* w, float* kept, float* scratch,
                  const Pass& pass) const noexcept override {
        if (dx == nullptr) return;
        const Statistics at = statistics(kept, pass.B);
        pass.kernels.norm_slopes(dx, dy, x, at.mean, at.inverse, w, scratch, shape(pass.B));
    }

    void parameter_gradient(float* dw, const float* dy, const float* x, const float* kept, float*, std::size_t first,
                            std::size_t count, const Pass& pass) const noexcept override {
        const std::size_t from = first * rows_ * G, at = first * input_.size();
        pass.kernels.norm_gradient(dw, dy + at, x + at, kept + from, kept + pass.B * rows_ * G + from, shape(count));
    }

  private:
    struct Statistics {  // (B rows, G) each
        float *mean, *inverse;
    };

    Statistics statistics(float* kept, std::size_t B) const noexcept { return {kept, kept + B * rows_ * G}; }
    NormShape shape(std::size_t B) const noexcept { return {B * rows_, P, G, C / G}; }

    const char* kind_;
    std::size_t rows_;  // of each example, normalized one by one
    std::size_t P, G, C;
    float epsilon_;
};

void check_epsilon(double epsilon) {
    if (!(epsilon >= 1e-12 && epsilon <= 1.0)) {
        throw std::invalid_argument("want epsilon in [1e-12, 1]; got " + std::to_string(epsilon));
    }
}

}  // namespace

std::unique_ptr<Layer> make_group_norm(Shape input, std::size_t groups, double epsilon) {
    check_range("groups", groups, 1, input.channels);
    if (input.channels % groups != 0) {
        throw std::invalid_argument("want channels in equal groups; got " + std::to_string(input.channels) +
                                    " channels in " + std::to_string(groups) + " groups");
    }
    if (input.size() == groups) {
        throw std::invalid_argument("takes more than one value a group, or every output is the bias; got " +
                                    shape_words(input) + " in " + std::to_string(groups) + " groups");
    }
    check_epsilon(epsilon);
    return std::make_unique<Normalization>("group_norm", input, 1, groups, epsilon);
}

std::unique_ptr<Layer> make_layer_norm(Shape input, double epsilon) {
    if (input.channels == 1) {
        throw std::invalid_argument("takes more than one channel, or every output is the bias; got " +
                                    shape_words(input));
    }
    check_epsilon(epsilon);
    return std::make_unique<Normalization>("layer_norm", input, input.height * input.width, 1, epsilon);
}

}  // namespace fedge
