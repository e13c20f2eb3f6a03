// Shapes that sanitizers should walk through: every tail, one row, no column; and answers known beforehand.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "check.hpp"
#include "fedge/compress.hpp"
#include "fedge/csprng.hpp"
#include "fedge/mask.hpp"
#include "fedge/reduce.hpp"
#include "fedge/robust.hpp"

using namespace fedge;

namespace {

// n rows of exactly d floats each, apart, so that a read past a row's end is seen.
struct Rows {
    Rows(std::size_t n, std::size_t d) {
        ChaChaStream stream(std::array<std::uint8_t, 32>{});
        for (std::size_t i = 0; i < n; ++i) {
            std::vector<std::uint8_t> bytes(d);
            stream.fill(bytes.data(), d);
            kept.emplace_back(bytes.begin(), bytes.end());
        }
        for (const std::vector<float>& row : kept) data.push_back(row.data());
    }
    std::vector<std::vector<float>> kept;
    std::vector<const float*> data;
};

constexpr std::size_t row_counts[] = {1, 2, 3, 4, 5, 8, 9, 16, 17, 33, 50, 65, 130};
constexpr std::size_t lengths[] = {0, 1, 15, 16, 17, 33, 63, 64, 100, 1025};

void ranks_are_those_of_sorted_columns() {
    for (const std::size_t n : row_counts) {
        for (const std::size_t d : lengths) {
            const Rows rows(n, d);
            for (const std::size_t first : {std::size_t{0}, (n - 1) / 2, n - 1}) {
                std::vector<float> out(d);
                CHECK(mean_of_ranks(out.data(), rows.data.data(), n, first, first + 1, d, 1));
                for (std::size_t j = 0; j < d; ++j) {
                    std::vector<float> column;
                    for (const float* row : rows.data) column.push_back(row[j]);
                    std::sort(column.begin(), column.end());
                    CHECK(out[j] == column[first]);
                }
            }
        }
    }
}

void distances_and_sums_of_small_integers_are_exact() {
    for (const std::size_t n : row_counts) {
        for (const std::size_t d : lengths) {
            const Rows rows(n, d);
            std::vector<double> squares(n * n), sums(d), weights(n, 2.0);
            CHECK(squared_distances(squares.data(), rows.data.data(), n, d, 2));
            CHECK(weighted_sum(sums.data(), nullptr, rows.data.data(), weights.data(), n, d, 2));
            for (std::size_t i = 0; i < n; ++i) {
                double square = 0.0;
                for (std::size_t j = 0; j < d; ++j) {
                    const double gap = static_cast<double>(rows.data[i][j]) - static_cast<double>(rows.data[0][j]);
                    square += gap * gap;
                }
                CHECK(squares[i * n] == square);
                CHECK(squares[i] == square);
            }
            for (std::size_t j = 0; j < d; ++j) {
                double sum = 0.0;
                for (const float* row : rows.data) sum += 2.0 * static_cast<double>(row[j]);
                CHECK(sums[j] == sum);
            }
        }
    }
}

void what_is_not_finite_is_seen_wherever_it_stands() {
    for (const std::size_t d : {std::size_t{1}, std::size_t{33}, std::size_t{1025}}) {
        for (const std::size_t at : {std::size_t{0}, d / 2, d - 1}) {
            for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
                Rows rows(5, d);
                rows.kept[3][at] = bad;
                std::vector<float> out(d);
                std::vector<double> squares(25), centre(d);
                const std::vector<double> weights(5, 1.0);
                CHECK(!mean_of_ranks(out.data(), rows.data.data(), 5, 2, 3, d, 1));
                CHECK(!weighted_mean(out.data(), rows.data.data(), weights.data(), 5, d, 1));
                CHECK(!squared_distances(squares.data(), rows.data.data(), 5, d, 1));
                CHECK(!centred_clipping(centre.data(), rows.data.data(), 5, d, 1.0, 1, 1));
                CHECK(!geometric_median(centre.data(), rows.data.data(), weights.data(), 5, d, 1.0, 1, 1));
                CHECK(first_not_finite(rows.data.data(), 5, d) == 3);
                CHECK(std::isnan(max_magnitude(rows.data[3], d)));
                CHECK(std::isnan(l2_norm_above(rows.data[3], d)));
            }
        }
    }
}

void masks_cancel_and_codes_come_back() {
    const std::uint8_t key[32] = {1}, nonce[12] = {2};
    for (const std::size_t d : lengths) {
        std::vector<std::uint32_t> values(d, 7), back(d);
        apply_mask(values.data(), key, nonce, Mask::add, d);
        for (unsigned bits = 1; bits <= 32; ++bits) {
            std::vector<std::uint32_t> codes(values);
            for (std::uint32_t& code : codes) code >>= 32 - bits;
            std::vector<std::uint8_t> packed(packed_bytes(d, bits));
            pack_bits(packed.data(), codes.data(), bits, d);
            unpack_bits(back.data(), packed.data(), bits, d);
            CHECK(back == codes);
        }
        apply_mask(values.data(), key, nonce, Mask::subtract, d);
        CHECK(std::all_of(values.begin(), values.end(), [](std::uint32_t v) { return v == 7; }));
    }
}

void encodings_leave_what_they_do_not_send() {
    const std::uint8_t key[32] = {3};
    for (const std::size_t d : lengths) {
        const Rows rows(1, d);
        for (const unsigned bits : {1U, 2U, 4U, 8U}) {
            std::vector<float> left(rows.kept[0]), sent(d);
            std::vector<std::uint8_t> packed(packed_bytes(d, bits));
            quantize(packed.data(), left.data(), left.data(), key, 255.0F, bits, d);
            CHECK(dequantize(sent.data(), packed.data(), 255.0F, bits, d));
            for (std::size_t j = 0; j < d; ++j) CHECK(left[j] == rows.data[0][j] - sent[j]);
        }
        std::vector<float> left(rows.kept[0]), sent(d), values(d / 2);
        std::vector<std::uint8_t> packed(packed_bytes(d, 1));
        const float scale = pack_signs(packed.data(), left.data(), left.data(), d);
        unpack_signs(sent.data(), packed.data(), scale, d);
        for (std::size_t j = 0; j < d; ++j) CHECK(left[j] == rows.data[0][j] - sent[j]);
        std::vector<std::uint32_t> indices(d / 2);
        left = rows.kept[0];
        CHECK(top_k(indices.data(), values.data(), left.data(), left.data(), d / 2, d));
        for (std::size_t i = 0; i < d / 2; ++i) left[indices[i]] += values[i];
        CHECK(left == rows.kept[0]);
    }
}

void cases() {
    ranks_are_those_of_sorted_columns();
    distances_and_sums_of_small_integers_are_exact();
    what_is_not_finite_is_seen_wherever_it_stands();
    masks_cancel_and_codes_come_back();
    encodings_leave_what_they_do_not_send();
}

}  // namespace

int main() { return check::run(cases); }
