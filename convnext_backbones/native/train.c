/* Gradients, in single precision. Parts of the work are always the same threads', so that sums have
 * the same order in every run with as many threads. */

#include "train.h"

#include "depthwise.h"

#define TAPS (KERNEL * KERNEL)
#define TILE_FLOATS ((TILE_HEIGHT + KERNEL - 1) * (TILE_WIDTH + KERNEL - 1) * LINE)

struct tile {
    long sample, top, left, rows, columns;
};

static long lines(const struct depthwise *d) { return parts(d->channels, LINE); }

static long own_floats(const struct depthwise *d) { return lines(d) * (TAPS + 1) * LINE; }

long depthwise_scratch(const struct depthwise *d) {
    return d->threads * own_floats(d) + ALIGNMENT / sizeof(float);
}

/* Add the products of one LINE of a tile to the gradients of taps and bias. */
SEPARATE void add_products(const float *x, const float *gradient, long rows, long columns,
                           float *sums) {
    long row = (columns + KERNEL - 1) * LINE;
    gradient += RADIUS * row + RADIUS * LINE; /* skips the margin */
    for (long v = 0; v < LINE; v += LANES) {
        for (long i = 0; i < KERNEL; i++) {
            vector found[KERNEL];
            UNROLL(7)
            for (int j = 0; j < KERNEL; j++) found[j] = load(sums + (i * KERNEL + j) * LINE + v);
            for (long r = 0; r < rows; r++) {
                const float *from = x + (r + i) * row + v, *factor = gradient + r * row + v;
                for (long q = 0; q < columns; q++, from += LINE, factor += LINE) {
                    vector value = load(factor);
                    UNROLL(7)
                    for (int j = 0; j < KERNEL; j++) found[j] += value * load(from + j * LINE);
                }
            }
            UNROLL(7)
            for (int j = 0; j < KERNEL; j++) store(sums + (i * KERNEL + j) * LINE + v, found[j]);
        }
        vector total = load(sums + TAPS * LINE + v);
        for (long r = 0; r < rows; r++)
            for (long q = 0; q < columns; q++) total += load(gradient + r * row + q * LINE + v);
        store(sums + TAPS * LINE + v, total);
    }
}

static void differentiate_tile(const struct depthwise *d, struct tile t, float *sums) {
    float x[TILE_FLOATS] __attribute__((aligned(ALIGNMENT)));
    float gradient[TILE_FLOATS] __attribute__((aligned(ALIGNMENT)));
    float taps[TAPS * LINE] __attribute__((aligned(ALIGNMENT))), bias[LINE] = {0};
    struct map map = {d->height, d->width, d->channels};
    long c = d->channels, start = t.sample * d->height * d->width * c;
    for (long channel = 0; channel < c; channel += LINE, sums += (TAPS + 1) * LINE) {
        long count = min(LINE, c - channel);
        copy_tile(d->gradient + start, map, t.top, t.left, t.rows, t.columns, channel, gradient);
        if (d->input_gradient) {
            float *out = d->input_gradient + start + (t.top * d->width + t.left) * c + channel;
            for (long i = 0; i < TAPS; i++)
                copy_line(d->flipped + i * c + channel, count, taps + i * LINE);
            convolve_tile(gradient, t.rows, t.columns, taps, bias, out, d->width * c, c, count);
        }
        if (d->taps_gradient) {
            copy_tile(d->x + start, map, t.top, t.left, t.rows, t.columns, channel, x);
            add_products(x, gradient, t.rows, t.columns, sums);
        }
    }
}

void depthwise_backward(const struct depthwise *d) {
    long width = share(d->width, TILE_WIDTH), across = parts(d->width, width);
    long height = share(d->height, TILE_HEIGHT);
    while (height > 1 && d->samples * across * parts(d->height, height) < 2 * d->threads)
        height = (height + 1) / 2;
    long along = parts(d->height, height), size = own_floats(d);
    float *sums = aligned(d->scratch);
#pragma omp parallel num_threads(d->threads)
    {
        float *own = sums + omp_get_thread_num() * size;
        memset(own, 0, size * sizeof(float));
#pragma omp for schedule(static)
        for (long i = 0; i < d->samples * along * across; i++) {
            struct tile t = {i / across / along, i / across % along * height, i % across * width};
            t.rows = min(height, d->height - t.top);
            t.columns = min(width, d->width - t.left);
            differentiate_tile(d, t, own);
        }
#pragma omp for schedule(static)
        for (long channel = 0; channel < d->channels; channel++)
            for (long i = 0; d->taps_gradient && i <= TAPS; i++) {
                long place = (channel / LINE * (TAPS + 1) + i) * LINE + channel % LINE;
                float total = 0;
                for (int t = 0; t < omp_get_num_threads(); t++) total += sums[t * size + place];
                d->taps_gradient[i * d->channels + channel] = total;
            }
    }
}

/* exp(-x * x / 2): a power of two, whose fraction is a polynomial, off by 2e-7 of it at most. */
INLINE vector bell(vector x) {
    vector power = clamp(x * x * -0.72134752f, 126);
    integers whole = __builtin_convertvector(power - 0.5f, integers); /* power is not positive */
    vector f = power - __builtin_convertvector(whole, vector);
    vector y = f * 1.54035304e-4f + 1.33335581e-3f;
    y = y * f + 9.61812911e-3f;
    y = y * f + 5.55041087e-2f;
    y = y * f + 2.40226507e-1f;
    y = y * f + 6.93147181e-1f;
    y = y * f + 1.0f;
    return (vector)((integers)y + (whole << 23));
}

INLINE vector gelu_slope(vector x) {
    return gaussian_share(x) + x * bell(x) * 0.39894228f;
}

void gelu_backward(const float *x, const float *gradient, float *out, long count, int threads) {
    long whole = count / LANES * LANES;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long i = 0; i < whole; i += LANES)
        store(out + i, load(gradient + i) * gelu_slope(load(x + i)));
    if (whole < count) {
        long rest = count - whole;
        vector slope = gelu_slope(load_some(x + whole, rest));
        store_some(out + whole, load_some(gradient + whole, rest) * slope, rest);
    }
}
