// A layer: its shapes, its parameters and what it computes. Immutable and without numbers, so threads and devices share
// it; parameters, workspace and what is kept from forward to backward come from the caller.
//
// Examples are rows-first and channels-last: (B, height, width, channels) float32, a sequence has height 1 and a vector
// height and width 1. Forward overwrites, backward accumulates unless it says otherwise. No aliasing, except that a
// layer that works in place gets y == x and dx == dy.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace fedge {

struct FloatKernels;

struct Shape {
    std::size_t height = 1, width = 1, channels = 1;

    std::size_t size() const noexcept { return height * width * channels; }
    bool operator==(const Shape&) const = default;
};

// One block of a layer's parameters, in the order in which the flat buffer holds them.
struct Parameter {
    std::string name;               // "weight", "bias", as PyTorch calls it
    std::vector<std::size_t> shape;  // row-major, the last dimension that of the layer's outputs
    double glorot_bound = 0.0;       // fresh values are uniform within +- this, or, where it is 0, ...
    float fresh = 0.0F;              // ... this

    std::size_t size() const noexcept;
};

enum class Norm : std::uint8_t { l1, l2 };

// What a pass over a batch has besides its numbers.
struct Pass {
    const FloatKernels& kernels;
    std::size_t B;
    // Dropout acts where this is given: 32 bytes that make its masks, which step of the training this is, and which row
    // of its batch the first one here.
    const std::uint8_t* dropout_key = nullptr;
    std::uint64_t step = 0;
    std::size_t first = 0;
};

class Layer {
  public:
    virtual ~Layer() = default;
    Layer(const Layer&) = delete;
    Layer& operator=(const Layer&) = delete;

    const Shape& input() const noexcept { return input_; }
    const Shape& output() const noexcept { return output_; }
    const std::vector<Parameter>& parameters() const noexcept { return parameters_; }
    std::size_t parameter_count() const noexcept;

    // "conv1d: (187, 1) -> (183, 32)": for messages.
    virtual const char* kind() const noexcept = 0;

    // True: y and x are one buffer, and backward is told y alone. Such a layer has no parameters.
    virtual bool in_place() const noexcept { return false; }
    // False for a layer that only names the same values otherwise.
    virtual bool changes_values() const noexcept { return true; }

    // The position of the first of x (n) that this layer cannot take as an input, or n.
    virtual std::size_t first_bad_input(const float*, std::size_t n) const noexcept { return n; }

    // Floats that forward leaves in `kept` for the backward calls on the same batch, and floats of scratch memory that
    // any one call may use. Sizes beyond memory saturate (workspace.hpp).
    virtual std::size_t kept_size(std::size_t) const noexcept { return 0; }
    virtual std::size_t scratch_size(std::size_t) const noexcept { return 0; }

    // y (B, output) from x (B, input) and parameters w. Overwrites y and kept.
    virtual void forward(float* y, const float* x, const float* w, float* kept, float* scratch,
                         const Pass& pass) const noexcept = 0;

    // dx (B, input) from dy (B, output). OVERWRITES dx; dx may be null where nobody below needs it, and then only what
    // parameter_gradient needs is done. x is forward's x, for a layer in place forward's y. May use and change kept.
    virtual void backward(float* dx, const float* dy, const float* x, const float* w, float* kept, float* scratch,
                          const Pass& pass) const noexcept = 0;

    // dw += the gradient of examples first .. first + count - 1, the examples in order, each sum term by term in the
    // order of positions; a convolution's bias as FloatKernels::add_rows adds. Called after backward with the same dy,
    // x, kept (pointers to the whole batch).
    virtual void parameter_gradient(float*, const float*, const float*, const float*, float*, std::size_t,
                                    std::size_t, const Pass&) const noexcept {}

    // Layers whose per-example gradient norms follow from x and dy without the gradients themselves ("ghost norms",
    // Goodfellow 2015), and whose parameter_gradient is linear in dy: scaling row b of dy scales what example b adds.
    virtual bool ghost() const noexcept { return false; }

    // For ghost layers: total (B) += each example's sum of squares (l2) or of magnitudes (l1) of its gradient, in
    // double, exact for the float32 x and dy up to double rounding. May rewrite dy so that parameter_gradient adds the
    // same in one term an example and parameter: the norm is then that of what is added, and not of its parts.
    virtual void example_norms(double*, float*, const float*, float*, Norm, const Pass&) const noexcept {}

  protected:
    Layer(Shape input, Shape output) : input_(input), output_(output) {}

    Shape input_, output_;
    std::vector<Parameter> parameters_;
};

// The makers, each in src/layers/. Every one throws std::invalid_argument, naming value and bound, where the shapes
// cannot work.

struct Window {  // of a convolution or a pool, over height and width; a sequence has height 1
    std::array<std::size_t, 2> size{1, 1}, stride{1, 1}, padding{0, 0};
};

std::unique_ptr<Layer> make_dense(Shape input, std::size_t units, bool bias);
std::unique_ptr<Layer> make_conv(Shape input, std::size_t filters, Window window, bool bias);
std::unique_ptr<Layer> make_depthwise_conv(Shape input, Window window, bool bias);
std::unique_ptr<Layer> make_max_pool(Shape input, Window window);
std::unique_ptr<Layer> make_average_pool(Shape input, Window window);
// Statistics over all positions and the channels of a group (Wu & He 2018); scale and shift of each channel.
std::unique_ptr<Layer> make_group_norm(Shape input, std::size_t groups, double epsilon);
// Statistics over the channels of each position (Ba et al. 2016); scale and shift of each channel.
std::unique_ptr<Layer> make_layer_norm(Shape input, double epsilon);
// Gated recurrent unit with the reset gate after the product (Cho et al. 2014 as in PyTorch and cuDNN), over width
// steps of channels; gives the last state, or all of them.
std::unique_ptr<Layer> make_gru(Shape input, std::size_t units, bool sequences);
// (T, 1) whole numbers as floats, each in [0, vocabulary), to (T, units).
std::unique_ptr<Layer> make_embedding(Shape input, std::size_t vocabulary, std::size_t units);
std::unique_ptr<Layer> make_flatten(Shape input);
// Inverted dropout (Srivastava et al. 2014); `number` tells the layers of one network apart.
std::unique_ptr<Layer> make_dropout(Shape input, double rate, std::size_t number);
std::unique_ptr<Layer> make_relu(Shape input);
std::unique_ptr<Layer> make_tanh(Shape input);
std::unique_ptr<Layer> make_sigmoid(Shape input);
std::unique_ptr<Layer> make_softplus(Shape input);

}  // namespace fedge
