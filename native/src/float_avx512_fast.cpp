#define FEDGE_WIDTH 64
#include "wide/float_table.hpp"

const fedge::FloatKernels fedge::avx512_fast_float = fedge::this_float_unit;
