#define FEDGE_WIDTH 16
#include "wide/float_table.hpp"

const fedge::FloatKernels fedge::neon_float = fedge::this_float_unit;
