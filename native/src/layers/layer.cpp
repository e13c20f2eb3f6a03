#include "fedge/layer.hpp"

#include <cstring>
#include <stdexcept>

#include "layers.hpp"

namespace fedge {

std::size_t Parameter::size() const noexcept {
    std::size_t n = 1;
    for (const std::size_t length : shape) n = saturating_product(n, length);
    return n;
}

std::size_t Layer::parameter_count() const noexcept {
    std::size_t n = 0;
    for (const Parameter& parameter : parameters_) {
        if (__builtin_add_overflow(n, parameter.size(), &n)) return SIZE_MAX;
    }
    return n;
}

std::string shape_words(const Shape& shape) {
    std::string words = "(";
    if (shape.height > 1) words += std::to_string(shape.height) + ", ";
    if (shape.height > 1 || shape.width > 1) words += std::to_string(shape.width) + ", ";
    return words + std::to_string(shape.channels) + (shape.height > 1 || shape.width > 1 ? ")" : ",)");
}

void check_range(const char* name, std::size_t value, std::size_t low, std::size_t high) {
    if (value >= low && value <= high) return;
    throw std::invalid_argument("want " + std::string(name) + " in [" + std::to_string(low) + ", " +
                                std::to_string(high) + "]; got " + std::to_string(value));
}

double glorot_bound(std::size_t inputs, std::size_t outputs) noexcept {
    return std::sqrt(6.0 / (static_cast<double>(inputs) + static_cast<double>(outputs)));
}

namespace {

using F32x4 = float __attribute__((vector_size(16)));

// Two rounds of interleaving turn a square of 4 x 4.
void transpose_square(float* y, const float* x, std::size_t rows, std::size_t columns) noexcept {
    F32x4 a, b, c, d;
    std::memcpy(&a, x, sizeof a);
    std::memcpy(&b, x + columns, sizeof b);
    std::memcpy(&c, x + 2 * columns, sizeof c);
    std::memcpy(&d, x + 3 * columns, sizeof d);
    const F32x4 ac_low = __builtin_shufflevector(a, c, 0, 4, 1, 5), ac_high = __builtin_shufflevector(a, c, 2, 6, 3, 7);
    const F32x4 bd_low = __builtin_shufflevector(b, d, 0, 4, 1, 5), bd_high = __builtin_shufflevector(b, d, 2, 6, 3, 7);
    const F32x4 out[4] = {__builtin_shufflevector(ac_low, bd_low, 0, 4, 1, 5),
                          __builtin_shufflevector(ac_low, bd_low, 2, 6, 3, 7),
                          __builtin_shufflevector(ac_high, bd_high, 0, 4, 1, 5),
                          __builtin_shufflevector(ac_high, bd_high, 2, 6, 3, 7)};
    for (std::size_t i = 0; i < 4; ++i) std::memcpy(y + i * rows, &out[i], sizeof out[i]);
}

}  // namespace

void transpose(float* y, const float* x, std::size_t rows, std::size_t columns) noexcept {
    constexpr std::size_t block = 16;  // squares whose lines of both matrices fit the first-level cache
    const std::size_t whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
    for (std::size_t r = 0; r < whole_rows; r += block) {
        for (std::size_t c = 0; c < whole_columns; c += 4) {
            for (std::size_t i = r; i < std::min(r + block, whole_rows); i += 4) {
                transpose_square(y + c * rows + i, x + i * columns + c, rows, columns);
            }
        }
    }
    for (std::size_t i = 0; i < rows; ++i) {
        for (std::size_t j = i < whole_rows ? whole_columns : 0; j < columns; ++j) {
            y[j * rows + i] = x[i * columns + j];
        }
    }
}

void sum_rows(float* total, const float* x, std::size_t rows, std::size_t n, const FloatKernels& kernels) noexcept {
    const float one = 1.0F;
    kernels.multiply(total, &one, x, nullptr, {1, n, 1, rows, 1, 0, 0, 0, 0, n, n});
}

}  // namespace fedge
