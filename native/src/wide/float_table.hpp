// The float table of one unit: included last, once.
#pragma once

#include "../kernels.hpp"
#include "conv.hpp"
#include "descent.hpp"
#include "elementwise.hpp"
#include "norm.hpp"
#include "noised.hpp"
#include "norms.hpp"
#include "pool.hpp"
#include "product.hpp"
#include "recurrent.hpp"

namespace fedge {
namespace {

constexpr FloatKernels this_float_unit{
    .multiply = multiply,
    .scale = scale,
    .add_noise = add_noise,
    .magnitude_sum = magnitude_sum,
    .square_sum = square_sum,
    .exp = apply<exp>,
    .log = apply<log>,
    .relu = apply<relu>,
    .tanh = apply<tanh>,
    .sigmoid = apply<sigmoid>,
    .softplus = apply<softplus>,
    .relu_slope = relu_slope,
    .tanh_slope = apply_slope<tanh_slope>,
    .sigmoid_slope = apply_slope<sigmoid_slope>,
    .softplus_slope = apply_slope<one_minus_exp_of_minus>,
    .sgd = sgd,
    .adam = adam,
    .multiply_channels = multiply_channels,
    .add_rows = add_rows,
    .max_pool = max_pool,
    .max_pool_back = max_pool_back,
    .average_pool = average_pool,
    .average_pool_back = average_pool_back,
    .gru_gates = gru_gates,
    .gru_slopes = gru_slopes,
    .norm_moments = norm_moments,
    .norm_apply = norm_apply,
    .norm_slopes = norm_slopes,
    .norm_gradient = norm_gradient,
};

}  // namespace
}  // namespace fedge
