#include "fedge/reservoir.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>
#include <thread>
#include <vector>

#include "check.hpp"

using namespace fedge;

namespace {

bool full(const NoiseReservoir& reservoir) {
    for (int i = 0; i < 20000; ++i) {
        if (reservoir.ready() + NoiseReservoir::chunk > reservoir.capacity()) return true;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
}

// At scale 2^24 the draws of this test hardly ever coincide, so one that left twice would show.
void every_draw_leaves_once() {
    NoiseReservoir reservoir(24, 3 * NoiseReservoir::chunk - 1);
    CHECK(reservoir.capacity() == 3 * NoiseReservoir::chunk && full(reservoir));
    std::vector<std::int64_t> all;
    for (const std::size_t n : {std::size_t{1}, std::size_t{511}, NoiseReservoir::chunk, 5 * NoiseReservoir::chunk,
                                std::size_t{0}, std::size_t{10000}}) {
        std::vector<std::int64_t> draws(n);
        CHECK(reservoir.take(draws.data(), n));
        all.insert(all.end(), draws.begin(), draws.end());
    }
    std::vector<std::int32_t> narrow(1000);
    CHECK(reservoir.take(narrow.data(), narrow.size()));
    all.insert(all.end(), narrow.begin(), narrow.end());
    std::vector<std::int64_t> sum(1000, std::int64_t{1} << 60);
    CHECK(reservoir.add_to(sum.data(), sum.size()));
    for (const std::int64_t v : sum) all.push_back(v - (std::int64_t{1} << 60));
    CHECK(std::set<std::int64_t>(all.begin(), all.end()).size() > all.size() - all.size() / 100);
    double squares = 0;
    for (const std::int64_t v : all) squares += std::pow(static_cast<double>(v) / std::exp2(24.0) * std::log(2.0), 2);
    CHECK(std::fabs(squares / static_cast<double>(all.size()) / 2 - 1) < 0.06);  // Laplace: variance 2, kurtosis 6
    CHECK(full(reservoir));
}

void many_threads_take_apart() {
    NoiseReservoir reservoir(24, NoiseReservoir::chunk);
    std::vector<std::vector<std::int32_t>> draws(4, std::vector<std::int32_t>(30000));
    std::vector<std::thread> threads;
    for (auto& mine : draws) {
        threads.emplace_back([&] {
            for (std::size_t at = 0; at < mine.size(); at += 1000) reservoir.take(mine.data() + at, 1000);
        });
    }
    for (std::thread& thread : threads) thread.join();
    std::set<std::int32_t> all;
    for (const auto& mine : draws) all.insert(mine.begin(), mine.end());
    CHECK(all.size() > 119000);
}

void a_closed_one_and_a_child_get_nothing() {
    NoiseReservoir reservoir(10, 1);
    std::int64_t draw = 7;
    const pid_t child = fork();
    if (child == 0) {
        bool refused = false;
        {
            NoiseReservoir own(10, 1);
            refused = !reservoir.take(&draw, 1) && draw == 7 && reservoir.ready() == 0 && own.take(&draw, 1);
        }
        reservoir.close();
        reservoir.~NoiseReservoir();  // must not wait for a thread that is not there
        _exit(refused ? 0 : 1);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(reservoir.take(&draw, 1));
    reservoir.close();
    reservoir.close();
    draw = 7;
    CHECK(!reservoir.take(&draw, 1) && !reservoir.add_to(&draw, 1) && draw == 7 && reservoir.ready() == 0);
}

}  // namespace

int main() {
    return check::run([] {
        every_draw_leaves_once();
        many_threads_take_apart();
        a_closed_one_and_a_child_get_nothing();
    });
}
