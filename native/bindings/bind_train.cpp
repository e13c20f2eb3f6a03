#include <pybind11/stl.h>

#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "fedge/csprng.hpp"
#include "fedge/noise.hpp"
#include "fedge/train.hpp"
#include "network_args.hpp"

namespace fedge::bindings {
namespace {

float real32(py::handle arg, const char* name, const char* want, bool (*holds)(double)) {
    return static_cast<float>(real_arg(arg, name, want, holds));
}

bool nonnegative32(double v) { return v >= 0.0 && v <= 3.4028234663852886e38; }
bool below_one(double v) { return v >= 0.0 && v < 1.0; }

// The keyword arguments that every kind of training takes.
struct Options {
    py::object optimizer, learning_rate, momentum, nesterov, weight_decay, beta1, beta2, epsilon, proximal, anchor,
        correction, dropout_key, rows;
    bool reproducible;
};

Optimizer optimizer_of(const Options& o) {
    Optimizer optimizer;
    const auto name = py::str(o.optimizer).cast<std::string>();
    if (name == "sgd") {
        optimizer.kind = OptimizerKind::sgd;
    } else if (name == "adam") {
        optimizer.kind = OptimizerKind::adam;
    } else if (name == "adamw") {
        optimizer.kind = OptimizerKind::adamw;
    } else {
        throw py::value_error("want optimizer among sgd, adam, adamw; got '" + name + "'");
    }
    optimizer.momentum = real32(o.momentum, "momentum", "in [0, 1)", below_one);
    optimizer.nesterov = o.nesterov.cast<bool>();
    optimizer.weight_decay = real32(o.weight_decay, "weight_decay", "finite and not negative", nonnegative32);
    optimizer.beta1 = real_arg(o.beta1, "beta1", "in [0, 1)", below_one);
    optimizer.beta2 = real_arg(o.beta2, "beta2", "in [0, 1)", below_one);
    optimizer.epsilon = real32(o.epsilon, "epsilon", "in (0, 1]", [](double v) { return v > 0.0 && v <= 1.0; });
    if (optimizer.kind != OptimizerKind::sgd && (optimizer.momentum != 0.0F || optimizer.nesterov)) {
        throw py::value_error("momentum and nesterov belong to sgd; " + name + " has beta1");
    }
    if (optimizer.nesterov && optimizer.momentum == 0.0F) throw py::value_error("nesterov needs a momentum");
    return optimizer;
}

LocalObjective objective_of(const Options& o, std::size_t P) {
    LocalObjective objective;
    objective.proximal = real32(o.proximal, "proximal", "finite and not negative", nonnegative32);
    if (!o.anchor.is_none()) objective.anchor = array_arg<const float>(o.anchor, "anchor", {{"P", P}}).data;
    if (!o.correction.is_none()) {
        objective.correction = array_arg<const float>(o.correction, "correction", {{"P", P}}).data;
    }
    if (objective.proximal != 0.0F && objective.anchor == nullptr) {
        throw py::value_error("proximal " + py::repr(o.proximal).cast<std::string>() +
                              " needs an anchor to pull towards");
    }
    return objective;
}

// One rate for every step, or an array with as many as there are steps.
std::vector<float> rates_of(py::handle arg, std::size_t steps) {
    constexpr const char* want = "finite and not negative";
    if (!py::isinstance<py::array>(arg)) {
        return std::vector<float>(steps, real32(arg, "learning_rate", want, nonnegative32));
    }
    const auto view = array_arg<const float>(arg, "learning_rate", {{"steps", steps}});
    for (std::size_t i = 0; i < steps; ++i) {
        if (!nonnegative32(static_cast<double>(view.data[i]))) {
            throw py::value_error("want learning_rate " + std::string(want) + "; learning_rate[" + std::to_string(i) +
                                  "] is " + std::to_string(view.data[i]));
        }
    }
    return {view.data, view.data + steps};
}

// 32 bytes, or none and then no dropout.
std::optional<std::string> key_of(py::handle arg) {
    if (arg.is_none()) return std::nullopt;
    if (!py::isinstance<py::bytes>(arg)) throw py::type_error("want dropout_key of 32 bytes");
    auto key = arg.cast<std::string>();
    if (key.size() != ChaChaStream::key_bytes) {
        throw py::value_error("want dropout_key of exactly 32 bytes; got " + std::to_string(key.size()));
    }
    return key;
}

// Rows through the network at a time, for batches of B.
std::size_t rows_of(const Network& net, const py::object& arg, std::size_t B) {
    if (arg.is_none()) return rows_at_once(net, B);
    return std::min(count_arg(arg, "rows", 1, PTRDIFF_MAX), B);
}

struct Prepared {
    Training training;
    std::vector<float> rates;
    std::optional<std::string> key;

