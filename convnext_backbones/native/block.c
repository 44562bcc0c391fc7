/* One ConvNeXt block, in place on a channels_last map in single precision.
 *
 * First the normalized depthwise convolution of the whole map is computed, then, a part of the
 * hidden channels at a time, both pointwise layers: the part's weights are packed, and each thread
 * takes some positions through both, so that their hidden map stays in its cache. Global response
 * normalization needs the hidden map of a whole sample in between, which is kept then.
 */

#include "block.h"

#include "depthwise.h"
#include "products.h"

/* Hidden channels that are computed at once, and the most positions. */
#define PART 384
#define POSITIONS 192
/* Up to so many positions, the threads share the channels instead of the positions. */
#define FEW_POSITIONS 300
/* Bytes of the second cache that a thread's positions fill, input and hidden map. */
#define CACHE (360 * 1024)
#define GRN_EPS 1e-6f

/* The parts of the scratch memory. */
struct memory {
    float *taps;       /* of the depthwise convolution, (KERNEL, KERNEL, channels) */
    float *y;          /* normalized map of all samples, (samples, height, width, channels) */
    float *up, *down;  /* packed parts of pwconv1 and pwconv2; or a panel for each thread */
    float *hidden;     /* of few positions, or of a sample with GRN; else a part for each thread */
    float *squares;    /* sums of squares of the hidden channels, for each thread */
    float *scale;      /* of the hidden channels, by GRN */
    float *total_bias; /* of pwconv2, with that of GRN */
    long floats;
};

static long rounded(long floats) {
    long step = ALIGNMENT / sizeof(float);
    return (floats + step - 1) / step * step;
}

static float *take(struct memory *memory, float *scratch, long floats) {
    float *start = scratch ? scratch + memory->floats : NULL;
    memory->floats += rounded(floats);
    return start;
}

static struct memory divide(const struct block *b, float *scratch) {
    struct memory memory = {0};
    long positions = b->height * b->width, has_grn = b->grn_gamma != NULL;
    long total = b->samples * positions;
    memory.taps = take(&memory, scratch, KERNEL * KERNEL * b->channels);
    memory.y = take(&memory, scratch, total * b->channels);
    if (total <= FEW_POSITIONS) {
        memory.hidden = take(&memory, scratch, total * b->hidden);
        memory.up = take(&memory, scratch, b->threads * rounded(COLUMNS * b->hidden));
    } else {
        memory.up = take(&memory, scratch, panels(PART) * COLUMNS * b->channels);
        memory.down = take(&memory, scratch, panels(b->channels) * COLUMNS * PART);
        long own = b->threads * (long)POSITIONS * PART;
        memory.hidden = take(&memory, scratch, has_grn ? positions * b->hidden : own);
    }
    memory.squares = take(&memory, scratch, has_grn * b->threads * rounded(b->hidden));
    memory.scale = take(&memory, scratch, has_grn * b->hidden);
    memory.total_bias = take(&memory, scratch, b->channels);
    return memory;
}

long block_scratch(const struct block *b) {
    return divide(b, NULL).floats + ALIGNMENT / sizeof(float);
}

/* Write the normalized convolution of a tile. */
static void expand_tile(const struct block *b, const float *all_taps, long sample, long top,
                        long left, long rows, long columns, float *y) {
    float x[(TILE_HEIGHT + KERNEL - 1) * (TILE_WIDTH + KERNEL - 1) * LINE]
        __attribute__((aligned(ALIGNMENT)));
    float taps[KERNEL * KERNEL * LINE] __attribute__((aligned(ALIGNMENT))), bias[LINE];
    struct map map = {b->height, b->width, b->channels};
    long c = b->channels, start = sample * b->height * b->width * c;
    y += start + (top * b->width + left) * c;
    for (long channel = 0; channel < c; channel += LINE) {
        long count = min(LINE, c - channel);
        copy_tile(b->x + start, map, top, left, rows, columns, channel, x);
        for (long i = 0; i < KERNEL * KERNEL; i++)
            copy_line(all_taps + i * c + channel, count, taps + i * LINE);
        copy_line(b->dwconv_bias + channel, count, bias);
        convolve_tile(x, rows, columns, taps, bias, y + channel, b->width * c, c, count);
    }
    for (long r = 0; r < rows; r++)
        for (long q = 0; q < columns; q++) {
            float *position = y + (r * b->width + q) * c;
            normalize(position, position, c, b->norm_weight, b->norm_bias, b->eps);
        }
}

