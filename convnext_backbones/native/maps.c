/* Stem, downsampling layers and output norms, in single precision. */

#include "maps.h"

#include "products.h"

#define CACHE (256 * 1024) /* bytes of the second cache that a thread's patches and results fill */
#define SIDE 8             /* of the squares that are transposed */

/* Up to so many patches, the threads share the output channels instead of the patches. */
#define FEW_PATCHES 300

static long depth(const struct patches *p) { return p->size * p->size * p->channels; }

static long patches(const struct patches *p) {
    return p->samples * (p->height / p->size) * (p->width / p->size);
}

/* Patches that a thread takes at a time. */
static long together(const struct patches *p) {
    long fitting = CACHE / (long)sizeof(float) / (depth(p) + p->out_channels) / ROWS;
    return equal_steps(patches(p), max(fitting, 8) * ROWS, p->threads);
}

/* The parts of the scratch memory. */
struct memory {
    float *packed;  /* weight; or a panel for each thread */
    float *factors; /* of few patches; else of some patches for each thread */
    float *patch;   /* a normalized one, for each thread */
    long floats;
};

static struct memory divide(const struct patches *p, float *scratch) {
    long few = patches(p) <= FEW_PATCHES, k = depth(p);
    long packed = (few ? p->threads : panels(p->out_channels)) * COLUMNS * k;
    long factors = (few ? patches(p) : p->threads * together(p)) * k;
    float *start = scratch ? aligned(scratch) : NULL;
    return (struct memory){start, start + packed, start + packed + factors,
                           packed + factors + p->threads * k};
}

long patches_scratch(const struct patches *p) {
    return divide(p, NULL).floats + ALIGNMENT / sizeof(float);
}

/* Write the values of some rows of `count` in turns. */
INLINE void interleave(const long rows, const float *restrict from, long count,
                       float *restrict to) {
    for (long k = 0; k < count; k++)
        for (long i = 0; i < rows; i++) to[k * rows + i] = from[i * count + k];
}

/* Copy the rows of a patch of all channels. */
INLINE void copy_patch(const struct patches *p, const long size, const long step,
                       const float *restrict x, float *restrict to) {
    for (long k = 0; k < p->channels; k++)
        for (long i = 0; i < size; i++, to += size)
            for (long j = 0; j < size; j++)
                to[j] = x[k * p->channel_stride + i * p->row_stride + j * step];
}

/* Write a patch as a row of the factor, (channels, size, size). With constants for the sizes of the
 * network, compilers use vectors. */
static void gather(const struct patches *p, const float *x, float *patch, float *to) {
    long c = p->channels, size = p->size;
    if (!p->norms_input && size == 4 && p->column_stride == 1) {
        copy_patch(p, 4, 1, x, to);
        return;
    }
    if (!p->norms_input) {
        copy_patch(p, size, p->column_stride, x, to);
        return;
    }
    for (long i = 0; i < size * size; i++)
        normalize(x + i / size * p->row_stride + i % size * p->column_stride, patch + i * c, c,
                  p->norm_weight, p->norm_bias, p->eps);
    if (size == 2)
        interleave(4, patch, c, to);
    else
        interleave(size * size, patch, c, to);
}

static void gather_some(const struct patches *p, long first, long m, float *patch, float *to) {
    long height = p->height / p->size, width = p->width / p->size;
    for (long i = first; i < first + m; i++, to += depth(p)) {
        long row = i / width, column = i % width;
        const float *x = p->x + row / height * p->sample_stride;
        x += p->size * (row % height * p->row_stride + column * p->column_stride);
        gather(p, x, patch, to);
    }
}

static void normalize_some(const struct patches *p, float *x, long m) {
    for (long i = 0; i < m; i++, x += p->out_channels)
        normalize(x, x, p->out_channels, p->norm_weight, p->norm_bias, p->eps);
}

static void pack_panel(const struct patches *p, long first, float *to) {
    long k = depth(p);
    pack(p->weight + first * k, k, min(COLUMNS, p->out_channels - first), k, NULL, to);
}

/* The threads share the patches. Called by all threads, like what follows. */
static void convolve_many(const struct patches *p, const struct memory *memory, float *patch) {
    long k = depth(p), total = patches(p), step = together(p);
    float *rows = memory->factors + omp_get_thread_num() * step * k;
#pragma omp for schedule(dynamic)
    for (long j = 0; j < p->out_channels; j += COLUMNS) pack_panel(p, j, memory->packed + j * k);
#pragma omp for schedule(dynamic)
    for (long first = 0; first < total; first += step) {
        long m = min(step, total - first);
        float *out = p->out + first * p->out_channels;
        struct target to = {out, p->out_channels, p->bias, NULL};
        gather_some(p, first, m, patch, rows);
        set_product(rows, m, k, k, memory->packed, to, p->out_channels);
        if (!p->norms_input) normalize_some(p, out, m);
    }
}

/* The threads share the output channels, so that each reads and packs its part of the weight. */
static void convolve_few(const struct patches *p, const struct memory *memory, float *patch) {
    long k = depth(p), total = patches(p);
    float *panel = memory->packed + omp_get_thread_num() * COLUMNS * k;
#pragma omp for
    for (long i = 0; i < total; i++) gather_some(p, i, 1, patch, memory->factors + i * k);
#pragma omp for schedule(dynamic)
    for (long j = 0; j < p->out_channels; j += COLUMNS) {
        struct target to = {p->out + j, p->out_channels, p->bias ? p->bias + j : NULL, NULL};
        pack_panel(p, j, panel);
        set_product(memory->factors, total, k, k, panel, to, min(COLUMNS, p->out_channels - j));
    }
    if (p->norms_input) return;
#pragma omp for
    for (long i = 0; i < total; i++) normalize_some(p, p->out + i * p->out_channels, 1);
}

void convolve_patches(const struct patches *p) {
    struct memory memory = divide(p, p->scratch);
#pragma omp parallel num_threads(p->threads)
    {
        float *patch = memory.patch + omp_get_thread_num() * depth(p);
        if (patches(p) <= FEW_PATCHES)
            convolve_few(p, &memory, patch);
        else
            convolve_many(p, &memory, patch);
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
