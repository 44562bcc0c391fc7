/* 3x3 convolution with a quarter of the multiplications: F(4 x 4, 3 x 3) of "Fast Algorithms for
 * Convolutional Neural Networks" (Lavin and Gray, CVPR 2016).
 *
 * A square of 4 x 4 results depends on 6 x 6 inputs. Sums of the inputs, times sums of the weights,
 * give 36 products, of which the results are sums. The products of many squares are products of
 * matrices, channels by channels.
 */

#include "winograd.h"

#include "products.h"

#define KERNEL 3
#define TAPS (KERNEL * KERNEL)
#define SIDE 4                  /* of a square of results */
#define WIDE (SIDE + KERNEL - 1) /* of the inputs that it depends on */
#define FACTORS (WIDE * WIDE)
/* Squares that a thread computes together: few stay in the cache, many read large weights, of more
 * than LARGE bytes, less often. */
#define FEW 48
#define MANY 96
#define LARGE (16 << 20)

/* The sums of six inputs along one axis; step floats lie between neighbors. */
INLINE void sum_inputs(const vector *in, vector *out, long step) {
    vector even = in[4 * step] - 4 * in[2 * step], odd = in[3 * step] - 4 * in[step];
    vector near = in[4 * step] - in[2 * step], far = 2 * (in[3 * step] - in[step]);
    out[0] = 4 * in[0] - 5 * in[2 * step] + in[4 * step];
    out[step] = even + odd;
    out[2 * step] = even - odd;
    out[3 * step] = near + far;
    out[4 * step] = near - far;
    out[5 * step] = 4 * in[step] - 5 * in[3 * step] + in[5 * step];
}

/* The six sums of three weights. */
INLINE void sum_weights(const vector *in, vector *out, long in_step, long step) {
    vector ends = in[0] + in[2 * in_step], middle = in[in_step];
    vector far = in[0] / 24 + in[2 * in_step] / 6;
    out[0] = in[0] / 4;
    out[step] = -(ends + middle) / 6;
    out[2 * step] = (middle - ends) / 6;
    out[3 * step] = far + middle / 12;
    out[4 * step] = far - middle / 12;
    out[5 * step] = in[2 * in_step];
}

/* The four sums of six products. */
INLINE void sum_products(const vector *in, vector *out, long step, long out_step) {
    vector near = in[step] + in[2 * step], far = in[3 * step] + in[4 * step];
    vector near_odd = in[step] - in[2 * step], far_odd = in[3 * step] - in[4 * step];
    out[0] = in[0] + near + far;
    out[out_step] = near_odd + 2 * far_odd;
    out[2 * out_step] = near + 4 * far;
    out[3 * out_step] = near_odd + 8 * far_odd + in[5 * step];
}

/* Pack the sums of the weights of one panel: for each factor, as `pack` does. */
static void pack_sums(const struct convolution *c, long panel, float *packed, float *taps) {
    long k = c->channels, stride = TAPS * k, first = panel * COLUMNS;
    for (long i = 0; i < TAPS; i++)
        pack(c->weight + first * stride + i * k, stride, min(COLUMNS, c->out_channels - first), k,
             NULL, taps + i * k * COLUMNS);
    long size = panels(c->out_channels) * COLUMNS * k; /* of a factor */
    packed += first * k;
    for (long v = 0; v < k * COLUMNS; v += LANES) {
        vector in[TAPS], half[KERNEL * WIDE], out[FACTORS];
        for (int i = 0; i < TAPS; i++) in[i] = load(taps + i * k * COLUMNS + v);
        for (int j = 0; j < KERNEL; j++) sum_weights(in + j, half + j, KERNEL, KERNEL);
        for (int i = 0; i < WIDE; i++) sum_weights(half + i * KERNEL, out + i * WIDE, 1, 1);
        for (int i = 0; i < FACTORS; i++) store(packed + i * size + v, out[i]);
    }
}

/* Write the sums of the inputs of one square: of factor i at to + i * stride. */
static void gather(const struct convolution *c, long sample, long top, long left, float *to,
                   long stride) {
    const float *x = c->x + sample * c->height * c->width * c->channels;
    for (long v = 0; v < c->channels; v += LANES) {
        vector in[FACTORS], half[FACTORS], out[FACTORS];
        for (long i = 0; i < FACTORS; i++) {
            long row = top + i / WIDE - 1, column = left + i % WIDE - 1;
            int inside = row >= 0 && row < c->height && column >= 0 && column < c->width;
            in[i] = inside ? load_some(x + (row * c->width + column) * c->channels + v,
                                       c->channels - v)
                           : (vector){0};
        }
        for (int j = 0; j < WIDE; j++) sum_inputs(in + j, half + j, WIDE);
        for (int i = 0; i < WIDE; i++) sum_inputs(half + i * WIDE, out + i * WIDE, 1);
        for (long i = 0; i < FACTORS; i++) store_some(to + i * stride + v, out[i], c->channels - v);
    }
}

