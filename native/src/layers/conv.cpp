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
        Product shape{
            at.OH * at.OW,          O, at.KH, at.KW * in, at.OW, at.SH * columns_ * at.C, at.SW * at.C, columns_ * at.C,
            depthwise() ? at.C : 1, O, O};
        if (at.OH == 1 && rows_ == at.H && columns_ == at.W) {  // the images of a batch are then rows in one row
            shape.M = pass.B * at.OW, shape.a_outer = input_.size();
            multiply(y, x, w, start, shape, pass);
            return;
        }
        for (std::size_t b = 0; b < pass.B; ++b) {
            multiply(y + b * output_.size(), padded_input(scratch, x, b), w, start, shape, pass);
        }
    }

    void backward(float* dx, const float* dy, const float*, const float* w, float*, float* scratch,
                  const Pass& pass) const noexcept override {
        if (dx == nullptr) return;
        float* const turned = scratch;
        float* const zeros = turned + weights_;
        float* const room = zeros + at.C;
        turn(turned, w);
        std::fill_n(zeros, at.C, 0.0F);
        for (std::size_t b = 0; b < pass.B; ++b) {
            const float* const slope =
                padded(room, dy + b * output_.size(), at.OH, at.OW, O, above_, left_, slope_rows_, slope_columns_);
            float* const image = dx + b * input_.size();
            if (at.SH == 1 && at.SW == 1) {
                input_slope(image, slope, turned, zeros, 0, at.H, pass);
            } else {
                for (std::size_t h = 0; h < at.H; ++h) input_slope(image, slope, turned, zeros, h, 1, pass);
            }
        }
    }

    void parameter_gradient(float* dw, const float* dy, const float* x, const float*, float* scratch, std::size_t first,
                            std::size_t count, const Pass& pass) const noexcept override {
        const Product shape{at.KH * at.KW * in,
                            O,
                            at.OH,
                            at.OW,
                            at.KW * in,
                            columns_ * at.C,
                            depthwise() ? at.C : 1,
                            at.SH * columns_ * at.C,
                            at.SW * at.C,
                            O,
                            O};
        for (std::size_t b = first; b < first + count; ++b) {
            const float* const slope = dy + b * output_.size();
            multiply(dw, padded_input(scratch, x, b), slope, nullptr, shape, pass);
            if (bias_) pass.kernels.add_rows(dw + weights_, slope, at.OH * at.OW, O);
        }
    }

  private:
    bool depthwise() const noexcept { return parameters_[0].shape.size() == 3; }

    void multiply(float* c, const float* a, const float* b, const float* start, const Product& shape,
                  const Pass& pass) const noexcept {
        (depthwise() ? pass.kernels.multiply_channels : pass.kernels.multiply)(c, a, b, start, shape);
    }

    const float* padded_input(float* room, const float* x, std::size_t b) const noexcept {
        return padded(room, x + b * input_.size(), at.H, at.W, at.C, at.PH, at.PW, rows_, columns_);
    }

    // dx at h takes dy at oh through the tap kh = h + PH - oh SH. So of the h + PH with one remainder by SH each sees
    // the same taps, those with that remainder, and over such h dx is a correlation of stride 1 with dy, the taps in
    // falling order. As it is for w, and here from row h on.
    void input_slope(float* dx, const float* slope, const float* turned, const float* zeros, std::size_t h,
                     std::size_t rows, const Pass& pass) const noexcept {
        const std::size_t rh = (h + at.PH) % at.SH, oh = (h + at.PH) / at.SH, nh = taps(at.KH, at.SH, rh);
        for (std::size_t w = 0; w < std::min(at.SW, at.W); ++w) {
            const std::size_t rw = (w + at.PW) % at.SW, ow = (w + at.PW) / at.SW, nw = taps(at.KW, at.SW, rw);
            const std::size_t places = (at.W - w + at.SW - 1) / at.SW;
            const std::size_t before = taps_below(at.KH, at.SH, rh) * at.KW + nh * taps_below(at.KW, at.SW, rw);
            const float* const corner = slope + ((oh + above_ + 1 - nh) * slope_columns_ + ow + left_ + 1 - nw) * O;
            multiply(dx + (h * at.W + w) * at.C, corner, turned + before * out * at.C, zeros,
                     {rows * places, at.C, nh, nw * out, places, slope_columns_ * O, O, slope_columns_ * O,
                      depthwise() ? O : 1, at.C, at.SW * at.C},
                     pass);
        }
    }

    // Of 0 .. size - 1, how many have a remainder by stride below r, and how many have r.
    static std::size_t taps_below(std::size_t size, std::size_t stride, std::size_t r) noexcept {
        return size / stride * r + std::min(size % stride, r);
    }
    static std::size_t taps(std::size_t size, std::size_t stride, std::size_t r) noexcept {
        return taps_below(size, stride, r + 1) - taps_below(size, stride, r);
    }

    // The weight as input_slope reads it: by remainder, then taps from the last to the first, each (out, C).
    void turn(float* turned, const float* w) const noexcept {
        for (std::size_t rh = 0; rh < std::min(at.SH, at.KH); ++rh) {
            for (std::size_t rw = 0; rw < std::min(at.SW, at.KW); ++rw) {
                for (std::size_t i = taps(at.KH, at.SH, rh); i-- > 0;) {
                    for (std::size_t j = taps(at.KW, at.SW, rw); j-- > 0; turned += out * at.C) {
                        const float* const tap = w + ((rh + i * at.SH) * at.KW + rw + j * at.SW) * in * O;
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
