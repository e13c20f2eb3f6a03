// ChaCha20 (RFC 8439), one block a lane.
#pragma once

#include "vectors.hpp"

namespace fedge {
namespace {

// Every 128-bit piece of the result takes its four words from the same piece of a (0..3) and of b (4..7).
template <std::size_t p0, std::size_t p1, std::size_t p2, std::size_t p3, std::size_t... i>
U32 shuffle_quads(U32 a, U32 b, Indices<i...>) noexcept {
    constexpr std::size_t pick[4] = {p0, p1, p2, p3};
    return __builtin_shufflevector(
        a, b, (pick[i % 4] < 4 ? i / 4 * 4 + pick[i % 4] : lanes32 + i / 4 * 4 + pick[i % 4] - 4)...);
}

template <std::size_t p0, std::size_t p1, std::size_t p2, std::size_t p3>
U32 shuffle_quads(U32 a, U32 b) noexcept {
    return shuffle_quads<p0, p1, p2, p3>(a, b, typename IndicesUpTo<lanes32>::type{});
}

// Piece i of the result, of the size of V's elements, is piece i + by of its word, cyclically: a rotation by whole
// pieces takes no shifts.
template <class V, std::size_t by, std::size_t... i>
U32 rotate_pieces(U32 v, Indices<i...>) noexcept {
    constexpr std::size_t in_word = sizeof...(i) / lanes32;
    const V pieces = (V)v;
    return (U32)__builtin_shufflevector(pieces, pieces, (i / in_word * in_word + (i + by) % in_word)...);
}

template <int n>
U32 rotate(U32 v) noexcept {
#ifndef __AVX512F__  // which rotates
    if constexpr (n == 16) return rotate_pieces<U16, 1>(v, typename IndicesUpTo<width / 2>::type{});
#ifdef __AVX2__  // which shuffles bytes
    if constexpr (n == 8) return rotate_pieces<U8, 3>(v, typename IndicesUpTo<width>::type{});
#endif
#endif
    return v << n | v >> (32 - n);
}

inline void quarter_round(U32& a, U32& b, U32& c, U32& d) noexcept {
    a += b, d = rotate<16>(d ^ a);
    c += d, b = rotate<12>(b ^ c);
    a += b, d = rotate<8>(d ^ a);
    c += d, b = rotate<7>(b ^ c);
}

// Words 4q..4q+3 of the blocks are 4 x 4 squares, one a 128-bit piece, which two rounds of interleaving transpose into
// sixteen consecutive bytes of each block: piece l of row j belongs to block 4 l + j.
template <std::size_t... l>
void store_row(std::uint8_t* out, U32 row, Indices<l...>) noexcept {
    const auto store = [](std::uint8_t* p, auto words) {
        for (int i = 0; i < 4; ++i) {
            if constexpr (!little_endian) words[i] = __builtin_bswap32(words[i]);
        }
        std::memcpy(p, &words, 16);
    };
    (store(out + 256 * l, __builtin_shufflevector(row, row, 4 * l, 4 * l + 1, 4 * l + 2, 4 * l + 3)), ...);
}

inline void chacha20_lanes(std::uint8_t* out, const std::uint32_t* first, std::uint64_t counter) noexcept {
    U32 in[16], mixed[16];
    for (std::size_t i = 0; i < 16; ++i) in[i] = U32{} + first[i];
    for (std::size_t lane = 0; lane < lanes32; ++lane) {
        in[12][lane] = static_cast<std::uint32_t>(counter + lane);
        in[13][lane] = static_cast<std::uint32_t>((counter + lane) >> 32);
    }
    for (std::size_t i = 0; i < 16; ++i) mixed[i] = in[i];
    for (int round = 0; round < 10; ++round) {
        for (std::size_t i = 0; i < 4; ++i) quarter_round(mixed[i], mixed[4 + i], mixed[8 + i], mixed[12 + i]);
        for (std::size_t i = 0; i < 4; ++i) {
            quarter_round(mixed[i], mixed[4 + (i + 1) % 4], mixed[8 + (i + 2) % 4], mixed[12 + (i + 3) % 4]);
        }
    }
    for (std::size_t i = 0; i < 16; ++i) mixed[i] += in[i];
    for (std::size_t q = 0; q < 4; ++q) {
        const U32* const m = mixed + 4 * q;
        const U32 a = shuffle_quads<0, 4, 1, 5>(m[0], m[1]), b = shuffle_quads<0, 4, 1, 5>(m[2], m[3]);
        const U32 c = shuffle_quads<2, 6, 3, 7>(m[0], m[1]), d = shuffle_quads<2, 6, 3, 7>(m[2], m[3]);
        const U32 rows[4] = {shuffle_quads<0, 1, 4, 5>(a, b), shuffle_quads<2, 3, 6, 7>(a, b),
                             shuffle_quads<0, 1, 4, 5>(c, d), shuffle_quads<2, 3, 6, 7>(c, d)};
        for (std::size_t j = 0; j < 4; ++j) {
            store_row(out + 64 * j + 16 * q, rows[j], typename IndicesUpTo<quads>::type{});
        }
    }
}

std::size_t chacha20_blocks(std::uint8_t* out, const std::uint32_t* first, std::uint64_t counter,
                            std::size_t blocks) noexcept {
    std::size_t block = 0;
    for (; block + lanes32 <= blocks; block += lanes32) chacha20_lanes(out + 64 * block, first, counter + block);
    return block;
}

}  // namespace
}  // namespace fedge
