// exp, log, tanh, sigmoid and softplus of the float tables.
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "../src/kernels.hpp"
#include "check.hpp"

using namespace fedge;

namespace {

using Apply = void (*FloatKernels::*)(float*, std::size_t) noexcept;
using Slope = void (*FloatKernels::*)(float*, const float*, std::size_t) noexcept;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr Arithmetic both[] = {Arithmetic::reproducible, Arithmetic::fast};

std::uint32_t bits(float v) {
    std::uint32_t b;
    std::memcpy(&b, &v, sizeof b);
    return b;
}

float from_bits(std::uint32_t b) {
    float v;
    std::memcpy(&v, &b, sizeof v);
    return v;
}

// The functions of src/wide/math.hpp on one float, as a microcontroller would have them.
namespace scalar {

struct Reduced {
    std::uint32_t biased;
    float small;
};

Reduced reduce(float x) {
    const float shifted = x * 0x1.715476p+0F + 12582912.0F;
    const float n = shifted - 12582912.0F;
    const float r = (x - n * 0x1.62e4p-1F) - n * 0x1.7f7d1cp-20F;
    float p = 0x1.6b9ce8p-10F;
    p = p * r + 0x1.12256cp-7F;
    p = p * r + 0x1.5556f2p-5F;
    p = p * r + 0x1.5554b4p-3F;
    p = p * r + 0x1.fffffep-2F;
    return {bits(shifted) - (0x4b400000U - 254U), (r * r) * p + r};
}

float exp(float x) {
    if (x != x) return x;
    const Reduced at = reduce(x > 89.0F ? 89.0F : x < -104.0F ? -104.0F : x);
    const std::uint32_t half = at.biased >> 1;
    return (1.0F + at.small) * from_bits(half << 23) * from_bits((at.biased - half) << 23);
}

float log_of_parts(float k, float f) {
    float p = -0x1.71e32cp-5F;
    p = p * f + 0x1.acf4a8p-4F;
    p = p * f - 0x1.0d98f0p-3F;
    p = p * f + 0x1.28807ap-3F;
    p = p * f - 0x1.54ed96p-3F;
    p = p * f + 0x1.99699ep-3F;
    p = p * f - 0x1.00004ap-2F;
    p = p * f + 0x1.5555a4p-2F;
    const float square = f * f;
    const float rest = ((square * f) * p + k * 0x1.7f7d1cp-20F) - 0.5F * square;
    return (f + rest) + k * 0x1.62e4p-1F;
}

float log(float x) {
    if (!(x > 0.0F)) return x == 0.0F ? -infinity : nan;
    if (x == infinity) return x;
    const bool tiny = x < 0x1p-126F;
    const std::uint32_t scaled = bits(tiny ? x * 0x1p23F : x), exponent = (scaled + 0x400000U) >> 23;
    const float k = static_cast<float>(static_cast<int>(exponent) - (tiny ? 150 : 127));
    return log_of_parts(k, from_bits(scaled - ((exponent - 127U) << 23)) - 1.0F);
}

float tanh(float x) {
    const float size = std::fabs(x), square = x * x;
    float p = -0x1.750ce4p-8F;
    p = p * square + 0x1.51f8cep-6F;
    p = p * square - 0x1.b835a4p-5F;
    p = p * square + 0x1.1106f6p-3F;
    p = p * square - 0x1.555532p-2F;
    if (size < 0.625F) return std::copysign((size * square) * p + size, x);
    return std::copysign(1.0F - 2.0F / (exp(size > 10.0F ? 20.0F : size * 2.0F) + 1.0F), x);
}

float sigmoid(float x) {
    const float e = exp(-std::fabs(x)), share = e / (1.0F + e);
    return x < 0.0F ? e - e * share : 1.0F - share;
}

float softplus(float x) {
    const float u = exp(-std::fabs(x));
    const float rest = u > 0.5F ? log_of_parts(1.0F, (u - 1.0F) * 0.5F) : log_of_parts(0.0F, u);
    return (x < 0.0F ? 0.0F : x) + rest;
}

}  // namespace scalar

struct Function {
    Apply kernel;
    float (*scalar)(float);
    double (*exact)(double);
    double bound;  // units in the last place
};

const Function functions[] = {
    {&FloatKernels::exp, scalar::exp, [](double x) { return std::exp(x); }, 1.04},
    {&FloatKernels::log, scalar::log, [](double x) { return std::log(x); }, 0.89},
    {&FloatKernels::tanh, scalar::tanh, [](double x) { return std::tanh(x); }, 1.34},
    {&FloatKernels::sigmoid, scalar::sigmoid,
     [](double x) { return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x)); }, 1.87},
    {&FloatKernels::softplus, scalar::softplus,
     [](double x) { return std::fmax(x, 0) + std::log1p(std::exp(-std::fabs(x))); }, 1.68},
};

