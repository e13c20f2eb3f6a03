// Draws from a seed, for constant_time.cmake to count instructions over: `noise_timing MODE SEED`, MODE being shipped
// or lazy. `lazy` is a geometric loop with early exit: the control that shows a leak would be seen. Leaves with status 3
// where FEDGE_ISA names a set that this (perhaps simulated) processor lacks.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "fedge/isa.hpp"
#include "fedge/noise.hpp"

using namespace fedge;

// Named plainly and kept whole, so that the profiler can be told to count inside it alone.
extern "C" __attribute__((noinline)) void counted(std::int64_t* out, ChaChaStream& stream, std::size_t n, unsigned m,
                                                  bool lazy) {
    if (!lazy) {
        discrete_laplace(out, stream, n, m);
        return;
    }
    for (std::size_t i = 0; i < n; ++i) {
        out[i] = 0;
        std::uint64_t word = 0;
        do {
            stream.fill(&word, 1);
            ++out[i];
        } while ((word & 15) != 0);
    }
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
    std::vector<std::int64_t> out(20000);
    counted(out.data(), stream, out.size(), 16, std::strcmp(argv[1], "lazy") == 0);
    std::int64_t sum = 0;
    for (const std::int64_t v : out) sum += v;
    std::printf("sum %lld\n", static_cast<long long>(sum));
    return 0;
}
