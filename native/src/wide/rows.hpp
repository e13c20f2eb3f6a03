// Rows of 512 bits, eight columns of 64, in as many vectors as that takes.
#pragma once

#include "vectors.hpp"

namespace fedge {
namespace {

constexpr std::size_t lanes64 = width / 8;
constexpr std::size_t parts = 8 / lanes64;

struct alignas(64) Row {
    U64 part[parts];
};

inline U64 load_lanes(const std::uint64_t* p) noexcept {
    U64 v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

inline void store_lanes(std::uint64_t* p, U64 v) noexcept { std::memcpy(p, &v, sizeof v); }

inline Row broadcast(std::uint64_t v) noexcept {
    Row row;
    for (U64& part : row.part) part = U64{} + v;
    return row;
}

inline Row load_row(const std::uint64_t* p) noexcept {
    Row row;
    for (std::size_t part = 0; part < parts; ++part) row.part[part] = load_lanes(p + lanes64 * part);
    return row;
}

inline Row operator&(const Row& a, const Row& b) noexcept {
    Row c;
    for (std::size_t p = 0; p < parts; ++p) c.part[p] = a.part[p] & b.part[p];
    return c;
}

inline Row operator|(const Row& a, const Row& b) noexcept {
    Row c;
    for (std::size_t p = 0; p < parts; ++p) c.part[p] = a.part[p] | b.part[p];
    return c;
}

inline Row operator^(const Row& a, const Row& b) noexcept {
    Row c;
    for (std::size_t p = 0; p < parts; ++p) c.part[p] = a.part[p] ^ b.part[p];
    return c;
}

inline Row operator~(const Row& a) noexcept {
    Row c;
    for (std::size_t p = 0; p < parts; ++p) c.part[p] = ~a.part[p];
    return c;
}

// Lane i of v moves to lane i + by; zeros come in.
template <std::size_t by, std::size_t... i>
U64 shift_lanes(U64 v, Indices<i...>) noexcept {
    return __builtin_shufflevector(U64{}, v, (i < by ? i : lanes64 + i - by)...);
}

template <std::size_t by>
U64 shift_lanes(U64 v) noexcept {
    return shift_lanes<by>(v, typename IndicesUpTo<lanes64>::type{});
}

// The first bit set, columns in order and bits within them from the lowest; nothing where nothing is.
inline Row first_lane(const Row& row) noexcept {
    Row first;
    U64 earlier{};  // all ones once a part before this one had a bit
    for (std::size_t p = 0; p < parts; ++p) {
        const U64 v = row.part[p], negative = 0 - v;
        U64 seen = 0 - ((v | negative) >> 63);  // in this column; then, doubling the reach, in it or before it
        if constexpr (lanes64 > 1) seen |= shift_lanes<1>(seen);
        if constexpr (lanes64 > 2) seen |= shift_lanes<2>(seen);
        if constexpr (lanes64 > 4) seen |= shift_lanes<4>(seen);
        first.part[p] = v & negative & ~(shift_lanes<1>(seen) | earlier);
        earlier |= U64{} + seen[lanes64 - 1];
    }
    return first;
}

// Eight vectors as a step of transposition: of the bits that differ by `half` in both their row and their position,
// swaps those across the diagonal (Warren, 7-3).
inline void swap_halves(U64& upper, U64& lower, unsigned half, std::uint64_t mask) noexcept {
    const U64 swap = ((upper >> half) ^ lower) & mask;
    upper ^= swap << half;
    lower ^= swap;
}

// rows (64), in place, in every column: bit i of row k becomes bit k of row i. Three of the six halvings at a time, on
// eight rows that stay in registers.
template <unsigned half>
inline void transpose_step(Row* row, std::size_t p, std::size_t first, std::size_t stride) noexcept {
    constexpr auto mask = [](unsigned h) { return ~std::uint64_t{0} / ((std::uint64_t{1} << h) + 1); };
    U64 v[8];
    for (std::size_t j = 0; j < 8; ++j) v[j] = row[first + stride * j].part[p];
    for (std::size_t j = 0; j < 4; ++j) swap_halves(v[j], v[j + 4], half, mask(half));
    for (std::size_t j = 0; j < 8; j += 4) {
        swap_halves(v[j], v[j + 2], half / 2, mask(half / 2));
        swap_halves(v[j + 1], v[j + 3], half / 2, mask(half / 2));
    }
    for (std::size_t j = 0; j < 8; j += 2) swap_halves(v[j], v[j + 1], half / 4, mask(half / 4));
    for (std::size_t j = 0; j < 8; ++j) row[first + stride * j].part[p] = v[j];
}

inline void transpose(Row* row) noexcept {
    for (std::size_t p = 0; p < parts; ++p) {
        for (std::size_t k = 0; k < 8; ++k) transpose_step<32>(row, p, k, 8);
        for (std::size_t k = 0; k < 64; k += 8) transpose_step<4>(row, p, k, 1);
    }
}

// out (512): bits 8 i + c of the rows, as numbers: row k is bit k of each.
inline void store_transposed(std::int64_t* out, Row* row) noexcept {
    transpose(row);
    std::memcpy(out, row, 64 * sizeof *row);
}

// The same of 32 rows: both halves of a column at once, then apart.
inline void store_transposed(std::int32_t* out, Row* row) noexcept {
    using Half = std::uint32_t __attribute__((vector_size(width / 2)));
    constexpr std::uint64_t twos = 0x3333333333333333, ones = 0x5555555555555555;
    for (std::size_t p = 0; p < parts; ++p) {
        for (std::size_t k = 0; k < 4; ++k) transpose_step<16>(row, p, k, 4);
        for (std::size_t k = 0; k < 32; k += 4) {
            U64 v[4];
            for (std::size_t j = 0; j < 4; ++j) v[j] = row[k + j].part[p];
            swap_halves(v[0], v[2], 2, twos), swap_halves(v[1], v[3], 2, twos);
            swap_halves(v[0], v[1], 1, ones), swap_halves(v[2], v[3], 1, ones);
            for (std::size_t j = 0; j < 4; ++j) {
                const Half low = __builtin_convertvector(v[j], Half), high = __builtin_convertvector(v[j] >> 32, Half);
                std::memcpy(out + 8 * (k + j) + lanes64 * p, &low, sizeof low);
                std::memcpy(out + 8 * (k + j + 32) + lanes64 * p, &high, sizeof high);
            }
        }
    }
}

}  // namespace
}  // namespace fedge
