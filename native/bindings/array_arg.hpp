// Arguments from Python, checked once and in words. A wrong type (not an array, another dtype) is a TypeError; a wrong
// value (shape, layout, range) is a ValueError. Nothing is cast or copied.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "constructed.hpp"

namespace fedge::bindings {

namespace py = pybind11;

// One dimension: the letter that names it and, where something else decides its length, that length.
struct Dim {
    static constexpr py::ssize_t any = -1;

    Dim(const char* dim_name) : name(dim_name) {}  // NOLINT: implicit
    Dim(const char* dim_name, std::size_t want) : name(dim_name), length(static_cast<py::ssize_t>(want)) {}

    const char* name;
    py::ssize_t length = any;
};

template <class T>
struct View {
    T* data;
    std::array<std::size_t, 2> shape;  // a missing second dimension is 1
    std::size_t size() const { return shape[0] * shape[1]; }
};

template <class T>
const char* dtype_name() {
    if constexpr (std::is_same_v<T, float>) return "float32";
    if constexpr (std::is_same_v<T, double>) return "float64";
    if constexpr (std::is_same_v<T, std::int32_t>) return "int32";
    if constexpr (std::is_same_v<T, std::int64_t>) return "int64";
    if constexpr (std::is_same_v<T, std::uint32_t>) return "uint32";
}

// "(B, I=561)"
inline std::string shape_words(std::initializer_list<Dim> dims) {
    std::string words = "(";
    for (const Dim& dim : dims) {
        if (words.size() > 1) words += ", ";
        words += dim.name;
        if (dim.length != Dim::any) words += "=" + std::to_string(dim.length);
    }
    return words + (dims.size() == 1 ? ",)" : ")");
}

// The array behind `arg`: dtype T, C-contiguous, aligned, of these dimensions; writable unless T is const. Words are
// made only for a refusal: on small models the cost of a call is felt.
template <class T>
View<T> array_arg(py::handle arg, const char* name, std::initializer_list<Dim> dims) {
    using Element = std::remove_const_t<T>;
    const auto refusal = [&](const char* why) {
        std::string got = py::str(py::type::of(arg).attr("__name__"));
        if (py::isinstance<py::array>(arg)) {
            got = py::str(arg.attr("shape")).cast<std::string>() + " " + py::str(arg.attr("dtype")).cast<std::string>();
        }
        return "want " + std::string(name) + " " + shape_words(dims) + " " + dtype_name<Element>() + " C-contiguous" +
               (std::is_const_v<T> ? "" : " writable") + "; got " + got + why;
    };
    if (!py::isinstance<py::array_t<Element>>(arg)) throw py::type_error(refusal(""));
    const auto array = py::reinterpret_borrow<py::array>(arg);
    View<T> view{static_cast<T*>(const_cast<void*>(array.data())), {1, 1}};
    bool fits = array.ndim() == static_cast<py::ssize_t>(dims.size());
    for (std::size_t axis = 0; fits && axis < dims.size(); ++axis) {
        const py::ssize_t length = array.shape(static_cast<py::ssize_t>(axis)), want = dims.begin()[axis].length;
        fits = want == Dim::any || length == want;
        view.shape[axis] = static_cast<std::size_t>(length);
    }
    if (!fits) throw py::value_error(refusal(""));
    if ((array.flags() & py::array::c_style) == 0) throw py::value_error(refusal(", not C-contiguous"));
    if ((array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) == 0) throw py::value_error(refusal(", not aligned"));
    if (!std::is_const_v<T> && !array.writeable()) throw py::value_error(refusal(", read-only"));
    return view;
}

// A whole number in [low, high]; anything with __index__ is one, a float is not.
inline std::int64_t integer_arg(py::handle arg, const char* name, std::int64_t low, std::int64_t high) {
    const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(arg.ptr()));
    if (!number) {
        PyErr_Clear();
        throw py::type_error("want " + std::string(name) + " a whole number; got " + py::repr(arg).cast<std::string>());
    }
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
    if (overflow != 0 || value < low || value > high) {
        throw py::value_error("want " + std::string(name) + " in [" + std::to_string(low) + ", " +
                              std::to_string(high) + "]; got " + py::repr(number).cast<std::string>());
    }
    return value;
}

inline std::size_t count_arg(py::handle arg, const char* name, std::int64_t low, std::int64_t high) {
    return static_cast<std::size_t>(integer_arg(arg, name, low, high));
}

// `holds` states what `want` says; NaN must fail it.
inline double real_arg(py::handle arg, const char* name, const char* want, bool (*holds)(double)) {
    const double value = PyFloat_AsDouble(arg.ptr());
    if (value == -1.0 && PyErr_Occurred() != nullptr) {
        PyErr_Clear();
        throw py::type_error("want " + std::string(name) + " a real number; got " + py::repr(arg).cast<std::string>());
    }
    if (!holds(value)) {
        throw py::value_error("want " + std::string(name) + " " + want + "; got " + py::repr(arg).cast<std::string>());
    }
    return value;
}

inline bool positive_and_finite(double v) { return v > 0.0 && std::isfinite(v); }

// An argument written in place must not share memory with one that is read.
template <class T, class U>
void refuse_overlap(const View<T>& written, const char* written_name, const View<U>& read, const char* read_name) {
    const auto address = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p); };
    const std::uintptr_t w = address(written.data), r = address(read.data);
    if (w < r + read.size() * sizeof(U) && r < w + written.size() * sizeof(T)) {
        throw py::value_error(std::string(written_name) + " shares memory with " + read_name + "; want them apart");
    }
}

}  // namespace fedge::bindings