double last_place(double exact) {
    int exponent = 0;
    std::frexp(exact, &exponent);
    return std::ldexp(1.0, exponent < -125 ? -149 : exponent - 24);
}

bool same(float a, float b) { return bits(a) == bits(b) || (a != a && b != b); }

// Floats of every sign, exponent and kind of fraction, infinities, NaN and denormals among them: 1.05 million, and the
// places where something changes or is worst.
std::vector<float> sweep() {
    std::vector<float> x;
    for (std::uint32_t b = 0; b < 0xffffffffU - 4093U; b += 4093) x.push_back(from_bits(b));
    for (const float border : {0.0F, 0.5F, 0.625F, 0.75F, 1.0F, 1.5F, 9.0F, 10.0F, 87.3F, 88.72284F, 89.0F, 103.97208F,
                               104.0F, 0x1p-126F, 0x1p-149F, 0x1.fffffep+127F, infinity,
                               // the worst of exp, log, tanh, sigmoid, softplus
                               0x1.75e3cp+2F, 0x1.abae6p+4F, 0x1.6ce9b8p+0F, 0x1.6b07d6p+0F, 0x1.43183ap-1F,
                               0x1.1d2032p+0F, 0x1.22b072p+0F, 0x1.43c0c4p+0F}) {
        for (std::uint32_t step = 0; step < 64; ++step) {
            x.push_back(from_bits(bits(border) + step - 32));
            x.push_back(-from_bits(bits(border) + step - 32));
        }
    }
    return x;
}

// NEON on 32-bit ARM takes subnormal numbers for zero, which the fast unit there accepts: it tells by what it does.
bool flushes(const FloatKernels& kernels) {
    float x = 1e-40F;
    kernels.scale(&x, 1.0F, 1);
    return x == 0.0F;
}

void every_function_is_as_exact_as_stated() {
    const std::vector<float> x = sweep();
    for (const Function& function : functions) {
        for (const Arithmetic arithmetic : both) {
            const bool flushed = flushes(float_kernels(arithmetic));
            const double lost = flushed ? 0x1p-126 : 0.0;  // the smallest number that is not subnormal
            std::vector<float> y = x;
            (float_kernels(arithmetic).*function.kernel)(y.data(), y.size());
            std::size_t wrong = 0;
            for (std::size_t i = 0; i < x.size(); ++i) {
                const bool vanishes = flushed && std::fabs(x[i]) < 0x1p-126F;
                const double exact = function.exact(vanishes ? std::copysign(0.0, static_cast<double>(x[i]))
                                                             : static_cast<double>(x[i]));
                const auto rounded = static_cast<float>(exact);
                if (!std::isfinite(rounded)) {
                    wrong += same(y[i], rounded) ? 0 : 1;
                } else {  // written so that NaN fails
                    const double error = std::fabs(static_cast<double>(y[i]) - exact);
                    wrong += error <= function.bound * last_place(exact) + lost ? 0 : 1;
                }
            }
            CHECK(wrong == 0);
        }
    }
}

void a_scalar_transcription_gives_the_same_bits() {
    const std::vector<float> x = sweep();
    for (const Function& function : functions) {
        std::vector<float> y = x;
        (float_kernels(Arithmetic::reproducible).*function.kernel)(y.data(), y.size());
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < x.size(); ++i) wrong += same(y[i], function.scalar(x[i])) ? 0 : 1;
        CHECK(wrong == 0);
    }
}

