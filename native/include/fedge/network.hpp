// Layers in a row over ONE flat float32 parameter buffer, and a loss at the end. Immutable; parameters and workspace
// come from the caller.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "fedge/arithmetic.hpp"
#include "fedge/layer.hpp"
#include "fedge/loss.hpp"

namespace fedge {

struct PlacedLayer {
    std::unique_ptr<const Layer> layer;
    bool frozen = false;     // its parameters are read and never trained
    std::size_t offset = 0;  // of its parameters in the flat buffer, in floats
};

// A stretch of the flat buffer.
struct Stretch {
    std::size_t offset, count;
};

class Network {
  public:
    static constexpr std::size_t max_parameters = std::size_t{1} << 28;

    // Every layer's input is the output of the one before. Throws std::invalid_argument, naming value and bound.
    Network(std::vector<PlacedLayer> layers, Loss loss);

    const std::vector<PlacedLayer>& layers() const noexcept { return layers_; }
    const Loss& loss() const noexcept { return loss_; }
    const Shape& input() const noexcept { return layers_.front().layer->input(); }
    std::size_t inputs() const noexcept { return input().size(); }
    std::size_t outputs() const noexcept { return layers_.back().layer->output().size(); }
    std::size_t parameter_count() const noexcept { return parameters_; }

    // What is not frozen, in order and joined where it touches.
    std::span<const Stretch> trained() const noexcept { return trained_; }
    std::size_t trained_count() const noexcept;
    // The lowest layer with parameters that are trained, or the number of layers: nothing is passed back below it.
    std::size_t lowest_trained() const noexcept { return lowest_trained_; }
    bool trains(std::size_t l) const noexcept {
        return !layers_[l].frozen && layers_[l].layer->parameter_count() != 0;
    }

    // True where layer l has an output buffer of its own; else it works in its input's.
    bool own_output(std::size_t l) const noexcept;

    // The position of the first of x (B, inputs) that no layer could take, such as a fraction for an embedding; or
    // B * inputs.
    std::size_t first_bad_input(const float* x, std::size_t B) const noexcept;

  private:
    std::vector<PlacedLayer> layers_;
    std::vector<Stretch> trained_;
    std::size_t parameters_ = 0, lowest_trained_ = 0;
    Loss loss_;
};

// How a pass computes, and whether dropout acts: see Pass in layer.hpp.
struct Mode {
    Arithmetic arithmetic = Arithmetic::fast;
    const std::uint8_t* dropout_key = nullptr;
    std::uint64_t step = 0;
};

// Rows of a batch of B handed through the network at a time, in pieces of about one size: as many as keep what passes
// between the layers in the second-level cache, but enough to be worth turning the weights. Cutting changes no bits.
std::size_t rows_at_once(const Network& net, std::size_t B) noexcept;

// Bytes that the functions below need for B rows at a time, or Arena::too_large.
std::size_t predict_workspace_size(const Network& net, std::size_t B) noexcept;
std::size_t gradient_workspace_size(const Network& net, std::size_t B) noexcept;

// y (B, O) = the last layer's output for x (B, I). Overwrites y.
void network_predict(float* y, const Network& net, const float* params, const float* x, std::size_t B, Mode mode,
                     std::byte* workspace) noexcept;

// Sum over B of the loss; divide by the number of rows for the mean.
double network_loss(const Network& net, const float* params, const float* x, Targets targets, std::size_t B, Mode mode,
                    std::byte* workspace) noexcept;

// grad (P) += scale * gradient of the sum over B of the loss, where it is not frozen. Returns that sum. `first` is the
// number of the first row within its batch, for dropout.
double network_gradient(float* grad, const Network& net, const float* params, const float* x, Targets targets,
                        float scale, std::size_t B, std::size_t first, Mode mode, std::byte* workspace) noexcept;

// Per-example clipping: every example's gradient is scaled by min(1, bound / norm) before it is added.
//
// Layers whose gradient is an outer product give the norm without the gradient (Goodfellow 2015), and then add their
// scaled rows in one product (Bu et al. 2023); the others' gradients are made one by one, B of them at a time.
struct Clipping {
    Norm norm = Norm::l2;
    // One bound for the whole gradient, or one for each layer that trains, from the lowest up.
    std::span<const double> bounds;
    // What every clipped gradient is multiplied with besides, such as one over the batch.
    float share = 1.0F;
};

struct Clipped {
    double loss = 0.0;        // sum over B
    std::size_t within = 0;   // examples whose norm was within the bound, in every layer
    std::size_t refused = 0;  // examples whose gradient held NaN or an infinity: they add nothing
};

std::size_t clipped_workspace_size(const Network& net, std::size_t B) noexcept;

// grad (P) += sum over B of the clipped gradients. norms (bounds.size(), B), or null, receives the norms before, by
// bound and then by row; not finite where refused. In exact arithmetic each example adds at most its bound; float32
// sums of B terms then err by at most B^2 2^-24 bound in all.
Clipped network_clipped_gradient(float* grad, double* norms, const Network& net, const float* params, const float* x,
                                 Targets targets, const Clipping& clipping, std::size_t B, std::size_t first, Mode mode,
                                 std::byte* workspace) noexcept;

}  // namespace fedge
