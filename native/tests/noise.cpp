#include "fedge/noise.hpp"

#include <cmath>
#include <vector>

#include "check.hpp"

using namespace fedge;

namespace {

// The law spelled out sample by sample with jumps and loops, from the same words: what the bit-sliced form must equal.
// Counts the ties that took a spare word.
std::vector<std::int64_t> plain_block(ChaChaStream& words, unsigned m, std::size_t& ties) {
    std::vector<std::uint64_t> coins(laplace_coins), bits(first_bits * m), spares(laplace_spares), signs(1);
    for (auto* part : {&coins, &bits, &spares, &signs}) words.fill(part->data(), part->size());
    std::vector<std::int64_t> values(64, 0);
    for (std::size_t i = 0; i < 64; ++i) {
        while (values[i] < 63 && ((coins[static_cast<std::size_t>(values[i])] >> i) & 1) == 0) ++values[i];
    }
    std::size_t next_spare = 0;
    for (std::size_t s = 0; s < m; ++s) {
        for (std::size_t i = 0; i < 64; ++i) {
            std::uint64_t u = 0;
            for (std::size_t j = 0; j < first_bits; ++j) u = 2 * u + ((bits[first_bits * s + j] >> i) & 1);
            const std::uint64_t top = digit_threshold[s] >> 48;
            const bool tied = u == top;
            const bool set = tied ? spares.at(next_spare++) < digit_threshold[s] << 16 : u < top;
            values[i] = 2 * values[i] + (set ? 1 : 0);
        }
    }
    for (std::size_t i = 0; i < 64; ++i) values[i] = ((signs[0] >> i) & 1) != 0 ? -values[i] - 1 : values[i];
    ties += next_spare;
    return values;
}

void samples_follow_the_documented_stream(unsigned m) {
    std::array<std::uint8_t, 32> key{};
    key[0] = static_cast<std::uint8_t>(m);
    constexpr std::size_t n = 64 * 500 + 5;
    std::vector<std::int64_t> got(n);
    ChaChaStream stream(key), words(key);
    discrete_laplace(got.data(), stream, n, m);
    std::size_t ties = 0;
    for (std::size_t start = 0; start < n; start += 64) {
        const auto want = plain_block(words, m, ties);
        for (std::size_t i = 0; i < 64 && start + i < n; ++i) CHECK(got[start + i] == want[i]);
    }
    CHECK(m < 16 || ties > 0);  // 32,000 samples of 16 digits: about eight ties
}

// Ties are too rare to crowd on their own: here twelve in one block, two more than there are spares.
void ties_take_their_spares_in_order() {
    constexpr unsigned m = 3;
    const std::uint64_t first = 0b111100001, second = 0, third = 0xfe00000000000000;
    std::uint64_t digit[m] = {0, 0b10, 1}, tie[m] = {first, second, third}, spare[laplace_spares];
    for (std::size_t k = 0; k < laplace_spares; ++k) spare[k] = k % 2 == 0 ? 0 : ~std::uint64_t{0};
    settle_ties(digit, tie, spare, m);
    CHECK(digit[0] == 0b101000001 && digit[1] == 0b10);                          // ties 0, 2, 4 of bits 0, 5, 6, 7, 8
    CHECK(digit[2] == ((std::uint64_t{1} << 58 | std::uint64_t{1} << 60) | 1));  // ties 6 and 8 of bits 57..61
    CHECK(tie[0] == 0 && tie[1] == 0 && tie[2] == 0xc000000000000000);
}

void moments_are_those_of_the_law() {
    const std::array<std::uint8_t, 32> key{42};
    ChaChaStream stream(key);
    constexpr std::size_t n = 1 << 17;
    constexpr unsigned m = 8;
    std::vector<std::int64_t> x(n);
    discrete_laplace(x.data(), stream, n, m);
    double sum = 0.0, squares = 0.0;
    for (const std::int64_t v : x) {
        const double centred = static_cast<double>(v) + 0.5;
        sum += centred;
        squares += centred * centred;
    }
    const double r = std::exp2(-std::exp2(-static_cast<double>(m)));
    const double variance = r * (1 + r) / ((1 - r) * (1 - r)) + r / (1 - r) + 0.25;
    CHECK(std::fabs(sum / n) < 4.0 * std::sqrt(variance / n));
    CHECK(std::fabs(squares / n / variance - 1.0) < 4.0 * std::sqrt(5.0 / n));  // a Laplace law has kurtosis 6
}

}  // namespace

int main() {
    for (const unsigned m : {0U, 1U, 2U, 10U, 16U, 31U, 32U}) samples_follow_the_documented_stream(m);
    ties_take_their_spares_in_order();
    moments_are_those_of_the_law();
    return check::failures();
}
