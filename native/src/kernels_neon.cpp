#define FEDGE_WIDTH 16
#include "wide/table.hpp"

const fedge::Kernels fedge::neon_kernels = fedge::this_unit;
