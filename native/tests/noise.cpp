#include "fedge/noise.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "check.hpp"

using namespace fedge;

namespace {

// The law spelled out draw by draw with jumps and loops, from the same words: what the bit-sliced form must equal.
class PlainBlock {
  public:
    PlainBlock(const std::uint64_t* words, unsigned m) : words_(words), m_(m) {}

    std::vector<std::int64_t> draws() {
        const unsigned comparisons = std::min(m_, compared_digits + 1);
        const std::size_t low = m_ - std::min(m_, compared_digits);
        const std::size_t fair = 1 + first_bits * (1 + comparisons);
        spare_ = words_ + laplace_columns * (fair + low);
        const std::uint64_t* const ties_end = spare_ + tie_spares;
        const std::uint64_t* pair = ties_end;
        std::vector<std::int64_t> values(laplace_draws);
        std::vector<bool> drops(laplace_draws);
        // Lane by lane, the order in which ties take spares. A lane's first tie is settled, then its next.
        for (std::size_t lane = 0; lane < laplace_draws; ++lane) {
            std::int64_t& value = values[lane];
            unsigned octave = 0;
            while (octave < first_bits && !bit(1 + octave, lane)) ++octave;
            if (octave == first_bits && spare_ < ties_end) {
                const std::uint64_t word = *spare_++;
                while (octave < 63 && ((word >> (octave - first_bits)) & 1) == 0) ++octave;
                ++ties;
            }
            value = octave;
            for (unsigned k = 0; k < comparisons; ++k) {
                std::uint64_t u = 0;
                for (unsigned j = 0; j < first_bits; ++j) u = 2 * u + bit(1 + first_bits * (1 + k) + j, lane);
                const std::uint64_t top = comparison_threshold[k] >> (64 - first_bits);
                bool set = u < top;
                if (u == top && spare_ < ties_end) {
                    set = *spare_++ < comparison_threshold[k] << first_bits;
                    ++ties;
                }
                if (k < compared_digits) {
                    value = 2 * value + (set ? 1 : 0);
                } else {
                    drops[lane] = set;
                }
            }
        }
        for (std::size_t lane = 0; lane < laplace_draws; ++lane) {
            std::uint64_t digits = 0;
            for (std::size_t k = 0; k < low; ++k) digits = 2 * digits + bit(fair + k, lane);
            for (std::size_t past = 0; drops[lane] && pair < ties_end + 2 * drop_spares; pair += 2) {
                std::size_t at = 0;
                while (at < low && pair[0] >= first_drop[at]) ++at;
                if (at >= past && at < low) digits &= ~(std::uint64_t{1} << (low - 1 - at));
                past = std::max(past, at + 1);
                drops[lane] = pair[1] < comparison_threshold[compared_digits];
                ++dropped;
            }
            const std::int64_t g = values[lane] * (std::int64_t{1} << low) + static_cast<std::int64_t>(digits);
            values[lane] = bit(0, lane) ? -g - 1 : g;
        }
        return ordered(values);
    }

    std::size_t ties = 0, dropped = 0;

  private:
    // Lanes run through the columns, draws across them.
    bool bit(std::size_t row, std::size_t lane) const {
        return ((words_[laplace_columns * row + lane / 64] >> (lane % 64)) & 1) != 0;
    }

    static std::vector<std::int64_t> ordered(const std::vector<std::int64_t>& by_lane) {
        std::vector<std::int64_t> draws(laplace_draws);
        for (std::size_t lane = 0; lane < laplace_draws; ++lane) {
            draws[laplace_columns * (lane % 64) + lane / 64] = by_lane[lane];
        }
        return draws;
    }

    const std::uint64_t* words_;
    const std::uint64_t* spare_ = nullptr;
    unsigned m_;
};

std::vector<std::int64_t> block(const std::vector<std::uint64_t>& words, unsigned m) {
    alignas(64) std::byte workspace[laplace_workspace_bytes];
    std::vector<std::int64_t> draws(laplace_draws);
    laplace_block(draws.data(), words.data(), m, workspace);
    return draws;
}

void samples_follow_the_documented_stream(unsigned m) {
    std::array<std::uint8_t, 32> key{};
    key[0] = static_cast<std::uint8_t>(m);
    constexpr std::size_t n = laplace_draws * 60 + 5;
    std::vector<std::int64_t> got(n);
    ChaChaStream stream(key), again(key);
    discrete_laplace(got.data(), stream, n, m);
    std::size_t ties = 0, dropped = 0;
    std::vector<std::uint64_t> words(laplace_words(m));
    for (std::size_t start = 0; start < n; start += laplace_draws) {
        again.fill(words.data(), words.size());
        PlainBlock plain(words.data(), m);
        const auto want = plain.draws();
        CHECK(std::equal(want.begin(), want.begin() + static_cast<std::ptrdiff_t>(std::min(laplace_draws, n - start)),
                         got.begin() + static_cast<std::ptrdiff_t>(start)));
        ties += plain.ties, dropped += plain.dropped;
    }
    CHECK(ties > 0 && (dropped > 0) == (m > compared_digits));
}

// Ties and drops are too rare to crowd on their own. Here every random bit is set with chance `density`, or the planes
// repeat a threshold's own bits, so that lanes tie several times and both kinds of spares run out.
void crowded_blocks_take_their_spares_in_order(unsigned m) {
    const std::array<std::uint8_t, 32> key{7};
    ChaChaStream stream(key);
    std::size_t most_ties = 0, most_drops = 0;
    for (unsigned round = 0; round < 200; ++round) {
        std::vector<std::uint64_t> words(laplace_words(m)), noise(words.size());
        stream.fill(words.data(), words.size());
        for (unsigned thin = 0; thin < 2 + round % 6; ++thin) {
            stream.fill(noise.data(), noise.size());
            for (std::size_t i = 0; i < words.size(); ++i) words[i] &= noise[i];
        }
        // Sparse deviations from the thresholds' bits (from all zeros, for the coins) are ties in most lanes.
        const std::size_t rows = first_bits * std::min(m, compared_digits + 1);
        for (std::size_t r = 0; r < rows; ++r) {
            const std::uint64_t threshold = comparison_threshold[r / first_bits];
            const std::uint64_t bits = 0 - ((threshold >> (63 - r % first_bits)) & 1);
            for (std::size_t c = 0; c < laplace_columns; ++c) {
                words[laplace_columns * (1 + first_bits + r) + c] ^= round % 2 == 0 ? bits : bits & words[c];
            }
        }
        const std::size_t spares = tie_spares + (m > compared_digits ? 2 * drop_spares : 0);
        stream.fill(words.data() + words.size() - spares, spares);
        if (round % 3 == 0) {  // second words that go on
            for (std::size_t q = 1; q < 2 * drop_spares && m > compared_digits; q += 4) words[words.size() - q] >>= 8;
        }
        PlainBlock plain(words.data(), m);
        const auto want = plain.draws();
        CHECK(block(words, m) == want);
        most_ties = std::max(most_ties, plain.ties), most_drops = std::max(most_drops, plain.dropped);
    }
    CHECK(most_ties == tie_spares && most_drops == (m > compared_digits ? drop_spares : 0));
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
    return check::run([] {
        for (const unsigned m : {0U, 1U, 2U, 5U, 6U, 7U, 10U, 16U, 31U, 32U}) {
            samples_follow_the_documented_stream(m);
            crowded_blocks_take_their_spares_in_order(m);
        }
        moments_are_those_of_the_law();
    });
}
