#include "fedge/robust.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "fedge/reduce.hpp"
#include "kernels.hpp"
#include "parallel.hpp"

namespace fedge {
namespace {

constexpr std::size_t range = std::size_t{1} << 14;  // of columns, one thread's at a time
constexpr std::size_t block = 512;                   // columns that stay in the caches while all rows pass
constexpr std::size_t square_block = 1024;           // the same; a lane of floats then sums 64 squares

std::size_t ranges_of(std::size_t d) noexcept { return (d + range - 1) / range; }

struct Aligned {
    void operator()(std::byte* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
};

std::unique_ptr<std::byte[], Aligned> aligned_bytes(std::size_t n) {
    return std::unique_ptr<std::byte[], Aligned>(static_cast<std::byte*>(::operator new[](n, std::align_val_t{64})));
}

std::size_t rounded_up(std::size_t bytes) noexcept { return (bytes + 63) / 64 * 64; }

}  // namespace

bool mean_of_ranks(float* out, const float* const* rows, std::size_t n, std::size_t first, std::size_t last,
                   std::size_t d, std::size_t threads) {
    // Sorted columns, the copies of the last ones, and the pointers to these: see wide/robust.hpp.
    const std::size_t each = rounded_up(128 * std::max(std::size_t{16}, std::bit_ceil(n)) + n * (128 + sizeof(float*)));
    const auto workspace = aligned_bytes(threads * each);
    const RankSelection by{rows, n, first, last};
    std::atomic<bool> finite{true};
    for_each_range(ranges_of(d), threads, [&](std::size_t index, std::size_t thread) {
        const std::size_t from = index * range, count = std::min(range, d - from);
        if (!kernels().mean_of_ranks(out + from, by, from, count, workspace.get() + thread * each)) finite = false;
    });
    return finite;
}

bool squared_distances(double* out, const float* const* rows, std::size_t n, std::size_t d, std::size_t threads) {
    // As many ranges at a time as there are threads: the memory does not grow with d, and the order of the sums does not
    // depend on who was first.
    std::vector<double> parts(threads * n * n);
    std::fill_n(out, n * n, 0.0);
    for (std::size_t first = 0; first < ranges_of(d); first += threads) {
        const std::size_t now = std::min(threads, ranges_of(d) - first);
        for_each_range(now, threads, [&](std::size_t index, std::size_t) {
            double* const part = parts.data() + index * n * n;
            std::fill_n(part, n * n, 0.0);
            const std::size_t from = (first + index) * range, end = std::min(d, from + range);
            for (std::size_t at = from; at < end; at += square_block) {
                kernels().accumulate_squares(part, rows, n, at, std::min(square_block, end - at));
            }
        });
        for (std::size_t index = 0; index < now; ++index) {
            for (std::size_t i = 0; i < n * n; ++i) out[i] += parts[index * n * n + i];
        }
    }
    // Where squares of floats may have left their range, once more in double. A NaN or infinity among the rows is in
    // such a pair, if there are pairs.
    const double lowest = static_cast<double>(d) * 0x1p-120;
    std::vector<std::pair<std::size_t, std::size_t>> again;
    for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t j = 0; j < i; ++j) {
            if (!(out[i * n + j] > lowest && std::isfinite(out[i * n + j]))) again.emplace_back(i, j);
        }
    }
    if ((n == 1 || !again.empty()) && first_not_finite(rows, n, d) != n) return false;
    for_each_range(again.size(), threads, [&](std::size_t index, std::size_t) {
        const auto [i, j] = again[index];
        double sum = 0.0;
        for (std::size_t at = 0; at < d; at += range) {
            sum += kernels().squared_distance_f32(rows[i] + at, rows[j] + at, std::min(range, d - at));
        }
        out[i * n + j] = sum;
    });
    for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t j = 0; j < i; ++j) out[j * n + i] = out[i * n + j];
    }
    return true;
}

void move_centre(double* z, double* squares, double keep, const float* const* rows, const double* weights,
                 std::size_t n, std::size_t d, std::size_t threads) {
    std::vector<double> parts(threads * n);
    std::fill_n(squares, n, 0.0);
    for (std::size_t first = 0; first < ranges_of(d); first += threads) {
        const std::size_t now = std::min(threads, ranges_of(d) - first);
        for_each_range(now, threads, [&](std::size_t index, std::size_t) {
            double* const part = parts.data() + index * n;
            std::fill_n(part, n, 0.0);
            const std::size_t from = (first + index) * range, end = std::min(d, from + range);
            for (std::size_t at = from; at < end; at += block) {
                const std::size_t count = std::min(block, end - at);
                for (std::size_t k = at; k < at + count; ++k) z[k] *= keep;
                kernels().accumulate_rows(z + at, rows, weights, n, at, count);
                for (std::size_t i = 0; i < n; ++i) {
                    part[i] += kernels().squared_distance_f64(z + at, rows[i] + at, count);
                }
            }
        });
        for (std::size_t index = 0; index < now; ++index) {
            for (std::size_t i = 0; i < n; ++i) squares[i] += parts[index * n + i];
        }
    }
}

bool geometric_median(double* z, const float* const* rows, const double* weights, std::size_t n, std::size_t d,
                      double smoothing, std::size_t rounds, std::size_t threads) {
    if (first_not_finite(rows, n, d) != n) return false;
    std::vector<double> squares(n), pulls(n, 0.0);
    move_centre(z, squares.data(), 1.0, rows, pulls.data(), n, d, threads);  // stays, and measures
    for (std::size_t round = 0; round < rounds; ++round) {
        double total = 0.0;
        for (std::size_t i = 0; i < n; ++i) {
            pulls[i] = weights[i] / std::max(smoothing, std::sqrt(squares[i]));
            total += pulls[i];
        }
        for (double& pull : pulls) pull /= total;
        move_centre(z, squares.data(), 0.0, rows, pulls.data(), n, d, threads);
    }
    return true;
}

bool centred_clipping(double* v, const float* const* rows, std::size_t n, std::size_t d, double radius,
                      std::size_t rounds, std::size_t threads) {
    if (first_not_finite(rows, n, d) != n) return false;
    std::vector<double> squares(n), pulls(n, 0.0);
    move_centre(v, squares.data(), 1.0, rows, pulls.data(), n, d, threads);
    for (std::size_t round = 0; round < rounds; ++round) {
        double total = 0.0;
        for (std::size_t i = 0; i < n; ++i) {
            const double norm = std::sqrt(squares[i]);
            pulls[i] = (norm <= radius ? 1.0 : radius / norm) / static_cast<double>(n);
            total += pulls[i];
        }
        move_centre(v, squares.data(), 1.0 - total, rows, pulls.data(), n, d, threads);
    }
    return true;
}

}  // namespace fedge
