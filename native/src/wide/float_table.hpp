// The float table of one unit: included last, once.
#pragma once

#include "../kernels.hpp"
#include "product.hpp"
#include "recurrent.hpp"

namespace fedge {
namespace {

constexpr FloatKernels this_float_unit{
    .multiply = multiply,
    .gru_gates = gru_gates,
    .gru_slopes = gru_slopes,
};

}  // namespace
}  // namespace fedge
