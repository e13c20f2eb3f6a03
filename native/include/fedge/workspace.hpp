// Carves one block of bytes, brought by the caller, into typed pieces.
//
// A layout is written once, as the sequence of take() calls. Run over nullptr it measures, run over memory it hands
// out, so the size and the use cannot disagree.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fedge {

class Arena {
  public:
    static constexpr std::size_t alignment = 64;  // a cache line: vectors of no width then cross one

    // `base` is aligned as operator new[] aligns, better to a cache line, or null to measure.
    explicit Arena(std::byte* base) noexcept : base_(base) {}

    template <class T>
    T* take(std::size_t count) noexcept {
        const std::size_t at = used_;
        std::size_t bytes = 0;
        if (__builtin_mul_overflow(count, sizeof(T), &bytes) || __builtin_add_overflow(bytes, alignment - 1, &bytes) ||
            __builtin_add_overflow(used_, bytes & ~(alignment - 1), &used_)) {
            used_ = too_large;  // sticks: adding anything to it overflows again, and adding nothing leaves it
        }
        return base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + at);
    }

    // Bytes taken so far, or `too_large` where no address space holds them.
    std::size_t used() const noexcept { return used_; }
    static constexpr std::size_t too_large = SIZE_MAX;

  private:
    std::byte* base_;
    std::size_t used_ = 0;
};

// a * b, or SIZE_MAX, which Arena::take turns into `too_large`.
inline std::size_t saturating_product(std::size_t a, std::size_t b) noexcept {
    std::size_t product = 0;
    return __builtin_mul_overflow(a, b, &product) ? SIZE_MAX : product;
}

}  // namespace fedge
