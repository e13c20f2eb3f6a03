#include "window.hpp"

#include <stdexcept>

#include "layers.hpp"

namespace fedge {
namespace {

constexpr const char* direction[2] = {"height", "width"};

// How many windows fit in `length` positions along one direction.
std::size_t count(const char* along, std::size_t length, std::size_t size, std::size_t stride, std::size_t padding,
                  std::size_t padding_most) {
    check_range((std::string(along) + " of the stride").c_str(), stride, 1, max_image);
    check_range((std::string(along) + " of the window").c_str(), size, 1, max_image);
    check_range((std::string(along) + " of the padding, for a window of " + std::to_string(size) + ",").c_str(),
                padding, 0, padding_most);
    const std::size_t padded = length + 2 * padding;
    if (size > padded) {
        throw std::invalid_argument("want a window of " + std::string(along) + " at most " + std::to_string(padded) +
                                    ", the input's " + std::to_string(length) + " and twice the padding of " +
                                    std::to_string(padding) + "; got " + std::to_string(size) +
                                    ": make it smaller, pad more, or pool less before it");
    }
    return (padded - size) / stride + 1;
}

void check_size(const char* what, std::size_t height, std::size_t width, std::size_t channels) {
    const std::size_t size = saturating_product(saturating_product(height, width), channels);
    if (size <= max_image) return;
    throw std::invalid_argument("want " + std::string(what) + " of at most " + std::to_string(max_image) +
                                " floats; got " + std::to_string(height) + " x " + std::to_string(width) + " x " +
                                std::to_string(channels));
}

}  // namespace

Shape windows_in(Shape input, const Window& window, std::size_t channels,
                 std::size_t (*padding_most)(std::size_t size)) {
    check_size("an input", input.height, input.width, input.channels);
    if (input.size() == 0) throw std::invalid_argument("want an input with values; got " + shape_words(input));
    std::size_t counts[2] = {};
    for (std::size_t i : {0U, 1U}) {
        counts[i] = count(direction[i], i == 0 ? input.height : input.width, window.size[i], window.stride[i],
                          window.padding[i], padding_most(window.size[i]));
    }
    check_size("a padded input", input.height + 2 * window.padding[0], input.width + 2 * window.padding[1],
               input.channels);
    check_size("an output", counts[0], counts[1], channels);
    return {counts[0], counts[1], channels};
}

Windows windows(Shape input, Shape output, const Window& window) noexcept {
    const auto& [size, stride, padding] = window;
    return {input.height,
            input.width,
            input.channels,
            output.height,
            output.width,
            size[0],
            size[1],
            std::min(stride[0], input.height + 2 * padding[0]),
            std::min(stride[1], input.width + 2 * padding[1]),
            padding[0],
            padding[1]};
}

}  // namespace fedge
