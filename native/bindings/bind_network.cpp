#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "array_arg.hpp"
#include "fedge/network.hpp"
#include "fedge/reduce.hpp"
#include "fedge/train.hpp"

namespace fedge::bindings {
namespace {

Network make_network(const py::sequence& widths, const std::vector<std::string>& activation_names,
                     const std::string& loss_name) {
    constexpr auto most = static_cast<std::int64_t>(Network::max_parameters);
    std::vector<std::int64_t> sizes;
    for (const py::handle width : widths) sizes.push_back(integer_arg(width, "widths", 1, most));
    std::vector<Activation> activations;
    for (const std::string& name : activation_names) {
        if (name == "identity") {
            activations.push_back(Activation::identity);
        } else if (name == "relu") {
            activations.push_back(Activation::relu);
        } else if (name == "tanh") {
            activations.push_back(Activation::tanh);
        } else {
            throw py::value_error("want activations among identity, relu, tanh; got '" + name + "'");
        }
    }
    if (loss_name != "softmax_cross_entropy" && loss_name != "mse") {
        throw py::value_error("want loss softmax_cross_entropy or mse; got '" + loss_name + "'");
    }
    return Network(sizes, activations, loss_name == "mse" ? Loss::mse : Loss::softmax_cross_entropy);
}

py::list layout(const Network& net) {
    py::list entries;
    for (std::size_t l = 0; l < net.layers().size(); ++l) {
        const DenseLayer& layer = net.layers()[l];
        const std::string index = std::to_string(l);
        entries.append(
            py::make_tuple(index + ".weight", layer.weight_offset, py::make_tuple(layer.outputs, layer.inputs)));
        entries.append(py::make_tuple(index + ".bias", layer.bias_offset, py::make_tuple(layer.outputs)));
    }
    return entries;
}

std::size_t addressable(std::size_t bytes, std::size_t batch) {
    if (bytes > static_cast<std::size_t>(PTRDIFF_MAX)) {
        throw py::value_error("a batch of " + std::to_string(batch) +
                              " needs more memory than this machine can address");
    }
    return bytes;
}

std::unique_ptr<std::byte[]> workspace(std::size_t bytes, std::size_t batch) {
    return std::make_unique_for_overwrite<std::byte[]>(addressable(bytes, batch));
}

View<const float> params_arg(const Network& net, py::handle arg) {
    return array_arg<const float>(arg, "params", {{"P", net.parameter_count()}});
}

View<const float> x_arg(const Network& net, py::handle arg) {
    const auto x = array_arg<const float>(arg, "x", {"B", {"I", net.inputs()}});
    if (x.shape[0] == 0) throw py::value_error("want x with at least 1 row; got 0");
    return x;
}

// y for `rows` rows of x. Labels are read here and again by the kernel: nobody may write to y meanwhile.
Targets targets_arg(const Network& net, py::handle arg, std::size_t rows) {
    if (net.loss() == Loss::mse) {
        return {nullptr, array_arg<const float>(arg, "y", {{"B", rows}, {"O", net.outputs()}}).data};
    }
    const auto labels = array_arg<const std::int32_t>(arg, "y", {{"B", rows}});
    const std::size_t bad = first_out_of_range(labels.data, rows, net.outputs());
    if (bad < rows) {
        throw py::value_error("want labels y in [0, " + std::to_string(net.outputs()) + "); y[" + std::to_string(bad) +
                              "] is " + std::to_string(labels.data[bad]));
    }
    return {labels.data, nullptr};
}

Targets rows_from(const Network& net, Targets targets, std::size_t row) {
    if (targets.labels != nullptr) return {targets.labels + row, nullptr};
    return {nullptr, targets.values + row * net.outputs()};
}

py::array_t<float> predict(const Network& net, py::handle params_, py::handle x_) {
    const auto params = params_arg(net, params_);
    const auto x = x_arg(net, x_);
    const std::size_t B = x.shape[0], at_once = std::min(B, rows_at_once);
    py::array_t<float> y({static_cast<py::ssize_t>(B), static_cast<py::ssize_t>(net.outputs())});
    float* out = y.mutable_data();
    const auto memory = workspace(network_workspace_size(net, at_once), at_once);
    const py::gil_scoped_release unlocked;
    for (std::size_t row = 0; row < B; row += at_once) {
        network_predict(out + row * net.outputs(), net, params.data, x.data + row * net.inputs(),
                        std::min(at_once, B - row), memory.get());
    }
    return y;
}

double mean_loss(const Network& net, py::handle params_, py::handle x_, py::handle y_) {
    const auto params = params_arg(net, params_);
    const auto x = x_arg(net, x_);
    const std::size_t B = x.shape[0], at_once = std::min(B, rows_at_once);
    const Targets targets = targets_arg(net, y_, B);
    const auto memory = workspace(network_workspace_size(net, at_once), at_once);
    const py::gil_scoped_release unlocked;
    double sum = 0.0;
    for (std::size_t row = 0; row < B; row += at_once) {
        sum += network_loss(net, params.data, x.data + row * net.inputs(), rows_from(net, targets, row),
                            std::min(at_once, B - row), memory.get());
    }
    return sum / static_cast<double>(B);
}

double gradient(const Network& net, py::handle params_, py::handle x_, py::handle y_, py::handle out_) {
    const auto params = params_arg(net, params_);
    const auto x = x_arg(net, x_);
    const std::size_t B = x.shape[0], at_once = std::min(B, rows_at_once);
    const Targets targets = targets_arg(net, y_, B);
    const auto out = array_arg<float>(out_, "out", {{"P", net.parameter_count()}});
    refuse_overlap(out, "out", params, "params");
    refuse_overlap(out, "out", x, "x");
    if (targets.values != nullptr)
        refuse_overlap(out, "out", View<const float>{targets.values, {B, net.outputs()}}, "y");
    if (targets.labels != nullptr) refuse_overlap(out, "out", View<const std::int32_t>{targets.labels, {B, 1}}, "y");
    const auto memory = workspace(network_workspace_size(net, at_once), at_once);
    const py::gil_scoped_release unlocked;
    std::fill_n(out.data, out.size(), 0.0F);
    double sum = 0.0;
    for (std::size_t row = 0; row < B; row += at_once) {
        sum += network_gradient(out.data, net, params.data, x.data + row * net.inputs(), rows_from(net, targets, row),
                                1.0F / static_cast<float>(B), std::min(at_once, B - row), memory.get());
    }
    return sum / static_cast<double>(B);
}

float real32(py::handle arg, const char* name, const char* want, bool (*holds)(double)) {
    return static_cast<float>(real_arg(arg, name, want, holds));
}

bool nonnegative32(double v) { return v >= 0.0 && v <= 3.4028234663852886e38; }

template <class Index>
TrainResult run(View<float> params, const Network& net, View<const float> x, Targets targets, py::handle order_,
                std::size_t batch, const LocalObjective& objective) {
    const auto order = array_arg<const Index>(order_, "order", {"n_draws"});
    const std::size_t draws = order.size(), N = x.shape[0];
    if (draws == 0) throw py::value_error("want order with at least 1 index; got 0");
    const std::size_t bad = first_out_of_range(order.data, draws, N);
    if (bad < draws) {
        throw py::value_error("want order in [0, " + std::to_string(N) + "), the rows of x; order[" +
                              std::to_string(bad) + "] is " + std::to_string(order.data[bad]));
    }
    const std::size_t B = std::min(batch, draws);
    const auto memory = workspace(train_workspace_size(net, B), B);
    const py::gil_scoped_release unlocked;
    return train(params.data, net, Minibatches<Index>{x.data, targets, order.data, draws, B}, objective, memory.get());
}

double train_in_place(const Network& net, py::handle params_, py::handle x_, py::handle y_, py::handle order,
                      py::handle batch_size, py::handle learning_rate, py::handle momentum, py::handle proximal,
                      py::handle anchor, py::handle correction) {
    const auto params = array_arg<float>(params_, "params", {{"P", net.parameter_count()}});
    const auto x = x_arg(net, x_);
    const Targets targets = targets_arg(net, y_, x.shape[0]);
    const std::size_t batch = count_arg(batch_size, "batch_size", 1, PTRDIFF_MAX);
    LocalObjective objective{};
    objective.learning_rate = real32(learning_rate, "learning_rate", "finite and not negative", nonnegative32);
    objective.momentum = real32(momentum, "momentum", "in [0, 1)", [](double v) { return v >= 0.0 && v < 1.0; });
    objective.proximal = real32(proximal, "proximal", "finite and not negative", nonnegative32);
    if (!anchor.is_none()) objective.anchor = array_arg<const float>(anchor, "anchor", {{"P", params.size()}}).data;
    if (!correction.is_none())
        objective.correction = array_arg<const float>(correction, "correction", {{"P", params.size()}}).data;
    if (objective.proximal != 0.0F && objective.anchor == nullptr) {
        throw py::value_error("proximal " + py::repr(proximal).cast<std::string>() +
                              " needs an anchor to pull towards");
    }
    const bool wide = py::isinstance<py::array_t<std::int64_t>>(order);
    const TrainResult result = wide ? run<std::int64_t>(params, net, x, targets, order, batch, objective)
                                    : run<std::int32_t>(params, net, x, targets, order, batch, objective);
    if (!result.finite) throw py::value_error("training made a weight NaN or infinite; params is as it was");
    return result.loss;
}

}  // namespace

void bind_network(py::module_& m) {
    py::class_<Network>(m, "Network", py::is_final())
        .def(py::init(&make_network), py::arg("widths"), py::arg("activations"), py::arg("loss"))
        .def_property_readonly("parameter_count", &Network::parameter_count)
        .def("layout", &layout)
        .def(
            "workspace_bytes",
            [](const Network& net, py::handle batch_) {
                const std::size_t batch = count_arg(batch_, "batch", 1, PTRDIFF_MAX);
                return addressable(train_workspace_size(net, batch), batch);
            },
            py::arg("batch"))
        .def("predict", &predict, py::arg("params"), py::arg("x"))
        .def("loss", &mean_loss, py::arg("params"), py::arg("x"), py::arg("y"))
        .def("gradient", &gradient, py::arg("params"), py::arg("x"), py::arg("y"), py::arg("out"))
        .def("train", &train_in_place, py::arg("params"), py::arg("x"), py::arg("y"), py::arg("order"), py::kw_only(),
             py::arg("batch_size"), py::arg("learning_rate"), py::arg("momentum") = 0.0, py::arg("proximal") = 0.0,
             py::arg("anchor") = py::none(), py::arg("correction") = py::none());
}

}  // namespace fedge::bindings
