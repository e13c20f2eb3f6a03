// Work over ranges of coordinates on several threads. Which thread takes which range leaves no mark on the results: each
// range is its own, and what is summed over ranges is summed by the caller in their order.
#pragma once

#include <atomic>
#include <cstddef>
#include <system_error>
#include <thread>
#include <vector>

namespace fedge {

// Calls work(range, thread) for every range in [0, ranges), thread in [0, threads): this thread and threads - 1 others,
// or as many as the system grants. `work` must not throw.
template <class Work>
void for_each_range(std::size_t ranges, std::size_t threads, const Work& work) {
    std::atomic<std::size_t> next{0};
    const auto take = [&](std::size_t thread) {
        for (std::size_t range = next++; range < ranges; range = next++) work(range, thread);
    };
    std::vector<std::thread> others;
    try {
        for (std::size_t thread = 1; thread < threads && thread < ranges; ++thread) others.emplace_back(take, thread);
    } catch (const std::system_error&) {
        // fewer threads than asked for do the same work
    }
    take(0);
    for (std::thread& other : others) other.join();
}

}  // namespace fedge
