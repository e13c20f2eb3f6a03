#include <cerrno>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>

#include "array_arg.hpp"
#include "fedge/clip.hpp"
#include "fedge/csprng.hpp"
#include "fedge/noise.hpp"
#include "fedge/reservoir.hpp"

namespace fedge::bindings {
namespace {

constexpr std::int64_t most_bytes = std::int64_t{1} << 30;
constexpr std::int64_t most_draws = std::int64_t{1} << 28;

// Bulk draws run on a stream of their own, whose key is taken while the GIL is held: see StreamKey.
template <class Rng>
py::bytes random_bytes(Rng& rng, py::handle n_arg) {
    const std::size_t n = count_arg(n_arg, "n", 0, most_bytes);
    auto result = py::reinterpret_steal<py::bytes>(PyBytes_FromStringAndSize(nullptr, static_cast<py::ssize_t>(n)));
    if (!result) throw py::error_already_set();
    auto* out = reinterpret_cast<std::uint8_t*>(PyBytes_AS_STRING(result.ptr()));
    ChaChaStream stream(rng.stream_key().bytes);
    const py::gil_scoped_release unlocked;
    stream.fill(out, n);
    return result;
}

// `count` numbers from draw(data, stream, count), which has an overload for each type of `out`: a new int64 array, or
// `out`, int64 or, where `fits_32`, int32.
template <class Rng, class Draw>
py::array drawn(Rng& rng, py::handle count_arg_, py::handle out_arg, bool fits_32, const char* refusal, Draw draw) {
    const std::size_t count = count_arg(count_arg_, "count", 0, most_draws);
    const auto run = [&](auto* data) {
        ChaChaStream stream(rng.stream_key().bytes);
        const py::gil_scoped_release unlocked;
        draw(data, stream, count);
    };
    if (out_arg.is_none()) {
        py::array_t<std::int64_t> out(static_cast<py::ssize_t>(count));
        run(out.mutable_data());
        return std::move(out);
    }
    if (py::isinstance<py::array_t<std::int32_t>>(out_arg)) {
        if (!fits_32) throw py::value_error(refusal);
        run(array_arg<std::int32_t>(out_arg, "out", {{"count", count}}).data);
    } else {
        run(array_arg<std::int64_t>(out_arg, "out", {{"count", count}}).data);
    }
    return py::reinterpret_borrow<py::array>(out_arg);
}

template <class Rng>
py::array laplace(Rng& rng, py::handle count, py::handle log2_scale, py::handle out) {
    const auto m = static_cast<unsigned>(count_arg(log2_scale, "log2_scale", 0, max_log2_scale));
    return drawn(rng, count, out, m <= max_log2_scale_32, "want log2_scale of at most 24 for out of int32",
                 [m](auto* data, ChaChaStream& stream, std::size_t n) { discrete_laplace(data, stream, n, m); });
}

template <class Rng>
py::array gaussian(Rng& rng, py::handle count, py::handle sigma_arg, py::handle out) {
    const std::int64_t sigma = integer_arg(sigma_arg, "sigma", 1, max_sigma);
    return drawn(rng, count, out, sigma <= max_sigma_32, "want sigma of at most 2**27 for out of int32",
                 [sigma](auto* data, ChaChaStream& stream, std::size_t n) { discrete_gaussian(data, stream, n, sigma); });
}

template <class Rng>
py::array share(Rng& rng, py::handle count, py::handle log2_scale, py::handle shares_arg, py::handle out) {
    const auto m = static_cast<unsigned>(count_arg(log2_scale, "log2_scale", 0, max_share_log2_scale));
    const std::int64_t shares = integer_arg(shares_arg, "shares", 1, max_shares);
    return drawn(rng, count, out, true, "", [m, shares](auto* data, ChaChaStream& stream, std::size_t n) {
        laplace_share(data, stream, n, m, shares);
    });
}

template <class Rng>
void bind_samplers(py::module_& m) {
    m.def("discrete_laplace", &laplace<Rng>, py::arg("rng"), py::arg("count"), py::arg("log2_scale"), py::kw_only(),
          py::arg("out") = py::none());
    m.def("discrete_gaussian", &gaussian<Rng>, py::arg("rng"), py::arg("count"), py::arg("sigma"), py::kw_only(),
          py::arg("out") = py::none());
    m.def("laplace_share", &share<Rng>, py::arg("rng"), py::arg("count"), py::arg("log2_scale"), py::arg("shares"),
          py::kw_only(), py::arg("out") = py::none());
}

template <class Rng>
py::class_<Rng> bind_generator(py::module_& where, const char* name, bool secure) {
    py::class_<Rng> cls(where, name, py::is_final());
    cls.attr("secure") = secure;
    cls.def("bytes", &random_bytes<Rng>, py::arg("n"));
    const std::string refusal =
        std::string(name) + " is not copied or pickled: two holders of one state would draw the same noise";
    cls.def("__reduce_ex__", [refusal](py::handle, py::handle) -> py::object { throw py::type_error(refusal); });
    return cls;
}

// Draws only where the reservoir still gives any.
template <class Take>
void from_reservoir(Take take) {
    bool given = false;
    {
        const py::gil_scoped_release unlocked;
        given = take();
    }
    if (!given) {
        throw py::value_error("want a reservoir that is open and made in this process: it is closed, or of the parent's");
    }
}

py::array take(NoiseReservoir& reservoir, py::handle count_, py::handle out_arg) {
    const std::size_t count = count_arg(count_, "count", 0, most_draws);
    const auto run = [&](auto* data) { from_reservoir([&, data] { return reservoir.take(data, count); }); };
    if (out_arg.is_none()) {
        py::array_t<std::int64_t> out(static_cast<py::ssize_t>(count));
        run(out.mutable_data());
        return std::move(out);
    }
    if (py::isinstance<py::array_t<std::int32_t>>(out_arg)) {
        run(array_arg<std::int32_t>(out_arg, "out", {{"count", count}}).data);
    } else {
        run(array_arg<std::int64_t>(out_arg, "out", {{"count", count}}).data);
    }
    return py::reinterpret_borrow<py::array>(out_arg);
}

void bind_reservoir(py::module_& m) {
    py::class_<NoiseReservoir> cls(m, "NoiseReservoir", py::is_final());
    cls.attr("secure") = true;
    cls.def(py::init([](py::handle log2_scale, py::handle capacity) {
                return std::make_unique<NoiseReservoir>(
                    static_cast<unsigned>(count_arg(log2_scale, "log2_scale", 0, max_log2_scale_32)),
                    count_arg(capacity, "capacity", 1, std::int64_t{1} << 26));
            }),
            py::arg("log2_scale"), py::arg("capacity"))
        .def("take", &take, py::arg("count"), py::kw_only(), py::arg("out") = py::none())
        .def("add_to",
             [](NoiseReservoir& reservoir, py::handle values_arg) {
                 const auto values = array_arg<std::int64_t>(values_arg, "values", {"d"});
                 from_reservoir([&] { return reservoir.add_to(values.data, values.size()); });
             },
             py::arg("values"))
        .def("close", [](NoiseReservoir& reservoir) {
            const py::gil_scoped_release unlocked;
            reservoir.close();
        })
        .def_property_readonly("ready", &NoiseReservoir::ready)
        .def_property_readonly("capacity", &NoiseReservoir::capacity)
        .def_property_readonly("log2_scale", &NoiseReservoir::log2_scale)
        .def("__reduce_ex__", [](py::handle, py::handle) -> py::object {
            throw py::type_error("NoiseReservoir is not copied or pickled: each draw leaves once");
        });
}

template <double (*clip)(float*, double, std::size_t) noexcept>
double clip_in_place(py::handle update_arg, py::handle bound_arg) {
    const auto update = array_arg<float>(update_arg, "update", {"d"});
    const double bound = real_arg(bound_arg, "bound", "positive and finite", positive_and_finite);
    double norm = 0.0;
    {
        const py::gil_scoped_release unlocked;
        norm = clip(update.data, bound, update.size());
    }
    if (!std::isfinite(norm)) throw py::value_error("update holds NaN or infinity; it is untouched");
    return norm;
}

template <bool (*quantize_to)(std::int32_t*, const float*, double, std::int32_t, std::byte*, std::size_t) noexcept>
py::array_t<std::int32_t> quantize(py::handle update_arg, py::handle clip_arg, py::handle levels_arg) {
    const auto update = array_arg<const float>(update_arg, "update", {"d"});
    if (update.size() > max_quantized) {
        throw py::value_error("want update of at most 2**30 coordinates; got " + std::to_string(update.size()));
    }
    const double clip = real_arg(clip_arg, "clip", "positive and finite", positive_and_finite);
    const auto levels = static_cast<std::int32_t>(integer_arg(levels_arg, "levels", 1, max_levels));
    py::array_t<std::int32_t> q(static_cast<py::ssize_t>(update.size()));
    std::int32_t* data = q.mutable_data();
    const auto workspace = std::make_unique_for_overwrite<std::byte[]>(quantize_workspace_size(update.size()));
    bool done = false;
    {
        const py::gil_scoped_release unlocked;
        done = quantize_to(data, update.data, clip, levels, workspace.get(), update.size());
    }
    if (!done) throw py::value_error("update holds NaN or infinity");
    return q;
}

}  // namespace

void bind_privacy(py::module_& m) {
    py::register_local_exception_translator([](std::exception_ptr raised) {
        try {
            if (raised) std::rethrow_exception(raised);
        } catch (const std::system_error& error) {
            errno = error.code().value();
            PyErr_SetFromErrno(PyExc_OSError);
        }
    });

    bind_generator<SystemRng>(m, "SystemRng", true).def(py::init<>());
    py::module_ seeded =
        m.def_submodule("seeded", "Replayable randomness for simulations and tests, never for a release.");
    bind_generator<SeededRng>(seeded, "SeededRng", false)
        .def(py::init([](const py::bytes& seed) {
                 const std::string_view bytes = seed;
                 if (bytes.size() != ChaChaStream::key_bytes) {
                     throw py::value_error("want seed of exactly 32 bytes; got " + std::to_string(bytes.size()));
                 }
                 const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
                 return std::make_unique<SeededRng>(
                     std::span<const std::uint8_t, ChaChaStream::key_bytes>(data, ChaChaStream::key_bytes));
             }),
             py::arg("seed"));

    m.def("clip_l1", &clip_in_place<clip_l1>, py::arg("update"), py::arg("bound"));
    m.def("clip_l2", &clip_in_place<clip_l2>, py::arg("update"), py::arg("bound"));
    m.def("quantize_l1", &quantize<quantize_l1>, py::arg("update"), py::arg("clip"), py::arg("levels"));
    m.def("quantize_l2", &quantize<quantize_l2>, py::arg("update"), py::arg("clip"), py::arg("levels"));
    bind_reservoir(m);
    bind_samplers<SystemRng>(m);
    bind_samplers<SeededRng>(m);
}

}  // namespace fedge::bindings
