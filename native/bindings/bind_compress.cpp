#include <string_view>

#include "array_arg.hpp"
#include "fedge/compress.hpp"
#include "fedge/csprng.hpp"
#include "fedge/mask.hpp"

namespace fedge::bindings {
namespace {

constexpr auto most = static_cast<std::int64_t>(max_compressed);

std::uint8_t* new_bytes(py::bytes& result, std::size_t n) {
    result = py::reinterpret_steal<py::bytes>(PyBytes_FromStringAndSize(nullptr, static_cast<py::ssize_t>(n)));
    if (!result) throw py::error_already_set();
    return reinterpret_cast<std::uint8_t*>(PyBytes_AS_STRING(result.ptr()));
}

// Bytes of exactly this length.
const std::uint8_t* bytes_arg(py::handle arg, const char* name, std::size_t want) {
    if (!py::isinstance<py::bytes>(arg)) {
        throw py::type_error("want " + std::string(name) + " bytes; got " +
                             std::string(py::str(py::type::of(arg).attr("__name__"))));
    }
    const std::string_view bytes = py::reinterpret_borrow<py::bytes>(arg);
    if (bytes.size() != want) {
        throw py::value_error("want " + std::string(name) + " of exactly " + std::to_string(want) + " bytes; got " +
                              std::to_string(bytes.size()));
    }
    return reinterpret_cast<const std::uint8_t*>(bytes.data());
}

unsigned level_bits_arg(py::handle arg) {
    const std::size_t bits = count_arg(arg, "bits", 1, 8);
    if ((bits & (bits - 1)) != 0) throw py::value_error("want bits 1, 2, 4 or 8; got " + std::to_string(bits));
    return static_cast<unsigned>(bits);
}

float norm_arg(py::handle arg, const char* name) {
    return static_cast<float>(real_arg(arg, name, "a float32 in [0, 2**126]", [](double v) {
        return v >= 0.0 && v <= static_cast<double>(max_norm) && static_cast<double>(static_cast<float>(v)) == v;
    }));
}

// x as it is read, and where what is left of it goes: nowhere, or itself.
struct Compressed {
    Compressed(py::handle arg, bool take) : x{nullptr, {0, 1}}, residual(nullptr) {
        if (take) {
            const auto view = array_arg<float>(arg, "x", {"d"});
            x = {view.data, view.shape};
            residual = view.data;
        } else {
            x = array_arg<const float>(arg, "x", {"d"});
        }
        if (x.size() > max_compressed) {
            throw py::value_error("want x of at most 2**30 coordinates; got " + std::to_string(x.size()));
        }
    }