void special_values_come_out_right() {
    for (const Arithmetic arithmetic : both) {
        const FloatKernels& kernels = float_kernels(arithmetic);
        const auto of = [&kernels](Apply kernel, float x) {
            (kernels.*kernel)(&x, 1);
            return x;
        };
        CHECK(of(&FloatKernels::exp, 0.0F) == 1.0F && of(&FloatKernels::exp, -0.0F) == 1.0F);
        CHECK(of(&FloatKernels::exp, 1e-40F) == 1.0F);
        CHECK(of(&FloatKernels::exp, infinity) == infinity && bits(of(&FloatKernels::exp, -infinity)) == 0);
        CHECK(of(&FloatKernels::exp, 88.73F) == infinity);
        CHECK(bits(of(&FloatKernels::log, 1.0F)) == 0 && of(&FloatKernels::log, -0.0F) == -infinity);
        CHECK(of(&FloatKernels::log, infinity) == infinity && std::isnan(of(&FloatKernels::log, -infinity)));
        CHECK(bits(of(&FloatKernels::tanh, -0.0F)) == 0x80000000U);
        CHECK(of(&FloatKernels::tanh, infinity) == 1.0F && of(&FloatKernels::tanh, -infinity) == -1.0F);
        CHECK(of(&FloatKernels::sigmoid, 0.0F) == 0.5F && of(&FloatKernels::sigmoid, infinity) == 1.0F);
        CHECK(of(&FloatKernels::sigmoid, -infinity) == 0.0F);
        CHECK(of(&FloatKernels::softplus, infinity) == infinity && of(&FloatKernels::softplus, -infinity) == 0.0F);
        CHECK(of(&FloatKernels::softplus, 3e38F) == 3e38F);
        if (!flushes(kernels)) {
            CHECK(of(&FloatKernels::exp, -103.0F) == 0x1p-149F);
            CHECK(std::isnan(of(&FloatKernels::log, -1e-40F)));
            CHECK(of(&FloatKernels::tanh, 1e-40F) == 1e-40F);
            CHECK(of(&FloatKernels::sigmoid, -100.0F) > 0.0F && of(&FloatKernels::softplus, -100.0F) > 0.0F);
        }
        CHECK(of(&FloatKernels::relu, 2.0F) == 2.0F && of(&FloatKernels::relu, -2.0F) == 0.0F);
        CHECK(of(&FloatKernels::relu, infinity) == infinity && of(&FloatKernels::relu, -infinity) == 0.0F);
        for (const Apply kernel : {&FloatKernels::exp, &FloatKernels::log, &FloatKernels::relu, &FloatKernels::tanh,
                                   &FloatKernels::sigmoid, &FloatKernels::softplus}) {
            CHECK(std::isnan(of(kernel, nan)) && std::isnan(of(kernel, -nan)));
        }
    }
}

struct Derivative {
    Apply forward;
    Slope backward;
    double (*exact)(double y);
};

const Derivative derivatives[] = {
    {&FloatKernels::relu, &FloatKernels::relu_slope, [](double y) { return y > 0 ? 1.0 : 0.0; }},
    {&FloatKernels::tanh, &FloatKernels::tanh_slope, [](double y) { return 1 - y * y; }},
    {&FloatKernels::sigmoid, &FloatKernels::sigmoid_slope, [](double y) { return y * (1 - y); }},
    {&FloatKernels::softplus, &FloatKernels::softplus_slope, [](double y) { return -std::expm1(-y); }},
};

void slopes_follow_from_the_outputs() {
    std::vector<float> x;
    for (float v = -110.0F; v < 110.0F; v += 0.01F) x.push_back(v);
    for (const Derivative& derivative : derivatives) {
        for (const Arithmetic arithmetic : both) {
            const FloatKernels& kernels = float_kernels(arithmetic);
            std::vector<float> y = x, dy(x.size(), 3.0F);
            (kernels.*derivative.forward)(y.data(), y.size());
            (kernels.*derivative.backward)(dy.data(), y.data(), y.size());
            std::size_t wrong = 0;
            for (std::size_t i = 0; i < x.size(); ++i) {
                const double exact = derivative.exact(static_cast<double>(y[i]));
                // 1 - y * y cancels, and its square was rounded to 2^-25.
                const double bound = 0x1p-24 + 2.5 * last_place(exact);
                wrong += std::fabs(static_cast<double>(dy[i]) - 3.0 * exact) <= 3.0 * bound ? 0 : 1;
                if (derivative.forward == &FloatKernels::softplus) {
                    wrong += std::fabs(static_cast<double>(dy[i]) - 3.0 * exact) <= 9.0 * last_place(exact) ? 0 : 1;
                }
            }
            CHECK(wrong == 0);
        }
    }
}

