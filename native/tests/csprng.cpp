#include "fedge/csprng.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "check.hpp"

using namespace fedge;

namespace {

std::array<std::uint8_t, 32> counting_key() {
    std::array<std::uint8_t, 32> key{};
    for (std::size_t i = 0; i < key.size(); ++i) key[i] = static_cast<std::uint8_t>(i);
    return key;
}

// RFC 8439 section 2.3.2: counter 1, nonce 00:00:00:09:00:00:00:4a:00:00:00:00.
void block_matches_rfc_8439() {
    const std::uint8_t want[64] = {
        0x10, 0xf1, 0xe7, 0xe4, 0xd1, 0x3b, 0x59, 0x15, 0x50, 0x0f, 0xdd, 0x1f, 0xa3, 0x20, 0x71, 0xc4,
        0xc7, 0xd1, 0xf4, 0xc7, 0x33, 0xc0, 0x68, 0x03, 0x04, 0x22, 0xaa, 0x9a, 0xc3, 0xd4, 0x6c, 0x4e,
        0xd2, 0x82, 0x64, 0x46, 0x07, 0x9f, 0xaa, 0x09, 0x14, 0xc2, 0xd7, 0x05, 0xd9, 0x8b, 0x02, 0xa2,
        0xb5, 0x12, 0x9c, 0xd1, 0xde, 0x16, 0x4e, 0xb9, 0xcb, 0xd0, 0x83, 0xe8, 0xa2, 0x50, 0x3c, 0x4e,
    };
    std::uint8_t got[64];
    chacha20_block(got, counting_key().data(), 0x0900000000000001U, 0x4a000000U);
    CHECK(std::memcmp(got, want, sizeof want) == 0);
}

// RFC 8439 appendix A.1, test vector 1: all zeros.
void zero_block_matches_rfc_8439() {
    const std::uint8_t want[16] = {0x76, 0xb8, 0xe0, 0xad, 0xa0, 0xf1, 0x3d, 0x90,
                                   0x40, 0x5d, 0x6a, 0xe5, 0x53, 0x86, 0xbd, 0x28};
    const std::uint8_t key[32] = {};
    std::uint8_t got[64];
    chacha20_block(got, key, 0, 0);
    CHECK(std::memcmp(got, want, sizeof want) == 0);
}

void many_blocks_at_once_are_single_blocks() {
    const auto key = counting_key();
    const std::uint64_t counter = 0xfffffffeU;  // the carry into the upper word falls inside the first vector
    constexpr std::size_t blocks = 16 + 8 + 4 + 3;
    std::uint8_t got[64 * blocks];
    chacha20_keystream(got, key.data(), counter, 42, blocks);
    for (std::size_t i = 0; i < blocks; ++i) {
        std::uint8_t want[64];
        chacha20_block(want, key.data(), counter + i, 42);
        CHECK(std::memcmp(got + 64 * i, want, sizeof want) == 0);
    }
}

void stream_replaces_its_key_from_each_refill() {
    auto key = counting_key();
    ChaChaStream stream(key);
    std::vector<std::uint8_t> got(3 * 4064);
    for (std::size_t at = 0, step = 1; at < got.size(); at += step, step = step % 97 + 1) {
        stream.fill(got.data() + at, std::min(step, got.size() - at));
    }
    for (std::size_t refill = 0; refill < 3; ++refill) {
        std::vector<std::uint8_t> want(4096);
        chacha20_keystream(want.data(), key.data(), 0, 0, 64);
        std::copy_n(want.begin(), 32, key.begin());
        CHECK(std::equal(want.begin() + 32, want.end(), got.begin() + static_cast<std::ptrdiff_t>(refill * 4064)));
    }
}

void used_bytes_are_wiped() {
    alignas(ChaChaStream) std::uint8_t memory[sizeof(ChaChaStream)];
    auto* stream = new (memory) ChaChaStream(counting_key());
    std::uint8_t drawn[64];
    stream->fill(drawn, sizeof drawn);
    CHECK(std::search(memory, memory + sizeof memory, drawn, drawn + 16) == memory + sizeof memory);
    stream->~ChaChaStream();
}

void child_and_parent_draw_differently() {
    SystemRng rng;
    rng.stream_key();
    int ends[2];
    CHECK(pipe(ends) == 0);
    const pid_t child = fork();
    const StreamKey key = rng.stream_key();
    if (child == 0) {
        const bool written =
            write(ends[1], key.bytes.data(), key.bytes.size()) == static_cast<ssize_t>(key.bytes.size());
        _exit(written ? 0 : 1);
    }
    StreamKey childs{};
    CHECK(read(ends[0], childs.bytes.data(), childs.bytes.size()) == static_cast<ssize_t>(childs.bytes.size()));
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(key.bytes != childs.bytes);
    close(ends[0]), close(ends[1]);
}

}  // namespace

int main() {
    return check::run([] {
        block_matches_rfc_8439();
        zero_block_matches_rfc_8439();
        many_blocks_at_once_are_single_blocks();
        stream_replaces_its_key_from_each_refill();
        used_bytes_are_wiped();
        child_and_parent_draw_differently();
    });
}
