// A dense network as a plan over ONE flat float32 parameter buffer: for each layer W (O, I) row-major, then b (O).
// The plan is immutable and holds no numbers, so threads and devices share it; parameters and workspace come from the
// caller.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace fedge {

enum class Activation : std::uint8_t { identity, relu, tanh };
enum class Loss : std::uint8_t { softmax_cross_entropy, mse };

struct DenseLayer {
    std::size_t inputs, outputs;
    Activation activation;
    std::size_t weight_offset, bias_offset;  // in floats
};

// What the loss compares with: `labels` (B) for softmax_cross_entropy, `values` (B, O) for mse; the other is null.
struct Targets {
    const std::int32_t* labels = nullptr;
    const float* values = nullptr;
};

class Network {
  public:
    static constexpr std::size_t max_parameters = std::size_t{1} << 28;

    // widths [I, H1, ..., O], one activation for each step between them. Throws std::invalid_argument, naming value and
    // bound.
    Network(std::span<const std::int64_t> widths, std::span<const Activation> activations, Loss loss);

    const std::vector<DenseLayer>& layers() const noexcept { return layers_; }
    std::size_t inputs() const noexcept { return layers_.front().inputs; }
    std::size_t outputs() const noexcept { return layers_.back().outputs; }
    std::size_t parameter_count() const noexcept { return parameters_; }
    std::size_t widest() const noexcept { return widest_; }
    Loss loss() const noexcept { return loss_; }

  private:
    std::vector<DenseLayer> layers_;
    std::size_t parameters_ = 0;
    std::size_t widest_ = 0;  // of the layers' outputs
    Loss loss_;
};

// Rows handed to the network at a time where the caller gives any number of them. Cutting a batch changes no bits.
inline constexpr std::size_t rows_at_once = 256;

// Bytes that the three functions below need for a batch of B, or Arena::too_large.
std::size_t network_workspace_size(const Network& net, std::size_t B) noexcept;

// y (B, O) = the last layer's output for x (B, I). Overwrites y.
void network_predict(float* y, const Network& net, const float* params, const float* x, std::size_t B,
                     std::byte* workspace) noexcept;

// Sum over B of the loss; divide by the number of rows for the mean.
double network_loss(const Network& net, const float* params, const float* x, Targets targets, std::size_t B,
                    std::byte* workspace) noexcept;

// grad (P) += scale * gradient of the sum over B of the loss. Returns that sum.
double network_gradient(float* grad, const Network& net, const float* params, const float* x, Targets targets,
                        float scale, std::size_t B, std::byte* workspace) noexcept;

}  // namespace fedge
