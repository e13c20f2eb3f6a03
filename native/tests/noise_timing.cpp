// Draws from a seed, for constant_time.cmake to count instructions over: `noise_timing MODE SEED`, MODE being a sampler or
// `lazy`, a geometric loop with early exit: the control that shows a leak would be seen. Leaves with status 3 where
// FEDGE_ISA names a set that this (perhaps simulated) processor lacks.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "fedge/isa.hpp"
#include "fedge/noise.hpp"

using namespace fedge;

namespace {

constexpr std::size_t n = 20000;

// A draw of n takes as many blocks of trials as it takes; what must not vary is a block.
std::int64_t gaussian_blocks(ChaChaStream& stream) {
    const GaussianPlan plan = gaussian_plan(94548);
    std::vector<std::int64_t> out(gaussian_trials);
    std::vector<std::uint32_t> words(gaussian_words);
    GaussianBlock at;
    std::int64_t sum = 0;
    for (std::size_t block = 0; block < n / gaussian_trials; ++block) {
        stream.fill(words.data(), words.size());
        sum += static_cast<std::int64_t>(gaussian_block(out.data(), words.data(), plan, at)) + out[0];
    }
    return sum;
}

std::int64_t lazy(ChaChaStream& stream) {
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < n; ++i) {
        std::uint64_t word = 0;
        do {
            stream.fill(&word, 1);
            ++sum;
        } while ((word & 15) != 0);
    }
    return sum;
}

}  // namespace

// Named plainly and kept whole, so that the profiler can be told to count inside it alone.
extern "C" __attribute__((noinline)) std::int64_t counted(const char* mode, ChaChaStream& stream,
                                                          std::vector<std::int64_t>& out) {
    if (std::strcmp(mode, "laplace") == 0) discrete_laplace(out.data(), stream, n, 16);
    if (std::strcmp(mode, "shares") == 0) laplace_share(out.data(), stream, n, 16, 100);
    if (std::strcmp(mode, "gaussian") == 0) return gaussian_blocks(stream);
    if (std::strcmp(mode, "lazy") == 0) return lazy(stream);
    return out[0];
}

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    try {
        isa();
    } catch (const std::runtime_error& refusal) {
        std::puts(refusal.what());
        return 3;
    }
    std::array<std::uint8_t, 32> seed{};
    seed[0] = static_cast<std::uint8_t>(std::atoi(argv[2]));
    ChaChaStream stream(seed);
    std::vector<std::int64_t> out(n);
    std::printf("saw %lld\n", static_cast<long long>(counted(argv[1], stream, out)));
    return 0;
}
