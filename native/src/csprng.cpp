#include "fedge/csprng.hpp"

#include <pthread.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "kernels.hpp"

namespace fedge {
namespace {

constexpr std::uint32_t sigma[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};  // "expand 32-byte k"

std::uint32_t load_le32(const std::uint8_t* p) noexcept {
    return static_cast<std::uint32_t>(p[0]) | static_cast<std::uint32_t>(p[1]) << 8 |
           static_cast<std::uint32_t>(p[2]) << 16 | static_cast<std::uint32_t>(p[3]) << 24;
}

void store_le32(std::uint8_t* p, std::uint32_t v) noexcept {
    if constexpr (std::endian::native == std::endian::big) v = __builtin_bswap32(v);
    std::memcpy(p, &v, sizeof v);
}

inline void quarter_round(std::uint32_t& a, std::uint32_t& b, std::uint32_t& c, std::uint32_t& d) noexcept {
    a += b, d = std::rotl(d ^ a, 16);
    c += d, b = std::rotl(b ^ c, 12);
    a += b, d = std::rotl(d ^ a, 8);
    c += d, b = std::rotl(b ^ c, 7);
}

// RFC 8439 section 2.3: ten double rounds, then the input added.
void permute(std::uint32_t (&out)[16], const std::uint32_t (&in)[16]) noexcept {
    std::copy_n(in, 16, out);
    for (int round = 0; round < 10; ++round) {
        for (int i = 0; i < 4; ++i) quarter_round(out[i], out[4 + i], out[8 + i], out[12 + i]);
        for (int i = 0; i < 4; ++i) {
            quarter_round(out[i], out[4 + (i + 1) % 4], out[8 + (i + 2) % 4], out[12 + (i + 3) % 4]);
        }
    }
    for (int i = 0; i < 16; ++i) out[i] += in[i];
}

void initial_state(std::uint32_t (&state)[16], const std::uint8_t key[32], std::uint64_t counter,
                   std::uint64_t nonce) noexcept {
    std::copy_n(sigma, 4, state);
    for (int i = 0; i < 8; ++i) state[4 + i] = load_le32(key + 4 * i);
    state[12] = static_cast<std::uint32_t>(counter);
    state[13] = static_cast<std::uint32_t>(counter >> 32);
    state[14] = static_cast<std::uint32_t>(nonce);
    state[15] = static_cast<std::uint32_t>(nonce >> 32);
}

// Counts forks of this process through libc; the child's handler runs before fork returns to it.
std::atomic<std::uint64_t> fork_count{0};

std::uint64_t forks_so_far() {
    static const int failed =
        pthread_atfork(nullptr, nullptr, [] { fork_count.fetch_add(1, std::memory_order_relaxed); });
    if (failed != 0) throw std::system_error(failed, std::generic_category(), "pthread_atfork");
    return fork_count.load(std::memory_order_relaxed);
}

StreamKey system_key() {
    StreamKey key{};
    std::size_t have = 0;
    while (have < key.bytes.size()) {
        const ssize_t got = getrandom(key.bytes.data() + have, key.bytes.size() - have, 0);
        if (got >= 0) {
            have += static_cast<std::size_t>(got);
        } else if (errno != EINTR) {
            throw std::system_error(errno, std::generic_category(), "getrandom");
        }
    }
    return key;
}

}  // namespace

void wipe(void* memory, std::size_t n) noexcept { explicit_bzero(memory, n); }

void chacha20_block(std::uint8_t out[64], const std::uint8_t key[32], std::uint64_t counter,
                    std::uint64_t nonce) noexcept {
    std::uint32_t in[16], mixed[16];
    initial_state(in, key, counter, nonce);
    permute(mixed, in);
    for (int i = 0; i < 16; ++i) store_le32(out + 4 * i, mixed[i]);
}

void chacha20_keystream(std::uint8_t* out, const std::uint8_t key[32], std::uint64_t counter, std::uint64_t nonce,
                        std::size_t blocks) noexcept {
    std::uint32_t first[16];
    initial_state(first, key, counter, nonce);
    std::size_t block = kernels().chacha20_blocks(out, first, counter, blocks);
    for (; block < blocks; ++block) chacha20_block(out + 64 * block, key, counter + block, nonce);
}

ChaChaStream::ChaChaStream(std::span<const std::uint8_t, key_bytes> key) noexcept { rekey(key); }

ChaChaStream::~ChaChaStream() {
    wipe(key_.data(), key_.size());
    wipe(buffer_.data(), buffer_.size());
}

void ChaChaStream::rekey(std::span<const std::uint8_t, key_bytes> key) noexcept {
    std::copy(key.begin(), key.end(), key_.begin());
    wipe(buffer_.data(), buffer_.size());
    next_ = buffer_.size();
}

void ChaChaStream::refill() noexcept {
    chacha20_keystream(buffer_.data(), key_.data(), 0, 0, blocks);
    std::copy_n(buffer_.begin(), key_bytes, key_.begin());
    wipe(buffer_.data(), key_bytes);
    next_ = key_bytes;
}

void ChaChaStream::fill(std::uint8_t* out, std::size_t n) noexcept {
    while (n > 0) {
        if (next_ == buffer_.size()) refill();
        const std::size_t now = std::min(n, buffer_.size() - next_);
        std::memcpy(out, buffer_.data() + next_, now);
        wipe(buffer_.data() + next_, now);
        next_ += now, out += now, n -= now;
    }
}

void ChaChaStream::fill(std::uint64_t* out, std::size_t n) noexcept {
    fill(reinterpret_cast<std::uint8_t*>(out), n * sizeof *out);
    if constexpr (std::endian::native == std::endian::big) {
        for (std::size_t i = 0; i < n; ++i) out[i] = __builtin_bswap64(out[i]);
    }
}

void ChaChaStream::fill(std::uint32_t* out, std::size_t n) noexcept {
    fill(reinterpret_cast<std::uint8_t*>(out), n * sizeof *out);
    if constexpr (std::endian::native == std::endian::big) {
        for (std::size_t i = 0; i < n; ++i) out[i] = __builtin_bswap32(out[i]);
    }
}

StreamKey::~StreamKey() { wipe(bytes.data(), bytes.size()); }

SystemRng::SystemRng() : forks_(forks_so_far()), pid_(getpid()), stream_(system_key().bytes) {}

void SystemRng::reseed_after_fork() {
    const std::uint64_t forks = forks_so_far();
    const pid_t pid = getpid();
    if (forks == forks_ && pid == pid_) return;
    stream_.rekey(system_key().bytes);
    forks_ = forks;
    pid_ = pid;
}

StreamKey SystemRng::stream_key() {
    reseed_after_fork();
    StreamKey key{};
    stream_.fill(key.bytes.data(), key.bytes.size());
    return key;
}

StreamKey SeededRng::stream_key() noexcept {
    StreamKey key{};
    stream_.fill(key.bytes.data(), key.bytes.size());
    return key;
}

}  // namespace fedge
