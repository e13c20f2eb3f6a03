// The integer table of one unit: included last, once.
#pragma once

#include "../kernels.hpp"
#include "chacha20.hpp"
#include "laplace.hpp"

namespace fedge {
namespace {

constexpr Kernels this_unit{chacha20_blocks, laplace_block};

}  // namespace
}  // namespace fedge
