// Vectors of FEDGE_WIDTH bytes, the compilers' own extension (GCC, Clang): SSE2, AVX2 or AVX-512 on x86-64, NEON on
// aarch64, plain scalars elsewhere. Internal linkage throughout: see kernels.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace fedge {
namespace {

constexpr std::size_t width = FEDGE_WIDTH;
constexpr std::size_t quads = width / 16;  // 128-bit pieces of a vector
constexpr std::size_t lanes32 = width / 4;

using U8 = std::uint8_t __attribute__((vector_size(width)));
using U16 = std::uint16_t __attribute__((vector_size(width)));
using U32 = std::uint32_t __attribute__((vector_size(width)));
using U64 = std::uint64_t __attribute__((vector_size(width)));

constexpr bool little_endian = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;

template <std::size_t... i>
struct Indices {};
template <std::size_t n, std::size_t... i>
struct IndicesUpTo : IndicesUpTo<n - 1, n - 1, i...> {};
template <std::size_t... i>
struct IndicesUpTo<0, i...> {
    using type = Indices<i...>;
};

}  // namespace
}  // namespace fedge
