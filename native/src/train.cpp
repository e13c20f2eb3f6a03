#include "fedge/train.hpp"

#include <algorithm>
#include <type_traits>

#include "fedge/reduce.hpp"
#include "fedge/workspace.hpp"
#include "kernels.hpp"

namespace fedge {
namespace {

constexpr std::size_t draws_at_once = 4096;

struct Buffers {
    float *w, *g, *state;
    float* x;
    std::int32_t* labels;
    float* values;
    double* total;        // (P) sums of more rows than go through at a time, before noise
    std::int64_t* noise;  // (draws_at_once)
    std::int32_t* narrow_noise;
    std::int64_t* rows;   // (N) of a sampled batch
    std::byte* network;
};

Buffers carve(Arena& arena, const Network& net, const Training& training, std::size_t N) noexcept {
    const std::size_t P = net.parameter_count(), B = training.rows;
    const bool classes = net.loss().labelled(), dp = training.privacy != nullptr;
    Buffers at{};
    at.w = arena.take<float>(P);
    at.g = arena.take<float>(P);
    at.state = arena.take<float>(saturating_product(optimizer_buffers(training.optimizer), P));
    at.x = arena.take<float>(saturating_product(B, net.inputs()));
    at.labels = arena.take<std::int32_t>(classes ? B : 0);
    at.values = arena.take<float>(classes ? 0 : saturating_product(B, net.outputs()));
    const bool noisy = dp && training.privacy->noise != nullptr;
    at.total = arena.take<double>(noisy ? P : 0);
    at.noise = arena.take<std::int64_t>(noisy ? draws_at_once : 0);
    at.narrow_noise = arena.take<std::int32_t>(noisy ? draws_at_once : 0);
    at.rows = arena.take<std::int64_t>(dp && training.privacy->sampler != nullptr ? N : 0);
    at.network =
        arena.take<std::byte>(dp ? clipped_workspace_size(net, B) : gradient_workspace_size(net, B));
    return at;
}

// The rows of this step, each with probability sampling 2^-64, in order. Every row costs one word of the stream.
std::size_t sample(std::int64_t* rows, const PrivateStep& privacy, std::size_t N) noexcept {
    std::uint64_t words[512];
    std::size_t count = 0;
    for (std::size_t start = 0; start < N; start += 512) {
        const std::size_t n = std::min<std::size_t>(512, N - start);
        privacy.sampler->fill(words, n);
        for (std::size_t i = 0; i < n; ++i) {
            rows[count] = static_cast<std::int64_t>(start + i);
            count += words[i] < privacy.sampling ? 1 : 0;
        }
    }
    wipe(words, sizeof words);
    return std::min(count, privacy.most_rows);
}

// One draw after the other, for sums or noise of more bits than the kernel's.
template <class Draw, class Sum>
void add_wide_noise(float* g, const Sum* sum, const Draw* noise, std::size_t n, const NoiseGrid& grid) noexcept {
    for (std::size_t i = 0; i < n; ++i) {
        const double rounded = (static_cast<double>(sum[i]) * grid.levels + 0x1.8p52) - 0x1.8p52;
        g[i] = static_cast<float>((rounded + static_cast<double>(noise[i]) - grid.center) * grid.step);
    }
}

// g = (round(sum / grid) + noise) grid / expected_batch, for one stretch.
template <class Sum>
void add_noise(float* g, const Sum* sum, double grid, const Buffers& at, const PrivateStep& privacy, std::size_t n,
               const FloatKernels& kernels) noexcept {
    const NoiseGrid steps{1.0 / grid, privacy.noise->center(), grid / privacy.expected_batch};
    for (std::size_t start = 0; start < n; start += draws_at_once) {
        const std::size_t count = std::min(draws_at_once, n - start);
        if (!privacy.noise->narrow()) {
            privacy.noise->draw(at.noise, count);
            add_wide_noise(g + start, sum + start, at.noise, count, steps);
            continue;
        }
        privacy.noise->draw(at.narrow_noise, count);
        if constexpr (std::is_same_v<Sum, float>) {
            kernels.add_noise(g + start, sum + start, at.narrow_noise, count, steps);
        } else {
            add_wide_noise(g + start, sum + start, at.narrow_noise, count, steps);
        }
    }
    wipe(at.noise, draws_at_once * sizeof *at.noise);
    wipe(at.narrow_noise, draws_at_once * sizeof *at.narrow_noise);
}

void follow_quantile(AdaptiveBound& adaptive, std::uint64_t within, double expected_batch,
                     const FloatKernels& kernels) noexcept {
    std::int64_t noise = 0;
    adaptive.noise->draw(&noise, 1);
    const double noisy = static_cast<double>(static_cast<std::int64_t>(within) + noise) - adaptive.noise->center();
    const double excess = noisy / expected_batch - adaptive.quantile;
    auto factor = static_cast<float>(-adaptive.rate * excess);
    kernels.exp(&factor, 1);
    adaptive.bound =
        std::clamp(adaptive.bound * static_cast<double>(factor), adaptive.lowest, adaptive.highest);
}

template <class Index>
void gather(const Buffers& at, const Network& net, const float* x, Targets targets, const Index* rows,
            std::size_t count) noexcept {
    const std::size_t I = net.inputs(), O = net.outputs();
    for (std::size_t b = 0; b < count; ++b) {
        const auto row = static_cast<std::size_t>(rows[b]);
        std::copy_n(x + row * I, I, at.x + b * I);
        if (targets.labels != nullptr) {
            at.labels[b] = targets.labels[row];
        } else {
            std::copy_n(targets.values + row * O, O, at.values + b * O);
        }
    }
}

}  // namespace

std::size_t train_workspace_size(const Network& net, const Training& training, std::size_t N) noexcept {
    Arena arena(nullptr);
    carve(arena, net, training, N);
    return arena.used();
}

template <class Index>
TrainResult train(float* params, const Network& net, const Minibatches<Index>& batches, const Training& training,
                  std::byte* workspace) noexcept {
    Arena arena(workspace);
    const Buffers at = carve(arena, net, training, batches.N);
    const std::size_t P = net.parameter_count();
    const PrivateStep* const privacy = training.privacy;
    const bool noisy = privacy != nullptr && privacy->noise != nullptr;
    const FloatKernels& kernels = float_kernels(training.arithmetic);
    std::copy_n(params, P, at.w);
    std::fill_n(at.state, optimizer_buffers(training.optimizer) * P, 0.0F);
    TrainResult result;

    // One step on rows[0..count). Sums of more rows than go through at a time meet in double before the noise.
    const auto descend = [&](const auto* rows, std::size_t count, std::uint64_t step) {
        const bool in_pieces = noisy && count > training.rows;
        double grid = privacy != nullptr ? privacy->grid : 0.0;
        Clipping clipping = privacy != nullptr ? privacy->clipping : Clipping{};
        AdaptiveBound* const adaptive = privacy != nullptr ? privacy->adaptive : nullptr;
        if (privacy != nullptr && !noisy) clipping.share = static_cast<float>(1.0 / privacy->expected_batch);
        if (adaptive != nullptr) clipping.bounds = {&adaptive->bound, 1}, grid *= adaptive->bound;
        std::uint64_t within = 0;
        const auto each_stretch = [&](auto work) {
            for (const Stretch& stretch : net.trained()) work(stretch.offset, stretch.count);
        };
        const Mode mode{training.arithmetic, training.dropout_key, step};
        const float scale = 1.0F / static_cast<float>(count);
        each_stretch([&](std::size_t at_, std::size_t n) { std::fill_n(at.g + at_, n, 0.0F); });
        if (in_pieces) each_stretch([&](std::size_t at_, std::size_t n) { std::fill_n(at.total + at_, n, 0.0); });
        for (std::size_t first = 0; first < count; first += training.rows) {
            const std::size_t R = std::min(training.rows, count - first);
            gather(at, net, batches.x, batches.targets, rows + first, R);
            const Targets targets = net.loss().labelled() ? Targets{at.labels, nullptr} : Targets{nullptr, at.values};
            if (privacy == nullptr) {
                result.loss += network_gradient(at.g, net, at.w, at.x, targets, scale, R, first, mode, at.network);
                continue;
            }
            const Clipped clipped = network_clipped_gradient(at.g, nullptr, net, at.w, at.x, targets, clipping, R,
                                                             first, mode, at.network);
            result.loss += clipped.loss;
            within += clipped.within;
            result.refused += clipped.refused;
            if (!in_pieces) continue;
            each_stretch([&](std::size_t at_, std::size_t n) {
                for (std::size_t i = at_; i < at_ + n; ++i) at.total[i] += static_cast<double>(at.g[i]), at.g[i] = 0.0F;
            });
        }
        result.draws += count;
        result.within += within;
        if (adaptive != nullptr) follow_quantile(*adaptive, within, privacy->expected_batch, kernels);
        each_stretch([&](std::size_t at_, std::size_t n) {
            if (in_pieces) {
                add_noise(at.g + at_, at.total + at_, grid, at, *privacy, n, kernels);
            } else if (noisy) {
                add_noise(at.g + at_, at.g + at_, grid, at, *privacy, n, kernels);
            }
            LocalObjective objective = training.objective;
            if (objective.anchor != nullptr) objective.anchor += at_;
            if (objective.correction != nullptr) objective.correction += at_;
            optimizer_step(at.w + at_, at.g + at_, at.state + at_, P, n, step, training.learning_rates[step - 1],
                           training.optimizer, objective, kernels);
        });
    };

    std::uint64_t step = 1;
    if (privacy != nullptr && privacy->sampler != nullptr) {
        for (; step <= privacy->steps; ++step) descend(at.rows, sample(at.rows, *privacy, batches.N), step);
    } else {
        for (std::size_t start = 0; start < batches.draws; ++step) {
            const std::size_t count = std::min(batches.B, batches.draws - start);
            descend(batches.order + start, count, step);
            start += count;
        }
    }
    // One look at the end sees every accident: a weight that is NaN or infinite stays so, since infinity minus anything
    // is infinite or NaN.
    result.finite = all_finite(at.w, P);
    if (result.finite) std::copy_n(at.w, P, params);
    result.loss /= static_cast<double>(std::max<std::uint64_t>(result.draws, 1));
    return result;
}

template TrainResult train(float*, const Network&, const Minibatches<std::int32_t>&, const Training&,
                           std::byte*) noexcept;
template TrainResult train(float*, const Network&, const Minibatches<std::int64_t>&, const Training&,
                           std::byte*) noexcept;

}  // namespace fedge
