// Convolutions and pools against the loops that define them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "../src/kernels.hpp"
#include "check.hpp"
#include "fedge/layer.hpp"
#include "layer_oracle.hpp"

using namespace fedge;
using layer_oracle::numbers;

namespace {

using Doubles = std::vector<double>;
using Floats = std::vector<float>;

struct Case {
    Shape input;
    std::size_t filters;
    Window window;
};

std::string words(const Case& c) {
    std::string text;
    for (const std::size_t n :
         {c.input.height, c.input.width, c.input.channels, c.filters, c.window.size[0], c.window.size[1],
          c.window.stride[0], c.window.stride[1], c.window.padding[0], c.window.padding[1]}) {
        text += std::to_string(n) + " ";
    }
    return text;
}

// Every (b, oh, ow, kh, kw) and the input position under it, where that is inside.
template <class Body>
void each_tap(const Layer& layer, const Window& window, std::size_t B, Body body) {
    const auto signed_of = [](std::size_t v) { return static_cast<long>(v); };
    const Shape in = layer.input(), out = layer.output();
    for (std::size_t b = 0; b < B; ++b) {
        for (std::size_t oh = 0; oh < out.height; ++oh) {
            for (std::size_t ow = 0; ow < out.width; ++ow) {
                for (std::size_t kh = 0; kh < window.size[0]; ++kh) {
                    for (std::size_t kw = 0; kw < window.size[1]; ++kw) {
                        const long h = signed_of(oh * window.stride[0] + kh) - signed_of(window.padding[0]);
                        const long w = signed_of(ow * window.stride[1] + kw) - signed_of(window.padding[1]);
                        if (h < 0 || w < 0 || h >= signed_of(in.height) || w >= signed_of(in.width)) continue;
                        const std::size_t position =
                            (b * in.height + static_cast<std::size_t>(h)) * in.width + static_cast<std::size_t>(w);
                        body((b * out.height + oh) * out.width + ow, position, kh * window.size[1] + kw);
                    }
                }
            }
        }
    }
}

// The layer's three answers.
struct Answers {
    Floats y, dx, dw, kept;
};

Answers answers(const Layer& layer, const Floats& x, const Floats& w, const Floats& dy, std::size_t B,
                Arithmetic arithmetic, std::size_t at_a_time) {
    const Shape in = layer.input(), out = layer.output();
    const Pass pass{float_kernels(arithmetic), B};
    Answers a{Floats(B * out.size(), NAN), Floats(B * in.size(), NAN), Floats(layer.parameter_count(), 0.0F),
              Floats(layer.kept_size(B), NAN)};
    Floats scratch(layer.scratch_size(B), NAN);
    layer.forward(a.y.data(), x.data(), w.data(), a.kept.data(), scratch.data(), pass);
    layer.backward(a.dx.data(), dy.data(), x.data(), w.data(), a.kept.data(), scratch.data(), pass);
    for (std::size_t b = 0; b < B; b += at_a_time) {
        layer.parameter_gradient(a.dw.data(), dy.data(), x.data(), a.kept.data(), scratch.data(), b,
                                 std::min(at_a_time, B - b), pass);
    }
    return a;
}

bool close(const Floats& got, const Doubles& want, const Doubles& magnitude) {
    if (got.size() != want.size()) return false;
    for (std::size_t i = 0; i < got.size(); ++i) {
        if (!(std::fabs(static_cast<double>(got[i]) - want[i]) <= 4e-6 * (magnitude[i] + 0.1))) return false;
    }
    return true;
}

bool same_bits(const Floats& a, const Floats& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// A value and the sum of its terms' magnitudes, by which float32 may be wrong.
struct Sums {
    Doubles value, magnitude;
    explicit Sums(std::size_t n) : value(n, 0.0), magnitude(n, 0.0) {}
    void add(std::size_t i, double term) { value[i] += term, magnitude[i] += std::fabs(term); }
};

void convolution_is_its_defining_loop(const Case& c, bool depthwise, bool bias, std::size_t B, Arithmetic arithmetic) {
    const auto layer =
        depthwise ? make_depthwise_conv(c.input, c.window, bias) : make_conv(c.input, c.filters, c.window, bias);
    const std::size_t C = c.input.channels, O = layer->output().channels, I = depthwise ? 1 : C;
    const std::size_t taps = c.window.size[0] * c.window.size[1];
    const std::size_t weights = taps * (depthwise ? C : C * O);
    CHECK(layer->parameter_count() == weights + (bias ? O : 0));
    const Floats x = numbers(B * c.input.size(), 3), w = numbers(layer->parameter_count(), 5);
    const Floats dy = numbers(B * layer->output().size(), 7);
    Sums y(dy.size()), dx(x.size()), dw(w.size());
    for (std::size_t i = 0; bias && i < dy.size(); ++i) {
        y.add(i, static_cast<double>(w[weights + i % O]));
        dw.add(weights + i % O, static_cast<double>(dy[i]));
    }
    each_tap(*layer, c.window, B, [&](std::size_t output, std::size_t position, std::size_t tap) {
        for (std::size_t o = 0; o < O; ++o) {
            for (std::size_t i = 0; i < I; ++i) {
                const std::size_t channel = depthwise ? o : i, weight = (tap * I + i) * O + o;
                const auto xv = static_cast<double>(x[position * C + channel]), wv = static_cast<double>(w[weight]);
                const auto slope = static_cast<double>(dy[output * O + o]);
                y.add(output * O + o, xv * wv);
                dx.add(position * C + channel, slope * wv);
                dw.add(weight, slope * xv);
            }
        }
    });
    const Answers got = answers(*layer, x, w, dy, B, arithmetic, B);
    const bool right = close(got.y, y.value, y.magnitude) && close(got.dx, dx.value, dx.magnitude) &&
                       close(got.dw, dw.value, dw.magnitude);
    CHECK(right);
    if (!right) std::fprintf(stderr, "  %s%s\n", depthwise ? "depthwise " : "", words(c).c_str());
    CHECK(same_bits(answers(*layer, x, w, dy, B, arithmetic, 1).dw, got.dw));
}

void pool_is_its_defining_loop(const Case& c, bool maximum, std::size_t B, Arithmetic arithmetic) {
    const auto layer = maximum ? make_max_pool(c.input, c.window) : make_average_pool(c.input, c.window);
    const std::size_t C = c.input.channels, all = c.window.size[0] * c.window.size[1];
    Floats x = numbers(B * c.input.size(), 3);
    for (float& v : x) v = std::floor(4.0F * v);  // ties
    const Floats dy = numbers(B * layer->output().size(), 7);
    Sums y(dy.size()), dx(x.size());
    std::vector<std::size_t> from(dy.size(), SIZE_MAX);
    each_tap(*layer, c.window, B, [&](std::size_t output, std::size_t position, std::size_t) {
        for (std::size_t i = 0; i < C; ++i) {
            const std::size_t at = output * C + i, source = position * C + i;
            if (maximum) {
                if (from[at] == SIZE_MAX || x[source] > x[from[at]]) from[at] = source;
            } else {
                y.add(at, static_cast<double>(x[source]) / static_cast<double>(all));
                dx.add(source, static_cast<double>(dy[at]) / static_cast<double>(all));
            }
        }
    });
    for (std::size_t i = 0; maximum && i < dy.size(); ++i) {
        y.add(i, static_cast<double>(x[from[i]]));
        dx.add(from[i], static_cast<double>(dy[i]));
    }
    const Answers got = answers(*layer, x, {}, dy, B, arithmetic, B);
    const bool right = close(got.y, y.value, y.magnitude) && close(got.dx, dx.value, dx.magnitude);
    CHECK(right);
    if (!right) std::fprintf(stderr, "  pool %s\n", words(c).c_str());
}

// These layers are linear in x and in w, so a difference over any step is the slope; a maximum is linear as long as the
// step changes no winner: values are at least 2 apart here.
void slopes_are_central_differences(const Layer& layer, Arithmetic arithmetic) {
    const std::size_t B = 2;
    Floats x = numbers(B * layer.input().size(), 3), w = numbers(layer.parameter_count(), 5);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += 4.0F * static_cast<float>(i * 7 % 11);
    const Floats dy = numbers(B * layer.output().size(), 7);
    const Answers got = answers(layer, x, w, dy, B, arithmetic, B);
    const auto slope = [&](float& value) {
        const float keep = value;
        double sum[2] = {};
        for (std::size_t side : {0U, 1U}) {
            value = keep + (side == 0 ? -0.5F : 0.5F);
            const Floats y = answers(layer, x, w, dy, B, arithmetic, B).y;
            for (std::size_t i = 0; i < y.size(); ++i) {
                sum[side] += static_cast<double>(y[i]) * static_cast<double>(dy[i]);
            }
        }
        value = keep;
        return sum[1] - sum[0];
    };
    for (std::size_t i = 0; i < x.size(); ++i) CHECK(std::fabs(slope(x[i]) - static_cast<double>(got.dx[i])) < 1e-3);
    for (std::size_t i = 0; i < w.size(); ++i) CHECK(std::fabs(slope(w[i]) - static_cast<double>(got.dw[i])) < 1e-3);
}

// Not all combinations: every value of every parameter in company that changes.
std::vector<Case> cases() {
    const std::size_t channels[] = {1, 2, 3, 16, 17, 33};
    std::vector<Case> all;
    for (std::size_t i = 0; i < 72; ++i) {
        Case c{{1, 1 + i % 13, channels[i % 6]}, channels[(i / 6 + i) % 6], {}};
        c.window.size = {1, 1 + i % 5};
        c.window.stride = {1, i == 70 ? 1U << 27 : 1 + i % 3};
        c.window.padding = {0, std::min<std::size_t>(i / 3 % 3, c.window.size[1] - 1)};
        if (i % 2 == 1) {
            c.input.height = 1 + i % 7;
            c.window.size[0] = 1 + i / 2 % 4;
            c.window.stride[0] = 1 + i / 4 % 3;
            c.window.padding[0] = std::min<std::size_t>(i / 5 % 3, c.window.size[0] - 1);
        }
        for (std::size_t d : {0U, 1U}) {
            std::size_t& length = d == 0 ? c.input.height : c.input.width;
            length = std::max(length, c.window.size[d]);
        }
        all.push_back(c);
    }
    return all;
}

// In reproducible arithmetic all instruction sets, and all ways of cutting a batch, agree: the hash is one for all.
std::uint32_t fingerprint(std::uint32_t hash, const Floats& values) {
    for (const float v : values) {
        std::uint32_t bits = 0;
        std::memcpy(&bits, &v, sizeof bits);
        hash = (hash ^ bits) * 16777619U;
    }
    return hash;
}

void reproducible_bits_are_the_recorded_ones() {
    constexpr std::uint32_t recorded = 0x15753abaU;
    std::uint32_t hash = 2166136261U;
    for (const Case& c : cases()) {
        std::vector<std::unique_ptr<Layer>> layers;
        layers.push_back(make_conv(c.input, c.filters, c.window, true));
        layers.push_back(make_depthwise_conv(c.input, c.window, true));
        Window pool = c.window;
        for (std::size_t d : {0U, 1U}) pool.padding[d] = std::min(pool.padding[d], pool.size[d] / 2);
        layers.push_back(make_max_pool(c.input, pool));
        layers.push_back(make_average_pool(c.input, pool));
        for (const auto& layer : layers) {
            const std::size_t B = 3;
            const Floats x = numbers(B * c.input.size(), 3), w = numbers(layer->parameter_count(), 5);
            const Floats dy = numbers(B * layer->output().size(), 7);
            const Answers got = answers(*layer, x, w, dy, B, Arithmetic::reproducible, 2);
            hash = fingerprint(fingerprint(fingerprint(hash, got.y), got.dx), got.dw);
        }
    }
    CHECK(hash == recorded);
    if (hash != recorded) std::fprintf(stderr, "  got 0x%08x\n", hash);
}

void a_maximum_shows_nan_and_takes_the_first_of_equals() {
    const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
    const auto layer = make_max_pool({1, 8, 1}, {{1, 2}, {1, 2}, {0, 0}});
    const Floats x{nan, 1.0F, 1.0F, nan, 2.0F, 2.0F, -infinity, -infinity};
    const Answers got = answers(*layer, x, {}, {1.0F, 2.0F, 3.0F, 4.0F}, 1, Arithmetic::fast, 1);
    CHECK(std::isnan(got.y[0]) && std::isnan(got.y[1]));
    CHECK(got.y[2] == 2.0F && got.y[3] == -infinity);
    CHECK((got.dx == Floats{1.0F, 0.0F, 0.0F, 2.0F, 3.0F, 0.0F, 4.0F, 0.0F}));
}

std::string refusal(std::unique_ptr<Layer> (*make)()) {
    try {
        make();
    } catch (const std::invalid_argument& refused) {
        return refused.what();
    }
    return "";
}

void impossible_shapes_are_explained() {
    const auto says = [](std::unique_ptr<Layer> (*make)(), const char* part) {
        const std::string text = refusal(make);
        const bool found = text.find(part) != std::string::npos;
        CHECK(found);
        if (!found) std::fprintf(stderr, "  '%s' lacks '%s'\n", text.c_str(), part);
    };
    constexpr std::size_t huge = std::size_t{1} << 27;
    says([] { return make_conv({1, 4, 3}, 2, {{1, 7}, {1, 1}, {0, 1}}, true); }, "width at most 6");
    says([] { return make_conv({4, 4, 3}, 2, {{5, 3}, {1, 1}, {0, 0}}, true); }, "height at most 4");
    says([] { return make_conv({1, 4, 3}, 2, {{1, 2}, {1, 0}, {0, 0}}, true); }, "stride");
    says([] { return make_conv({1, 4, 3}, 2, {{1, 0}, {1, 1}, {0, 0}}, true); }, "window");
    says([] { return make_conv({1, 4, 3}, 2, {{1, 2}, {1, 1}, {0, 2}}, true); }, "padding");
    says([] { return make_conv({1, 4, 3}, 0, {{1, 2}, {1, 1}, {0, 0}}, true); }, "filters");
    says([] { return make_conv({1, huge, 2}, 3, {{1, 2}, {1, 1}, {0, 0}}, true); }, "an output");
    says([] { return make_conv({1, huge, huge}, 3, {{1, 2}, {1, 1}, {0, 0}}, true); }, "an input");
    says([] { return make_conv({1, 1, 4}, 3, {{1, huge}, {1, 1}, {0, huge - 1}}, true); }, "a padded input");
    says([] { return make_conv({1, 4, 0}, 3, {{1, 2}, {1, 1}, {0, 0}}, true); }, "with values");
    says([] { return make_max_pool({1, 4, 3}, {{1, 2}, {1, 1}, {0, 2}}); }, "padding");
    says([] { return make_average_pool({1, 4, 3}, {{1, 5}, {1, 1}, {0, 0}}); }, "width at most 4");
    says([] { return make_max_pool({1, huge, 1}, {{1, huge}, {1, 1}, {0, 0}}); }, "positions");
    CHECK((make_conv({3, 4, 2}, 3, {{2, 2}, {huge, huge}, {1, 1}}, true)->output() == Shape{1, 1, 3}));
    CHECK(make_conv({1, 1 << 20, 1}, 1 << 8, {{1, 1}, {1, 1}, {0, 0}}, true)->scratch_size(SIZE_MAX) < SIZE_MAX);
    CHECK(make_max_pool({1, 8, 1}, {{1, 2}, {1, 2}, {0, 0}})->kept_size(SIZE_MAX) == SIZE_MAX);
}

}  // namespace

int main() {
    return check::run([] {
        std::size_t i = 0;
        for (const Case& c : cases()) {
            const std::size_t B = 1 + i % 5;
            const bool bias = i % 4 != 0;
            ++i;
            for (const Arithmetic arithmetic : {Arithmetic::fast, Arithmetic::reproducible}) {
                convolution_is_its_defining_loop(c, false, bias, B, arithmetic);
                convolution_is_its_defining_loop(c, true, bias, B, arithmetic);
                Case pool = c;
                for (std::size_t d : {0U, 1U}) {
                    pool.window.padding[d] = std::min(pool.window.padding[d], pool.window.size[d] / 2);
                }
                pool_is_its_defining_loop(pool, true, B, arithmetic);
                pool_is_its_defining_loop(pool, false, B, arithmetic);
            }
        }
        for (const Arithmetic arithmetic : {Arithmetic::fast, Arithmetic::reproducible}) {
            const Window window{{2, 3}, {2, 1}, {1, 1}};
            slopes_are_central_differences(*make_conv({5, 4, 3}, 5, window, true), arithmetic);
            slopes_are_central_differences(*make_depthwise_conv({5, 4, 3}, window, true), arithmetic);
            slopes_are_central_differences(*make_max_pool({5, 4, 3}, window), arithmetic);
            slopes_are_central_differences(*make_average_pool({5, 4, 3}, window), arithmetic);
        }
        reproducible_bits_are_the_recorded_ones();
        a_maximum_shows_nan_and_takes_the_first_of_equals();
        impossible_shapes_are_explained();
    });
}