void a_quiet_unit_drops_even_an_infinite_slope_and_nan_stays() {
    const FloatKernels& kernels = float_kernels(Arithmetic::reproducible);
    const float y[] = {0.0F, -0.0F, nan, 1.0F, 1.0F};
    float dy[] = {infinity, 1.0F, 2.0F, nan, 5.0F};
    kernels.relu_slope(dy, y, 5);
    CHECK(dy[0] == 0.0F && dy[1] == 0.0F && dy[2] == 2.0F && std::isnan(dy[3]) && dy[4] == 5.0F);
    for (const Slope kernel :
         {&FloatKernels::tanh_slope, &FloatKernels::sigmoid_slope, &FloatKernels::softplus_slope}) {
        float slope = 1.0F;
        (kernels.*kernel)(&slope, &y[2], 1);
        CHECK(std::isnan(slope));
    }
}

// Two arrays of up to `most` floats, each ending where memory ends.
class Ledges {
  public:
    explicit Ledges() : page_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))) {
        void* const p = mmap(nullptr, 4 * page_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(p != MAP_FAILED);
        base_ = static_cast<char*>(p);
        for (const std::size_t page : {std::size_t{0}, std::size_t{2}}) {
            CHECK(mprotect(base_ + page * page_, page_, PROT_READ | PROT_WRITE) == 0);
        }
    }
    ~Ledges() { munmap(base_, 4 * page_); }
    Ledges(const Ledges&) = delete;
    Ledges& operator=(const Ledges&) = delete;

    float* first(std::size_t n) const { return reinterpret_cast<float*>(base_ + page_) - n; }
    float* second(std::size_t n) const { return reinterpret_cast<float*>(base_ + 3 * page_) - n; }

  private:
    std::size_t page_;
    char* base_ = nullptr;
};

void a_place_in_the_array_changes_no_bits_and_nothing_beyond_is_touched() {
    const Ledges ledges;
    for (const Arithmetic arithmetic : both) {
        const FloatKernels& kernels = float_kernels(arithmetic);
        for (std::size_t n = 0; n <= 70; ++n) {
            float *const y = ledges.first(n), *const dy = ledges.second(n);
            for (const Derivative& derivative : derivatives) {
                y[-1] = dy[-1] = 7.0F;
                for (std::size_t i = 0; i < n; ++i) y[i] = 0.37F * static_cast<float>(i) - 5.0F, dy[i] = 1.5F - y[i];
                (kernels.*derivative.forward)(y, n);
                (kernels.*derivative.backward)(dy, y, n);
                CHECK(y[-1] == 7.0F && dy[-1] == 7.0F);
                std::size_t wrong = 0;
                for (std::size_t i = 0; i < n; ++i) {
                    const float x = 0.37F * static_cast<float>(i) - 5.0F;
                    float alone = x, slope = 1.5F - x;
                    (kernels.*derivative.forward)(&alone, 1);
                    (kernels.*derivative.backward)(&slope, &alone, 1);
                    wrong += bits(alone) == bits(y[i]) && bits(slope) == bits(dy[i]) ? 0 : 1;
                }
                CHECK(wrong == 0);
            }
        }
    }
}

}  // namespace

int main() {
    return check::run([] {
        every_function_is_as_exact_as_stated();
        a_scalar_transcription_gives_the_same_bits();
        special_values_come_out_right();
        slopes_follow_from_the_outputs();
        a_quiet_unit_drops_even_an_infinite_slope_and_nan_stays();
        a_place_in_the_array_changes_no_bits_and_nothing_beyond_is_touched();
    });
}
