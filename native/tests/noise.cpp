#include "fedge/noise.hpp"

#include <cmath>
#include <vector>

#include "check.hpp"

using namespace fedge;

namespace {

// The law spelled out bit by bit with jumps and loops, from the same words: what the constant-time form must equal.
std::int64_t plain_sample(std::uint64_t coins, const std::vector<std::uint64_t>& digits, bool negative) {
    std::int64_t value = 0;
    while (value < 63 && (coins & 1) == 0) {
        coins >>= 1;
        ++value;
    }
    for (std::size_t s = 0; s < digits.size(); ++s) value = 2 * value + (digits[s] < digit_threshold[s] ? 1 : 0);
    return negative ? -value - 1 : value;
}

void samples_follow_the_documented_stream(unsigned m) {
    std::array<std::uint8_t, 32> key{};
    key[0] = static_cast<std::uint8_t>(m);
    constexpr std::size_t n = 64 * 3 + 5;
    std::vector<std::int64_t> got(n);
    ChaChaStream stream(key);
    discrete_laplace(got.data(), stream, n, m);

    ChaChaStream words(key);
    for (std::size_t start = 0; start < n; start += 64) {
        std::vector<std::uint64_t> block(64 * (m + 1) + 1);
        words.fill(block.data(), block.size());
        for (std::size_t i = 0; i < 64 && start + i < n; ++i) {
            std::vector<std::uint64_t> digits(m);
            for (std::size_t s = 1; s <= m; ++s) digits[s - 1] = block[64 * s + i];
            CHECK(got[start + i] == plain_sample(block[i], digits, ((block.back() >> i) & 1) != 0));
        }
    }
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
    moments_are_those_of_the_law();
    return check::failures();
}