/* Write the normalized convolution of all samples. Called by all threads, like what follows. */
static void expand(const struct block *b, float *taps, float *y) {
    long width = share(b->width, TILE_WIDTH), across = parts(b->width, width);
    long height = share(b->height, TILE_HEIGHT);
    while (height > 1 && b->samples * across * parts(b->height, height) < 2 * b->threads)
        height = (height + 1) / 2;
    long along = parts(b->height, height);
#pragma omp for
    for (long channel = 0; channel < b->channels; channel++)
        for (long i = 0; i < KERNEL * KERNEL; i++)
            taps[i * b->channels + channel] = b->dwconv[channel * KERNEL * KERNEL + i];
#pragma omp for schedule(dynamic)
    for (long tile = 0; tile < b->samples * along * across; tile++) {
        long top = tile / across % along * height, left = tile % across * width;
        expand_tile(b, taps, tile / across / along, top, left, min(height, b->height - top),
                    min(width, b->width - left), y);
    }
}

static void pack_up(const struct block *b, const struct memory *memory, long first, long size) {
    long c = b->channels;
#pragma omp for schedule(dynamic)
    for (long p = 0; p < size; p += COLUMNS)
        pack(b->pwconv1 + (first + p) * c, c, min(COLUMNS, size - p), c, NULL, memory->up + p * c);
}

static void pack_down(const struct block *b, const struct memory *memory, long first, long size,
                      const float *scale) {
#pragma omp for schedule(dynamic)
    for (long p = 0; p < b->channels; p += COLUMNS)
        pack(b->pwconv2 + p * b->hidden + first, b->hidden, min(COLUMNS, b->channels - p), size,
             scale, memory->down + p * size);
}

/* Positions that a thread takes at a time. */
static long together(const struct block *b, long total) {
    long fitting = CACHE / (long)sizeof(float) / (b->channels + PART) / ROWS * ROWS;
    return equal_steps(total, min(POSITIONS, max(fitting, 8 * ROWS)), b->threads);
}

/* Fetch floats that are changed soon. */
static void fetch(const float *from, long count) {
    for (long i = 0; i < count; i += ALIGNMENT / sizeof(float)) __builtin_prefetch(from + i, 1, 2);
}

static void add_branch(const struct block *b, const struct memory *memory) {
    long c = b->channels, total = b->samples * b->height * b->width, step = together(b, total);
    float *hidden = memory->hidden + omp_get_thread_num() * (long)POSITIONS * PART;
    for (long first = 0; first < b->hidden; first += PART) {
        long size = min(PART, b->hidden - first);
        pack_up(b, memory, first, size);
        pack_down(b, memory, first, size, NULL);
#pragma omp for schedule(dynamic)
        for (long start = 0; start < total; start += step) {
            long m = min(step, total - start);
            struct target up = {hidden, PART, b->pwconv1_bias + first, NULL};
            fetch(b->x + start * c, m * c);
            gelu_product(memory->y + start * c, m, c, c, memory->up, up, size);
            struct target down = {b->x + start * c, c, first ? NULL : b->pwconv2_bias, b->gamma};
            add_product(hidden, m, PART, size, memory->down, down, c);
        }
    }
}

/* Add the squares of each of `count` channels of m positions. */
static void add_squares(const float *x, long m, long stride, long count, float *to) {
    for (long v = 0; v < count; v += LANES) {
        vector total = {0};
        for (long i = 0; i < m; i++) {
            vector value = load_some(x + i * stride + v, count - v);
            total += value * value;
        }
        store_some(to + v, load_some(to + v, count - v) + total, count - v);
    }
}

/* Write the hidden map of a sample after GELU, and each thread's sums of its squares. */
static void fill_hidden(const struct block *b, const struct memory *memory, const float *y) {
    long c = b->channels, total = b->height * b->width, step = together(b, total);
    float *squares = memory->squares + omp_get_thread_num() * rounded(b->hidden);
    memset(squares, 0, b->hidden * sizeof(float));
    for (long first = 0; first < b->hidden; first += PART) {
        long size = min(PART, b->hidden - first);
        pack_up(b, memory, first, size);
#pragma omp for schedule(dynamic)
        for (long start = 0; start < total; start += step) {
            long m = min(step, total - start);
            float *hidden = memory->hidden + start * b->hidden + first;
            struct target up = {hidden, b->hidden, b->pwconv1_bias + first, NULL};
            gelu_product(y + start * c, m, c, c, memory->up, up, size);
            add_squares(hidden, m, b->hidden, size, squares + first);
        }
    }
}

