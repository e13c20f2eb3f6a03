// Pools over one image, a vector of channels at a time.
#pragma once

#include "../kernels.hpp"
#include "places.hpp"

namespace fedge {
namespace {

// What of a window lies in the image, along one direction: the taps from `first` up to `end`, the first at `at`.
struct Overlap {
    std::size_t first, end, at;

    Overlap(std::size_t position, std::size_t size, std::size_t stride, std::size_t padding,
            std::size_t length) noexcept {
        const std::size_t begin = position * stride;
        first = begin < padding ? padding - begin : 0;
        end = length + padding - begin < size ? length + padding - begin : size;
        at = begin + first - padding;
    }
};

// body(output, window's first tap, its number, rows and columns of taps) at every output, offsets in floats.
template <class Body>
inline void every_window(const Windows& shape, Body body) noexcept {
    std::size_t output = 0;
    for (std::size_t oh = 0; oh < shape.OH; ++oh) {
        const Overlap h(oh, shape.KH, shape.SH, shape.PH, shape.H);
        for (std::size_t ow = 0; ow < shape.OW; ++ow, output += shape.C) {
            const Overlap w(ow, shape.KW, shape.SW, shape.PW, shape.W);
            body(output, (h.at * shape.W + w.at) * shape.C, h.first * shape.KW + w.first, h.end - h.first,
                 w.end - w.first);
        }
    }
}

// body(offset from the first tap in floats, number) at every tap of a window, in order.
template <class Body>
inline void taps_of(const Windows& shape, std::size_t number, std::size_t rows, std::size_t columns,
                    Body body) noexcept {
    for (std::size_t i = 0; i < rows; ++i) {
        for (std::size_t j = 0; j < columns; ++j) {
            body((i * shape.W + j) * shape.C, static_cast<float>(number + i * shape.KW + j));
        }
    }
}

// The same, with the loops of the usual windows unrolled.
template <class Body>
inline void every_tap(const Windows& shape, std::size_t number, std::size_t rows, std::size_t columns,
                      Body body) noexcept {
    if (columns == 2 && rows == 2) {
        taps_of(shape, number, 2, 2, body);
    } else if (columns == 2 && rows == 1) {
        taps_of(shape, number, 1, 2, body);
    } else {
        taps_of(shape, number, rows, columns, body);
    }
}

// The first of the largest; NaN is larger than everything, so that it is seen.
void max_pool(float* y, float* place, const float* x, const Windows& shape) noexcept {
    every_window(shape, [=, &shape](std::size_t output, std::size_t window, std::size_t number, std::size_t rows,
                                    std::size_t columns) noexcept {
        everywhere(shape.C, [=, &shape](auto at) noexcept {
            const float* const taps = x + window;
            F32 most = at.get(taps), where = F32{} + static_cast<float>(number);
            every_tap(shape, number, rows, columns, [&](std::size_t offset, float tap) noexcept {
                const F32 v = at.get(taps + offset);
                const auto better = (v > most) | (v != v);
                most = better ? v : most;
                where = better ? F32{} + tap : where;
            });
            at.put(y + output, most);
            at.put(place + output, where);
        });
    });
}

void max_pool_back(float* dx, const float* dy, const float* place, const Windows& shape) noexcept {
    std::memset(dx, 0, shape.H * shape.W * shape.C * sizeof(float));
    every_window(shape, [=, &shape](std::size_t output, std::size_t window, std::size_t number, std::size_t rows,
                                    std::size_t columns) noexcept {
        everywhere(shape.C, [=, &shape](auto at) noexcept {
            float* const taps = dx + window;
            const F32 slope = at.get(dy + output), where = at.get(place + output);
            every_tap(shape, number, rows, columns, [&](std::size_t offset, float tap) noexcept {
                at.put(taps + offset, at.get(taps + offset) + (where == tap ? slope : F32{}));
            });
        });
    });
}

void average_pool(float* y, const float* x, const Windows& shape) noexcept {
    const auto taps_in_all = static_cast<float>(shape.KH * shape.KW);
    every_window(shape, [=, &shape](std::size_t output, std::size_t window, std::size_t number, std::size_t rows,
                                    std::size_t columns) noexcept {
        everywhere(shape.C, [=, &shape](auto at) noexcept {
            F32 sum{};
            every_tap(shape, number, rows, columns,
                      [&](std::size_t offset, float) noexcept { sum += at.get(x + window + offset); });
            at.put(y + output, sum / taps_in_all);
        });
    });
}

void average_pool_back(float* dx, const float* dy, const Windows& shape) noexcept {
    const auto taps_in_all = static_cast<float>(shape.KH * shape.KW);
    std::memset(dx, 0, shape.H * shape.W * shape.C * sizeof(float));
    every_window(shape, [=, &shape](std::size_t output, std::size_t window, std::size_t number, std::size_t rows,
                                    std::size_t columns) noexcept {
        everywhere(shape.C, [=, &shape](auto at) noexcept {
            float* const taps = dx + window;
            const F32 share = at.get(dy + output) / taps_in_all;
            every_tap(shape, number, rows, columns, [&](std::size_t offset, float) noexcept {
                at.put(taps + offset, at.get(taps + offset) + share);
            });
        });
    });
}

}  // namespace
}  // namespace fedge
