// Until each has its own file.
#include <cmath>
#include <stdexcept>
#include "fedge/layer.hpp"
#include "fedge/loss.hpp"
#include "fedge/optimizer.hpp"
#include "kernels.hpp"
namespace fedge {
namespace {
class Flat final : public Layer {
  public:
    explicit Flat(Shape s) : Layer(s, Shape{1, 1, s.size()}) {}
    const char* kind() const noexcept override { return "flatten"; }
    bool in_place() const noexcept override { return true; }
    bool changes_values() const noexcept override { return false; }
    void forward(float*, const float*, const float*, float*, float*, const Pass&) const noexcept override {}
    void backward(float*, const float*, const float*, const float*, float*, float*, const Pass&) const noexcept override {}
};
}
std::unique_ptr<Layer> make_flatten(Shape s) { return std::make_unique<Flat>(s); }
std::unique_ptr<Layer> make_group_norm(Shape, std::size_t, double) { throw std::invalid_argument("is not there yet"); }
std::unique_ptr<Layer> make_layer_norm(Shape, double) { throw std::invalid_argument("is not there yet"); }
std::unique_ptr<Layer> make_embedding(Shape, std::size_t, std::size_t) { throw std::invalid_argument("is not there yet"); }
std::unique_ptr<Layer> make_dropout(Shape, double, std::size_t) { throw std::invalid_argument("is not there yet"); }
}
