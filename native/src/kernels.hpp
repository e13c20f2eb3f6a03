// The kernels that exist once for each instruction set, behind tables of pointers.
//
// Each unit src/kernels_*.cpp and src/float_*.cpp compiles the sources of src/wide/ for one set and defines one table.
// Whatever such a unit defines besides its table has internal linkage, for the linker keeps one copy of an inline
// function or a template instance and might give a processor without AVX the copy compiled with it. So those units
// include nothing that defines functions, and nobody adds an inline function here. native/tests/no_shared_code.cmake
// looks at the objects.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fedge/arithmetic.hpp"
#include "fedge/gaussian_block.hpp"

namespace fedge {

// The ranks [first, last) of the columns of n rows.
struct RankSelection {
    const float* const* rows;
    std::size_t n, first, last;
};

// Integers, and floats whose every rounding is prescribed: one table a set, the same bits from all.
struct Kernels {
    // The keystream for counter, counter + 1, ... of the state `first`, as many of `blocks` as come in whole vectors.
    // Returns how many that was.
    std::size_t (*chacha20_blocks)(std::uint8_t* out, const std::uint32_t* first, std::uint64_t counter,
                                   std::size_t blocks) noexcept;

    // As in noise.hpp.
    void (*laplace_block)(std::int64_t* out, const std::uint64_t* words, unsigned m,
                          std::byte* workspace) noexcept;
    void (*laplace_block_32)(std::int32_t* out, const std::uint64_t* words, unsigned m,
                             std::byte* workspace) noexcept;

    // As in wide/gaussian.hpp.
    void (*gaussian_decide)(GaussianBlock& at, const std::uint32_t* words, const GaussianLanes& plan) noexcept;
    std::size_t (*gaussian_collect)(std::int64_t* out, GaussianBlock& at, const std::uint32_t* words,
                                    unsigned bits) noexcept;
    std::size_t (*gaussian_collect_32)(std::int32_t* out, GaussianBlock& at, const std::uint32_t* words,
                                       unsigned bits) noexcept;

    // As in wide/scatter.hpp.
    void (*add_scattered)(std::uint32_t* sums, const std::uint32_t* where, const std::uint32_t* values,
                          std::size_t places, std::size_t n) noexcept;

    // acc (count) += sum of weights[i] * rows[i][from + j], each coordinate in the order of the n rows.
    void (*accumulate_rows)(double* acc, const float* const* rows, const double* weights, std::size_t n,
                            std::size_t from, std::size_t count) noexcept;

    // acc (n) += x (n), and acc -= x, modulo 2^32.
    void (*add_words)(std::uint32_t* acc, const std::uint32_t* x, std::size_t n) noexcept;
    void (*subtract_words)(std::uint32_t* acc, const std::uint32_t* x, std::size_t n) noexcept;

    // out (count) = the means over the ranks of columns [from, from + count); false where one holds NaN or infinity.
    bool (*mean_of_ranks)(float* out, const RankSelection& by, std::size_t from, std::size_t count,
                          std::byte* workspace) noexcept;

    // squares (n, n), below the diagonal, += the squared distances of the rows over columns [from, from + count): each
    // a sum of floats in sixteen lanes, added up in double.
    void (*accumulate_squares)(double* squares, const float* const* rows, std::size_t n, std::size_t from,
                               std::size_t count) noexcept;

    // Sum of (a - b)^2 over `count`.
    double (*squared_distance_f32)(const float* a, const float* b, std::size_t count) noexcept;
    double (*squared_distance_f64)(const double* a, const float* b, std::size_t count) noexcept;

    // As in wide/compress.hpp.
    void (*stochastic_codes)(std::uint32_t* codes, const float* x, const std::uint32_t* words, double scale,
                             double shift, std::int32_t most, std::size_t n) noexcept;
};

// A matrix product whose left factor is read where it lies: c (M, N) = start + a (M, S K) @ b (S K, N).
//
// Term (s, k) of row m stands at a[(m / J) a_outer + (m % J) a_inner + s a_segment + k a_step], so that a dense layer, a
// transposed matrix and the patches of a convolution need no copy. b has rows of b_row floats, c of c_row.
//
// Every c[m, n] is ONE sum that runs over its terms in order: it does not depend on how the rows and columns are
// blocked, and a sum cut in two gives the same bits.
struct Product {
    std::size_t M, N;
    std::size_t S, K;
    std::size_t J, a_outer, a_inner, a_segment, a_step;
    std::size_t b_row, c_row;
};

// An optimizer's step with its constants worked out, see optimizer.hpp for what it does.
struct Descent {
    const float* anchor;      // (n), or null where the objective has no proximal term
    const float* correction;  // (n), or null for zero
    float proximal, decay, rate;
    float momentum;
    bool nesterov;
    // For adam: the shares of the new in the averages and of the old in the second, 1 / sqrt(1 - beta2^step), and what
    // the weights are multiplied with first. `rate` has 1 / (1 - beta1^step) in it.
    float mean_gain, square_keep, square_gain, square_unbias, epsilon, shrink;
};

// Windows (KH, KW) over an image (H, W, C), the padding PH, PW before and after it, giving (OH, OW).
struct Windows {
    std::size_t H, W, C, OH, OW, KH, KW, SH, SW, PH, PW;
};

// One step of a gated recurrent unit for B examples. Each has a row (n, r, z, q, h) of H floats each, `row` floats
// after the one before.
struct GruStep {
    std::size_t B, H, row, next_row;
};

// x (B, P, G D): each example's group of D channels is normalized over its P positions.
struct NormShape {
    std::size_t B, P, G, D;
};

// A sum with noise is (round(sum levels) + noise - center) step.
struct NoiseGrid {
    double levels, center, step;
};

// What training works with: two tables a set where it has fused multiply-add, see arithmetic.hpp.
struct FloatKernels {
    // start (N) is where every row begins, usually the bias; null begins from what c holds.
    void (*multiply)(float* c, const float* a, const float* b, const float* start, const Product& shape) noexcept;

