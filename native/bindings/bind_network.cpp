#include <pybind11/stl.h>

#include <set>
#include <utility>
#include <vector>

#include "network_args.hpp"

namespace fedge::bindings {
namespace {

// One table from Python, each key taken once; what is left over at the end was not understood.
class Table {
  public:
    Table(py::dict table, std::string where) : table_(std::move(table)), where_(std::move(where)) {}

    const std::string& where() const { return where_; }

    std::string text(const char* key) {
        const py::object value = take(key);
        if (!py::isinstance<py::str>(value)) {
            throw py::type_error(where_ + ": want " + key + " a string; got " + py::repr(value).cast<std::string>());
        }
        return value.cast<std::string>();
    }
    std::size_t count(const char* key, std::int64_t low, std::int64_t high) {
        return worded([&] { return count_arg(take(key), key, low, high); });
    }
    std::size_t count(const char* key, std::int64_t low, std::int64_t high, std::size_t otherwise) {
        return table_.contains(key) ? count(key, low, high) : otherwise;
    }
    bool flag(const char* key, bool otherwise) {
        if (!table_.contains(key)) return otherwise;
        const py::object value = take(key);
        if (!py::isinstance<py::bool_>(value)) {
            throw py::type_error(where_ + ": want " + key + " true or false; got " +
                                 py::repr(value).cast<std::string>());
        }
        return value.cast<bool>();
    }
    double real(const char* key, const char* want, bool (*holds)(double), double otherwise) {
        if (!table_.contains(key)) return otherwise;
        return worded([&] { return real_arg(take(key), key, want, holds); });
    }
    // One number for both dimensions, or one for each; with one dimension only the width's.
    // Two numbers where `listed`; one stands for both where `two`.
    std::array<std::size_t, 2> pair(const char* key, bool listed, bool two, std::int64_t low,
                                    std::array<std::size_t, 2> otherwise) {
        constexpr std::int64_t most = 1 << 20;
        if (!table_.contains(key)) return otherwise;
        const py::object value = take(key);
        return worded([&]() -> std::array<std::size_t, 2> {
            if (listed && py::isinstance<py::sequence>(value)) {
                const auto both = value.cast<py::sequence>();
                if (both.size() != 2) throw py::value_error("want " + std::string(key) + " of [height, width]");
                return {count_arg(both[0], key, low, most), count_arg(both[1], key, low, most)};
            }
            const std::size_t one = count_arg(value, key, low, most);
            return {two ? one : otherwise[0], one};
        });
    }
    py::object take(const char* key) {
        if (!table_.contains(key)) throw py::value_error(where_ + ": " + key + " is missing");
        taken_.insert(key);
        return table_[key];
    }
    void finish() const {
        for (const auto& [key, value] : table_) {
            const std::string name = py::str(key);
            if (!taken_.contains(name)) throw py::value_error(where_ + ": unknown key '" + name + "'");
        }
    }

  private:
    template <class Work>
    auto worded(Work work) -> decltype(work()) {
        try {
            return work();
        } catch (const py::value_error& fault) {
            throw py::value_error(where_ + ": " + fault.what());
        } catch (const py::type_error& fault) {
            throw py::type_error(where_ + ": " + fault.what());
        }
    }

