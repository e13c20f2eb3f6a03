// What one core can do at most in single precision: fused multiply-adds on registers alone. GCC's vectors, so that
// -march=native finds the widest; enough independent sums to cover the latency of every processor known to us
// (4 cycles, 2 a cycle), and few enough for 16 registers.
#if defined(__AVX512F__)
enum { lanes = 16, sums = 12 };
#elif defined(__AVX__)
enum { lanes = 8, sums = 12 };
#else
enum { lanes = 4, sums = 12 };
#endif
typedef float vector __attribute__((vector_size(4 * lanes)));

// Returns the floating-point operations done; *sink keeps the compiler from leaving them out.
double peak_run(long rounds, float *sink) {
    vector sum[sums], a, b;
    for (int i = 0; i < lanes; ++i) a[i] = 0.999f, b[i] = 1e-3f;
    for (int s = 0; s < sums; ++s) sum[s] = a * (float)s;
    for (long r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
        for (int s = 0; s < sums; ++s) sum[s] = sum[s] * a + b;
    }
    for (int s = 0; s < sums; ++s) {
        for (int i = 0; i < lanes; ++i) *sink += sum[s][i];
    }
    return 2.0 * lanes * sums * (double)rounds;
}
