// The kernels that exist once for each instruction set, behind a table of pointers.
//
// Each unit src/kernels_*.cpp compiles the sources of src/wide/ for one set and defines one table. Whatever such a unit
// defines besides its table has internal linkage, for the linker keeps one copy of an inline function or a template
// instance and might give a processor without AVX the copy compiled with it. So those units include nothing that
// defines functions, and nobody adds an inline function here. native/tests/no_shared_code.cmake looks at the objects.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fedge {

// Where a(m, k) lies in a product: dy^T and dy are the same memory walked two ways.
struct Strides {
    std::size_t m, k;
};

struct Kernels {
    // The keystream for counter, counter + 1, ... of the state `first`, as many of `blocks` as come in whole vectors.
    // Returns how many that was.
    std::size_t (*chacha20_blocks)(std::uint8_t* out, const std::uint32_t* first, std::uint64_t counter,
                                   std::size_t blocks) noexcept;

    // As in noise.hpp.
    void (*laplace_block)(std::int64_t* out, const std::uint64_t* words, unsigned m,
                          std::byte* workspace) noexcept;

    // y (B, O) = x (B, I) @ w (O, I)^T + b (O)
    void (*dense_forward)(float* y, const float* x, const float* w, const float* b, std::size_t B, std::size_t I,
                          std::size_t O) noexcept;

    // c (M, N) += a (M, K) @ b (K, N), a read through its strides
    void (*accumulate_product)(float* c, const float* a, Strides at, const float* b, std::size_t M, std::size_t N,
                               std::size_t K) noexcept;
};

extern const Kernels baseline_kernels;
#ifdef FEDGE_X86_64
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
#endif

// Those of isa().
const Kernels& kernels() noexcept;

}  // namespace fedge