    View<const float> x;
    float* residual;
};

void refuse_norm(float norm, float bound) {
    if (std::isnan(norm)) throw py::value_error("x holds NaN or infinity");
    if (!(norm <= bound)) {
        throw py::value_error("want |x| at most norm, " + py::repr(py::float_(bound)).cast<std::string>() + "; got " +
                              py::repr(py::float_(norm)).cast<std::string>());
    }
}

template <class Rng>
py::bytes quantized(Rng& rng, py::handle x_, py::handle norm_, py::handle bits_, bool take) {
    const Compressed at(x_, take);
    const float norm = norm_arg(norm_, "norm");
    const unsigned bits = level_bits_arg(bits_);
    py::bytes packed;
    std::uint8_t* const out = new_bytes(packed, packed_bytes(at.x.size(), bits));
    const StreamKey key = rng.stream_key();
    float largest = 0.0F;
    {
        const py::gil_scoped_release unlocked;
        largest = max_magnitude(at.x.data, at.x.size());
        if (largest <= norm) quantize(out, at.x.data, at.residual, key.bytes.data(), norm, bits, at.x.size());
    }
    refuse_norm(largest, norm);
    return packed;
}

py::tuple largest_coordinates(py::handle x_, py::handle k_, bool take) {
    const Compressed at(x_, take);
    const std::size_t k = count_arg(k_, "k", 0, static_cast<std::int64_t>(at.x.size()));
    py::array_t<std::uint32_t> indices(static_cast<py::ssize_t>(k));
    py::array_t<float> values(static_cast<py::ssize_t>(k));
    std::uint32_t* const to = indices.mutable_data();
    float* const value = values.mutable_data();
    bool done = false;
    {
        const py::gil_scoped_release unlocked;
        done = top_k(to, value, at.x.data, at.residual, k, at.x.size());
    }
    if (!done) throw py::value_error("x holds NaN or infinity");
    return py::make_tuple(indices, values);
}

py::tuple signs(py::handle x_, bool take) {
    const Compressed at(x_, take);
    py::bytes packed;
    std::uint8_t* const out = new_bytes(packed, packed_bytes(at.x.size(), 1));
    float largest = 0.0F, scale = 0.0F;
    {
        const py::gil_scoped_release unlocked;
        largest = max_magnitude(at.x.data, at.x.size());
        if (largest <= max_norm) scale = pack_signs(out, at.x.data, at.residual, at.x.size());
    }
    refuse_norm(largest, max_norm);
    return py::make_tuple(packed, scale);
}

template <float (*norm)(const float*, std::size_t) noexcept>
float norm_of(py::handle x_) {
    const auto x = array_arg<const float>(x_, "x", {"d"});
    float result = 0.0F;
    {
        const py::gil_scoped_release unlocked;
        result = norm(x.data, x.size());
    }
    if (std::isnan(result)) throw py::value_error("x holds NaN or infinity");
    return result;
}

template <Mask sign>
void mask(py::handle values_, py::handle key_, py::handle nonce_) {
    const auto values = array_arg<std::uint32_t>(values_, "values", {"d"});
    const std::uint8_t* const key = bytes_arg(key_, "key", 32);
    const std::uint8_t* const nonce = bytes_arg(nonce_, "nonce", 12);
    if (values.size() > max_masked) {
        throw py::value_error("want values of at most " + std::to_string(max_masked) + " words; got " +
                              std::to_string(values.size()));
    }
    const py::gil_scoped_release unlocked;
    apply_mask(values.data, key, nonce, sign, values.size());
}

}  // namespace

void bind_compress(py::module_& m) {
    m.def(
        "pack_bits",
        [](py::handle codes_, py::handle bits_) {
            const auto codes = array_arg<const std::uint32_t>(codes_, "codes", {"n"});
            const auto bits = static_cast<unsigned>(count_arg(bits_, "bits", 1, 32));
            py::bytes packed;
            std::uint8_t* const out = new_bytes(packed, packed_bytes(codes.size(), bits));
            std::uint32_t any = 0;
            {
                const py::gil_scoped_release unlocked;
                for (std::size_t i = 0; i < codes.size(); ++i) any |= codes.data[i];
                if (bits == 32 || any >> bits == 0) pack_bits(out, codes.data, bits, codes.size());
            }
            if (bits < 32 && any >> bits != 0) {
                throw py::value_error("want codes below 2**" + std::to_string(bits) + "; got a larger one");
            }
            return packed;
        },
        py::arg("codes"), py::arg("bits"));
    m.def(
        "unpack_bits",
        [](py::handle packed_, py::handle bits_, py::handle count_) {
            const auto bits = static_cast<unsigned>(count_arg(bits_, "bits", 1, 32));
            const std::size_t count = count_arg(count_, "count", 0, most);
            const std::uint8_t* const packed = bytes_arg(packed_, "packed", packed_bytes(count, bits));
            py::array_t<std::uint32_t> codes(static_cast<py::ssize_t>(count));
            std::uint32_t* const out = codes.mutable_data();
            const py::gil_scoped_release unlocked;
            unpack_bits(out, packed, bits, count);
            return codes;
        },
        py::arg("packed"), py::arg("bits"), py::arg("count"));

    m.def("top_k", &largest_coordinates, py::arg("x"), py::arg("k"), py::kw_only(), py::arg("take") = false);
    m.def("max_magnitude", &norm_of<max_magnitude>, py::arg("x"));
    m.def("l2_norm_above", &norm_of<l2_norm_above>, py::arg("x"));
    m.def("quantize_stochastic", &quantized<SystemRng>, py::arg("rng"), py::arg("x"), py::arg("norm"), py::arg("bits"),
          py::kw_only(), py::arg("take") = false);
    m.def("quantize_stochastic", &quantized<SeededRng>, py::arg("rng"), py::arg("x"), py::arg("norm"), py::arg("bits"),
          py::kw_only(), py::arg("take") = false);
    m.def(
        "dequantize",
        [](py::handle packed_, py::handle norm_, py::handle bits_, py::handle count_) {
            const float norm = norm_arg(norm_, "norm");
            const unsigned bits = level_bits_arg(bits_);
            const std::size_t count = count_arg(count_, "count", 0, most);
            const std::uint8_t* const packed = bytes_arg(packed_, "packed", packed_bytes(count, bits));
            py::array_t<float> x(static_cast<py::ssize_t>(count));
            float* const out = x.mutable_data();
            bool done = false;
            {
                const py::gil_scoped_release unlocked;
                done = dequantize(out, packed, norm, bits, count);
            }
            if (!done) throw py::value_error("packed holds a code beyond the last level");
            return x;
        },
        py::arg("packed"), py::arg("norm"), py::arg("bits"), py::arg("count"));
    m.def("pack_signs", &signs, py::arg("x"), py::kw_only(), py::arg("take") = false);
    m.def(
        "unpack_signs",
        [](py::handle packed_, py::handle scale_, py::handle count_) {
            const float scale = norm_arg(scale_, "scale");
            const std::size_t count = count_arg(count_, "count", 0, most);
            const std::uint8_t* const packed = bytes_arg(packed_, "packed", packed_bytes(count, 1));
            py::array_t<float> x(static_cast<py::ssize_t>(count));
            float* const out = x.mutable_data();
            const py::gil_scoped_release unlocked;
            unpack_signs(out, packed, scale, count);
            return x;
        },
        py::arg("packed"), py::arg("scale"), py::arg("count"));

    m.def("add_mask", &mask<Mask::add>, py::arg("values"), py::arg("key"), py::arg("nonce"));
    m.def("subtract_mask", &mask<Mask::subtract>, py::arg("values"), py::arg("key"), py::arg("nonce"));
}

}  // namespace fedge::bindings
