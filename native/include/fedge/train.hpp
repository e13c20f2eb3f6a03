// Local training: one call per round.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fedge/csprng.hpp"
#include "fedge/network.hpp"
#include "fedge/noise.hpp"
#include "fedge/optimizer.hpp"
#include "fedge/reservoir.hpp"

namespace fedge {

// Integer noise to add to sums on a grid, symmetric about `center` (in steps of the grid).
class NoiseStream {
  public:
    virtual ~NoiseStream() = default;
    // out (n) = the next draws; as int32 where they are narrow.
    virtual void draw(std::int64_t* out, std::size_t n) noexcept = 0;
    virtual void draw(std::int32_t* out, std::size_t n) noexcept = 0;
    virtual bool narrow() const noexcept = 0;
    virtual double center() const noexcept = 0;
};

// discrete_laplace of noise.hpp.
class LaplaceStream final : public NoiseStream {
  public:
    LaplaceStream(ChaChaStream& rng, unsigned log2_scale) noexcept : rng_(rng), log2_scale_(log2_scale) {}
    void draw(std::int64_t* out, std::size_t n) noexcept override { discrete_laplace(out, rng_, n, log2_scale_); }
    void draw(std::int32_t* out, std::size_t n) noexcept override { discrete_laplace(out, rng_, n, log2_scale_); }
    bool narrow() const noexcept override { return log2_scale_ <= max_log2_scale_32; }
    double center() const noexcept override { return -0.5; }

  private:
    ChaChaStream& rng_;
    unsigned log2_scale_;
};

// The same, drawn ahead of need; on the spot where the reservoir was closed meanwhile.
class ReservoirStream final : public NoiseStream {
  public:
    ReservoirStream(NoiseReservoir& reservoir, ChaChaStream& rng) noexcept
        : reservoir_(reservoir), otherwise_(rng, reservoir.log2_scale()) {}
    void draw(std::int64_t* out, std::size_t n) noexcept override { take(out, n); }
    void draw(std::int32_t* out, std::size_t n) noexcept override { take(out, n); }
    bool narrow() const noexcept override { return otherwise_.narrow(); }
    double center() const noexcept override { return otherwise_.center(); }

  private:
    template <class Draw>
    void take(Draw* out, std::size_t n) noexcept {
        if (!reservoir_.take(out, n)) otherwise_.draw(out, n);
    }

    NoiseReservoir& reservoir_;
    LaplaceStream otherwise_;
};

// discrete_gaussian of noise.hpp.
class GaussianStream final : public NoiseStream {
  public:
    GaussianStream(ChaChaStream& rng, std::int64_t sigma) noexcept : rng_(rng), sigma_(sigma) {}
    void draw(std::int64_t* out, std::size_t n) noexcept override { discrete_gaussian(out, rng_, n, sigma_); }
    void draw(std::int32_t* out, std::size_t n) noexcept override { discrete_gaussian(out, rng_, n, sigma_); }
    bool narrow() const noexcept override { return sigma_ <= max_sigma_32; }
    double center() const noexcept override { return 0.0; }

  private:
    ChaChaStream& rng_;
    std::int64_t sigma_;
};

// A clipping bound that follows a quantile of the norms (Andrew et al. 2021): after every step
//   bound *= exp(-rate (within / expected_batch - quantile)),
// where `within`, the number of examples within the bound, has noise of its own.
struct AdaptiveBound {
    double bound = 1.0;  // enters as the first step's and leaves as what the next would have had
    double quantile = 0.5;
    double rate = 0.2;
    double lowest = 0.0, highest = 0.0;  // it stays within
    NoiseStream* noise = nullptr;
};

// Differential privacy within the step (Abadi et al. 2016): the batch's gradients are clipped one by one and summed, the
// sum is rounded to multiples of `grid`, integer noise is added, and all is divided by `expected_batch`, which is public.
struct PrivateStep {
    Clipping clipping;
    double expected_batch = 1.0;
    NoiseStream* noise = nullptr;  // or null for none: clipping only
    double grid = 1.0;             // with an adaptive bound, for a bound of 1: it scales with the bound
    AdaptiveBound* adaptive = nullptr;  // or null: the clipping's bounds stay; else it has one, and starts from this
    // Where sampler is given, every row enters every step's batch by itself with probability sampling 2^-64 (Poisson
    // sampling), and the minibatches' order is not looked at. An empty batch makes a step like any other.
    ChaChaStream* sampler = nullptr;
    std::uint64_t sampling = 0;
    std::size_t steps = 0;  // with a sampler
    // Rows of one batch beyond this many are left out, so that the rounding of sums has a bound; choose it where the
    // chance of more is negligible.
    std::size_t most_rows = 0;  // with a sampler
};

struct Training {
    Optimizer optimizer;
    LocalObjective objective;
    const float* learning_rates = nullptr;  // one for each step
    Arithmetic arithmetic = Arithmetic::fast;
    const std::uint8_t* dropout_key = nullptr;  // 32 bytes, or null: no dropout
    std::size_t rows = 0;                       // through the network at a time: rows_at_once, or a memory's bound
    const PrivateStep* privacy = nullptr;       // or null for plain training
};

// Rows drawn from x (N, I) and the targets, B at a time; the last batch may be short.
template <class Index>
struct Minibatches {
    const float* x;
    Targets targets;
    const Index* order;  // (draws), each in [0, N)
    std::size_t draws;
    std::size_t B;
    std::size_t N;
};

struct TrainResult {
    double loss = 0.0;         // mean over the draws, each taken before its batch's step
    bool finite = true;        // false: some weight became NaN or infinite, and params was left alone
    std::uint64_t draws = 0;   // examples used
    std::uint64_t within = 0;  // of them within every clipping bound
    std::uint64_t refused = 0;  // of them without a finite gradient
};

// Bytes that train needs, or Arena::too_large. N is looked at with a sampler only.
std::size_t train_workspace_size(const Network& net, const Training& training, std::size_t N) noexcept;

// Trains params (P) in place; the optimizer starts from zero. Weights are worked on in the workspace and copied back at
// the end, so anchor may be params itself. Frozen parameters keep their bits. Index is int32_t or int64_t.
template <class Index>
TrainResult train(float* params, const Network& net, const Minibatches<Index>& batches, const Training& training,
                  std::byte* workspace) noexcept;

}  // namespace fedge
