// A gated recurrent unit in PyTorch's form, the reset gate after the product:
//
//   r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)          q = W_hn h + b_hn
//   z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)          n = tanh(W_in x + b_in + r q)
//   h' = (1 - z) n + z h,  h = 0 before the first step
//
// Everything lies by example and then by step, one row (n, r, z, q, h) of 5 H floats each, forward's values and then,
// in their place, backward's slopes: so the sums over an example's steps, or over those of the whole batch, are one
// product of evenly spaced rows, and the recurrence reads and writes a step of all examples through strides. With r, z
// and q side by side, the product with h is one as well.
#include <stdexcept>

#include "layers.hpp"

namespace fedge {
namespace {

class Gru final : public Layer {
  public:
    Gru(Shape input, std::size_t units, bool sequences)
        : Layer(input, Shape{1, sequences ? input.width : 1, units}),
          T(input.width),
          F(input.channels),
          H(units),
          sequences_(sequences) {
        parameters_.push_back({"weight_ih", {F, 3 * H}, glorot_bound(F, H)});
        parameters_.push_back({"weight_hh", {H, 3 * H}, glorot_bound(H, H)});
        parameters_.push_back({"bias_ih", {3 * H}});
        parameters_.push_back({"bias_hh", {3 * H}});
    }

    const char* kind() const noexcept override { return "gru"; }
    std::size_t kept_size(std::size_t B) const noexcept override {
        return saturating_product(B, saturating_product(T, row()));
    }
    std::size_t scratch_size(std::size_t B) const noexcept override {
        Arena arena(nullptr);
        carve(arena, B);
        return arena.used() == Arena::too_large ? SIZE_MAX : arena.used() / sizeof(float);
    }

    void forward(float* y, const float* x, const float* w, float* kept, float* scratch,
                 const Pass& pass) const noexcept override {
        const std::size_t B = pass.B, R = row();
        const Weights at = weights(w);
        Arena arena(reinterpret_cast<std::byte*>(scratch));
        float* const start = carve(arena, B).start;
        for (std::size_t j = 0; j < 2 * H; ++j) start[j] = at.bias_ih[j] + at.bias_hh[j];
        pass.kernels.multiply(kept + H, x, at.ih, start, {B * T, 2 * H, 1, F, B * T, 0, F, 0, 1, 3 * H, R});
        pass.kernels.multiply(kept, x, at.ih + 2 * H, at.bias_ih + 2 * H,
                              {B * T, H, 1, F, B * T, 0, F, 0, 1, 3 * H, R});
        for (std::size_t i = 0; i < B * T; ++i) std::copy_n(at.bias_hh + 2 * H, H, kept + i * R + 3 * H);
        for (std::size_t b = 0; b < B; ++b) std::fill_n(kept + b * T * R + 4 * H, H, 0.0F);
        for (std::size_t t = 0; t < T; ++t) {
            float* const rows = kept + t * R;
            if (t > 0) pass.kernels.multiply(rows + H, rows + 4 * H, at.hh, nullptr, recurrent(B, H, 3 * H, T * R));
            const bool last = t + 1 == T;
            float* const next = last ? y + (sequences_ ? t * H : 0) : rows + R + 4 * H;
            pass.kernels.gru_gates(next, rows, {B, H, T * R, last ? output_.size() : T * R});
        }
        if (!sequences_) return;
        for (std::size_t b = 0; b < B; ++b) {
            for (std::size_t t = 0; t + 1 < T; ++t) {
                std::copy_n(kept + (b * T + t + 1) * R + 4 * H, H, y + (b * T + t) * H);
            }
        }
    }

