// The elementwise half of a gated recurrent unit's step; src/layers/gru.cpp has the equations and the other half.
#pragma once

#include "product.hpp"

namespace fedge {
namespace {

namespace gate {

inline F32 exp(F32 x) noexcept {
    x = x > 88.0F ? F32{} + 88.0F : x;
    x = x < -87.0F ? F32{} - 87.0F : x;
    const F32 shifted = x * 0x1.715476p+0F + 12582912.0F;
    const F32 n = shifted - 12582912.0F;
    const F32 r = (x - n * 0x1.62e4p-1F) - n * 0x1.7f7d1cp-20F;
    F32 p = F32{} + 0x1.6b9ce8p-10F;
    p = p * r + 0x1.12256cp-7F;
    p = p * r + 0x1.5556f2p-5F;
    p = p * r + 0x1.5554b4p-3F;
    p = p * r + 0x1.fffffep-2F;
    const F32 small = (r * r) * p + r;
    return (1.0F + small) * (F32)(((U32)shifted - (0x4b400000U - 127U)) << 23);
}

inline F32 sigmoid(F32 x) noexcept { return 1.0F / (1.0F + exp(-x)); }
inline F32 tanh(F32 x) noexcept { return 1.0F - 2.0F / (exp(x * 2.0F) + 1.0F); }

}  // namespace gate

// A vector's worth of H at j, the last one `n` floats long.
struct GateLanes {
    std::size_t j, n;
    F32 get(const float* p) const noexcept { return n == lanes ? load(p + j) : load_part(p + j, n); }
    void put(float* p, F32 v) const noexcept { std::memcpy(p + j, &v, n * sizeof(float)); }
};

template <class Body>
inline void every_unit(std::size_t H, Body body) noexcept {
    std::size_t j = 0;
    for (; j + lanes <= H; j += lanes) body(GateLanes{j, lanes});
    if (j < H) body(GateLanes{j, H - j});
}

void gru_gates(float* next, float* rows, const GruStep& step) noexcept {
    const std::size_t H = step.H;
    for (std::size_t b = 0; b < step.B; ++b) {
        float *const n = rows + b * step.row, *const r = n + H, *const z = r + H, *const q = z + H, *const h = q + H;
        float* const after = next + b * step.next_row;
        every_unit(H, [=](auto at) noexcept {
            const F32 reset = gate::sigmoid(at.get(r)), update = gate::sigmoid(at.get(z));
            const F32 fresh = gate::tanh(at.get(n) + reset * at.get(q));
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
        every_unit(H, [=](auto at) noexcept {
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
