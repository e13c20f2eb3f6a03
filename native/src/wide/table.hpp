// The table of one unit: included last, once.
#pragma once

#include "../kernels.hpp"
#include "chacha20.hpp"
#include "dense.hpp"
#include "laplace.hpp"

namespace fedge {
namespace {

constexpr Kernels this_unit{chacha20_blocks, laplace_block, forward_product, accumulate_product};

}  // namespace
}  // namespace fedge
