/* Products of matrices: rows of a map times the rows of a weight, as a linear layer computes them.
 *
 * A weight is packed into panels: COLUMNS rows of it, transposed, so that a step along the input
 * channels reads two neighboring vectors.
 */

#pragma once

#include "vectors.h"

static long panels(long rows) { return parts(rows, COLUMNS); }

#if defined(__AVX__)
/* Transpose 8 x 8 floats. */
INLINE void transpose(const float *from, long stride, float *to, long to_stride) {
    __m256 x[8], y[8];
    UNROLL(8)
    for (int i = 0; i < 8; i++) x[i] = _mm256_loadu_ps(from + i * stride);
    UNROLL(4)
    for (int i = 0; i < 8; i += 2) {
        y[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
        y[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
    }
    UNROLL(2)
    for (int i = 0; i < 8; i += 4) {
        x[i] = _mm256_shuffle_ps(y[i], y[i + 2], 0x44);
        x[i + 1] = _mm256_shuffle_ps(y[i], y[i + 2], 0xEE);
        x[i + 2] = _mm256_shuffle_ps(y[i + 1], y[i + 3], 0x44);
        x[i + 3] = _mm256_shuffle_ps(y[i + 1], y[i + 3], 0xEE);
    }
    UNROLL(4)
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(to + i * to_stride, _mm256_permute2f128_ps(x[i], x[i + 4], 0x20));
        _mm256_storeu_ps(to + (i + 4) * to_stride, _mm256_permute2f128_ps(x[i], x[i + 4], 0x31));
    }
}
#else
INLINE void transpose(const float *from, long stride, float *to, long to_stride) {
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 8; j++) to[j * to_stride + i] = from[i * stride + j];
}
#endif

/* Pack one panel: `rows` rows of a weight, at most COLUMNS, with k input channels each. Missing
 * rows become zeros. With `scale`, input channel i is multiplied by scale[i]. */
static void pack(const float *weight, long stride, long rows, long k, const float *scale,
                 float *panel) {
    for (long first = 0; first < COLUMNS; first += 8) {
        long i = 0;
        const float *from = weight + first * stride;
        if (first + 8 <= rows)
            for (; i + 8 <= k; i += 8) transpose(from + i, stride, panel + i * COLUMNS + first, COLUMNS);
        for (; i < k; i++)
            for (long j = 0; j < 8; j++)
                panel[i * COLUMNS + first + j] = first + j < rows ? from[j * stride + i] : 0;
    }
    if (scale)
        for (long i = 0; i < k; i++)
            for (long j = 0; j < COLUMNS; j++) panel[i * COLUMNS + j] *= scale[i];
}

/* What becomes of the sums: SET and GELU replace `out`, ADD adds them to it. */
enum ending { SET, GELU, ADD };

/* Where the sums of some columns go; bias and scale may be missing. */
struct target {
    float *out;
    long stride;
    const float *bias, *scale;
};

/* Multiply rows of x, `stride` apart, with a panel. These are functions of their own that only write
 * sums, because then compilers keep all sums in registers. */
#define MULTIPLY(rows) \
    SEPARATE void multiply_##rows(const float *x, long stride, long k, const float *panel, \
                                  vector *out) { \
        vector sums[rows][2]; \
        UNROLL(16) \
        for (int r = 0; r < rows; r++) sums[r][0] = sums[r][1] = (vector){0}; \
        for (long i = 0; i < k; i++, x++, panel += COLUMNS) { \
            vector left = *(const vector *)panel, right = *(const vector *)(panel + LANES); \
            UNROLL(16) \
            for (int r = 0; r < rows; r++) { \
                vector value = all(x[r * stride]); \
                sums[r][0] += value * left; \
                sums[r][1] += value * right; \
            } \
        } \
        UNROLL(16) \
        for (int r = 0; r < rows; r++) out[2 * r] = sums[r][0], out[2 * r + 1] = sums[r][1]; \
    }

typedef void multiplication(const float *, long, long, const float *, vector *);

MULTIPLY(1)
MULTIPLY(2)
MULTIPLY(3)
MULTIPLY(4)
MULTIPLY(5)
MULTIPLY(6)
#if ROWS > 6
MULTIPLY(7)
MULTIPLY(8)
MULTIPLY(9)
MULTIPLY(10)
MULTIPLY(11)
MULTIPLY(12)
#endif

static multiplication *const MULTIPLICATIONS[] = {
    NULL, multiply_1, multiply_2, multiply_3, multiply_4,  multiply_5,  multiply_6,
#if ROWS > 6
    multiply_7, multiply_8, multiply_9, multiply_10, multiply_11, multiply_12,
#endif
};

/* Write the sums of some rows to their place. */
INLINE void finish(const enum ending ending, const vector *sums, long rows, struct target to,
                   long columns) {
    for (int half = 0; half < 2 && half * LANES < columns; half++) {
        long first = half * LANES, count = columns - first;
        vector bias = to.bias ? load_some(to.bias + first, count) : (vector){0};
        vector scale = to.scale ? load_some(to.scale + first, count) : all(1);
        for (long r = 0; r < rows; r++) {
            float *out = to.out + r * to.stride + first;
            vector y = sums[2 * r + half] + bias;
            if (ending == GELU) y = gelu(y);
            if (ending == ADD) y = load_some(out, count) + scale * y;
            store_some(out, y, count);
        }
    }
}

INLINE void multiply_all(const enum ending ending, const float *x, long m, long stride, long k,
                         const float *packed, struct target to, long columns) {
    for (long first = 0; first < columns; first += COLUMNS, packed += k * COLUMNS) {
        struct target part = {to.out + first, to.stride, to.bias ? to.bias + first : NULL,
                              to.scale ? to.scale + first : NULL};
        long count = columns - first < COLUMNS ? columns - first : COLUMNS;
        /* The next panel, or what follows: another weight in a series of products. */
        const char *next = (const char *)(packed + k * COLUMNS);
        long ahead = k * COLUMNS * sizeof(float);
        long step = (ahead * ROWS / m + ALIGNMENT) / ALIGNMENT * ALIGNMENT, fetched = 0;
        for (long row = 0; row < m; row += ROWS, part.out += ROWS * to.stride) {
            for (long end = min(fetched + step, ahead); fetched < end; fetched += ALIGNMENT)
                __builtin_prefetch(next + fetched, 0, 2);
            vector sums[2 * ROWS];
            long rows = min(m - row, ROWS);
            MULTIPLICATIONS[rows](x + row * stride, stride, k, packed, sums);
            finish(ending, sums, rows, part, count);
        }
    }
}

/* Multiply m rows of x, `stride` apart, of k channels, with packed panels of `columns` rows. */
SEPARATE void set_product(const float *x, long m, long stride, long k, const float *packed,
                        struct target to, long columns) {
    multiply_all(SET, x, m, stride, k, packed, to, columns);
}

SEPARATE void gelu_product(const float *x, long m, long stride, long k, const float *packed,
                         struct target to, long columns) {
    multiply_all(GELU, x, m, stride, k, packed, to, columns);
}

SEPARATE void add_product(const float *x, long m, long stride, long k, const float *packed,
                        struct target to, long columns) {
    multiply_all(ADD, x, m, stride, k, packed, to, columns);
}