/* Write the results of one square from its products: of factor i at from + i * stride. */
static void scatter(const struct convolution *c, long sample, long top, long left,
                    const float *from, long stride) {
    float *out = c->out + sample * c->height * c->width * c->out_channels;
    for (long v = 0; v < c->out_channels; v += LANES) {
        long count = c->out_channels - v;
        vector in[FACTORS], half[SIDE * WIDE], results[SIDE * SIDE];
        vector bias = c->bias ? load_some(c->bias + v, count) : (vector){0};
        for (int i = 0; i < FACTORS; i++) in[i] = load_some(from + i * stride + v, count);
        for (int j = 0; j < WIDE; j++) sum_products(in + j, half + j, WIDE, WIDE);
        for (int i = 0; i < SIDE; i++) sum_products(half + i * WIDE, results + i * SIDE, 1, 1);
        for (long i = 0; i < SIDE && top + i < c->height; i++)
            for (long j = 0; j < SIDE && left + j < c->width; j++) {
                vector y = results[i * SIDE + j] + bias;
                if (c->relu) y = rectify(y);
                store_some(out + ((top + i) * c->width + left + j) * c->out_channels + v, y, count);
            }
    }
}

static long together(const struct convolution *c) {
    long bytes = FACTORS * c->channels * c->out_channels * sizeof(float);
    long total = c->samples * parts(c->height, SIDE) * parts(c->width, SIDE);
    return equal_steps(total, bytes > LARGE ? MANY : FEW, c->threads);
}

static long own_floats(const struct convolution *c) {
    return FACTORS * (together(c) * (c->channels + c->out_channels) + 2 * LANES);
}

long convolution_scratch(const struct convolution *c) {
    long packed = panels(c->out_channels) * COLUMNS * c->channels;
    long own = max(own_floats(c), TAPS * c->channels * COLUMNS) + 3 * ALIGNMENT;
    return FACTORS * packed + c->threads * own + ALIGNMENT;
}

static void convolve_squares(const struct convolution *c, long first, long count,
                             const float *packed, float *inputs) {
    long across = parts(c->width, SIDE), along = parts(c->height, SIDE);
    long size = panels(c->out_channels) * COLUMNS * c->channels;
    long stride = together(c) * c->channels, out_stride = together(c) * c->out_channels;
    float *products = aligned(inputs + FACTORS * stride);
    for (long i = 0; i < count; i++) {
        long square = first + i;
        gather(c, square / across / along, square / across % along * SIDE, square % across * SIDE,
               inputs + i * c->channels, stride);
    }
    for (long i = 0; i < FACTORS; i++) {
        struct target to = {products + i * out_stride, c->out_channels, NULL, NULL};
        set_product(inputs + i * stride, count, c->channels, c->channels, packed + i * size, to,
                    c->out_channels);
    }
    for (long i = 0; i < count; i++) {
        long square = first + i;
        scatter(c, square / across / along, square / across % along * SIDE, square % across * SIDE,
                products + i * c->out_channels, out_stride);
    }
}

void convolve_3x3(const struct convolution *c) {
    long packed_floats = FACTORS * panels(c->out_channels) * COLUMNS * c->channels;
    long total = c->samples * parts(c->height, SIDE) * parts(c->width, SIDE);
    long step = together(c);
    long own = max(own_floats(c), TAPS * c->channels * COLUMNS) + 2 * ALIGNMENT;
    float *packed = aligned(c->scratch);
#pragma omp parallel num_threads(c->threads)
    {
        float *mine = aligned(packed + packed_floats + omp_get_thread_num() * own);
#pragma omp for schedule(dynamic)
        for (long panel = 0; panel < panels(c->out_channels); panel++)
            pack_sums(c, panel, packed, mine);
#pragma omp for schedule(dynamic)
        for (long first = 0; first < total; first += step)
            convolve_squares(c, first, min(step, total - first), packed, mine);
    }
}
