// Order statistics of columns and distances between rows. Every rounding is prescribed: sums run in sixteen or eight
// lanes whatever the vectors' width, and products of two floats are exact in double.
#pragma once

#include "../kernels.hpp"
#include "reduce.hpp"
#include "vectors.hpp"

namespace fedge {
namespace {

using I32 = std::int32_t __attribute__((vector_size(width)));

constexpr std::size_t key_lanes = width / 4;
constexpr std::size_t column_vectors = 2;  // a step of the network on two vectors costs its indices once
constexpr std::size_t columns_at_once = column_vectors * key_lanes;

struct alignas(width) Keys {
    I32 part[column_vectors];
};

inline I32 smaller(I32 a, I32 b) noexcept { return a < b ? a : b; }
inline I32 larger(I32 a, I32 b) noexcept { return a < b ? b : a; }

// Floats as integers of the same order, -0 before +0. The same again leads back.
inline I32 ordered(I32 bits) noexcept { return bits ^ ((bits >> 31) & 0x7fffffff); }

inline void exchange(I32& a, I32& b) noexcept {
    const I32 low = smaller(a, b);
    b = larger(a, b);
    a = low;
}

// Sixteen vectors, 60 exchanges in ten layers (Green's network; Knuth, volume 3, section 5.3.4).
[[maybe_unused]] inline void sort_run(I32 (&v)[16]) noexcept {
    constexpr unsigned char network[60][2] = {
        {0, 13}, {1, 12}, {2, 15}, {3, 14}, {4, 8},  {5, 6},   {7, 11},  {9, 10},  {0, 5},   {1, 7},   {2, 9},  {3, 4},
        {6, 13}, {8, 14}, {10, 15}, {11, 12}, {0, 1}, {2, 3},  {4, 5},   {6, 8},   {7, 9},   {10, 11}, {12, 13}, {14, 15},
        {0, 2},  {1, 3},  {4, 10}, {5, 11}, {6, 7},  {8, 9},   {12, 14}, {13, 15}, {1, 2},   {3, 12},  {4, 6},  {5, 7},
        {8, 10}, {9, 11}, {13, 14}, {1, 4}, {2, 6},  {5, 8},   {7, 10},  {9, 13},  {11, 14}, {2, 4},   {3, 6},  {9, 12},
        {11, 13}, {3, 5}, {6, 8},  {7, 9},  {10, 12}, {3, 4},  {5, 6},   {7, 8},   {9, 10},  {11, 12}, {6, 7},  {8, 9}};
#pragma GCC unroll 60
    for (int i = 0; i < 60; ++i) exchange(v[network[i][0]], v[network[i][1]]);
}

// Eight vectors, 19 exchanges in six layers (same place).
[[maybe_unused]] inline void sort_run(I32 (&v)[8]) noexcept {
    constexpr unsigned char network[19][2] = {{0, 2}, {1, 3}, {4, 6}, {5, 7}, {0, 4}, {1, 5}, {2, 6},
                                              {3, 7}, {0, 1}, {2, 3}, {4, 5}, {6, 7}, {2, 4}, {3, 5},
                                              {1, 4}, {3, 6}, {1, 2}, {3, 4}, {5, 6}};
#pragma GCC unroll 19
    for (int i = 0; i < 19; ++i) exchange(v[network[i][0]], v[network[i][1]]);
}

// What fits the registers: sixteen of 32, or eight of sixteen.
constexpr std::size_t sorted_run = width == 64 ? 16 : 8;

// Rows [row, row + sorted_run) at a column, sorted in registers; rows past the last are larger than every float. `magnitude`
// grows to the largest of the bits without their signs.
inline void load_run(Keys* keys, const RankSelection& from, std::size_t row, std::size_t column,
                     I32& magnitude) noexcept {
    const std::size_t present = from.n - row < sorted_run ? from.n - row : sorted_run;
    for (std::size_t p = 0; p < column_vectors; ++p) {
        I32 v[sorted_run];
        for (std::size_t i = 0; i < sorted_run; ++i) {
            v[i] = I32{} + 0x7fffffff;
            if (i >= present) continue;
            const float* const at = from.rows[row + i] + column + p * key_lanes;
            fetch(at, 8 * columns_at_once);
            std::memcpy(&v[i], at, width);
            magnitude = larger(magnitude, v[i] & 0x7fffffff);
            v[i] = ordered(v[i]);
        }
        sort_run(v);
        for (std::size_t i = 0; i < sorted_run; ++i) keys[row + i].part[p] = v[i];
    }
}

// The first three layers of merging two sorted runs of p rows (Batcher's bitonic merge; Knuth, section 5.3.4): row i with
// its mirror image, then strides of p / 2 and p / 4. What only one half of the results is wanted for is left out.
template <bool lower, bool upper>
void begin_merge(Keys* keys, std::size_t p) noexcept {
    for (std::size_t i = 0; i < p / 4; ++i) {
        Keys* const a = keys + i;
        Keys* const b = keys + 2 * p - 1 - i;
        const std::size_t q = p / 4;
        for (std::size_t part = 0; part < column_vectors; ++part) {
            I32 low[4], high[4];
            for (std::size_t j = 0; j < 4; ++j) {
                low[j] = a[j * q].part[part];
                high[j] = (b - j * q)->part[part];
                exchange(low[j], high[j]);
            }
            if constexpr (lower) {
                exchange(low[0], low[2]), exchange(low[1], low[3]), exchange(low[0], low[1]), exchange(low[2], low[3]);
                for (std::size_t j = 0; j < 4; ++j) a[j * q].part[part] = low[j];
            }
            if constexpr (upper) {
                exchange(high[2], high[0]), exchange(high[3], high[1]);
                exchange(high[1], high[0]), exchange(high[3], high[2]);
                for (std::size_t j = 0; j < 4; ++j) (b - j * q)->part[part] = high[j];
            }
        }
    }
}

// The layers of strides radix / 2 * t down to t, on rows apart by t.
template <std::size_t radix>
void merge_layers(Keys* keys, std::size_t t) noexcept {
    for (std::size_t part = 0; part < column_vectors; ++part) {
        I32 v[radix];
        for (std::size_t j = 0; j < radix; ++j) v[j] = keys[j * t].part[part];
        for (std::size_t half = radix / 2; half > 0; half /= 2) {
            for (std::size_t j = 0; j < radix; ++j) {
                if ((j & half) == 0) exchange(v[j], v[j + half]);
            }
        }
        for (std::size_t j = 0; j < radix; ++j) keys[j * t].part[part] = v[j];
    }
}

template <std::size_t radix>
void merge_runs(Keys* keys, std::size_t run, std::size_t first, std::size_t last) noexcept {
    const std::size_t t = run / radix;
    for (std::size_t from = first / run * run; from < last; from += run) {
        for (std::size_t i = 0; i < t; ++i) merge_layers<radix>(keys + from + i, t);
    }
}

// Rows of sorted columns; of the last merge, only what ranks [first, last) need.
inline void merge_columns(Keys* keys, const RankSelection& by) noexcept {
    for (std::size_t p = sorted_run; p < by.n; p *= 2) {
        for (std::size_t base = 0; base + p < by.n; base += 2 * p) {
            const bool final = 2 * p >= by.n;
            const std::size_t first = final ? by.first : base;
            const std::size_t last = final ? by.last : base + 2 * p < by.n ? base + 2 * p : by.n;
            if (final && last <= p) begin_merge<true, false>(keys + base, p);
            else if (final && first >= p) begin_merge<false, true>(keys + base, p);
            else begin_merge<true, true>(keys + base, p);
            for (std::size_t run = p / 4; run > 1;) {
                if (run == 2) merge_runs<2>(keys, run, first, last), run = 1;
                else if (run == 4 || run == 16) merge_runs<4>(keys, run, first, last), run /= 4;
                else merge_runs<8>(keys, run, first, last), run /= 8;
            }
        }
    }
}

// The mean over the ranks of columns_at_once columns, summed in double from the least up.
inline void mean_ranks(float* out, const Keys* keys, const RankSelection& by) noexcept {
    double sum[columns_at_once] = {};
    for (std::size_t rank = by.first; rank < by.last; ++rank) {
        float values[columns_at_once];
        for (std::size_t p = 0; p < column_vectors; ++p) {
            const I32 bits = ordered(keys[rank].part[p]);
            std::memcpy(values + p * key_lanes, &bits, width);
        }
        for (std::size_t c = 0; c < columns_at_once; ++c) sum[c] += static_cast<double>(values[c]);
    }
    const double count = static_cast<double>(by.last - by.first);
    for (std::size_t c = 0; c < columns_at_once; ++c) out[c] = static_cast<float>(sum[c] / count);
}

bool mean_of_ranks(float* out, const RankSelection& by, std::size_t from, std::size_t count,
                   std::byte* workspace) noexcept {
    Keys* const keys = reinterpret_cast<Keys*>(workspace);
    I32 magnitude{};
    std::size_t rows = sorted_run;
    while (rows < by.n) rows *= 2;
    for (std::size_t row = by.n; row < rows; ++row) {  // past the last: larger than every float, and they stay there
        for (I32& part : keys[row].part) part = I32{} + 0x7fffffff;
    }
    std::size_t done = 0;
    for (; done + columns_at_once <= count; done += columns_at_once) {
        for (std::size_t row = 0; row < by.n; row += sorted_run) load_run(keys, by, row, from + done, magnitude);
        merge_columns(keys, by);
        mean_ranks(out + done, keys, by);
    }
    if (done < count) {  // the last columns by themselves, beside zeros
        RankSelection tail = by;
        const std::size_t left = count - done;
        float* const copies = reinterpret_cast<float*>(keys + rows);
        const float** const pointers = reinterpret_cast<const float**>(copies + by.n * columns_at_once);
        for (std::size_t i = 0; i < by.n; ++i) {
            float* const copy = copies + i * columns_at_once;
            for (std::size_t c = 0; c < columns_at_once; ++c) copy[c] = c < left ? by.rows[i][from + done + c] : 0.0F;
            pointers[i] = copy;
        }
        tail.rows = pointers;
        for (std::size_t row = 0; row < by.n; row += sorted_run) load_run(keys, tail, row, 0, magnitude);
        merge_columns(keys, tail);
        float means[columns_at_once];
        mean_ranks(means, keys, tail);
        for (std::size_t c = 0; c < left; ++c) out[done + c] = means[c];
    }
    std::int32_t largest = 0;
    for (std::size_t lane = 0; lane < key_lanes; ++lane) largest = magnitude[lane] > largest ? magnitude[lane] : largest;
    return largest < 0x7f800000;
}

inline double add_lanes(const double* lanes) noexcept {
    double sums[8];
    for (std::size_t i = 0; i < 8; ++i) sums[i] = lanes[i] + lanes[8 + i];
    for (std::size_t half = 4; half > 0; half /= 2) {
        for (std::size_t i = 0; i < half; ++i) sums[i] += sums[i + half];
    }
    return sums[0];
}

using F32 = float __attribute__((vector_size(width)));

constexpr std::size_t square_lanes = 16, square_parts = square_lanes / key_lanes;
constexpr std::size_t tile_rows = width == 64 ? 4 : 2, tile_columns = 4;  // as many sums as the registers hold

// sums[i][j] += sum over `count`, a multiple of sixteen, of (a[i] - b[j])^2: in float lanes of count / 16 terms, which are
// added in double. On the diagonal, where the rows of a and b are the same, only j < i.
template <bool diagonal>
void add_squares(double (&sums)[tile_rows][tile_columns], const float* const* a, const float* const* b,
                 std::size_t from, std::size_t count) noexcept {
    alignas(64) float lanes[tile_rows][tile_columns][square_lanes];
    for (std::size_t part = 0; part < square_parts; ++part) {
        F32 sum[tile_rows][tile_columns] = {};
        for (std::size_t k = part * key_lanes; k < count; k += square_lanes) {
            F32 left[tile_rows];
            for (std::size_t i = 0; i < tile_rows; ++i) std::memcpy(&left[i], a[i] + from + k, width);
            for (std::size_t j = 0; j < tile_columns; ++j) {
                F32 right;
                std::memcpy(&right, b[j] + from + k, width);
                for (std::size_t i = diagonal ? j + 1 : 0; i < tile_rows; ++i) {
                    const F32 gap = left[i] - right;
                    sum[i][j] += gap * gap;
                }
            }
        }
        for (std::size_t i = 0; i < tile_rows; ++i) {
            for (std::size_t j = 0; j < tile_columns; ++j) {
                std::memcpy(&lanes[i][j][part * key_lanes], &sum[i][j], width);
            }
        }
    }
    for (std::size_t i = 0; i < tile_rows; ++i) {
        for (std::size_t j = 0; j < tile_columns; ++j) {
            double wide[square_lanes];
            for (std::size_t lane = 0; lane < square_lanes; ++lane) wide[lane] = static_cast<double>(lanes[i][j][lane]);
            sums[i][j] += add_lanes(wide);
        }
    }
}

// squares (n, n), below the diagonal, += the squared distances of the rows over columns [from, from + count).
void accumulate_squares(double* squares, const float* const* rows, std::size_t n, std::size_t from,
                        std::size_t count) noexcept {
    const std::size_t whole = count / square_lanes * square_lanes;
    for (std::size_t row = 0; row < n; row += tile_rows) {
        for (std::size_t column = 0; column < row + tile_rows && column < n; column += tile_columns) {
            const float *a[tile_rows], *b[tile_columns];
            for (std::size_t i = 0; i < tile_rows; ++i) a[i] = rows[row + i < n ? row + i : n - 1];
            for (std::size_t j = 0; j < tile_columns; ++j) b[j] = rows[column + j < n ? column + j : n - 1];
            double sums[tile_rows][tile_columns] = {};
            const bool diagonal = tile_rows == tile_columns && row == column;
            diagonal ? add_squares<tile_rows == tile_columns>(sums, a, b, from, whole)
                     : add_squares<false>(sums, a, b, from, whole);
            if (whole < count) {  // the last columns beside zeros
                float tails[tile_rows + tile_columns][square_lanes] = {};
                for (std::size_t t = 0; t < tile_rows + tile_columns; ++t) {
                    const float*& at = t < tile_rows ? a[t] : b[t - tile_rows];
                    for (std::size_t k = whole; k < count; ++k) tails[t][k - whole] = at[from + k];
                    at = tails[t];
                }
                add_squares<false>(sums, a, b, 0, square_lanes);
            }
            for (std::size_t i = 0; i < tile_rows && row + i < n; ++i) {
                for (std::size_t j = 0; j < tile_columns && column + j < row + i; ++j) {
                    squares[(row + i) * n + column + j] += sums[i][j];
                }
            }
        }
    }
}

// Sum over `count` of (a - b)^2 in double, sixteen lanes and then halves.
template <class T>
double squared_distance(const T* a, const float* b, std::size_t count) noexcept {
    constexpr std::size_t lanes = 16;
    double sums[lanes] = {};
    std::size_t k = 0;
    for (; k + lanes <= count; k += lanes) {
        for (std::size_t lane = 0; lane < lanes; ++lane) {
            const double gap = static_cast<double>(a[k + lane]) - static_cast<double>(b[k + lane]);
            sums[lane] += gap * gap;
        }
    }
    for (std::size_t lane = 0; k + lane < count; ++lane) {
        const double gap = static_cast<double>(a[k + lane]) - static_cast<double>(b[k + lane]);
        sums[lane] += gap * gap;
    }
    return add_lanes(sums);
}

double squared_distance_f32(const float* a, const float* b, std::size_t count) noexcept {
    return squared_distance(a, b, count);
}

double squared_distance_f64(const double* a, const float* b, std::size_t count) noexcept {
    return squared_distance(a, b, count);
}

}  // namespace
}  // namespace fedge
