// Sums at secret places.
#pragma once

#include "lanes.hpp"

namespace fedge {
namespace {

// sums[where[i]] += values[i] modulo 2^32 for i < n, `where` below `places`, a multiple of lanes32: by passing over all
// of `sums` for each, so that no address depends on `where`.
void add_scattered(std::uint32_t* sums, const std::uint32_t* where, const std::uint32_t* values, std::size_t places,
                   std::size_t n) noexcept {
    U32 id = lane_numbers();
    for (std::size_t at = 0; at < places; at += lanes32, id += lanes32) {
        U32 sum = load32(sums + at);
        for (std::size_t i = 0; i < n; ++i) sum += (U32)(id == where[i]) & values[i];
        store32(sums + at, sum);
    }
}

}  // namespace
}  // namespace fedge
