// Until each has its own file.
#include <cmath>
#include <stdexcept>
#include "fedge/layer.hpp"
#include "fedge/loss.hpp"
#include "fedge/optimizer.hpp"
#include "kernels.hpp"
namespace fedge {
namespace {
template <float (*f)(float), float (*d)(float)>
class Act final : public Layer {
  public:
    explicit Act(Shape s, const char* k) : Layer(s, s), k_(k) {}
    const char* kind() const noexcept override { return k_; }
    bool in_place() const noexcept override { return true; }
    void forward(float* y, const float*, const float*, float*, float*, const Pass& p) const noexcept override {
        for (std::size_t i = 0; i < p.B * input_.size(); ++i) y[i] = f(y[i]);
    }
    void backward(float* dx, const float*, const float* y, const float*, float*, float*, const Pass& p) const noexcept override {
        for (std::size_t i = 0; i < p.B * input_.size(); ++i) dx[i] *= d(y[i]);
    }
    const char* k_;
};
float relu(float v) { return v < 0 ? 0 : v; }
float drelu(float y) { return y > 0 ? 1 : 0; }
float tanh_(float v) { return std::tanh(v); }
float dtanh(float y) { return 1 - y * y; }
}
std::unique_ptr<Layer> make_relu(Shape s) { return std::make_unique<Act<relu, drelu>>(s, "relu"); }
std::unique_ptr<Layer> make_tanh(Shape s) { return std::make_unique<Act<tanh_, dtanh>>(s, "tanh"); }
std::unique_ptr<Layer> make_sigmoid(Shape s) { return make_tanh(s); }
std::unique_ptr<Layer> make_softplus(Shape s) { return make_tanh(s); }
std::unique_ptr<Layer> make_conv(Shape, std::size_t, Window, bool) { throw std::invalid_argument("is not there yet"); }
std::unique_ptr<Layer> make_depthwise_conv(Shape, Window, bool) { throw std::invalid_argument("is not there yet"); }
std::unique_ptr<Layer> make_max_pool(Shape, Window) { throw std::invalid_argument("is not there yet"); }
std::unique_ptr<Layer> make_average_pool(Shape, Window) { throw std::invalid_argument("is not there yet"); }
double loss_and_slope(float* dlogits, const float* logits, Targets t, float scale, std::size_t B, std::size_t O, const Loss& l, const FloatKernels&) noexcept {
    if (!l.labelled()) {
        double sum = 0; float slope = 2 * scale / (float)O;
        for (std::size_t i = 0; i < B * O; ++i) { float e = logits[i] - t.values[i]; sum += (double)e * e; if (dlogits) dlogits[i] = slope * e; }
        return sum / (double)O;
    }
    double loss = 0.0;
    for (std::size_t b = 0; b < B; ++b) {
        const float* z = logits + b * O;
        const auto label = static_cast<std::size_t>(t.labels[b]);
        float top = z[0];
        for (std::size_t o = 1; o < O; ++o) top = z[o] > top ? z[o] : top;
        float sum = 0.0;
        for (std::size_t o = 0; o < O; ++o) { const float e = std::exp(z[o] - top); if (dlogits) dlogits[b * O + o] = e; sum += e; }
        loss += std::log((double)sum) - ((double)z[label] - (double)top);
        if (!dlogits) continue;
        for (std::size_t o = 0; o < O; ++o) dlogits[b * O + o] *= scale / sum;
        dlogits[b * O + label] -= scale;
    }
    return loss;
}
std::size_t optimizer_buffers(const Optimizer& o) noexcept { return o.momentum != 0 ? 1 : 0; }
void optimizer_step(float* w, float* g, float* v, std::size_t, std::size_t P, std::uint64_t, float lr, const Optimizer& o, const LocalObjective& objective, const FloatKernels&) noexcept {
    if (objective.proximal != 0.0F) for (std::size_t i = 0; i < P; ++i) g[i] += objective.proximal * (w[i] - objective.anchor[i]);
    if (objective.correction != nullptr) for (std::size_t i = 0; i < P; ++i) g[i] += objective.correction[i];
    if (o.momentum != 0) for (std::size_t i = 0; i < P; ++i) { v[i] = o.momentum * v[i] + g[i]; w[i] -= lr * v[i]; }
    else for (std::size_t i = 0; i < P; ++i) w[i] -= lr * g[i];
}
}
