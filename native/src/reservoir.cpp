#include "fedge/reservoir.hpp"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "fedge/csprng.hpp"
#include "fedge/noise.hpp"

namespace fedge {

// A ring. The thread alone writes where nothing is held, takers alone where something is; `mutex` guards what says
// which is which, `taking` admits one taker at a time.
struct NoiseReservoir::Store {
    Store(unsigned m, std::size_t capacity, SystemRng& rng)
        : log2_scale(m), maker(getpid()), ring(capacity), filler(rng.stream_key().bytes), taker(rng.stream_key().bytes) {}

    void fill() {
        std::unique_lock lock(mutex);
        for (;;) {
            room.wait(lock, [this] { return closed || ring.size() - held >= chunk; });
            if (closed) return;
            std::int32_t* const free = ring.data() + (first + held) % ring.size();  // a multiple of chunk
            lock.unlock();
            discrete_laplace(free, filler, chunk, log2_scale);
            lock.lock();
            held += chunk;
        }
    }

    // Hands runs of draws to use(draws, n), n in all.
    template <class Use>
    bool take(std::size_t n, Use use) noexcept {
        if (getpid() != maker) return false;
        const std::lock_guard one(taking);
        while (n > 0) {
            std::size_t now = 0;
            {
                const std::lock_guard lock(mutex);
                if (closed) return false;
                now = std::min({n, held, ring.size() - first});
            }
            if (now == 0) break;
            std::int32_t* const draws = ring.data() + first;
            use(draws, now);
            wipe(draws, now * sizeof *draws);
            {
                const std::lock_guard lock(mutex);
                first = (first + now) % ring.size();
                held -= now;
            }
            room.notify_one();
            n -= now;
        }
        std::int32_t more[laplace_draws];
        for (; n > 0; n -= std::min(n, laplace_draws)) {
            const std::size_t now = std::min(n, laplace_draws);
            discrete_laplace(more, taker, laplace_draws, log2_scale);
            use(more, now);
        }
        wipe(more, sizeof more);
        return true;
    }

    const unsigned log2_scale;
    const pid_t maker;
    std::vector<std::int32_t> ring;
    ChaChaStream filler, taker;
    std::mutex mutex, taking;
    std::condition_variable room;
    std::size_t first = 0, held = 0;
    bool closed = false;
    std::thread thread;
};

NoiseReservoir::NoiseReservoir(unsigned log2_scale, std::size_t capacity) {
    SystemRng rng;
    const std::size_t chunks = std::max<std::size_t>(1, (capacity + chunk - 1) / chunk);
    auto store = std::make_unique<Store>(log2_scale, chunks * chunk, rng);
    // Signals are for the threads that were there before.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        store->thread = std::thread([at = store.get()] {
            static_cast<void>(setpriority(PRIO_PROCESS, 0, 10));  // on Linux, of this thread
            at->fill();
        });
    } catch (...) {
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    store_ = store.release();
}

NoiseReservoir::~NoiseReservoir() {
    close();
    if (getpid() == store_->maker) {
        delete store_;
    } else {
        wipe(store_->ring.data(), store_->ring.size() * sizeof store_->ring[0]);
    }
}

void NoiseReservoir::close() noexcept {
    if (getpid() != store_->maker) return;
    const std::lock_guard one(store_->taking);
    {
        const std::lock_guard lock(store_->mutex);
        if (store_->closed) return;
        store_->closed = true;
    }
    store_->room.notify_one();
    store_->thread.join();
    store_->held = 0;
    wipe(store_->ring.data(), store_->ring.size() * sizeof store_->ring[0]);
}

bool NoiseReservoir::take(std::int64_t* out, std::size_t n) noexcept {
    return store_->take(n, [&out](const std::int32_t* draws, std::size_t now) { out = std::copy_n(draws, now, out); });
}

bool NoiseReservoir::take(std::int32_t* out, std::size_t n) noexcept {
    return store_->take(n, [&out](const std::int32_t* draws, std::size_t now) { out = std::copy_n(draws, now, out); });
}

bool NoiseReservoir::add_to(std::int64_t* values, std::size_t n) noexcept {
    return store_->take(n, [&values](const std::int32_t* draws, std::size_t now) {
        for (std::size_t i = 0; i < now; ++i) {
            values[i] = static_cast<std::int64_t>(static_cast<std::uint64_t>(values[i]) +
                                                  static_cast<std::uint64_t>(std::int64_t{draws[i]}));
        }
        values += now;
    });
}

std::size_t NoiseReservoir::ready() const noexcept {
    if (getpid() != store_->maker) return 0;
    const std::lock_guard lock(store_->mutex);
    return store_->held;
}

std::size_t NoiseReservoir::capacity() const noexcept { return store_->ring.size(); }

unsigned NoiseReservoir::log2_scale() const noexcept { return store_->log2_scale; }

}  // namespace fedge
