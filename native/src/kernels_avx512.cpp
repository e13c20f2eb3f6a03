#define FEDGE_WIDTH 64
#include "wide/table.hpp"

const fedge::Kernels fedge::avx512_kernels = fedge::this_unit;
