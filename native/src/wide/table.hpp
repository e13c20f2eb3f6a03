// The integer table of one unit: included last, once.
#pragma once

#include "../kernels.hpp"
#include "chacha20.hpp"
#include "compress.hpp"
#include "gaussian.hpp"
#include "laplace.hpp"
#include "reduce.hpp"
#include "robust.hpp"
#include "scatter.hpp"

namespace fedge {
namespace {

constexpr Kernels this_unit{chacha20_blocks,
                            laplace_block<std::int64_t>,
                            laplace_block<std::int32_t>,
                            gaussian_decide,
                            gaussian_collect<std::int64_t>,
                            gaussian_collect<std::int32_t>,
                            add_scattered,
                            accumulate_rows,
                            add_words,
                            subtract_words,
                            mean_of_ranks,
                            accumulate_squares,
                            squared_distance_f32,
                            squared_distance_f64,
                            stochastic_codes};

}  // namespace
}  // namespace fedge
