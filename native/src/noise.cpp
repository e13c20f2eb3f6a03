#include "fedge/noise.hpp"

#include <algorithm>

#include "kernels.hpp"

namespace fedge {

const std::uint64_t comparison_threshold[compared_digits + 1] = {
    0x6a09e667f3bcc909, 0x74eff3d0d4ef5fbe, 0x7a75526cdfa755eb, 0x7d3a5409cc18c5b4, 0x7e9d1f5d668b23a9,
    0x7f4e8e59b3fa2add, 0x0162403164a90ffd,
};

const std::uint64_t first_drop[max_log2_scale] = {
    0x803b2cd8d6a9cf83, 0xc02c59f257813198, 0xe019dce514f01502, 0xf00dda4ed9fa7ee9, 0xf807281aabfbb5ef,
    0xfc03a2c9ab28a360, 0xfe01d513db8ce016, 0xff00eb75ad5a569d, 0xff8075f5c654ddc9, 0xffc03b099f0cb2a5,
    0xffe01d887e7df528, 0xfff00ec52afcc2e6, 0xfff80762d06dcfb3, 0xfffc03b176f2c2ef, 0xfffe01d8bf28582d,
    0xffff00ec607fe9c2, 0xffff8076307ae44c, 0xffffc03b184c2e01, 0xffffe01d8c29c5f7, 0xfffff00ec615ceb9,
    0xfffff807630b224c, 0xfffffc03b1859fe2, 0xfffffe01d8c2d3a0, 0xffffff00ec616abc, 0xffffff807630b599,
    0xffffffc03b185adb,
};

std::size_t laplace_words(unsigned m) noexcept {
    const std::size_t comparisons = std::min(m, compared_digits + 1);
    const std::size_t low = m - std::min(m, compared_digits);
    return laplace_columns * (1 + first_bits * (1 + comparisons) + low) + tie_spares + (low > 0 ? 2 * drop_spares : 0);
}

void laplace_block(std::int64_t* out, const std::uint64_t* words, unsigned m, std::byte* workspace) noexcept {
    kernels().laplace_block(out, words, m, workspace);
}

void laplace_block(std::int32_t* out, const std::uint64_t* words, unsigned m, std::byte* workspace) noexcept {
    kernels().laplace_block_32(out, words, m, workspace);
}

namespace {

template <class Out>
void draw(Out* out, ChaChaStream& rng, std::size_t n, unsigned m) noexcept {
    std::uint64_t words[max_laplace_words];
    alignas(64) std::byte workspace[laplace_workspace_bytes];
    Out last[laplace_draws];
    const std::size_t length = laplace_words(m);
    for (std::size_t start = 0; start < n; start += laplace_draws) {
        const std::size_t wanted = std::min(laplace_draws, n - start);
        rng.fill(words, length);
        laplace_block(wanted < laplace_draws ? last : out + start, words, m, workspace);
        if (wanted < laplace_draws) std::copy_n(last, wanted, out + start);
    }
    wipe(words, sizeof words);
    wipe(workspace, sizeof workspace);
    wipe(last, sizeof last);
}

}  // namespace

void discrete_laplace(std::int64_t* out, ChaChaStream& rng, std::size_t n, unsigned m) noexcept {
    draw(out, rng, n, m);
}

void discrete_laplace(std::int32_t* out, ChaChaStream& rng, std::size_t n, unsigned m) noexcept {
    draw(out, rng, n, m);
}

}  // namespace fedge
