#include "fixed128.hpp"

namespace fedge {
namespace {

// round(2^128 (ln 2)^n / n!), n = 1..24.
constexpr U128 exp2_series[] = {
    {0xb17217f7d1cf79ab, 0xc9e3b39803f2f6af}, {0x3d7f7bff058b1d50, 0xde2d60dd92e6bf95},
    {0x0e35846b82505fc5, 0x99d3b15d995e96f7}, {0x0276556df749cee5, 0x39977c16a7dd58a1},
    {0x005761ff9e299cc4, 0x41c5fda69452fb0d}, {0x000a184897c363c3, 0xb7a58544c3591a10},
    {0x0000ffe5fe2c4586, 0x34358a8e643ec735}, {0x0000162c0223a5c8, 0x23fd8ffe606da77c},
    {0x000001b5253d395e, 0x7c3da4a70e5a4ff9}, {0x0000001e4cf5158b, 0x8ec9f6fda1d952e7},
    {0x00000001e8cac735, 0x1bb24c0f57995e47}, {0x000000001c3bd650, 0xfc2985e2b5687e18},
    {0x0000000001816193, 0x166d0f96281ac301}, {0x0000000000131496, 0x4d5878a973f14362},
    {0x000000000000e1b7, 0x421d82010f33d8ac}, {0x00000000000009c7, 0x44d73cfc59c91c7f},
    {0x0000000000000066, 0x1112d070969f5587}, {0x0000000000000003, 0xee2ed7b686d2bae6},
    {0x0000000000000000, 0x24b4fd9706b8c9b6}, {0x0000000000000000, 0x0145acc4b5051358},
    {0x0000000000000000, 0x000abfe2bc1f04e4}, {0x0000000000000000, 0x000056b3eb4dc077},
    {0x0000000000000000, 0x0000029cea2bb932}, {0x0000000000000000, 0x0000001351aaf6cc},
};
constexpr std::size_t terms = sizeof exp2_series / sizeof *exp2_series;

}  // namespace

U128 exp2_of_minus(U128 f) noexcept {
    // 2^-f = 1 - f (c1 - f (c2 - ...)), and every bracket is positive: its terms fall.
    U128 bracket = exp2_series[terms - 1];
    for (std::size_t n = terms - 1; n-- > 0;) bracket = subtract(exp2_series[n], multiply_high(f, bracket));
    return subtract({std::uint64_t{1} << 63, 0}, shift_right(multiply_high(f, bracket), 1));
}

U128 divide(U128 a, unsigned shift, U128 b) noexcept {
    U128 quotient{0, 0}, rest{0, 0};
    for (unsigned i = 0; i < 128 + shift; ++i) {
        const std::uint64_t over = rest.hi >> 63;  // the rest is below b, twice the rest may need 129 bits
        rest = add(rest, rest);
        rest.lo |= i < 128 ? (i < 64 ? a.hi >> (63 - i) : a.lo >> (127 - i)) & 1 : 0;
        quotient = add(quotient, quotient);
        if (over != 0 || rest.hi > b.hi || (rest.hi == b.hi && rest.lo >= b.lo)) {
            rest = subtract(rest, b);
            quotient.lo |= 1;
        }
    }
    return quotient;
}

}  // namespace fedge
