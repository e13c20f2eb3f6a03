// Holds one layer against a slow forward in double, and its slopes against central differences of that: what a layer's
// test needs besides the oracle itself.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <vector>

#include "../src/kernels.hpp"
#include "check.hpp"
#include "fedge/layer.hpp"
#include "fedge/workspace.hpp"

namespace layer_oracle {

using fedge::Arithmetic;
using fedge::Layer;
using fedge::Norm;
using fedge::Pass;

// One example's output from all parameters and its input.
using Forward = std::function<std::vector<double>(const std::vector<double>& w, const std::vector<double>& x)>;

// Uniform in [-1, 1): a linear congruential generator is random enough for weights.
inline std::vector<float> numbers(std::size_t n, std::uint32_t seed) {
    std::vector<float> values(n);
    for (float& v : values) {
        seed = seed * 1664525U + 1013904223U;
        v = static_cast<float>(seed >> 8) / 8388608.0F - 1.0F;
    }
    return values;
}

struct Slopes {
    std::vector<float> y, dx, dw;
    std::vector<double> norms[2];  // l1 magnitudes and l2 squares by example, where the layer gives them
    bool operator==(const Slopes&) const = default;
};

struct Given {
    std::vector<float> w, x, dy;
    std::size_t B;
};

inline Given given(const Layer& layer, std::size_t B, std::uint32_t seed = 1) {
    return {numbers(layer.parameter_count(), seed), numbers(B * layer.input().size(), seed + 1),
            numbers(B * layer.output().size(), seed + 2), B};
}

// Forward and backward of examples first .. first + count - 1 in one pass, gradients of `piece` examples at a time on
// top of what `dw` holds. Memory that is not promised to be anything holds NaN.
inline Slopes run(const Layer& layer, const Given& in, Arithmetic arithmetic, std::size_t first, std::size_t count,
                  std::size_t piece, std::vector<float> dw) {
    const std::size_t I = layer.input().size(), O = layer.output().size();
    const auto unknown = [](std::size_t n) { return std::vector<float>(n, std::nanf("")); };
    auto kept = unknown(layer.kept_size(count)), scratch = unknown(layer.scratch_size(count));
    const Pass pass{fedge::float_kernels(arithmetic), count, nullptr, 0, first};
    const float *x = in.x.data() + first * I, *dy = in.dy.data() + first * O;
    Slopes out{unknown(count * O), unknown(count * I), std::move(dw), {}};
    if (layer.in_place()) {
        out.y.assign(x, x + count * I);
        out.dx.assign(dy, dy + count * O);
        x = out.y.data();
        dy = out.dx.data();
    }
    layer.forward(out.y.data(), x, in.w.data(), kept.data(), scratch.data(), pass);
    std::fill(scratch.begin(), scratch.end(), std::nanf(""));
    layer.backward(out.dx.data(), dy, x, in.w.data(), kept.data(), scratch.data(), pass);
    for (const Norm norm : {Norm::l1, Norm::l2}) {
        auto& norms = out.norms[norm == Norm::l1 ? 0 : 1];
        norms.assign(count, 0.0);
        std::vector<float> merged(dy, dy + count * O);
        if (layer.ghost()) layer.example_norms(norms.data(), merged.data(), x, kept.data(), norm, pass);
    }
    for (std::size_t b = 0; b < count; b += piece) {
        layer.parameter_gradient(out.dw.data(), dy, x, kept.data(), scratch.data(), b, std::min(piece, count - b),
                                 pass);
    }
    return out;
}

inline Slopes run(const Layer& layer, const Given& in, Arithmetic arithmetic) {
    return run(layer, in, arithmetic, 0, in.B, in.B, std::vector<float>(layer.parameter_count(), 0.0F));
}

inline void close(const char* what, std::size_t i, double got, double want, double tolerance) {
    if (std::fabs(got - want) <= tolerance * (1.0 + std::fabs(want))) return;
    std::fprintf(stderr, "%s[%zu] = %.9g, want %.9g\n", what, i, got, want);
    ++check::failed();
}

inline std::vector<double> widened(const float* p, std::size_t n) { return {p, p + n}; }

// y, dx, the whole gradient and each example's own, against the oracle. Central differences in double at a step of 1e-5
// are good to about 1e-9, so the tolerance is float32's.
inline void matches(const Layer& layer, const Given& in, const Forward& forward, Arithmetic arithmetic,
                    double tolerance, bool differentiable_in_x = true) {
    const std::size_t I = layer.input().size(), O = layer.output().size(), P = layer.parameter_count();
    const Slopes got = run(layer, in, arithmetic);
    auto w = widened(in.w.data(), P);
    std::vector<double> total(P, 0.0);
    for (std::size_t b = 0; b < in.B; ++b) {
        auto x = widened(in.x.data() + b * I, I);
        const auto y = forward(w, x);
        CHECK(y.size() == O);
        for (std::size_t o = 0; o < O; ++o)
            close("y", b * O + o, static_cast<double>(got.y[b * O + o]), y[o], tolerance);
        const auto slope = [&](double& at) {
            constexpr double step = 1e-5;
            const double keep = at;
            double difference = 0.0;
            for (const double sign : {1.0, -1.0}) {
                at = keep + sign * step;
                const auto moved = forward(w, x);
                for (std::size_t o = 0; o < O; ++o)
                    difference += sign * moved[o] * static_cast<double>(in.dy[b * O + o]);
            }
            at = keep;
            return difference / (2.0 * step);
        };
        for (std::size_t i = 0; i < I && differentiable_in_x; ++i) {
            close("dx", b * I + i, static_cast<double>(got.dx[b * I + i]), slope(x[i]), tolerance);
        }
        const Slopes alone = run(layer, in, arithmetic, b, 1, 1, std::vector<float>(P, 0.0F));
        double norms[2] = {0.0, 0.0};
        for (std::size_t p = 0; p < P; ++p) {
            const double want = slope(w[p]);
            close("dw of one example", p, static_cast<double>(alone.dw[p]), want, tolerance);
            total[p] += want;
            norms[0] += std::fabs(want);
            norms[1] += want * want;
        }
        for (std::size_t k = 0; k < 2 && layer.ghost(); ++k) {
            close("norm", 2 * b + k, got.norms[k][b], norms[k], tolerance);
        }
    }
    for (std::size_t p = 0; p < P; ++p) close("dw", p, static_cast<double>(got.dw[p]), total[p], tolerance);
}

// A batch in two passes of any size, gradients in pieces of any size, adds up to the same bits.
inline void cut_anywhere_gives_the_same_bits(const Layer& layer, const Given& in, Arithmetic arithmetic) {
    const auto start = numbers(layer.parameter_count(), 99);
    const Slopes whole = run(layer, in, arithmetic, 0, in.B, in.B, start);
    for (std::size_t cut = 1; cut < in.B; ++cut) {
        Slopes pieces = run(layer, in, arithmetic, 0, cut, 1 + cut % 2, start);
        const Slopes rest = run(layer, in, arithmetic, cut, in.B - cut, 1 + cut % 3, pieces.dw);
        pieces.dw = rest.dw;
        pieces.y.insert(pieces.y.end(), rest.y.begin(), rest.y.end());
        pieces.dx.insert(pieces.dx.end(), rest.dx.begin(), rest.dx.end());
        for (std::size_t k = 0; k < 2; ++k) {
            pieces.norms[k].insert(pieces.norms[k].end(), rest.norms[k].begin(), rest.norms[k].end());
        }
        CHECK(pieces == whole);
    }
}

// FNV-1a over the bits of all results. In reproducible arithmetic the same on every processor, so tests hold it against
// a constant.
inline std::uint64_t fingerprint(const Slopes& slopes) {
    std::uint64_t hash = 0xcbf29ce484222325U;
    for (const std::vector<float>* part : {&slopes.y, &slopes.dx, &slopes.dw}) {
        for (const float v : *part) {
            std::uint32_t bits = 0;
            std::memcpy(&bits, &v, sizeof bits);
            for (unsigned byte = 0; byte < 4; ++byte) hash = (hash ^ ((bits >> (8 * byte)) & 0xff)) * 0x100000001b3U;
        }
    }
    return hash;
}

inline void has_fingerprint(const Slopes& slopes, std::uint64_t want) {
    const std::uint64_t got = fingerprint(slopes);
    if (got == want) return;
    std::fprintf(stderr, "fingerprint 0x%016llx, want 0x%016llx\n", static_cast<unsigned long long>(got),
                 static_cast<unsigned long long>(want));
    ++check::failed();
}

template <class Make>
bool refused(Make make) {
    try {
        make();
    } catch (const std::invalid_argument&) {
        return true;
    }
    return false;
}

}  // namespace layer_oracle
