#define FEDGE_WIDTH 32
#include "wide/table.hpp"

const fedge::Kernels fedge::avx2_kernels = fedge::this_unit;
