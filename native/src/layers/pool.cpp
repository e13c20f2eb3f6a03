// Pools: every channel by itself. What is padded is not there for a maximum, and counts as 0 for an average, as in
// PyTorch.
#include <algorithm>

#include "layers.hpp"
#include "window.hpp"

namespace fedge {
namespace {

constexpr auto half = [](std::size_t size) { return size / 2; };

class Pool : public Layer {
  protected:
    Pool(Shape input, const Window& window)
        : Layer(input, windows_in(input, window, input.channels, half)), shape(windows(input, output_, window)) {}

    const Windows shape;
};

// Keeps which position of its window each maximum came from.
class MaxPool final : public Pool {
  public:
    MaxPool(Shape input, const Window& window) : Pool(input, window) {
        check_range("positions of a window", window.size[0] * window.size[1], 1, most_exact);
    }

    const char* kind() const noexcept override { return "max_pool"; }
    std::size_t kept_size(std::size_t B) const noexcept override { return saturating_product(B, output_.size()); }

    void forward(float* y, const float* x, const float*, float* kept, float*,
                 const Pass& pass) const noexcept override {
        const std::size_t outputs = output_.size();
        for (std::size_t b = 0; b < pass.B; ++b) {
            pass.kernels.max_pool(y + b * outputs, kept + b * outputs, x + b * input_.size(), shape);
        }
    }

    void backward(float* dx, const float* dy, const float*, const float*, float* kept, float*,
                  const Pass& pass) const noexcept override {
        if (dx == nullptr) return;
        const std::size_t outputs = output_.size();
        for (std::size_t b = 0; b < pass.B; ++b) {
            pass.kernels.max_pool_back(dx + b * input_.size(), dy + b * outputs, kept + b * outputs, shape);
        }
    }

  private:
    static constexpr std::size_t most_exact = std::size_t{1} << 24;  // positions are kept as floats
};

class AveragePool final : public Pool {
  public:
    AveragePool(Shape input, const Window& window) : Pool(input, window) {}

    const char* kind() const noexcept override { return "average_pool"; }

    void forward(float* y, const float* x, const float*, float*, float*, const Pass& pass) const noexcept override {
        for (std::size_t b = 0; b < pass.B; ++b) {
            pass.kernels.average_pool(y + b * output_.size(), x + b * input_.size(), shape);
        }
    }

    void backward(float* dx, const float* dy, const float*, const float*, float*, float*,
                  const Pass& pass) const noexcept override {
        if (dx == nullptr) return;
        for (std::size_t b = 0; b < pass.B; ++b) {
            pass.kernels.average_pool_back(dx + b * input_.size(), dy + b * output_.size(), shape);
        }
    }
};

}  // namespace

std::unique_ptr<Layer> make_max_pool(Shape input, Window window) { return std::make_unique<MaxPool>(input, window); }

std::unique_ptr<Layer> make_average_pool(Shape input, Window window) {
    return std::make_unique<AveragePool>(input, window);
}

}  // namespace fedge
