// Rules that some liars among n updates cannot steer: order statistics, distances, and centres that limit each one's pull.
// rows are n pointers to d floats each; what they return in the way of success is false where one holds NaN or infinity.
#pragma once

#include <cstddef>

namespace fedge {

constexpr std::size_t max_rows = 65535;

// out (d) = for each coordinate the mean of the n values' ranks [first, last), summed in double from the least up: it does
// not depend on the order of the rows, nor on `threads`. Needs first < last <= n <= max_rows.
bool mean_of_ranks(float* out, const float* const* rows, std::size_t n, std::size_t first, std::size_t last,
                   std::size_t d, std::size_t threads);

// out (n, n) = ||rows[i] - rows[j]||^2, symmetric with a zero diagonal, each within a factor of 1 +- 70 * 2^-24 (in
// practice 2^-24 and better: roundings to nearest cancel).
//
// From differences, never from a Gram matrix: where updates are small beside what they have in common, its terms cancel
// and what is left is rounding. Difference and square are floats, of relative error 2^-24 each; 64 squares are summed
// in float and these sums in double. Where squares might have over- or underflowed, the pair is done again in double.
bool squared_distances(double* out, const float* const* rows, std::size_t n, std::size_t d, std::size_t threads);

// z (d) = keep * z + sum of weights[i] * rows[i], then squares (n) = ||z - rows[i]||^2, in one pass over the rows.
// The sums are over fixed ranges of coordinates and then over these in their order: `threads` leaves no mark.
void move_centre(double* z, double* squares, double keep, const float* const* rows, const double* weights,
                 std::size_t n, std::size_t d, std::size_t threads);

// z (d), given on entry: `rounds` steps of the smoothed Weiszfeld algorithm (Pillutla et al. 2022, algorithm 2),
// z <- sum b_i x_i / sum b_i, b_i = weights[i] / max(smoothing, ||z - x_i||). Weights and smoothing positive.
bool geometric_median(double* z, const float* const* rows, const double* weights, std::size_t n, std::size_t d,
                      double smoothing, std::size_t rounds, std::size_t threads);

// v (d), given on entry: `rounds` times v <- v + mean of (x_i - v) min(1, radius / ||x_i - v||) (Karimireddy et al. 2021,
// equation 3). radius > 0, infinity allowed.
bool centred_clipping(double* v, const float* const* rows, std::size_t n, std::size_t d, double radius,
                      std::size_t rounds, std::size_t threads);

}  // namespace fedge
