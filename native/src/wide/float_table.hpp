// The float table of one unit: included last, once.
#pragma once

#include "../kernels.hpp"
#include "norm.hpp"
#include "product.hpp"
#include "recurrent.hpp"

namespace fedge {
namespace {

constexpr FloatKernels this_float_unit{
    .multiply = multiply,
    .gru_gates = gru_gates,
    .gru_slopes = gru_slopes,
    .norm_moments = norm_moments,
    .norm_apply = norm_apply,
    .norm_slopes = norm_slopes,
    .norm_gradient = norm_gradient,
};

}  // namespace
}  // namespace fedge