    Prepared(const Network& net, const Options& o, std::size_t B, std::size_t steps)
        : rates(rates_of(o.learning_rate, steps)), key(key_of(o.dropout_key)) {
        training.optimizer = optimizer_of(o);
        training.objective = objective_of(o, net.parameter_count());
        training.learning_rates = rates.data();
        training.arithmetic = o.reproducible ? Arithmetic::reproducible : Arithmetic::fast;
        training.dropout_key = key ? reinterpret_cast<const std::uint8_t*>(key->data()) : nullptr;
        training.rows = rows_of(net, o.rows, B);
    }
    Prepared(const Prepared&) = delete;
    Prepared& operator=(const Prepared&) = delete;
};

constexpr const char* not_finite = "training made a weight NaN or infinite; params is as it was";

template <class Index>
double run(View<float> params, const Network& net, View<const float> x, Targets targets, py::handle order_,
           std::size_t batch, const Options& options, const PrivateStep* privacy) {
    const auto order = array_arg<const Index>(order_, "order", {"n_draws"});
    const std::size_t draws = order.size(), N = x.shape[0];
    if (draws == 0) throw py::value_error("want order with at least 1 index; got 0");
    const std::size_t bad = first_out_of_range(order.data, draws, N);
    if (bad < draws) {
        throw py::value_error("want order in [0, " + std::to_string(N) + "), the rows of x; order[" +
                              std::to_string(bad) + "] is " + std::to_string(order.data[bad]));
    }
    const std::size_t B = std::min(batch, draws);
    Prepared at(net, options, B, draws / B + (draws % B != 0 ? 1 : 0));
    at.training.privacy = privacy;
    const auto memory = workspace(train_workspace_size(net, at.training, 0), B);
    TrainResult result;
    {
        const py::gil_scoped_release unlocked;
        result = train(params.data, net, Minibatches<Index>{x.data, targets, order.data, draws, B, N}, at.training,
                       memory.get());
    }
    if (!result.finite) throw py::value_error(not_finite);
    return result.loss;
}

double train_in_place(const Network& net, py::handle params_, py::handle x_, py::handle y_, py::handle order,
                      py::handle batch_size, py::object learning_rate, py::object optimizer, py::object momentum,
                      py::object nesterov, py::object weight_decay, py::object beta1, py::object beta2,
                      py::object epsilon, py::object proximal, py::object anchor, py::object correction,
                      py::object dropout_key, py::object rows, bool reproducible, py::handle clip,
                      const std::string& norm) {
    const auto params = array_arg<float>(params_, "params", {{"P", net.parameter_count()}});
    const auto x = x_arg(net, x_);
    const Targets targets = targets_arg(net, y_, x.shape[0]);
    const std::size_t batch = count_arg(batch_size, "batch_size", 1, PTRDIFF_MAX);
    const Options options{optimizer, learning_rate, momentum, nesterov,   weight_decay, beta1, beta2,
                          epsilon,   proximal,      anchor,   correction, dropout_key,  rows,  reproducible};
    std::vector<double> bounds;
    PrivateStep privacy;
    if (!clip.is_none()) {
        refuse_not_finite(x);
        bounds = bounds_arg(net, clip);
        privacy.clipping = {norm_arg(norm), bounds};
        privacy.expected_batch = static_cast<double>(batch);
    }
    const PrivateStep* const step = clip.is_none() ? nullptr : &privacy;
    return py::isinstance<py::array_t<std::int64_t>>(order)
               ? run<std::int64_t>(params, net, x, targets, order, batch, options, step)
               : run<std::int32_t>(params, net, x, targets, order, batch, options, step);
}

// Noise of the scale that one of the two arguments gives: log2_scale of discrete Laplace, or sigma of the Gaussian.
std::unique_ptr<NoiseStream> noise_of(ChaChaStream& rng, py::handle log2_scale, py::handle sigma) {
    if (log2_scale.is_none() == sigma.is_none()) throw py::value_error("want one of log2_scale and sigma");
    if (!sigma.is_none()) {
        return std::make_unique<GaussianStream>(rng, integer_arg(sigma, "sigma", 1, max_sigma));
    }
    return std::make_unique<LaplaceStream>(
        rng, static_cast<unsigned>(count_arg(log2_scale, "log2_scale", 0, max_log2_scale)));
}

// (quantile, rate, lowest, highest, scale) of an adaptive bound; the scale is of the sum's kind of noise.
AdaptiveBound adaptive_of(const py::sequence& of) {
    if (of.size() != 5) throw py::value_error("want adaptive (quantile, rate, lowest, highest, scale)");
    AdaptiveBound adaptive;
    adaptive.quantile =
        real_arg(of[0], "quantile of adaptive", "in [0, 1]", [](double v) { return v >= 0.0 && v <= 1.0; });
    adaptive.rate = real_arg(of[1], "rate of adaptive", "in (0, 10]", [](double v) { return v > 0.0 && v <= 10.0; });
    adaptive.lowest = real_arg(of[2], "lowest of adaptive", "positive and finite", positive_and_finite);
    adaptive.highest = real_arg(of[3], "highest of adaptive", "positive and finite", positive_and_finite);
    if (adaptive.lowest > adaptive.highest) throw py::value_error("want lowest of adaptive at most highest");
    return adaptive;
}

// Differentially private SGD: Poisson sampling, per-example clipping and integer noise, all from one generator.
template <class Rng>
py::dict train_privately(const Network& net, py::handle params_, py::handle x_, py::handle y_, Rng& rng,
                         py::handle steps_, py::handle sampling, py::handle expected_batch, py::handle most_rows,
                         py::handle clip, const std::string& norm, py::handle grid, py::handle log2_scale,
                         py::handle sigma, py::object adaptive_, py::object reservoir_, py::object learning_rate, py::object optimizer, py::object momentum, py::object nesterov,
                         py::object weight_decay, py::object beta1, py::object beta2, py::object epsilon,
                         py::object proximal, py::object anchor, py::object correction, py::object dropout_key,
                         py::object rows, bool reproducible) {
    const auto params = array_arg<float>(params_, "params", {{"P", net.parameter_count()}});
    const auto x = x_arg(net, x_);
    refuse_not_finite(x);
    const std::size_t N = x.shape[0];
    const Targets targets = targets_arg(net, y_, N);
    const std::vector<double> bounds = bounds_arg(net, clip);
    PrivateStep privacy;
    privacy.clipping = {norm_arg(norm), bounds};
    privacy.steps = count_arg(steps_, "steps", 1, std::int64_t{1} << 32);
    // A chance in units of 2^-64, exactly; 2^64 - 1 is as near to every row as it gets.
    const auto chance = py::reinterpret_steal<py::object>(PyNumber_Index(sampling.ptr()));
    if (!chance) throw py::error_already_set();
    privacy.sampling = PyLong_AsUnsignedLongLong(chance.ptr());
    if (PyErr_Occurred() != nullptr) {
        PyErr_Clear();
        throw py::value_error("want sampling in [0, 2**64), the chance of a row in units of 2**-64; got " +
                              py::repr(chance).cast<std::string>());
    }
    privacy.expected_batch = real_arg(expected_batch, "expected_batch", "positive and finite", positive_and_finite);
    privacy.most_rows = count_arg(most_rows, "most_rows", 1, static_cast<std::int64_t>(N));
    privacy.grid = real_arg(grid, "grid", "positive and finite", positive_and_finite);
    double most = 0.0;
    for (const double bound : bounds) most = std::max(most, bound);
    if (static_cast<double>(privacy.most_rows) * most / privacy.grid > 0x1p50) {
        throw py::value_error("want grid of at least 2**-50 of what a batch may sum to; got " +
                              py::repr(grid).cast<std::string>());
    }
    const Options options{optimizer, learning_rate, momentum, nesterov,   weight_decay, beta1, beta2,
                          epsilon,   proximal,      anchor,   correction, dropout_key,  rows,  reproducible};
    Prepared at(net, options, privacy.most_rows, privacy.steps);
    at.training.privacy = &privacy;
    ChaChaStream sampler(rng.stream_key().bytes), noise_stream(rng.stream_key().bytes);
    const auto drawn = noise_of(noise_stream, log2_scale, sigma);
    std::optional<ReservoirStream> stored;
    if (!reservoir_.is_none()) {
        auto& reservoir = reservoir_.cast<NoiseReservoir&>();
        if (!std::is_same_v<Rng, SystemRng>) throw py::value_error("a reservoir's noise cannot be replayed: want SystemRng");
        if (log2_scale.is_none() || integer_arg(log2_scale, "log2_scale", 0, max_log2_scale) != reservoir.log2_scale()) {
            throw py::value_error("want a reservoir of this log2_scale; it has " + std::to_string(reservoir.log2_scale()));
        }
        stored.emplace(reservoir, noise_stream);
    }
    privacy.sampler = &sampler;
    privacy.noise = stored ? static_cast<NoiseStream*>(&*stored) : drawn.get();
    AdaptiveBound adaptive;
    std::unique_ptr<NoiseStream> count_noise;
    if (!adaptive_.is_none()) {
        if (bounds.size() != 1) throw py::value_error("an adaptive bound is one for the whole gradient");
        if (!py::isinstance<py::sequence>(adaptive_)) throw py::type_error("want adaptive a tuple");
        const auto of = adaptive_.cast<py::sequence>();
        adaptive = adaptive_of(of);
        adaptive.bound = std::clamp(bounds.front(), adaptive.lowest, adaptive.highest);
        const py::object scale = of[4];
        count_noise = sigma.is_none() ? noise_of(noise_stream, scale, py::none()) : noise_of(noise_stream, py::none(), scale);
        adaptive.noise = count_noise.get();
        privacy.adaptive = &adaptive;
    }
    const auto memory = workspace(train_workspace_size(net, at.training, N), at.training.rows);
    TrainResult result;
    {
        const py::gil_scoped_release unlocked;
        result = train(params.data, net, Minibatches<std::int32_t>{x.data, targets, nullptr, 0, 0, N}, at.training,
                       memory.get());
    }
    if (!result.finite) throw py::value_error(not_finite);
    py::dict told;
    told["loss"] = result.loss;
    told["draws"] = result.draws;
    told["within"] = result.within;
    told["refused"] = result.refused;
    told["clip"] = privacy.adaptive != nullptr ? adaptive.bound : bounds.front();
    return told;
}

std::size_t training_bytes(const Network& net, py::handle batch_, const std::string& optimizer, bool momentum,
                           bool per_example, const py::object& rows, bool private_noise) {
    const std::size_t batch = count_arg(batch_, "batch", 1, PTRDIFF_MAX);
    Training training;
    if (optimizer == "adam") training.optimizer.kind = OptimizerKind::adam;
    if (optimizer == "adamw") training.optimizer.kind = OptimizerKind::adamw;
    if (momentum) training.optimizer.momentum = 0.5F;
    training.rows = rows_of(net, rows, batch);
    PrivateStep privacy;
    const StreamKey key{};
    ChaChaStream stream(key.bytes);
    LaplaceStream noise(stream, 0);  // sized by, never drawn from
    if (per_example || private_noise) training.privacy = &privacy;
    if (private_noise) privacy.noise = &noise;
    return addressable(train_workspace_size(net, training, 0), training.rows);
}

}  // namespace

void bind_training(py::class_<Network>& cls) {
    const auto with_options = [](auto define) {
        define(py::arg("learning_rate"), py::arg("optimizer") = "sgd", py::arg("momentum") = 0.0,
               py::arg("nesterov") = false, py::arg("weight_decay") = 0.0, py::arg("beta1") = 0.9,
               py::arg("beta2") = 0.999, py::arg("epsilon") = 1e-8, py::arg("proximal") = 0.0,
               py::arg("anchor") = py::none(), py::arg("correction") = py::none(),
               py::arg("dropout_key") = py::none(), py::arg("rows") = py::none(), py::arg("reproducible") = false);
    };
    with_options([&cls](auto... options) {
        cls.def("train", &train_in_place, py::arg("params"), py::arg("x"), py::arg("y"), py::arg("order"),
                py::kw_only(), py::arg("batch_size"), options..., py::arg("clip") = py::none(),
                py::arg("norm") = "l2");
    });
    const auto private_training = [&](auto function) {
        with_options([&](auto... options) {
            cls.def("train_privately", function, py::arg("params"), py::arg("x"), py::arg("y"), py::kw_only(),
                    py::arg("rng"), py::arg("steps"), py::arg("sampling"), py::arg("expected_batch"),
                    py::arg("most_rows"), py::arg("clip"), py::arg("norm"), py::arg("grid"), py::arg("log2_scale") = py::none(),
                    py::arg("sigma") = py::none(), py::arg("adaptive") = py::none(), py::arg("reservoir") = py::none(),
                    options...);
        });
    };
    private_training(&train_privately<SystemRng>);
    private_training(&train_privately<SeededRng>);
    cls.def("workspace_bytes", &training_bytes, py::arg("batch"), py::kw_only(), py::arg("optimizer") = "sgd",
            py::arg("momentum") = false, py::arg("per_example") = false, py::arg("rows") = py::none(),
            py::arg("noise") = false);
}

}  // namespace fedge::bindings
