// ChaCha20 (RFC 8439) with fast key erasure (Bernstein 2017), seeded by the system or, for simulations, by the caller.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace fedge {

// One 64-byte keystream block. Words 12-13 of the state are `counter`, 14-15 `nonce`, little-endian: RFC 8439's 32-bit
// counter and 96-bit nonce are the same four words cut elsewhere.
void chacha20_block(std::uint8_t out[64], const std::uint8_t key[32], std::uint64_t counter,
                    std::uint64_t nonce) noexcept;

// Keystream bytes [0, 64 blocks) for counters counter, counter + 1, ...; as many blocks at a time as the widest
// registers have lanes.
void chacha20_keystream(std::uint8_t* out, const std::uint8_t key[32], std::uint64_t counter, std::uint64_t nonce,
                        std::size_t blocks) noexcept;

// Keystream with fast key erasure. A refill is 64 blocks (4096 bytes) of ChaCha20 under the current key, counter from
// 0, nonce 0; its first 32 bytes replace the key and the rest is given out in order, each byte wiped as it leaves. Who
// reads the memory later learns nothing of what was drawn before. The stream is fixed: the same key gives the same
// bytes on every machine.
class ChaChaStream {
  public:
    static constexpr std::size_t key_bytes = 32;

    explicit ChaChaStream(std::span<const std::uint8_t, key_bytes> key) noexcept;
    ~ChaChaStream();
    ChaChaStream(const ChaChaStream&) = delete;
    ChaChaStream& operator=(const ChaChaStream&) = delete;

    void rekey(std::span<const std::uint8_t, key_bytes> key) noexcept;
    void fill(std::uint8_t* out, std::size_t n) noexcept;
    // The next 8 n bytes as little-endian integers.
    void fill(std::uint64_t* out, std::size_t n) noexcept;
    // The next 4 n bytes likewise.
    void fill(std::uint32_t* out, std::size_t n) noexcept;

  private:
    static constexpr std::size_t blocks = 64;
    void refill() noexcept;

    std::array<std::uint8_t, key_bytes> key_;
    std::array<std::uint8_t, 64 * blocks> buffer_;
    std::size_t next_ = 64 * blocks;
};

// A key that is wiped when it goes. Both generators hand out keys for streams of their own: a bulk draw runs on such a
// stream, so no generator state is shared while other threads run or the process forks.
struct StreamKey {
    std::array<std::uint8_t, ChaChaStream::key_bytes> bytes;
    ~StreamKey();
};

// Seeded by getrandom(2) alone. Notices fork (a pthread_atfork counter, and the process id for children made without
// libc) and seeds itself anew in the child. Throws std::system_error where the system has no randomness to give. Not
// for two threads at once.
class SystemRng {
  public:
    SystemRng();
    StreamKey stream_key();

  private:
    void reseed_after_fork();

    std::uint64_t forks_;
    pid_t pid_;
    ChaChaStream stream_;
};

// The same stream from a key of the caller's: replayable, hence never for a release.
class SeededRng {
  public:
    explicit SeededRng(std::span<const std::uint8_t, ChaChaStream::key_bytes> seed) noexcept : stream_(seed) {}
    StreamKey stream_key() noexcept;

  private:
    ChaChaStream stream_;
};

// Writes zeros that the optimizer does not remove.
void wipe(void* memory, std::size_t n) noexcept;

}  // namespace fedge
