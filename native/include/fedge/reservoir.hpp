// Discrete Laplace noise drawn ahead of need, on another core.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "fedge/laplace_block.hpp"

namespace fedge {

// Holds up to `capacity` draws, in private memory, and a thread of lower priority that fills it whenever a chunk has room. Its keys come from
// the system and there is no other way: noise for replays is drawn when it is needed. Every draw leaves once and is
// wiped where it lay; so is everything when the reservoir goes. Several threads may take.
//
// In a child made by fork the store would be the parent's own noise, and no thread fills it: taking is refused there.
class NoiseReservoir {
  public:
    static constexpr std::size_t chunk = std::size_t{16} * laplace_draws;  // what the thread draws at a time

    // log2_scale <= max_log2_scale_32; capacity is rounded up to whole chunks. Throws std::system_error where the
    // system has no randomness or no thread to give, std::bad_alloc.
    NoiseReservoir(unsigned log2_scale, std::size_t capacity);
    ~NoiseReservoir();
    NoiseReservoir(const NoiseReservoir&) = delete;
    NoiseReservoir& operator=(const NoiseReservoir&) = delete;

    // out (n) = the next draws, as of discrete_laplace. What the store lacks is drawn by the caller's thread, so that it
    // waits for nobody. False, and nothing done, in a process other than the one that made the reservoir, or closed.
    bool take(std::int64_t* out, std::size_t n) noexcept;
    bool take(std::int32_t* out, std::size_t n) noexcept;
    // values (n) += the next draws, modulo 2^64.
    bool add_to(std::int64_t* values, std::size_t n) noexcept;

    // Stops the thread and wipes the store. Again, or in a child, nothing.
    void close() noexcept;

    std::size_t ready() const noexcept;  // draws in the store
    std::size_t capacity() const noexcept;
    unsigned log2_scale() const noexcept;

  private:
    struct Store;
    Store* store_;  // in a child it is wiped and abandoned: its locks and waiters are those of a thread that is not there
};

}  // namespace fedge