    // x (n) *= factor.
    void (*scale)(float* x, float factor, std::size_t n) noexcept;

    // g (n) = sum (n) with noise (n); g may be sum.
    void (*add_noise)(float* g, const float* sum, const std::int32_t* noise, std::size_t n,
                      const NoiseGrid& grid) noexcept;

    // Sum of |x| and of x^2 over x (n), in double.
    double (*magnitude_sum)(const float* x, std::size_t n) noexcept;
    double (*square_sum)(const float* x, std::size_t n) noexcept;

    // In place on y (n). wide/math.hpp says how exact they are. NaN stays NaN in all of them.
    void (*exp)(float* y, std::size_t n) noexcept;
    void (*log)(float* y, std::size_t n) noexcept;
    void (*relu)(float* y, std::size_t n) noexcept;
    void (*tanh)(float* y, std::size_t n) noexcept;
    void (*sigmoid)(float* y, std::size_t n) noexcept;
    void (*softplus)(float* y, std::size_t n) noexcept;

    // dy (n) *= the activation's derivative, from its own output y (n).
    void (*relu_slope)(float* dy, const float* y, std::size_t n) noexcept;
    void (*tanh_slope)(float* dy, const float* y, std::size_t n) noexcept;
    void (*sigmoid_slope)(float* dy, const float* y, std::size_t n) noexcept;
    void (*softplus_slope)(float* dy, const float* y, std::size_t n) noexcept;

    // One step on w (n) from its gradient g (n), which leaves holding the objective's direction. velocity (n) may be
    // null: no momentum then.
    void (*sgd)(float* w, float* g, float* velocity, std::size_t n, const Descent& step) noexcept;
    void (*adam)(float* w, float* g, float* mean, float* square, std::size_t n, const Descent& step) noexcept;

    // As multiply, but every column reads a as far to the right as itself: each term is a[... + n] b[..., n].
    void (*multiply_channels)(float* c, const float* a, const float* b, const float* start,
                              const Product& shape) noexcept;
    // total (n) += the sum of the rows of x (rows, n), itself ((s0 + s2) + (s1 + s3)) of the sums of every fourth row.
    void (*add_rows)(float* total, const float* x, std::size_t rows, std::size_t n) noexcept;

    // One image through a pool: y, place and dy (OH, OW, C), x and dx (H, W, C). `place` is the number of the tap that
    // gave the maximum, the first where several do. All overwrite.
    void (*max_pool)(float* y, float* place, const float* x, const Windows& shape) noexcept;
    void (*max_pool_back)(float* dx, const float* dy, const float* place, const Windows& shape) noexcept;
    void (*average_pool)(float* y, const float* x, const Windows& shape) noexcept;
    void (*average_pool_back)(float* dx, const float* dy, const Windows& shape) noexcept;

    // n = tanh(n + sigmoid(r) q), r = sigmoid(r), z = sigmoid(z), in place, and then next = (1 - z) n + z h: (B, H),
    // its rows next_row apart.
    void (*gru_gates)(float* next, float* rows, const GruStep& step) noexcept;
    // Backward, from carry (B, H), the slope of the loss in `next`, and what gru_gates left: n, r, z and q become the
    // slopes in what they were before, carry that in h.
    void (*gru_slopes)(float* carry, float* rows, const GruStep& step) noexcept;

    // Mean and variance (B, G) in two passes. `inverse` (B, G) below is 1 / sqrt(variance + epsilon); w is (2, G D).
    void (*norm_moments)(float* mean, float* variance, const float* x, const NormShape& shape) noexcept;
    // y = (x - mean) inverse w[0] + w[1].
    void (*norm_apply)(float* y, const float* x, const float* mean, const float* inverse, const float* w,
                       const NormShape& shape) noexcept;
    // Overwrites dx and scratch (2, G).
    void (*norm_slopes)(float* dx, const float* dy, const float* x, const float* mean, const float* inverse,
                        const float* w, float* scratch, const NormShape& shape) noexcept;
    // dw (2, G D) += the slopes in w, examples and positions in order.
    void (*norm_gradient)(float* dw, const float* dy, const float* x, const float* mean, const float* inverse,
                          const NormShape& shape) noexcept;
};

extern const Kernels baseline_kernels;
extern const FloatKernels baseline_float;
#ifdef FEDGE_X86_64
extern const Kernels avx2_kernels, avx512_kernels;
extern const FloatKernels avx2_float, avx2_fast_float, avx512_float, avx512_fast_float;
#endif
#ifdef FEDGE_ARMV7
extern const Kernels neon_kernels;
extern const FloatKernels neon_float, neon_fast_float;
#endif
#ifdef FEDGE_FAST_BASELINE
extern const FloatKernels baseline_fast_float;
#endif

// Those of isa().
const Kernels& kernels() noexcept;
const FloatKernels& float_kernels(Arithmetic arithmetic) noexcept;

}  // namespace fedge