/* Turn the sums of squares into the scale of each hidden channel, and the biases into one. */
static void weigh(const struct block *b, const struct memory *memory) {
#pragma omp single
    {
        double mean = 0;
        for (long k = 0; k < b->hidden; k++) {
            float squares = 0;
            for (int t = 0; t < omp_get_num_threads(); t++)
                squares += memory->squares[t * rounded(b->hidden) + k];
            mean += memory->scale[k] = sqrtf(squares);
        }
        mean /= b->hidden;
        for (long k = 0; k < b->hidden; k++)
            memory->scale[k] = 1 + b->grn_gamma[k] * memory->scale[k] / ((float)mean + GRN_EPS);
    }
#pragma omp for
    for (long j = 0; j < b->channels; j++) {
        vector products = {0};
        const float *weight = b->pwconv2 + j * b->hidden;
        for (long k = 0; k < b->hidden; k += LANES)
            products += load_some(weight + k, b->hidden - k) *
                        load_some(b->grn_beta + k, b->hidden - k);
        memory->total_bias[j] = b->pwconv2_bias[j] + sum(products);
    }
}

/* Add the branch of a sample of ConvNeXt V2. */
static void add_normalized(const struct block *b, const struct memory *memory, long sample) {
    long c = b->channels, total = b->height * b->width, step = together(b, total);
    float *x = b->x + sample * total * c;
    fill_hidden(b, memory, memory->y + sample * total * c);
    weigh(b, memory);
    for (long first = 0; first < b->hidden; first += PART) {
        long size = min(PART, b->hidden - first);
        pack_down(b, memory, first, size, memory->scale + first);
#pragma omp for schedule(dynamic)
        for (long start = 0; start < total; start += step) {
            struct target down = {x + start * c, c, first ? NULL : memory->total_bias, b->gamma};
            add_product(memory->hidden + start * b->hidden + first, min(step, total - start),
                        b->hidden, size, memory->down, down, c);
        }
    }
}

/* Multiply all positions with each panel of a weight; the threads share the panels. */
INLINE void multiply_few(const struct block *b, const enum ending ending, const float *x, long k,
                         const float *weight, struct target to, long columns, float *panel) {
    long total = b->samples * b->height * b->width;
#pragma omp for schedule(dynamic)
    for (long j = 0; j < columns; j += COLUMNS) {
        long count = min(COLUMNS, columns - j);
        struct target part = {to.out + j, to.stride, to.bias + j, to.scale ? to.scale + j : NULL};
        pack(weight + j * k, k, count, k, NULL, panel);
        if (ending == GELU)
            gelu_product(x, total, k, k, panel, part, count);
        else
            add_product(x, total, k, k, panel, part, count);
    }
}

/* Add the branch of few positions: the threads share the channels, and read each weight once. */
static void add_few(const struct block *b, const struct memory *memory) {
    long c = b->channels, each = b->height * b->width, k = b->hidden;
    float *panel = memory->up + omp_get_thread_num() * rounded(COLUMNS * k);
    struct target up = {memory->hidden, k, b->pwconv1_bias, NULL};
    multiply_few(b, GELU, memory->y, c, b->pwconv1, up, k, panel);
    for (long sample = 0; b->grn_gamma && sample < b->samples; sample++) {
        float *hidden = memory->hidden + sample * each * k;
#pragma omp single
        {
            memset(memory->squares, 0, omp_get_num_threads() * rounded(k) * sizeof(float));
            add_squares(hidden, each, k, k, memory->squares);
        }
        weigh(b, memory);
#pragma omp for
        for (long i = 0; i < each; i++)
            for (long j = 0; j < k; j++) hidden[i * k + j] *= memory->scale[j];
    }
    struct target down = {b->x, c, b->grn_gamma ? memory->total_bias : b->pwconv2_bias, b->gamma};
    multiply_few(b, ADD, memory->hidden, k, b->pwconv2, down, c, panel);
}

void block_forward(const struct block *b) {
    struct memory memory = divide(b, aligned(b->scratch));
#pragma omp parallel num_threads(b->threads)
    {
        expand(b, memory.taps, memory.y);
        if (b->samples * b->height * b->width <= FEW_POSITIONS)
            add_few(b, &memory);
        else if (b->grn_gamma)
            for (long sample = 0; sample < b->samples; sample++) add_normalized(b, &memory, sample);
        else
            add_branch(b, &memory);
    }
}
