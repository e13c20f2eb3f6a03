// Group and layer normalization: x (B, P, G D), each example's group normalized over its P positions of D channels.
//
// Sums run in an order that the shape alone fixes, whatever the vectors' width: for each channel over its positions in
// order, then over the channels of a group in order; where there is one position and one group, over sixteen
// interleaved parts that are added by halves.
#pragma once

#include "product.hpp"

namespace fedge {
namespace {

constexpr std::size_t interleaved = 16;

inline F32 load_some(const float* p, std::size_t n) noexcept { return n == lanes ? load(p) : load_part(p, n); }
inline void store_some(float* p, F32 v, std::size_t n) noexcept { std::memcpy(p, &v, n * sizeof(float)); }

// body(c, n) for channels c .. c + n - 1, a vector or less at a time.
template <class Body>
inline void every_channel(const NormShape& shape, Body body) noexcept {
    const std::size_t C = shape.G * shape.D;
    std::size_t c = 0;
    for (; c + lanes <= C; c += lanes) body(c, lanes);
    if (c < C) body(c, C - c);
}

// One number of each group, where the channels c .. c + n - 1 want it, and zeros after them.
inline F32 by_channel(const float* of_group, std::size_t c, std::size_t n, const NormShape& shape) noexcept {
    if (shape.G == 1 && n == lanes) return F32{} + *of_group;
    F32 v{};
    for (std::size_t i = 0; i < n; ++i) v[i] = of_group[(c + i) / shape.D];
    return v;
}

// sums (G) = the sum over an example's positions and a group's channels of term, where terms(c, n) gives for channels
// c .. c + n - 1 a function from a channel's offset within the example to n terms and then zeros. Overwrites sums.
template <class Terms>
inline void group_sums(float* sums, const NormShape& shape, Terms terms) noexcept {
    const std::size_t C = shape.G * shape.D;
    for (std::size_t g = 0; g < shape.G; ++g) sums[g] = 0.0F;
    if (shape.P > 1 || shape.G > 1) {
        every_channel(shape, [&](std::size_t c, std::size_t n) noexcept {
            const auto term = terms(c, n);
            F32 sum{};
            for (std::size_t p = 0; p < shape.P; ++p) sum += term(p * C + c);
            for (std::size_t i = 0; i < n; ++i) sums[(c + i) / shape.D] += sum[i];
        });
        return;
    }
    constexpr std::size_t parts = interleaved / lanes;
    F32 sum[parts] = {};
    for (std::size_t c = 0; c < C; c += interleaved) {
#pragma GCC unroll 4
        for (std::size_t part = 0; part < parts; ++part) {
            const std::size_t at = c + part * lanes;
            if (at >= C) break;
            sum[part] += terms(at, C - at < lanes ? C - at : lanes)(at);
        }
    }
    float part[interleaved];
    std::memcpy(part, sum, sizeof part);
    for (std::size_t half = interleaved / 2; half > 0; half /= 2) {
        for (std::size_t i = 0; i < half; ++i) part[i] += part[i + half];
    }
    sums[0] = part[0];
}

void norm_moments(float* mean, float* variance, const float* x, const NormShape& shape) noexcept {
    const float count = static_cast<float>(shape.P * shape.D);
    for (std::size_t b = 0; b < shape.B; ++b, mean += shape.G, variance += shape.G, x += shape.P * shape.G * shape.D) {
        group_sums(mean, shape, [=](std::size_t, std::size_t n) noexcept {
            return [=](std::size_t at) noexcept { return load_some(x + at, n); };
        });
        for (std::size_t g = 0; g < shape.G; ++g) mean[g] /= count;
        group_sums(variance, shape, [=, &shape](std::size_t c, std::size_t n) noexcept {
            const F32 center = by_channel(mean, c, n, shape);
            return [=](std::size_t at) noexcept {
                const F32 off = load_some(x + at, n) - center;
                return off * off;
            };
        });
        for (std::size_t g = 0; g < shape.G; ++g) variance[g] /= count;
    }
}

void norm_apply(float* y, const float* x, const float* mean, const float* inverse, const float* w,
                const NormShape& shape) noexcept {
    const std::size_t C = shape.G * shape.D;
    for (std::size_t b = 0; b < shape.B; ++b, mean += shape.G, inverse += shape.G, x += shape.P * C, y += shape.P * C) {
        every_channel(shape, [=, &shape](std::size_t c, std::size_t n) noexcept {
            const F32 center = by_channel(mean, c, n, shape), shift = load_some(w + C + c, n);
            const F32 factor = by_channel(inverse, c, n, shape) * load_some(w + c, n);
            for (std::size_t at = c; at < shape.P * C; at += C) {
                store_some(y + at, (load_some(x + at, n) - center) * factor + shift, n);
            }
        });
    }
}

void norm_slopes(float* dx, const float* dy, const float* x, const float* mean, const float* inverse, const float* w,
                 float* scratch, const NormShape& shape) noexcept {
    const std::size_t C = shape.G * shape.D, example = shape.P * C;
    const float count = static_cast<float>(shape.P * shape.D);
    float *const sum = scratch, *const along = scratch + shape.G;
    for (std::size_t b = 0; b < shape.B; ++b) {
        group_sums(sum, shape, [=](std::size_t c, std::size_t n) noexcept {
            const F32 scale = load_some(w + c, n);
            return [=](std::size_t at) noexcept { return load_some(dy + at, n) * scale; };
        });
        group_sums(along, shape, [=, &shape](std::size_t c, std::size_t n) noexcept {
            const F32 scale = load_some(w + c, n), center = by_channel(mean, c, n, shape);
            return [=](std::size_t at) noexcept {
                return (load_some(dy + at, n) * scale) * (load_some(x + at, n) - center);
            };
        });
        // With e = x - mean and s = 1 / deviation, dx = s (w dy - mean(w dy) - e s^2 mean(w dy e)).
        for (std::size_t g = 0; g < shape.G; ++g) {
            sum[g] /= count;
            along[g] = (along[g] / count) * (inverse[g] * inverse[g]);
        }
        every_channel(shape, [=, &shape](std::size_t c, std::size_t n) noexcept {
            const F32 scale = load_some(w + c, n), center = by_channel(mean, c, n, shape);
            const F32 factor = by_channel(inverse, c, n, shape), average = by_channel(sum, c, n, shape);
            const F32 slope = by_channel(along, c, n, shape);
            for (std::size_t at = c; at < example; at += C) {
                const F32 rest = average + (load_some(x + at, n) - center) * slope;
                store_some(dx + at, factor * (load_some(dy + at, n) * scale - rest), n);
            }
        });
        mean += shape.G, inverse += shape.G, x += example, dy += example, dx += example;
    }
}

void norm_gradient(float* dw, const float* dy, const float* x, const float* mean, const float* inverse,
                   const NormShape& shape) noexcept {
    const std::size_t C = shape.G * shape.D, example = shape.P * C;
    every_channel(shape, [=, &shape](std::size_t c, std::size_t n) noexcept {
        F32 scale = load_some(dw + c, n), shift = load_some(dw + C + c, n);
        for (std::size_t b = 0; b < shape.B; ++b) {
            const F32 center = by_channel(mean + b * shape.G, c, n, shape);
            const F32 factor = by_channel(inverse + b * shape.G, c, n, shape);
            for (std::size_t at = b * example + c; at < (b + 1) * example; at += C) {
                const F32 slope = load_some(dy + at, n);
                scale += slope * ((load_some(x + at, n) - center) * factor);
                shift += slope;
            }
        }
        store_some(dw + c, scale, n);
        store_some(dw + C + c, shift, n);
    });
}

}  // namespace
}  // namespace fedge
