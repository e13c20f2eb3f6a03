#define FEDGE_WIDTH 32
#include "wide/float_table.hpp"

const fedge::FloatKernels fedge::avx2_fast_float = fedge::this_float_unit;