    void backward(float* dx, const float* dy, const float*, const float* w, float* kept, float* scratch,
                  const Pass& pass) const noexcept override {
        const std::size_t B = pass.B, R = row();
        const Weights at = weights(w);
        Arena arena(reinterpret_cast<std::byte*>(scratch));
        const Scratch room = carve(arena, B);
        transpose(room.turned, at.hh, H, 3 * H);
        std::fill_n(room.carry, B * H, 0.0F);
        for (std::size_t t = T; t-- > 0;) {
            if (sequences_ || t + 1 == T) add_slopes(room.carry, dy + (sequences_ ? t * H : 0), B);
            float* const rows = kept + t * R;
            pass.kernels.gru_slopes(room.carry, rows, {B, H, T * R, 0});
            if (t == 0) break;
            Product product = recurrent(B, 3 * H, H, T * R);
            product.c_row = H;
            product.b_row = H;
            pass.kernels.multiply(room.carry, rows + H, room.turned, nullptr, product);
        }
        if (dx == nullptr) return;
        transpose(room.turned, at.ih, F, 3 * H);
        std::fill_n(dx, B * T * F, 0.0F);
        pass.kernels.multiply(dx, kept + H, room.turned, nullptr, {B * T, F, 1, 2 * H, B * T, 0, R, 0, 1, F, F});
        pass.kernels.multiply(dx, kept, room.turned + 2 * H * F, nullptr, {B * T, F, 1, H, B * T, 0, R, 0, 1, F, F});
    }

    void parameter_gradient(float* dw, const float*, const float* x, const float* kept, float*, std::size_t first,
                            std::size_t count, const Pass& pass) const noexcept override {
        const std::size_t R = row(), K = count * T;
        const float* const rows = kept + first * T * R;
        const float one = 1.0F;
        // c (M, columns) += a^T b over the K rows.
        const auto sum = [&](float* c, const float* a, std::size_t M, std::size_t a_row, const float* b,
                             std::size_t columns) {
            pass.kernels.multiply(c, a, b, nullptr, {M, columns, 1, K, M, 0, 1, 0, a_row, R, 3 * H});
        };
        float *const ih = dw, *const hh = ih + F * 3 * H, *const bias_ih = hh + H * 3 * H;
        sum(ih, x + first * T * F, F, F, rows + H, 2 * H);
        sum(ih + 2 * H, x + first * T * F, F, F, rows, H);
        sum(hh, rows + 4 * H, H, R, rows + H, 3 * H);
        sum(bias_ih, &one, 1, 0, rows + H, 2 * H);
        sum(bias_ih + 2 * H, &one, 1, 0, rows, H);
        sum(bias_ih + 3 * H, &one, 1, 0, rows + H, 3 * H);
    }

  private:
    struct Weights {
        const float *ih, *hh, *bias_ih, *bias_hh;
    };

    struct Scratch {
        float* start;   // (2 H): both biases of r and z
        float* carry;   // (B, H): the slope of the state, on its way back through the steps
        float* turned;  // (3 H, H), then (3 H, F): a weight transposed
    };

    std::size_t row() const noexcept { return 5 * H; }

    Weights weights(const float* w) const noexcept {
        return {w, w + F * 3 * H, w + (F + H) * 3 * H, w + (F + H + 1) * 3 * H};
    }

    Scratch carve(Arena& arena, std::size_t B) const noexcept {
        Scratch at{};
        at.start = arena.take<float>(2 * H);
        at.carry = arena.take<float>(saturating_product(B, H));
        at.turned = arena.take<float>(saturating_product(3 * H, std::max(F, H)));
        return at;
    }

    // K numbers of every example's row, times a matrix of N columns, into its row.
    static Product recurrent(std::size_t B, std::size_t K, std::size_t N, std::size_t stride) noexcept {
        return {B, N, 1, K, B, 0, stride, 0, 1, N, stride};
    }

    void add_slopes(float* carry, const float* dy, std::size_t B) const noexcept {
        for (std::size_t b = 0; b < B; ++b) {
            for (std::size_t j = 0; j < H; ++j) carry[b * H + j] += dy[b * output_.size() + j];
        }
    }

    std::size_t T, F, H;
    bool sequences_;
};

}  // namespace

std::unique_ptr<Layer> make_gru(Shape input, std::size_t units, bool sequences) {
    if (input.height != 1) {
        throw std::invalid_argument("takes a sequence (steps, channels); got " + shape_words(input));
    }
    check_range("units", units, 1, max_units);
    return std::make_unique<Gru>(input, units, sequences);
}

}  // namespace fedge
