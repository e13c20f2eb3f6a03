// Convolutions (as PyTorch has it: correlations) as matrix products that read the image where it lies.
//
// y[oh, ow, o] = bias[o] + sum over kh, kw, c of x[oh SH + kh - PH, ow SW + kw - PW, c] weight[kh, kw, c, o], zero
// outside of x. A depthwise one has a filter for each channel: c = o, and the weight is (KH, KW, C). So the two differ
// in how many channels an output reads (`in`) and an input reaches (`out`), and in which product does it: to the one
// all channels are terms of a sum, to the other they are its columns.
#include <algorithm>

#include "layers.hpp"
#include "window.hpp"

namespace fedge {
namespace {

// image (height, width, C) with zeros around it, `top` rows and `left` columns before: (rows, columns, C) in `room`, or
// the image itself where that is all.
const float* padded(float* room, const float* image, std::size_t height, std::size_t width, std::size_t C,
                    std::size_t top, std::size_t left, std::size_t rows, std::size_t columns) noexcept {
    if (rows == height && columns == width) return image;
    std::fill_n(room, rows * columns * C, 0.0F);
    for (std::size_t h = 0; h < height; ++h) {
        std::copy_n(image + h * width * C, width * C, room + ((top + h) * columns + left) * C);
    }
    return room;
}

class Conv final : public Layer {
  public:
    Conv(Shape input, Shape output, const Window& window, bool depthwise, bool bias)
        : Layer(input, output),
          at(windows(input, output, window)),
          O(output.channels),
          in(depthwise ? 1 : at.C),
          out(depthwise ? 1 : O),
          bias_(bias) {
        const double spread = glorot_bound(at.KH * at.KW * in, at.KH * at.KW * out);
        Parameter weight{"weight", {at.KH, at.KW, O}, spread};
        if (!depthwise) weight.shape.insert(weight.shape.begin() + 2, at.C);
        weights_ = weight.size();
        parameters_.push_back(std::move(weight));
        if (bias) parameters_.push_back({"bias", {O}});

        rows_ = at.H + 2 * at.PH;
        columns_ = at.W + 2 * at.PW;
        above_ = (at.KH - 1) / at.SH;
        left_ = (at.KW - 1) / at.SW;
        slope_rows_ = above_ + (at.H - 1 + at.PH) / at.SH + 1;
        slope_columns_ = left_ + (at.W - 1 + at.PW) / at.SW + 1;
    }

    const char* kind() const noexcept override { return depthwise() ? "depthwise_conv" : "conv"; }

    // A padded image; or the weight turned around, C zeros, and a padded dy.
    std::size_t scratch_size(std::size_t) const noexcept override {
        const std::size_t image = rows_ * columns_ * at.C;
        const std::size_t slope = saturating_product(slope_rows_ * slope_columns_, O);
        std::size_t back = 0;
        if (__builtin_add_overflow(weights_, at.C, &back) || __builtin_add_overflow(back, slope, &back)) {
            return SIZE_MAX;
        }
        return std::max(image, back);
    }

    void forward(float* y, const float* x, const float* w, float*, float* scratch,
                 const Pass& pass) const noexcept override {
        const float* start = w + weights_;
        if (!bias_) std::fill_n(y, pass.B * output_.size(), 0.0F), start = nullptr;
        Product shape{at.OH * at.OW, O,  at.KH, at.KW * in, at.OW, at.SH * columns_ * at.C, at.SW * at.C,
                      columns_ * at.C, step(), O, O};
        if (at.OH == 1 && rows_ == at.H && columns_ == at.W) {  // the images of a batch are then rows in one row
            shape.M = pass.B * at.OW, shape.a_outer = input_.size();
            multiply(y, x, w, start, shape, pass);
            return;
        }
        for (std::size_t b = 0; b < pass.B; ++b) {
            multiply(y + b * output_.size(), padded_input(scratch, x, b), w, start, shape, pass);
        }
    }

