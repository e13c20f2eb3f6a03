// One optimizer step in one pass over memory.
#pragma once

#include "elementwise.hpp"

namespace fedge {
namespace {

// d from g and w, as optimizer.hpp defines it. g is written only where that changes it.
template <bool anchored, bool corrected, class At>
inline F32 direction(float* g, F32 w, const Descent& step, At at) noexcept {
    F32 d = at.get(g);
    if constexpr (anchored) d = d + step.proximal * (w - at.get(step.anchor));
    if constexpr (corrected) d = d + at.get(step.correction);
    if constexpr (anchored || corrected) at.put(g, d);
    return d;
}

// rule(anchored, corrected) as constants.
template <class Rule>
inline void with_objective(const Descent& step, Rule rule) noexcept {
    const bool corrected = step.correction != nullptr;
    if (step.anchor != nullptr) {
        corrected ? rule.template operator()<true, true>() : rule.template operator()<true, false>();
    } else {
        corrected ? rule.template operator()<false, true>() : rule.template operator()<false, false>();
    }
}

template <bool moving, bool nesterov>
inline void sgd_rule(float* w, float* g, float* velocity, std::size_t n, const Descent& step) noexcept {
    with_objective(step, [=, &step]<bool anchored, bool corrected>() noexcept {
        everywhere(n, [=, &step](auto at) noexcept {
            const F32 before = at.get(w);
            F32 d = direction<anchored, corrected>(g, before, step, at) + step.decay * before;
            if constexpr (moving) {
                const F32 v = step.momentum * at.get(velocity) + d;
                at.put(velocity, v);
                d = nesterov ? d + step.momentum * v : v;
            }
            at.put(w, before - step.rate * d);
        });
    });
}

void sgd(float* w, float* g, float* velocity, std::size_t n, const Descent& step) noexcept {
    if (velocity == nullptr) return sgd_rule<false, false>(w, g, velocity, n, step);
    step.nesterov ? sgd_rule<true, true>(w, g, velocity, n, step) : sgd_rule<true, false>(w, g, velocity, n, step);
}

// One instruction for all lanes: errno is not asked for (CMakeLists.txt).
inline F32 square_root(F32 v) noexcept {
    for (std::size_t lane = 0; lane < lanes; ++lane) v[lane] = __builtin_sqrtf(v[lane]);
    return v;
}

void adam(float* w, float* g, float* mean, float* square, std::size_t n, const Descent& step) noexcept {
    with_objective(step, [=, &step]<bool anchored, bool corrected>() noexcept {
        everywhere(n, [=, &step](auto at) noexcept {
            const F32 before = at.get(w);
            const F32 d = direction<anchored, corrected>(g, before, step, at) + step.decay * before;
            const F32 m = at.get(mean), v = at.get(square);
            const F32 m_next = m + step.mean_gain * (d - m);
            const F32 v_next = step.square_keep * v + step.square_gain * (d * d);
            at.put(mean, m_next);
            at.put(square, v_next);
            const F32 size = square_root(v_next) * step.square_unbias + step.epsilon;
            at.put(w, step.shrink * before - step.rate * (m_next / size));
        });
    });
}

}  // namespace
}  // namespace fedge
