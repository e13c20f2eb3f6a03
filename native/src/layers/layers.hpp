// What the layers share among themselves.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>

#include "../kernels.hpp"
#include "fedge/layer.hpp"
#include "fedge/workspace.hpp"

namespace fedge {

inline constexpr std::size_t max_units = std::size_t{1} << 20;

// "(187, 32)": without the dimensions that are 1 in front.
std::string shape_words(const Shape& shape);

// Throws std::invalid_argument: "want NAME in [low, high]; got value".
void check_range(const char* name, std::size_t value, std::size_t low, std::size_t high);

// sqrt(6 / (inputs + outputs)) of one unit: Glorot & Bengio 2010.
double glorot_bound(std::size_t inputs, std::size_t outputs) noexcept;

// What a norm of x (n) sums.
inline double measure(const float* x, std::size_t n, Norm norm, const FloatKernels& kernels) noexcept {
    return norm == Norm::l1 ? kernels.magnitude_sum(x, n) : kernels.square_sum(x, n);
}

// y (columns, rows) = x (rows, columns)^T. Overwrites y.
void transpose(float* y, const float* x, std::size_t rows, std::size_t columns) noexcept;

// total (n) += each row of x (rows, n) in order.
void sum_rows(float* total, const float* x, std::size_t rows, std::size_t n, const FloatKernels& kernels) noexcept;

}  // namespace fedge
