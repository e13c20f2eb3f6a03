// Activations: in place, and their backward needs nothing but what forward left in y.
#include "layers.hpp"

namespace fedge {
namespace {

using Forward = void (*FloatKernels::*)(float*, std::size_t) noexcept;
using Backward = void (*FloatKernels::*)(float*, const float*, std::size_t) noexcept;

class Activation final : public Layer {
  public:
    Activation(Shape shape, const char* kind, Forward apply, Backward slope)
        : Layer(shape, shape), kind_(kind), apply_(apply), slope_(slope) {}

    const char* kind() const noexcept override { return kind_; }
    bool in_place() const noexcept override { return true; }

    void forward(float* y, const float*, const float*, float*, float*, const Pass& pass) const noexcept override {
        (pass.kernels.*apply_)(y, pass.B * output_.size());
    }

    void backward(float* dx, const float*, const float* y, const float*, float*, float*,
                  const Pass& pass) const noexcept override {
        if (dx != nullptr) (pass.kernels.*slope_)(dx, y, pass.B * output_.size());
    }

  private:
    const char* kind_;
    Forward apply_;
    Backward slope_;
};

}  // namespace

std::unique_ptr<Layer> make_relu(Shape input) {
    return std::make_unique<Activation>(input, "relu", &FloatKernels::relu, &FloatKernels::relu_slope);
}

std::unique_ptr<Layer> make_tanh(Shape input) {
    return std::make_unique<Activation>(input, "tanh", &FloatKernels::tanh, &FloatKernels::tanh_slope);
}

std::unique_ptr<Layer> make_sigmoid(Shape input) {
    return std::make_unique<Activation>(input, "sigmoid", &FloatKernels::sigmoid, &FloatKernels::sigmoid_slope);
}

std::unique_ptr<Layer> make_softplus(Shape input) {
    return std::make_unique<Activation>(input, "softplus", &FloatKernels::softplus, &FloatKernels::softplus_slope);
}

}  // namespace fedge
