/* Vectors of floats, as wide as the processor's registers, and what is computed with them. */

#pragma once

#include <math.h>
#include <omp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX__)
#include <immintrin.h>
#endif

/* LANES: floats of a vector. ROWS: rows of a product that are computed together, two vectors each,
 * such that sums, factors and a broadcast value fill the registers: 16 of them with SSE and AVX, 32
 * with AVX-512 and on ARM. Tests set both, to compute as other processors do. */
#if !defined(LANES)
#if defined(__AVX512F__)
#define LANES 16
#define ROWS 12
#elif defined(__AVX__)
#define LANES 8
#define ROWS 6
#elif defined(__aarch64__)
#define LANES 4
#define ROWS 12
#else
#define LANES 4
#define ROWS 6
#endif
#endif
#define COLUMNS (2 * LANES)
#define ALIGNMENT 64 /* bytes of a line of the cache, and of the widest vectors */

#define PRAGMA(x) _Pragma(#x)
#define UNROLL(n) PRAGMA(GCC unroll n)
#define INLINE static inline __attribute__((always_inline))
#define SEPARATE static __attribute__((noinline, unused))

static long min(long a, long b) { return a < b ? a : b; }

static long max(long a, long b) { return a > b ? a : b; }

/* How many parts of a size cover a total. */
static long parts(long total, long size) { return (total + size - 1) / size; }

/* The size of equal parts of a total, at most `limit`. */
static long share(long total, long limit) { return parts(total, parts(total, limit)); }

/* The size of steps, at most `limit`, whole ROWS, with which the last of the threads ends first. */
static long equal_steps(long total, long limit, long threads) {
    long best = limit, least = -1, smallest = total < limit * threads ? 0 : limit / 2;
    for (long size = limit / ROWS * ROWS; size >= max(smallest, ROWS); size -= ROWS) {
        long each = parts(parts(total, size), threads) * size; /* of the thread with the most */
        if (least < 0 || each < least) best = size, least = each;
    }
    return best;
}

static float *aligned(float *pointer) {
    return (float *)(((size_t)pointer + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
}

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef float anywhere __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef int integers __attribute__((vector_size(4 * LANES)));

INLINE vector load(const float *from) { return *(const anywhere *)from; }

INLINE void store(float *to, vector x) { *(anywhere *)to = x; }

INLINE vector all(float x) { return x - (vector){0}; }

INLINE float sum(vector x) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)x);
#elif defined(__AVX__)
    __m128 low = _mm256_castps256_ps128((__m256)x), high = _mm256_extractf128_ps((__m256)x, 1);
    __m128 halves = _mm_add_ps(low, high);
    halves = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
    return halves[0] + halves[1];
#else
    float total = 0;
    for (int i = 0; i < LANES; i++) total += x[i];
    return total;
#endif
}

/* The first where the mask is set, the second elsewhere. */
INLINE vector choose(integers chosen, vector first, vector second) {
    return (vector)((chosen & (integers)first) | (~chosen & (integers)second));
}

INLINE vector clamp(vector x, float limit) {
    vector most = all(limit), least = all(-limit);
#if defined(__AVX512F__)
    return (vector)_mm512_max_ps(_mm512_min_ps((__m512)x, (__m512)most), (__m512)least);
#elif defined(__AVX__)
    return (vector)_mm256_max_ps(_mm256_min_ps((__m256)x, (__m256)most), (__m256)least);
#else
    x = choose(x > most, most, x);
    return choose(x < least, least, x);
#endif
}

/* The positive values, and NaN; the others become zero. */
INLINE vector rectify(vector x) {
#if defined(__AVX512F__)
    return (vector)_mm512_max_ps(_mm512_setzero_ps(), (__m512)x);
#elif defined(__AVX__)
    return (vector)_mm256_max_ps(_mm256_setzero_ps(), (__m256)x);
#else
    return choose(x < 0, (vector){0}, x);
#endif
}

/* The first `count` of the floats at `from`, then zeros. */
INLINE vector load_some(const float *from, long count) {
    if (count >= LANES) return load(from);
    vector x = {0};
    for (long i = 0; i < count; i++) x[i] = from[i];
    return x;
}

INLINE void store_some(float *to, vector x, long count) {
    if (count >= LANES)
        store(to, x);
    else
        for (long i = 0; i < count; i++) to[i] = x[i];
}

/* 1 / x to the last bit or two, for x that is neither zero nor infinite. */
INLINE vector reciprocal(vector x) {
#if defined(__AVX512F__)
    vector y = (vector)_mm512_rcp14_ps((__m512)x);
    return y * (2.0f - x * y);
#else
    return 1.0f / x;
#endif
}

/* The share of a normal distribution below x: 1/2 + t * p(t * t) / q(t * t), with x limited to where
 * it changes. Fitted to the exact function: off by 2.2e-7 at most, in single precision. */
INLINE vector gaussian_share(vector x) {
    vector t = clamp(x, 5.4f), s = t * t;
    vector p = s * 1.144825030e-10f - 2.310323700e-08f;
    p = p * s + 3.526248706e-06f;
    p = p * s + 1.897811151e-04f;
    p = p * s + 4.622374972e-03f;
    p = p * s + 3.763519335e-02f;
    p = p * s + 3.989416835e-01f;
    vector q = s * 6.951264555e-05f + 1.936070765e-03f;
    q = q * s + 3.009553754e-02f;
    q = q * s + 2.609977029e-01f;
    q = q * s + 1.0f;
    return 0.5f + t * p * reciprocal(q);
}

INLINE vector gelu(vector x) { return x * gaussian_share(x); }

/* LayerNorm of one position with c channels; `to` may be `from`. */
static void normalize(const float *from, float *to, long c, const float *weight, const float *bias,
                      float eps) {
    vector total = {0}, squares = {0};
    long whole = c / LANES * LANES, rest = c - whole;
    for (long v = 0; v < whole; v += LANES) total += load(from + v);
    float mean = (sum(total) + sum(load_some(from + whole, rest))) / c;
    for (long v = 0; v < whole; v += LANES) {
        vector deviation = load(from + v) - mean;
        squares += deviation * deviation;
    }
    float variance = sum(squares);
    for (long v = whole; v < c; v++) variance += (from[v] - mean) * (from[v] - mean);
    float scale = 1 / sqrtf(variance / c + eps);
    for (long v = 0; v < whole; v += LANES)
        store(to + v, (load(from + v) - mean) * scale * load(weight + v) + load(bias + v));
    for (long v = whole; v < c; v++) to[v] = (from[v] - mean) * scale * weight[v] + bias[v];
}
