#include "fedge/layer.hpp"

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

void transpose(float* y, const float* x, std::size_t rows, std::size_t columns) noexcept {
    constexpr std::size_t block = 16;  // squares whose lines of both matrices fit the first-level cache
    for (std::size_t r = 0; r < rows; r += block) {
        for (std::size_t c = 0; c < columns; c += block) {
            for (std::size_t i = r; i < std::min(r + block, rows); ++i) {
                for (std::size_t j = c; j < std::min(c + block, columns); ++j) y[j * rows + i] = x[i * columns + j];
            }
        }
    }
}

void sum_rows(float* total, const float* x, std::size_t rows, std::size_t n, const FloatKernels& kernels) noexcept {
    const float one = 1.0F;
    kernels.multiply(total, &one, x, nullptr, {1, n, 1, rows, 1, 0, 0, 0, 0, n, n});
}

}  // namespace fedge
