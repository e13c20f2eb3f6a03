#include <algorithm>

#include "rows_arg.hpp"

namespace fedge::bindings {
namespace {

py::array_t<float> ranks(const Rows& rows, std::size_t first, std::size_t last, std::size_t threads) {
    py::array_t<float> out(static_cast<py::ssize_t>(rows.d));
    float* const data = out.mutable_data();
    bool done = false;
    {
        const py::gil_scoped_release unlocked;
        done = mean_of_ranks(data, rows.data.data(), rows.n(), first, last, rows.d, threads);
    }
    if (!done) rows.refuse();
    return out;
}

py::array_t<float> median(py::handle updates, py::handle threads) {
    const Rows rows(updates);
    return ranks(rows, (rows.n() - 1) / 2, rows.n() / 2 + 1, threads_arg(threads));
}

py::array_t<float> trimmed(py::handle updates, py::handle trim_, py::handle threads) {
    const Rows rows(updates);
    const std::size_t trim = count_arg(trim_, "trim", 0, static_cast<std::int64_t>((rows.n() - 1) / 2));
    return ranks(rows, trim, rows.n() - trim, threads_arg(threads));
}

py::array_t<double> distances(py::handle updates, py::handle threads_) {
    const Rows rows(updates);
    const std::size_t threads = threads_arg(threads_);
    const auto n = static_cast<py::ssize_t>(rows.n());
    py::array_t<double> out({n, n});
    double* const data = out.mutable_data();
    bool done = false;
    {
        const py::gil_scoped_release unlocked;
        done = squared_distances(data, rows.data.data(), rows.n(), rows.d, threads);
    }
    if (!done) rows.refuse();
    return out;
}

// A centre in double between the float32 that Python gives and takes.
template <class Move>
py::array_t<float> moved(const Rows& rows, py::handle start_, const Move& move) {
    const auto start = array_arg<const float>(start_, "start", {{"d", rows.d}});
    py::array_t<float> out(static_cast<py::ssize_t>(rows.d));
    float* const data = out.mutable_data();
    bool sound = false, done = false;
    {
        const py::gil_scoped_release unlocked;
        sound = all_finite(start.data, rows.d);
        if (sound) {
            std::vector<double> centre(start.data, start.data + rows.d);
            done = move(centre.data());
            std::transform(centre.begin(), centre.end(), data, [](double v) { return static_cast<float>(v); });
        }
    }
    if (!sound) throw py::value_error("start holds NaN or infinity");
    if (!done) rows.refuse();
    return out;
}

py::array_t<float> median_in_space(py::handle updates, py::handle weights_, py::handle start, py::handle smoothing_,
                                   py::handle rounds_, py::handle threads_) {
    const Rows rows(updates);
    const auto weights = weights_arg(weights_, rows.n(), 0x1p-64);
    const double smoothing =
        real_arg(smoothing_, "smoothing", "in [1e-100, 1e100]", [](double v) { return v >= 1e-100 && v <= 1e100; });
    const std::size_t rounds = count_arg(rounds_, "rounds", 0, 10000), threads = threads_arg(threads_);
    return moved(rows, start, [&](double* z) {
        return geometric_median(z, rows.data.data(), weights.data(), rows.n(), rows.d, smoothing, rounds, threads);
    });
}

py::array_t<float> clipped_towards(py::handle updates, py::handle start, py::handle radius_, py::handle rounds_,
                                   py::handle threads_) {
    const Rows rows(updates);
    const double radius = real_arg(radius_, "radius", "positive", [](double v) { return v > 0.0; });
    const std::size_t rounds = count_arg(rounds_, "rounds", 0, 10000), threads = threads_arg(threads_);
    return moved(rows, start, [&](double* v) {
        return centred_clipping(v, rows.data.data(), rows.n(), rows.d, radius, rounds, threads);
    });
}

}  // namespace

void bind_robust(py::module_& m) {
    m.def("coordinate_median", &median, py::arg("updates"), py::kw_only(), py::arg("threads") = 1);
    m.def("trimmed_mean", &trimmed, py::arg("updates"), py::arg("trim"), py::kw_only(), py::arg("threads") = 1);
    m.def("squared_distances", &distances, py::arg("updates"), py::kw_only(), py::arg("threads") = 1);
    m.def("geometric_median", &median_in_space, py::arg("updates"), py::arg("weights"), py::arg("start"),
          py::kw_only(), py::arg("smoothing"), py::arg("rounds"), py::arg("threads") = 1);
    m.def("centered_clipping", &clipped_towards, py::arg("updates"), py::arg("start"), py::kw_only(),
          py::arg("radius"), py::arg("rounds"), py::arg("threads") = 1);
}

}  // namespace fedge::bindings
