// The elementwise half of a gated recurrent unit's step; src/layers/gru.cpp has the equations and the other half.
#pragma once

#include "math.hpp"
#include "places.hpp"

namespace fedge {
namespace {

void gru_gates(float* next, float* rows, const GruStep& step) noexcept {
    const std::size_t H = step.H;
    for (std::size_t b = 0; b < step.B; ++b) {
        float *const n = rows + b * step.row, *const r = n + H, *const z = r + H, *const q = z + H, *const h = q + H;
        float* const after = next + b * step.next_row;
        everywhere(H, [=](auto at) noexcept {
            const F32 reset = sigmoid(at.get(r)), update = sigmoid(at.get(z));
            const F32 fresh = tanh(at.get(n) + reset * at.get(q));
            at.put(n, fresh);
            at.put(r, reset);
            at.put(z, update);
            at.put(after, fresh + update * (at.get(h) - fresh));
        });
    }
}

void gru_slopes(float* carry, float* rows, const GruStep& step) noexcept {
    const std::size_t H = step.H;
    for (std::size_t b = 0; b < step.B; ++b) {
        float *const n = rows + b * step.row, *const r = n + H, *const z = r + H, *const q = z + H, *const h = q + H;
        float* const state = carry + b * H;
        everywhere(H, [=](auto at) noexcept {
            const F32 fresh = at.get(n), reset = at.get(r), update = at.get(z), after = at.get(state);
            const F32 into_tanh = (after * (1.0F - update)) * (1.0F - fresh * fresh);
            const F32 into_reset = (into_tanh * at.get(q)) * (reset * (1.0F - reset));
            const F32 into_update = (after * (at.get(h) - fresh)) * (update * (1.0F - update));
            at.put(n, into_tanh);
            at.put(r, into_reset);
            at.put(z, into_update);
            at.put(q, into_tanh * reset);
            at.put(state, after * update);
        });
    }
}

}  // namespace
}  // namespace fedge
