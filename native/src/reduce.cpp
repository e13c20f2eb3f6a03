#include "fedge/reduce.hpp"

#include <bit>

namespace fedge {

bool all_finite(const float* x, std::size_t n) noexcept {
    // An exponent field of all ones is NaN or infinity; adding one to that field carries into the (cleared) sign bit.
    std::uint32_t carry = 0;
    for (std::size_t i = 0; i < n; ++i) carry |= (std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffU) + 0x00800000U;
    return (carry >> 31) == 0;
}

template <class Index>
std::size_t first_out_of_range(const Index* values, std::size_t n, std::size_t bound) noexcept {
    for (std::size_t i = 0; i < n; ++i) {
        if (values[i] < 0 || static_cast<std::uint64_t>(values[i]) >= bound) return i;
    }
    return n;
}

template std::size_t first_out_of_range(const std::int32_t*, std::size_t, std::size_t) noexcept;
template std::size_t first_out_of_range(const std::int64_t*, std::size_t, std::size_t) noexcept;

bool accumulate_f32(double* acc, const float* x, double weight, std::size_t d) noexcept {
    if (!all_finite(x, d)) return false;
    for (std::size_t i = 0; i < d; ++i) acc[i] += weight * static_cast<double>(x[i]);
    return true;
}

bool accumulate_i32(std::int64_t* acc, const std::int32_t* x, std::size_t d) noexcept {
    std::uint64_t overflow = 0;
    for (std::size_t i = 0; i < d; ++i) {
        const auto a = static_cast<std::uint64_t>(acc[i]);
        const auto b = static_cast<std::uint64_t>(static_cast<std::int64_t>(x[i]));
        const std::uint64_t sum = a + b;
        overflow |= (a ^ sum) & (b ^ sum);  // the sign bit: both terms differ in sign from their sum
    }
    if ((overflow >> 63) != 0) return false;
    for (std::size_t i = 0; i < d; ++i) acc[i] += x[i];
    return true;
}

std::uint64_t integer_l1_norm(const std::int32_t* values, std::size_t n) noexcept {
    std::uint64_t norm = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const auto bits = static_cast<std::uint32_t>(values[i]);
        norm += values[i] < 0 ? 0U - bits : bits;
    }
    return norm;
}

}  // namespace fedge