    py::dict table_;
    std::string where_;
    std::set<std::string> taken_;
};

constexpr std::int64_t most_units = 1 << 20;
constexpr std::int64_t most_vocabulary = 1 << 24;  // past it float32 skips whole numbers

bool is_rate(double v) { return v >= 0.0 && v < 1.0; }
bool is_epsilon(double v) { return v > 0.0 && v <= 1.0; }

Window window(Table& table, const char* size, bool two, bool pool) {
    const bool listed = two || pool;  // a pool cannot tell an image of height 1 from a sequence
    Window w;
    w.size = table.pair(size, listed, two, 1, {1, 1});
    w.stride = table.pair("stride", listed, two, 1, pool ? w.size : std::array<std::size_t, 2>{1, 1});
    w.padding = table.pair("padding", listed, two, 0, {0, 0});
    return w;
}

std::unique_ptr<Layer> layer_of(Table& table, const std::string& type, Shape input, std::size_t number) {
    const bool two = input.height > 1 || type.ends_with("2d");
    if (type == "dense") {
        const std::size_t units = table.count("units", 1, most_units);
        return make_dense(input, units, table.flag("bias", true));
    }
    if (type == "conv1d" || type == "conv2d") {
        if (type == "conv1d" && input.height > 1) throw py::value_error("takes a sequence (T, C); got an image");
        const std::size_t filters = table.count("filters", 1, most_units);
        table.take("kernel");
        const Window w = window(table, "kernel", type == "conv2d", false);
        return make_conv(input, filters, w, table.flag("bias", true));
    }
    if (type == "depthwise_conv1d" || type == "depthwise_conv2d") {
        if (type == "depthwise_conv1d" && input.height > 1) {
            throw py::value_error("takes a sequence (T, C); got an image");
        }
        table.take("kernel");
        const Window w = window(table, "kernel", type == "depthwise_conv2d", false);
        return make_depthwise_conv(input, w, table.flag("bias", true));
    }
    if (type == "max_pool" || type == "average_pool") {
        table.take("size");
        const Window w = window(table, "size", two, true);
        return type == "max_pool" ? make_max_pool(input, w) : make_average_pool(input, w);
    }
    if (type == "group_norm") {
        const std::size_t groups = table.count("groups", 1, most_units);
        return make_group_norm(input, groups, table.real("epsilon", "in (0, 1]", is_epsilon, 1e-5));
    }
    if (type == "layer_norm") {
        return make_layer_norm(input, table.real("epsilon", "in (0, 1]", is_epsilon, 1e-5));
    }
    if (type == "batch_norm") {
        throw py::value_error(
            "batch normalization mixes the examples of a batch: no gradient belongs to one example, so none can be "
            "clipped, and its running statistics would leave the device; use group_norm or layer_norm");
    }
    if (type == "gru") {
        const std::size_t units = table.count("units", 1, most_units);
        return make_gru(input, units, table.flag("sequences", false));
    }
    if (type == "embedding") {
        if (number != 0) throw py::value_error("takes whole numbers of the data: put it first");
        const std::size_t vocabulary = table.count("vocabulary", 1, most_vocabulary);
        return make_embedding(input, vocabulary, table.count("units", 1, most_units));
    }
    if (type == "dropout") {
        return make_dropout(input, table.real("rate", "in [0, 1)", is_rate, 0.5), number);
    }
    if (type == "flatten") return make_flatten(input);
    if (type == "relu") return make_relu(input);
    if (type == "tanh") return make_tanh(input);
    if (type == "sigmoid") return make_sigmoid(input);
    if (type == "softplus") return make_softplus(input);
    throw py::value_error("unknown type '" + type + "'");
}

Loss loss_of(const py::object& spec) {
    Loss loss;
    if (!py::isinstance<py::str>(spec) && !py::isinstance<py::dict>(spec)) {
        throw py::type_error("want loss a name or a table; got " + py::repr(spec).cast<std::string>());
    }
    py::dict dict;
    if (py::isinstance<py::str>(spec)) {
        dict["type"] = spec;
    } else {
        dict = spec.cast<py::dict>();
    }
    Table table(dict, "loss");
    const std::string type = table.text("type");
    if (type == "softmax_cross_entropy") {
        loss.kind = LossKind::softmax_cross_entropy;
        if (dict.contains("class_weights")) {
            for (const py::handle weight : table.take("class_weights").cast<py::sequence>()) {
                loss.class_weights.push_back(static_cast<float>(
                    real_arg(weight, "class_weights", "in [0, 1e6]", [](double v) { return v >= 0.0 && v <= 1e6; })));
            }
        }
    } else if (type == "binary_cross_entropy") {
        loss.kind = LossKind::binary_cross_entropy;
    } else if (type == "mse") {
        loss.kind = LossKind::mse;
    } else if (type == "huber") {
        loss.kind = LossKind::huber;
        loss.huber_delta = static_cast<float>(
            table.real("delta", "in [1e-6, 1e6]", [](double v) { return v >= 1e-6 && v <= 1e6; }, 1.0));
    } else if (type == "hinge") {
        loss.kind = LossKind::hinge;
    } else {
        throw py::value_error("want loss among softmax_cross_entropy, binary_cross_entropy, mse, huber, hinge; got '" +
                              type + "'");
    }
    table.finish();
    return loss;
}

Shape shape_of(const py::sequence& sizes) {
    if (sizes.size() < 1 || sizes.size() > 3) {
        throw py::value_error("want shape (I,), (T, C) or (H, W, C); got " + py::repr(sizes).cast<std::string>());
    }
    constexpr std::int64_t most = 1 << 24;
    const std::size_t n = sizes.size();
    Shape shape;
    shape.channels = count_arg(sizes[n - 1], "shape", 1, most);
    if (n > 1) shape.width = count_arg(sizes[n - 2], "shape", 1, most);
    if (n > 2) shape.height = count_arg(sizes[0], "shape", 1, most);
    std::size_t size = 0;
    if (__builtin_mul_overflow(shape.height, shape.width, &size) ||
        __builtin_mul_overflow(size, shape.channels, &size) || size > std::size_t{1} << 28) {
        throw py::value_error("want shape of at most 2**28 values; got " + py::repr(sizes).cast<std::string>());
    }
    return shape;
}

std::unique_ptr<Network> make_network(const py::sequence& shape, const py::sequence& layers, const py::object& loss) {
    std::vector<PlacedLayer> placed;
    Shape input = shape_of(shape);
    if (layers.size() > 256) throw py::value_error("want at most 256 layers; got " + std::to_string(layers.size()));
    for (std::size_t l = 0; l < layers.size(); ++l) {
        const py::object entry = layers[l];
        std::string where = "layer " + std::to_string(l);
        if (!py::isinstance<py::dict>(entry)) {
            throw py::type_error("want " + where + " a dict; got " + py::repr(entry).cast<std::string>());
        }
        Table table(entry.cast<py::dict>(), where);
        const std::string type = table.text("type");
        Table typed(entry.cast<py::dict>(), where + " (" + type + ")");
        typed.take("type");
        PlacedLayer next;
        next.frozen = typed.flag("frozen", false);
        try {
            next.layer = layer_of(typed, type, input, l);
        } catch (const std::invalid_argument& fault) {
            throw py::value_error(typed.where() + ": " + fault.what());
        } catch (const py::value_error& fault) {
            const std::string words = fault.what();
            throw py::value_error(words.starts_with("layer ") ? words : typed.where() + ": " + words);
        }
        typed.finish();
        input = next.layer->output();
        placed.push_back(std::move(next));
    }
    return std::make_unique<Network>(std::move(placed), loss_of(loss));
}

template <class Entry>
py::list each_parameter(const Network& net, Entry entry) {
    py::list entries;
    for (std::size_t l = 0; l < net.layers().size(); ++l) {
        std::size_t offset = net.layers()[l].offset;
        for (const Parameter& parameter : net.layers()[l].layer->parameters()) {
            entries.append(entry(std::to_string(l) + "." + parameter.name, offset, parameter));
            offset += parameter.size();
        }
    }
    return entries;
}

py::list layout(const Network& net) {
    return each_parameter(net, [](const std::string& name, std::size_t offset, const Parameter& parameter) {
        return py::make_tuple(name, offset, py::tuple(py::cast(parameter.shape)));
    });
}

py::list initial(const Network& net) {
    return each_parameter(net, [](const std::string&, std::size_t offset, const Parameter& parameter) {
        return py::make_tuple(offset, parameter.size(), parameter.glorot_bound, parameter.fresh);
    });
}

py::list shapes(const Network& net) {
    py::list entries;
    for (const PlacedLayer& placed : net.layers()) {
        const Shape& out = placed.layer->output();
        if (out.height > 1) {
            entries.append(py::make_tuple(out.height, out.width, out.channels));
        } else if (out.width > 1) {
            entries.append(py::make_tuple(out.width, out.channels));
        } else {
            entries.append(py::make_tuple(out.channels));
        }
    }
    return entries;
}

py::array_t<float> predict(const Network& net, py::handle params_, py::handle x_, bool reproducible) {
    const auto params = params_arg(net, params_);
    const auto x = x_arg(net, x_);
    const std::size_t B = x.shape[0], at_once = rows_at_once(net, B);
    py::array_t<float> y({static_cast<py::ssize_t>(B), static_cast<py::ssize_t>(net.outputs())});
    float* out = y.mutable_data();
    const auto memory = workspace(predict_workspace_size(net, at_once), at_once);
    const py::gil_scoped_release unlocked;
    for (std::size_t row = 0; row < B; row += at_once) {
        network_predict(out + row * net.outputs(), net, params.data, x.data + row * net.inputs(),
                        std::min(at_once, B - row), mode_of(reproducible), memory.get());
    }
    return y;
}

double mean_loss(const Network& net, py::handle params_, py::handle x_, py::handle y_, bool reproducible) {
    const auto params = params_arg(net, params_);
    const auto x = x_arg(net, x_);
    const std::size_t B = x.shape[0], at_once = rows_at_once(net, B);
    const Targets targets = targets_arg(net, y_, B);
    const auto memory = workspace(predict_workspace_size(net, at_once), at_once);
    const py::gil_scoped_release unlocked;
    double sum = 0.0;
    for (std::size_t row = 0; row < B; row += at_once) {
        sum += network_loss(net, params.data, x.data + row * net.inputs(), rows_from(net, targets, row),
                            std::min(at_once, B - row), mode_of(reproducible), memory.get());
    }
    return sum / static_cast<double>(B);
}

double gradient(const Network& net, py::handle params_, py::handle x_, py::handle y_, py::handle out_,
                bool reproducible) {
    const auto params = params_arg(net, params_);
    const auto x = x_arg(net, x_);
    const std::size_t B = x.shape[0], at_once = rows_at_once(net, B);
    const Targets targets = targets_arg(net, y_, B);
    const auto out = out_arg(net, out_, params, x, targets);
    const auto memory = workspace(gradient_workspace_size(net, at_once), at_once);
    const py::gil_scoped_release unlocked;
    std::fill_n(out.data, out.size(), 0.0F);
    double sum = 0.0;
    for (std::size_t row = 0; row < B; row += at_once) {
        sum += network_gradient(out.data, net, params.data, x.data + row * net.inputs(), rows_from(net, targets, row),
                                1.0F / static_cast<float>(B), std::min(at_once, B - row), row, mode_of(reproducible),
                                memory.get());
    }
    return sum / static_cast<double>(B);
}

py::array_t<double> clipped_gradient(const Network& net, py::handle params_, py::handle x_, py::handle y_,
                                     py::handle out_, py::handle bound, const std::string& norm, bool reproducible) {
    const auto params = params_arg(net, params_);
    const auto x = x_arg(net, x_);
    refuse_not_finite(x);
    const std::size_t B = x.shape[0], at_once = rows_at_once(net, B);
    const Targets targets = targets_arg(net, y_, B);
    const auto out = out_arg(net, out_, params, x, targets);
    const std::vector<double> bounds = bounds_arg(net, bound);
    const Clipping clipping{norm_arg(norm), bounds};
    const std::size_t groups = bounds.size();
    py::array_t<double> norms({static_cast<py::ssize_t>(groups), static_cast<py::ssize_t>(B)});
    double* const norms_out = norms.mutable_data();
    std::vector<double> some(groups * at_once);
    const auto memory = workspace(clipped_workspace_size(net, at_once), at_once);
    const py::gil_scoped_release unlocked;
    std::fill_n(out.data, out.size(), 0.0F);
    for (std::size_t row = 0; row < B; row += at_once) {
        const std::size_t rows = std::min(at_once, B - row);
        network_clipped_gradient(out.data, some.data(), net, params.data, x.data + row * net.inputs(),
                                 rows_from(net, targets, row), clipping, rows, row, mode_of(reproducible),
                                 memory.get());
        for (std::size_t g = 0; g < groups; ++g) std::copy_n(some.data() + g * rows, rows, norms_out + g * B + row);
    }
    return norms;
}

}  // namespace

void bind_training(py::class_<Network>& cls);

void bind_network(py::module_& m) {
    py::class_<Network> cls(m, "Network", py::is_final());
    cls.def(py::init(&make_network), py::arg("shape"), py::arg("layers"), py::arg("loss"))
        .def_property_readonly("parameter_count", &Network::parameter_count)
        .def_property_readonly("trained_count", &Network::trained_count)
        .def_property_readonly("inputs", &Network::inputs)
        .def_property_readonly("outputs", &Network::outputs)
        .def("shapes", &shapes)
        .def("layout", &layout)
        .def("initial", &initial)
        .def("predict", &predict, py::arg("params"), py::arg("x"), py::kw_only(), py::arg("reproducible") = false)
        .def("loss", &mean_loss, py::arg("params"), py::arg("x"), py::arg("y"), py::kw_only(),
             py::arg("reproducible") = false)
        .def("gradient", &gradient, py::arg("params"), py::arg("x"), py::arg("y"), py::arg("out"), py::kw_only(),
             py::arg("reproducible") = false)
        .def("clipped_gradient", &clipped_gradient, py::arg("params"), py::arg("x"), py::arg("y"), py::arg("out"),
             py::kw_only(), py::arg("bound"), py::arg("norm") = "l2", py::arg("reproducible") = false);
    bind_training(cls);
}

}  // namespace fedge::bindings