    // dx at h takes dy at oh through kh = h + PH - oh SH. So the rows h of one remainder r of h + PH by SH see the taps
    // r, r + SH, ..., and over them their dx is a correlation of stride 1 with dy, the taps in falling order.
    void backward(float* dx, const float* dy, const float*, const float* w, float*, float* scratch,
                  const Pass& pass) const noexcept override {
        if (dx == nullptr) return;
        float* const turned = scratch;
        float* const zeros = turned + weights_;
        float* const room = zeros + at.C;
        turn(turned, w);
        std::fill_n(zeros, at.C, 0.0F);
        const bool at_once = at.SH == 1 && at.SW == 1;
        for (std::size_t b = 0; b < pass.B; ++b) {
            const float* const slope = padded(room, dy + b * output_.size(), at.OH, at.OW, O, above_, left_,
                                              slope_rows_, slope_columns_);
            const float* taps = turned;
            for (std::size_t rh = 0; rh < at.SH; ++rh) {
                const std::size_t nh = taps_of(at.KH, rh, at.SH);
                for (std::size_t rw = 0; rw < at.SW; ++rw) {
                    const std::size_t nw = taps_of(at.KW, rw, at.SW);
                    const std::size_t w0 = first_of(rw, at.PW, at.SW), ow = (w0 + at.PW) / at.SW;
                    const std::size_t places = w0 < at.W ? (at.W - w0 + at.SW - 1) / at.SW : 0;
                    const Product shape{at_once ? at.H * at.W : places, at.C, nh, nw * out, places, slope_columns_ * O, O,
                                        slope_columns_ * O, depthwise() ? O : 1, at.C, at.SW * at.C};
                    for (std::size_t h = first_of(rh, at.PH, at.SH); h < at.H; h += at_once ? at.H : at.SH) {
                        const std::size_t oh = (h + at.PH) / at.SH;
                        const float* const corner =
                            slope + ((oh + above_ + 1 - nh) * slope_columns_ + ow + left_ + 1 - nw) * O;
                        multiply(dx + b * input_.size() + (h * at.W + w0) * at.C, corner, taps, zeros, shape, pass);
                    }
                    taps += nh * nw * out * at.C;
                }
            }
        }
    }

    void parameter_gradient(float* dw, const float* dy, const float* x, const float*, float* scratch,
                            std::size_t first, std::size_t count, const Pass& pass) const noexcept override {
        const Product shape{at.KH * at.KW * in, O, at.OH, at.OW, at.KW * in, columns_ * at.C, depthwise() ? at.C : 1,
                            at.SH * columns_ * at.C, at.SW * at.C, O, O};
        for (std::size_t b = first; b < first + count; ++b) {
            const float* const slope = dy + b * output_.size();
            multiply(dw, padded_input(scratch, x, b), slope, nullptr, shape, pass);
            if (bias_) pass.kernels.add_rows(dw + weights_, slope, at.OH * at.OW, O);
        }
    }

  private:
    bool depthwise() const noexcept { return parameters_[0].shape.size() == 3; }
    std::size_t step() const noexcept { return depthwise() ? at.C : 1; }

    void multiply(float* c, const float* a, const float* b, const float* start, const Product& shape,
                  const Pass& pass) const noexcept {
        (depthwise() ? pass.kernels.multiply_channels : pass.kernels.multiply)(c, a, b, start, shape);
    }

    const float* padded_input(float* room, const float* x, std::size_t b) const noexcept {
        return padded(room, x + b * input_.size(), at.H, at.W, at.C, at.PH, at.PW, rows_, columns_);
    }

    // How many of `size` taps have the remainder r.
    static std::size_t taps_of(std::size_t size, std::size_t r, std::size_t stride) noexcept {
        return r < size ? (size - r + stride - 1) / stride : 0;
    }

    // The first position whose remainder, counted from the padding's edge, is r.
    static std::size_t first_of(std::size_t r, std::size_t padding, std::size_t stride) noexcept {
        return (r + stride - padding % stride) % stride;
    }

    // The weight as backward reads it: by remainder, then taps from the last to the first, each (out, C).
    void turn(float* turned, const float* w) const noexcept {
        for (std::size_t rh = 0; rh < at.SH; ++rh) {
            for (std::size_t rw = 0; rw < at.SW; ++rw) {
                for (std::size_t jh = taps_of(at.KH, rh, at.SH); jh-- > 0;) {
                    for (std::size_t jw = taps_of(at.KW, rw, at.SW); jw-- > 0; turned += out * at.C) {
                        const float* const tap = w + ((rh + jh * at.SH) * at.KW + rw + jw * at.SW) * in * O;
                        transpose(turned, tap, depthwise() ? 1 : at.C, O);
                    }
                }
            }
        }
    }

    const Windows at;
    const std::size_t O, in, out;
    const bool bias_;
    std::size_t weights_, rows_, columns_;  // of the padded input
    // Of dy with its zeros: how many before it, and all.
    std::size_t above_, left_, slope_rows_, slope_columns_;
};

constexpr auto less_than_all = [](std::size_t size) { return size - 1; };

}  // namespace

std::unique_ptr<Layer> make_conv(Shape input, std::size_t filters, Window window, bool bias) {
    check_range("filters", filters, 1, max_units);
    return std::make_unique<Conv>(input, windows_in(input, window, filters, less_than_all), window, false, bias);
}

std::unique_ptr<Layer> make_depthwise_conv(Shape input, Window window, bool bias) {
    return std::make_unique<Conv>(input, windows_in(input, window, input.channels, less_than_all), window, true, bias);
}

}  // namespace fedge
