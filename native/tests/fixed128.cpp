#include "../src/fixed128.hpp"

#include <cmath>

#include "check.hpp"

using namespace fedge;

namespace {

bool equal(U128 a, U128 b) { return a.hi == b.hi && a.lo == b.lo; }

// |a - b| <= bound 2^-127
bool near(U128 a, U128 b, std::uint64_t bound) {
    const U128 gap = mask_less(a, b) != 0 ? subtract(b, a) : subtract(a, b);
    return gap.hi == 0 && gap.lo <= bound;
}

std::uint64_t next(std::uint64_t& state) {  // splitmix64 (Vigna)
    std::uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

void products_sums_and_comparisons_carry() {
    constexpr std::uint64_t most = ~std::uint64_t{0};
    CHECK(equal(product(most, most), {most - 1, 1}));
    CHECK(equal(product(0x123456789abcdef0, 0x0fedcba987654321), {0x0121fa00ad77d742, 0x2236d88fe5618cf0}));
    CHECK(equal(add({1, most}, {2, 1}), {4, 0}) && equal(subtract({4, 0}, {2, 1}), {1, most}));
    CHECK(mask_less({1, 5}, {1, 6}) == most && mask_less({1, 6}, {1, 6}) == 0 && mask_less({2, 0}, {1, most}) == 0);
    CHECK(mask_less({1, most}, {2, 0}) == most && mask_less({0, 0}, half_of_all) == most);
    CHECK(mask_less(half_of_all, {0, 0}) == 0 && mask_less(half_of_all, half_of_all) == 0);
    CHECK(equal(shift_right({3, 5}, 0), {3, 5}) && equal(shift_right({3, 4}, 1), {1, (most / 2 + 1) + 2}));
    CHECK(equal(shift_right({1, 0}, 63), {0, 2}));
    // a = q b + r puts a 2^s / b between q 2^s and (q + 1) 2^s.
    CHECK(equal(divide({0, 1}, 128, {0, 3}), {0x5555555555555555, 0x5555555555555555}));
    CHECK(equal(divide({0, 1000}, 0, {0, 7}), {0, 142}));
    CHECK(equal(divide({most, most - 1}, 128, {most, most}), {most, most - 1}));
    CHECK(equal(divide({1, 0}, 60, {std::uint64_t{1} << 40, 0}), {0, std::uint64_t{1} << 20}));
}

// From 60-digit decimal arithmetic. The series ends with an error of 2^-97, 2^30 units.
void powers_are_those_of_decimal_arithmetic() {
    struct Known {
        U128 f, power;
    };
    constexpr Known known[] = {
        {{0, 0}, {0x8000000000000000, 0}},
        {{0x5555555555555555, 0x5555555555555555}, {0x6597fa94f5b8f20a, 0xc16666ad0f7137bc}},
        {{0xfff972474538ef34, 0xd6a161e4f765fd8a}, {0x400122bcb0f6e940, 0x569fa98e9f2a7f21}},
        {{0x243f6a8885a308d3, 0x13198a2e03707344}, {0x7408c6f57a73f1ab, 0x9ca4200f53e4fb92}},
        {{0x0000000000000000, 0x2f394219248446ba}, {0x7fffffffffffffff, 0xefa22eb0a9559d7a}},
        {{0x8000000000000000, 0}, {0x5a827999fcef3242, 0x2cbec4d9baa55f4f}},  // isqrt(2^253)
    };
    for (const auto& [f, power] : known) CHECK(near(exp2_of_minus(f), power, std::uint64_t{1} << 31));
    // 2^-(a + b) = 2^-a 2^-b
    std::uint64_t state = 1;
    for (int i = 0; i < 2000; ++i) {
        const U128 a{next(state) >> 1, next(state)}, b{next(state) >> 1, next(state)};
        const U128 both = multiply_high(exp2_of_minus(a), exp2_of_minus(b));  // Q126
        CHECK(near(shift_right(exp2_of_minus(add(a, b)), 1), both, std::uint64_t{1} << 33));
    }
}

void the_plain_fallback_agrees() {
    std::uint64_t state = 2;
    for (int i = 0; i < 1000; ++i) {
        const std::uint64_t a = next(state) >> (i % 60), b = next(state);
        const U128 p = product(a, b);
        CHECK(p.lo == a * b && std::fabs(std::ldexp(static_cast<double>(p.hi), 64) + static_cast<double>(p.lo) -
                                         static_cast<double>(a) * static_cast<double>(b)) <=
                                   std::ldexp(static_cast<double>(a) * static_cast<double>(b), -50));
        CHECK(equal(product_by_halves(a, b), p));
        const U128 c{next(state), next(state)};
        CHECK(equal(add_by_halves(p, c), add(p, c)) && equal(subtract_by_halves(p, c), subtract(p, c)));
        CHECK(equal(subtract_by_halves(c, {a, c.lo}), subtract(c, {a, c.lo})));
    }
}

}  // namespace

int main() {
    return check::run([] {
        products_sums_and_comparisons_carry();
        powers_are_those_of_decimal_arithmetic();
        the_plain_fallback_agrees();
    });
}
