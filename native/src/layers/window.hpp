// The windows of a convolution or a pool over an image.
#pragma once

#include "../kernels.hpp"
#include "fedge/layer.hpp"

namespace fedge {

// Floats that one example may have on its way through a convolution or a pool, padding included.
inline constexpr std::size_t max_image = std::size_t{1} << 28;

// The shape of what `window` finds in `input`, with `channels`. Throws std::invalid_argument where a size or a stride
// is 0, the padding is more than `padding_most`(size), the window larger than the padded input, or max_image is passed.
Shape windows_in(Shape input, const Window& window, std::size_t channels,
                 std::size_t (*padding_most)(std::size_t size));

// All of it in one place. A stride past the padded input finds the same one window as a stride of its length, which is
// what it becomes, so that no product of it overflows.
Windows windows(Shape input, Shape output, const Window& window) noexcept;

}  // namespace fedge
