/* Stem, downsampling layers and output norms, in single precision. */

#include "maps.h"

#include "products.h"

#define CACHE (256 * 1024) /* bytes of the second cache that the patches of a thread fill */
#define SIDE 8             /* of the squares that are transposed */

static long depth(const struct patches *p) { return p->size * p->size * p->channels; }

/* Output positions that a thread takes at a time. */
static long together(const struct patches *p) {
    return max(CACHE / (long)sizeof(float) / depth(p) / ROWS, 4) * ROWS;
}

long patches_scratch(const struct patches *p) {
    long packed = panels(p->out_channels) * COLUMNS * depth(p);
    long own = together(p) * depth(p) + p->channels;
    return packed + p->threads * own + 2 * ALIGNMENT / sizeof(float);
}

/* Copy a patch as a row of the factor, (channels, size, size), by way of `position`. */
static void gather(const struct patches *p, const float *x, float *position, float *to) {
    long c = p->channels, area = p->size * p->size;
    for (long i = 0; i < p->size; i++)
        for (long j = 0; j < p->size; j++, to++) {
            const float *from = x + i * p->row_stride + j * p->column_stride;
            long stride = p->channel_stride;
            if (p->norms_input) {
                normalize(from, position, c, p->norm_weight, p->norm_bias, p->eps);
                from = position, stride = 1;
            }
            for (long k = 0; k < c; k++) to[k * area] = from[k * stride];
        }
}

static void convolve_some(const struct patches *p, long first, long m, const float *packed,
                          float *rows) {
    long height = p->height / p->size, width = p->width / p->size, k = depth(p);
    for (long i = 0; i < m; i++) {
        long row = (first + i) / width, column = (first + i) % width;
        const float *x = p->x + row / height * p->sample_stride;
        x += p->size * (row % height * p->row_stride + column * p->column_stride);
        gather(p, x, rows + together(p) * k, rows + i * k);
    }
    float *out = p->out + first * p->out_channels;
    struct target to = {out, p->out_channels, p->bias, NULL};
    set_product(rows, m, k, k, packed, to, p->out_channels);
    if (p->norms_input) return;
    for (long i = 0; i < m; i++, out += p->out_channels)
        normalize(out, out, p->out_channels, p->norm_weight, p->norm_bias, p->eps);
}

void convolve_patches(const struct patches *p) {
    long k = depth(p), total = p->samples * (p->height / p->size) * (p->width / p->size);
    long step = share(total, min(together(p), max(parts(total, p->threads), ROWS)));
    float *packed = aligned(p->scratch);
    float *rows = aligned(packed + panels(p->out_channels) * COLUMNS * k);
#pragma omp parallel num_threads(p->threads)
    {
#pragma omp for schedule(dynamic)
        for (long n = 0; n < p->out_channels; n += COLUMNS)
            pack(p->weight + n * k, k, min(COLUMNS, p->out_channels - n), k, NULL, packed + n * k);
        float *own = rows + omp_get_thread_num() * (together(p) * k + p->channels);
#pragma omp for schedule(dynamic)
        for (long first = 0; first < total; first += step)
            convolve_some(p, first, min(step, total - first), packed, own);
    }
}

/* Write some normalized positions, channels first. */
static void write_transposed(const struct output *o, const float *x, long m, float *rows,
                             float *out) {
    for (long i = 0; i < m; i++)
        normalize(x + i * o->channels, rows + i * o->channels, o->channels, o->weight, o->bias,
                  o->eps);
    long whole = m == SIDE ? o->channels / SIDE * SIDE : 0;
    for (long c = 0; c < whole; c += SIDE)
        transpose(rows + c, o->channels, out + c * o->positions, o->positions);
    for (long c = whole; c < o->channels; c++)
        for (long i = 0; i < m; i++) out[c * o->positions + i] = rows[i * o->channels + c];
}

void normalize_map(const struct output *o) {
    long squares = parts(o->positions, SIDE);
#pragma omp parallel num_threads(o->threads)
    {
        float *rows = malloc(SIDE * o->channels * sizeof(float));
#pragma omp for schedule(static)
        for (long i = 0; i < o->samples * squares; i++) {
            long sample = i / squares, first = i % squares * SIDE;
            long m = min(SIDE, o->positions - first);
            const float *x = o->x + (sample * o->positions + first) * o->channels;
            float *out = o->out + sample * o->positions * o->channels;
            if (o->channels_first)
                write_transposed(o, x, m, rows, out + first);
            else
                for (long j = 0; j < m; j++, x += o->channels)
                    normalize(x, out + (first + j) * o->channels, o->channels, o->weight, o->bias,
                              o->eps);
        }
        free(rows);
    }
}
