// Layers in place without arithmetic to speak of.
#include <stdexcept>

#include "fedge/csprng.hpp"
#include "layers.hpp"

namespace fedge {
namespace {

class Flatten final : public Layer {
  public:
    explicit Flatten(Shape input) : Layer(input, Shape{1, 1, input.size()}) {}

    const char* kind() const noexcept override { return "flatten"; }
    bool in_place() const noexcept override { return true; }
    bool changes_values() const noexcept override { return false; }

    void forward(float*, const float*, const float*, float*, float*, const Pass&) const noexcept override {}
    void backward(float*, const float*, const float*, const float*, float*, float*,
                  const Pass&) const noexcept override {}
};

// An element is dropped where its 16 bits of keystream are below rate 2^16. They stand in the ChaCha20 stream of the
// pass's key whose nonce is the step and the layer's number, two bytes an element, every row of the batch from a block
// of its own: so a mask follows from the key, the step and the row alone.
class Dropout final : public Layer {
  public:
    Dropout(Shape shape, double rate, std::size_t number)
        : Layer(shape, shape),
          threshold_(std::min(static_cast<unsigned>(std::lround(rate * levels)), 65535U)),
          scale_(static_cast<float>(levels / (levels - threshold_))),
          number_(number),
          row_blocks_((shape.size() + drawn - 1) / drawn) {}

    const char* kind() const noexcept override { return "dropout"; }
    bool in_place() const noexcept override { return true; }
    std::size_t kept_size(std::size_t B) const noexcept override {
        return saturating_product(B, output_.size()) / sizeof(float) + 1;  // a byte each
    }

    void forward(float* y, const float*, const float*, float* kept, float*, const Pass& pass) const noexcept override {
        if (pass.dropout_key == nullptr) return;
        draw(reinterpret_cast<std::uint8_t*>(kept), pass);
        mask(y, kept, pass.B);
    }

    void backward(float* dx, const float*, const float*, const float*, float* kept, float*,
                  const Pass& pass) const noexcept override {
        if (pass.dropout_key != nullptr && dx != nullptr) mask(dx, kept, pass.B);
    }

  private:
    static constexpr double levels = 65536.0;
    static constexpr std::size_t drawn = 32;  // elements that a block of 64 bytes serves

    // stays (B, size) = 1 or 0.
    void draw(std::uint8_t* stays, const Pass& pass) const noexcept {
        constexpr std::size_t most = 64;
        std::uint8_t stream[64 * most];
        const std::uint64_t nonce = pass.step << 16 | number_;
        const std::size_t blocks = pass.B * row_blocks_, n = output_.size();
        for (std::size_t block = 0; block < blocks; block += most) {
            const std::size_t count = std::min(most, blocks - block);
            chacha20_keystream(stream, pass.dropout_key, pass.first * row_blocks_ + block, nonce, count);
            for (std::size_t i = 0; i < count; ++i) {
                const std::size_t from = (block + i) % row_blocks_ * drawn;
                std::uint8_t* const out = stays + (block + i) / row_blocks_ * n + from;
                for (std::size_t j = 0; j < std::min(drawn, n - from); ++j) {
                    const std::uint8_t* const pair = stream + 64 * i + 2 * j;
                    const unsigned value = static_cast<unsigned>(pair[0]) | static_cast<unsigned>(pair[1]) << 8;
                    out[j] = value >= threshold_ ? 1 : 0;
                }
            }
        }
        wipe(stream, sizeof stream);
    }

    // By a product, so that what is not a number stays so.
    void mask(float* y, const float* kept, std::size_t B) const noexcept {
        const auto* const stays = reinterpret_cast<const std::uint8_t*>(kept);
        for (std::size_t i = 0; i < B * output_.size(); ++i) y[i] *= static_cast<float>(stays[i]) * scale_;
    }

    unsigned threshold_;
    float scale_;  // 1 / the chance to stay
    std::size_t number_, row_blocks_;
};

}  // namespace

std::unique_ptr<Layer> make_flatten(Shape input) { return std::make_unique<Flatten>(input); }

std::unique_ptr<Layer> make_dropout(Shape input, double rate, std::size_t number) {
    if (!(rate >= 0.0 && rate < 1.0)) {
        throw std::invalid_argument("want rate in [0, 1); got " + std::to_string(rate));
    }
    check_range("layers", number, 0, 65535);
    return std::make_unique<Dropout>(input, rate, number);
}

}  // namespace fedge
