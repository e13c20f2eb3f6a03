#include "fedge/compress.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "fedge/csprng.hpp"
#include "fedge/reduce.hpp"
#include "kernels.hpp"

namespace fedge {
namespace {

constexpr std::size_t block = 1024;  // coordinates; their codes and keystream stay in the first cache

std::uint32_t magnitude_bits(float x) noexcept { return std::bit_cast<std::uint32_t>(x) & 0x7fffffffU; }

// What a code stands for: (code - shift) * unit.
struct Levels {
    Levels(float norm, unsigned bits) {
        const double s = bits == 1 ? 0.5 : static_cast<double>((1 << (bits - 1)) - 1);
        shift = s;
        most = static_cast<std::int32_t>(2.0 * s);
        unit = static_cast<double>(norm) / s;
        scale = norm > 0.0F ? s / static_cast<double>(norm) : 0.0;
    }
    float value(std::uint32_t code) const noexcept {
        return static_cast<float>((static_cast<double>(static_cast<std::int32_t>(code)) - shift) * unit);
    }
    double scale, shift, unit;
    std::int32_t most;
};

// counts[b] = how many of x (d) have (magnitude >> low) equal to prefix * bins + b.
template <std::size_t bins>
void count_digits(std::array<std::uint32_t, bins>& counts, const float* x, unsigned low, std::uint32_t prefix,
                  std::size_t d) noexcept {
    // Four tables: neighbours are often alike, and an increment waits for the last one at its place.
    std::array<std::uint32_t, bins> tables[4] = {};
    for (std::size_t i = 0; i < d; ++i) {
        const std::uint32_t digits = magnitude_bits(x[i]) >> low;
        if (digits / bins == prefix) ++tables[i % 4][digits % bins];
    }
    for (std::size_t b = 0; b < bins; ++b) counts[b] = tables[0][b] + tables[1][b] + tables[2][b] + tables[3][b];
}

// The digit at which the `wanted`th largest lies; wanted becomes its place among those of that digit.
template <std::size_t bins>
std::uint32_t digit_of(const std::array<std::uint32_t, bins>& counts, std::size_t& wanted) noexcept {
    std::size_t digit = bins - 1;
    for (; counts[digit] < wanted; --digit) wanted -= counts[digit];
    return static_cast<std::uint32_t>(digit);
}

}  // namespace

std::size_t packed_bytes(std::size_t n, unsigned bits) noexcept {
    return n / 8 * bits + (n % 8 * bits + 7) / 8;
}

void pack_bits(std::uint8_t* packed, const std::uint32_t* codes, unsigned bits, std::size_t n) noexcept {
    std::uint64_t held = 0;
    unsigned have = 0;
    for (std::size_t i = 0; i < n; ++i) {
        held |= static_cast<std::uint64_t>(codes[i]) << have;
        for (have += bits; have >= 8; have -= 8, held >>= 8) *packed++ = static_cast<std::uint8_t>(held);
    }
    if (have > 0) *packed = static_cast<std::uint8_t>(held);
}

void unpack_bits(std::uint32_t* codes, const std::uint8_t* packed, unsigned bits, std::size_t n) noexcept {
    const std::uint64_t mask = (std::uint64_t{1} << bits) - 1;
    std::uint64_t held = 0;
    unsigned have = 0;
    for (std::size_t i = 0; i < n; ++i) {
        for (; have < bits; have += 8) held |= static_cast<std::uint64_t>(*packed++) << have;
        codes[i] = static_cast<std::uint32_t>(held & mask);
        held >>= bits;
        have -= bits;
    }
}

bool top_k(std::uint32_t* indices, float* values, const float* x, float* residual, std::size_t k,
           std::size_t d) noexcept {
    // The kth largest magnitude, found by its digits of 11, 10 and 10 bits.
    std::array<std::uint32_t, 2048> first;
    count_digits(first, x, 20, 0, d);
    for (std::size_t digit = 0x7f800000U >> 20; digit < first.size(); ++digit) {
        if (first[digit] != 0) return false;
    }
    if (k == 0) return true;
    std::size_t wanted = k;
    std::uint32_t threshold = digit_of(first, wanted);
    for (const unsigned low : {10U, 0U}) {
        std::array<std::uint32_t, 1024> next;
        count_digits(next, x, low, threshold, d);
        threshold = threshold << 10 | digit_of(next, wanted);
    }
    // All above it, and of its equals the first `wanted`.
    std::size_t found = 0;
    for (std::size_t from = 0; from < d && found < k; from += 16) {
        const std::size_t end = std::min(d, from + 16);
        std::uint32_t any = 0;
        for (std::size_t i = from; i < end; ++i) any |= magnitude_bits(x[i]) >= threshold ? 1U : 0U;
        if (any == 0) continue;
        for (std::size_t i = from; i < end && found < k; ++i) {
            const std::uint32_t bits = magnitude_bits(x[i]);
            if (bits < threshold || (bits == threshold && wanted == 0)) continue;
            if (bits == threshold) --wanted;
            indices[found] = static_cast<std::uint32_t>(i);
            values[found++] = x[i];
            if (residual != nullptr) residual[i] = 0.0F;
        }
    }
    return true;
}

float max_magnitude(const float* x, std::size_t d) noexcept {
    std::uint32_t largest = 0;
    for (std::size_t i = 0; i < d; ++i) largest = std::max(largest, magnitude_bits(x[i]));
    return largest < 0x7f800000U ? std::bit_cast<float>(largest) : std::numeric_limits<float>::quiet_NaN();
}

float l2_norm_above(const float* x, std::size_t d) noexcept {
    if (!all_finite(x, d)) return std::numeric_limits<float>::quiet_NaN();
    double lanes[8] = {};
    std::size_t i = 0;
    for (; i + 8 <= d; i += 8) {
        for (std::size_t lane = 0; lane < 8; ++lane) {
            lanes[lane] += static_cast<double>(x[i + lane]) * static_cast<double>(x[i + lane]);
        }
    }
    for (; i < d; ++i) lanes[0] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    double sum = 0.0;
    for (const double lane : lanes) sum += lane;
    const double norm = std::sqrt(sum);
    if (norm > static_cast<double>(std::numeric_limits<float>::max())) return std::numeric_limits<float>::infinity();
    const auto nearest = static_cast<float>(norm);
    return static_cast<double>(nearest) < norm ? std::nextafter(nearest, std::numeric_limits<float>::infinity())
                                               : nearest;
}

void quantize(std::uint8_t* packed, const float* x, float* residual, const std::uint8_t key[32], float norm,
              unsigned bits, std::size_t d) noexcept {
    const Levels levels(norm, bits);
    std::uint32_t words[block], codes[block];
    for (std::size_t at = 0; at < d; at += block) {
        const std::size_t count = std::min(block, d - at);
        chacha20_keystream(reinterpret_cast<std::uint8_t*>(words), key, at / 16, 0, (count + 15) / 16);
        if constexpr (std::endian::native == std::endian::big) {
            for (std::uint32_t& word : words) word = __builtin_bswap32(word);
        }
        kernels().stochastic_codes(codes, x + at, words, levels.scale, levels.shift, levels.most, count);
        pack_bits(packed + at / 8 * bits, codes, bits, count);
        if (residual == nullptr) continue;
        for (std::size_t i = 0; i < count; ++i) residual[at + i] = x[at + i] - levels.value(codes[i]);
    }
}

bool dequantize(float* out, const std::uint8_t* packed, float norm, unsigned bits, std::size_t d) noexcept {
    const Levels levels(norm, bits);
    std::uint32_t codes[block];
    for (std::size_t at = 0; at < d; at += block) {
        const std::size_t count = std::min(block, d - at);
        unpack_bits(codes, packed + at / 8 * bits, bits, count);
        std::uint32_t largest = 0;
        for (std::size_t i = 0; i < count; ++i) {
            largest = std::max(largest, codes[i]);
            out[at + i] = levels.value(codes[i]);
        }
        if (largest > static_cast<std::uint32_t>(levels.most)) return false;
    }
    return true;
}

float pack_signs(std::uint8_t* packed, const float* x, float* residual, std::size_t d) noexcept {
    double lanes[8] = {};
    for (std::size_t i = 0; i < d; i += 8) {
        unsigned byte = 0;
        for (std::size_t lane = 0; lane < 8 && i + lane < d; ++lane) {
            lanes[lane] += static_cast<double>(std::fabs(x[i + lane]));
            byte |= (std::bit_cast<std::uint32_t>(x[i + lane]) >> 31) << lane;
        }
        packed[i / 8] = static_cast<std::uint8_t>(byte);
    }
    double sum = 0.0;
    for (const double lane : lanes) sum += lane;
    const auto scale = d == 0 ? 0.0F : static_cast<float>(sum / static_cast<double>(d));
    if (residual != nullptr) {
        for (std::size_t i = 0; i < d; ++i) residual[i] = x[i] - std::copysign(scale, x[i]);
    }
    return scale;
}

void unpack_signs(float* out, const std::uint8_t* packed, float scale, std::size_t d) noexcept {
    for (std::size_t i = 0; i < d; ++i) {
        const auto sign = static_cast<std::uint32_t>(packed[i / 8] >> (i % 8) & 1U);
        out[i] = std::bit_cast<float>(std::bit_cast<std::uint32_t>(scale) | sign << 31);
    }
}

}  // namespace fedge
