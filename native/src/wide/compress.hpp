// Stochastic rounding onto levels.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fedge {
namespace {

// codes (n) = floor(x * scale + shift + u), at most `most`, u uniform on [0, 1) in steps of 2^-31 from the words. Needs
// |x * scale| <= shift but for rounding: what lies a rounding below zero is cut to zero.
void stochastic_codes(std::uint32_t* __restrict codes, const float* __restrict x,
                      const std::uint32_t* __restrict words, double scale, double shift, std::int32_t most,
                      std::size_t n) noexcept {
    for (std::size_t i = 0; i < n; ++i) {
        const double u = static_cast<double>(static_cast<std::int32_t>(words[i] >> 1)) * 0x1p-31;
        const double level = static_cast<double>(x[i]) * scale + shift + u;
        const auto code = static_cast<std::int32_t>(level);
        codes[i] = static_cast<std::uint32_t>(code < most ? code : most);
    }
}

}  // namespace
}  // namespace fedge
