// The float table of one unit: included last, once.
#pragma once

#include "../kernels.hpp"
#include "product.hpp"

namespace fedge {
namespace {

constexpr FloatKernels this_float_unit{
    .multiply = multiply,
};

}  // namespace
}  // namespace fedge
