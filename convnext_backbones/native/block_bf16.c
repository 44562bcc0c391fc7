/* One ConvNeXt block, in place on a channels_last map in bf16. All sums, the norms and GELU are in
 * single precision; the map, its normalized convolution and its hidden map are rounded to bf16.
 *
 * First the normalized depthwise convolution of the whole map is computed. Then each thread takes
 * some positions through both pointwise layers, so that their hidden map stays in its cache. Few
 * positions, and global response normalization, need the whole hidden map in between: then the
 * threads share positions and channels of a layer, one layer after the other.
 */

#include "block_bf16.h"

#include "depthwise.h"

#if defined(__AVX512BF16__) && LANES == 16 && !defined(WITHOUT_BF16)

#include "products_bf16.h"

/* Bytes of the second cache that a thread's positions fill, input and hidden map. */
#define CACHE (768 * 1024)
/* The most position blocks that a thread takes at once; and how many it takes even if they do not
 * fit, since wide networks would read their weights too often. */
#define MOST_BLOCKS 8
#define LEAST_BLOCKS 3
/* With fewer position blocks for a thread, the threads share the channels, too. */
#define FEW_BLOCKS 8
#define GRN_EPS 1e-6f

/* How the work is divided. Positions are counted in groups: the samples with GRN, else all. */
struct plan {
    long groups, positions; /* of a group */
    long blocks, step;      /* position blocks of a group, and those that are taken at once */
    long tiles;             /* of step position blocks */
    long k, hidden;         /* blocks of the channels, and of the hidden channels */
    int whole;              /* whether the hidden map of a group is kept */
};

/* The parts of the scratch memory; the first two are in blocks. */
struct memory {
    uint16_t *y;      /* normalized map, (groups, blocks, k) */
    uint16_t *hidden; /* of a group, (blocks, hidden), if it is kept */
    float *own;       /* of each thread, own_floats each */
    float *squares;   /* sums of squares of the hidden channels, for each thread */
    float *scale;     /* of the hidden channels, by GRN */
    long floats;
};

static struct plan divide(const struct block_bf16 *b) {
    struct plan plan = {.groups = 1, .k = blocks(b->channels), .hidden = blocks(b->hidden)};
    plan.positions = b->height * b->width;
    if (b->grn_gamma)
        plan.groups = b->samples;
    else
        plan.positions *= b->samples;
    plan.blocks = blocks(plan.positions);
    int few = plan.blocks < (long)FEW_BLOCKS * b->threads;
    long fitting = CACHE / (long)(BLOCK * sizeof(uint16_t)) / (plan.k + plan.hidden);
    long most = min(max(fitting, LEAST_BLOCKS), MOST_BLOCKS);
    plan.step = share(plan.blocks, few ? most : min(most, parts(plan.blocks, 2 * b->threads)));
    plan.tiles = parts(plan.blocks, plan.step);
    plan.whole = few || b->grn_gamma != NULL;
    return plan;
}

static long rounded(long floats) {
    long step = ALIGNMENT / sizeof(float);
    return parts(floats, step) * step;
}

static float *take(struct memory *memory, float *scratch, long floats) {
    float *start = scratch ? scratch + memory->floats : NULL;
    memory->floats += rounded(floats);
    return start;
}

/* A thread's own memory: first the convolution of a tile, later the sums and the hidden map of a
 * step. */
static long own_floats(const struct block_bf16 *b, const struct plan *plan) {
    long convolution = (long)TILE_HEIGHT * TILE_WIDTH * b->channels;
    return rounded(max(convolution, plan->step * BLOCK + plan->step * plan->hidden * BLOCK / 2));
}

static struct memory assign(const struct block_bf16 *b, const struct plan *plan, float *scratch) {
    struct memory memory = {0};
    long half = BLOCK / 2; /* floats of a block of halves */
    memory.y = (uint16_t *)take(&memory, scratch, plan->groups * plan->blocks * plan->k * half);
    memory.hidden =
        (uint16_t *)take(&memory, scratch, plan->whole * plan->blocks * plan->hidden * half);
    memory.own = take(&memory, scratch, b->threads * own_floats(b, plan));
    long channels = b->grn_gamma ? plan->hidden * EDGE : 0;
    memory.squares = take(&memory, scratch, b->threads * channels);
    memory.scale = take(&memory, scratch, channels);
    return memory;
}

long block_bf16_scratch(const struct block_bf16 *b) {
    struct plan plan = divide(b);
    return assign(b, &plan, NULL).floats + ALIGNMENT / sizeof(float);
}

int block_bf16_supported(void) { return permit_products(); }

long block_bf16_packed_bytes(long channels, long hidden) {
    return 2 * blocks(channels) * blocks(hidden) * BLOCK * (long)sizeof(uint16_t);
}

void pack_block_bf16(const float *pwconv1, const float *pwconv2, long channels, long hidden,
                     void *packed) {
    uint16_t *up = packed, *down = up + blocks(channels) * blocks(hidden) * BLOCK;
    pack_panels(pwconv1, hidden, channels, up);
    pack_panels(pwconv2, channels, hidden, down);
}

/* Copy LINE channels of a tile with its margin; what lies outside of the map is zero. */
static void copy_halves(const uint16_t *x, struct map map, long top, long left, long rows,
                        long columns, long channel, float *to) {
    long count = map.channels - channel;
    for (long r = top - RADIUS; r < top + rows + RADIUS; r++)
        for (long q = left - RADIUS; q < left + columns + RADIUS; q++, to += LINE) {
            if (r < 0 || r >= map.height || q < 0 || q >= map.width) {
                memset(to, 0, LINE * sizeof(float));
                continue;
            }
            const uint16_t *from = x + (r * map.width + q) * map.channels + channel;
            __builtin_prefetch(from + LINE); /* for the next channels */
            store(to, widen_some(from, count));
        }
}

/* Write the channels of a position as a row of its blocks. */
static void write_position(const float *from, long channels, uint16_t *to) {
    for (long v = 0; v < blocks(channels) * EDGE; v += LANES)
        narrow(to + v / EDGE * BLOCK + v % EDGE, load_some(from + v, max(channels - v, 0)));
}

/* Write the normalized convolution of a tile. */
static void expand_tile(const struct block_bf16 *b, const struct plan *plan, long sample, long top,
                        long left, long rows, long columns, uint16_t *y, float *own) {
    float x[(TILE_HEIGHT + KERNEL - 1) * (TILE_WIDTH + KERNEL - 1) * LINE]
        __attribute__((aligned(ALIGNMENT)));
    float taps[KERNEL * KERNEL * LINE] __attribute__((aligned(ALIGNMENT))), bias[LINE];
    struct map map = {b->height, b->width, b->channels};
    long c = b->channels, start = sample * b->height * b->width;
    for (long channel = 0; channel < c; channel += LINE) {
        long count = min(LINE, c - channel);
        copy_halves(b->x + start * c, map, top, left, rows, columns, channel, x);
        for (long i = 0; i < KERNEL * KERNEL; i++)
            copy_line(b->taps + i * c + channel, count, taps + i * LINE);
        copy_line(b->dwconv_bias + channel, count, bias);
        convolve_tile(x, rows, columns, taps, bias, own + channel, columns * c, c, count);
    }
    y += plan->groups > 1 ? sample * plan->blocks * plan->k * BLOCK : 0;
    for (long r = 0; r < rows; r++)
        for (long q = 0; q < columns; q++, own += c) {
            long position = (top + r) * b->width + left + q + (plan->groups > 1 ? 0 : start);
            normalize(own, own, c, b->norm_weight, b->norm_bias, b->eps);
            write_position(own, c, y + position / EDGE * plan->k * BLOCK + position % EDGE * EDGE);
        }
}

/* Write the normalized convolution of all samples. Called by all threads, like what follows. */
static void expand(const struct block_bf16 *b, const struct plan *plan, uint16_t *y, float *own) {
    long width = share(b->width, TILE_WIDTH), across = parts(b->width, width);
    long height = share(b->height, TILE_HEIGHT);
    while (height > 1 && b->samples * across * parts(b->height, height) < 2 * b->threads)
        height = (height + 1) / 2;
    long along = parts(b->height, height);
#pragma omp for schedule(dynamic)
    for (long tile = 0; tile < b->samples * along * across; tile++) {
        long top = tile / across % along * height, left = tile % across * width;
        expand_tile(b, plan, tile / across / along, top, left, min(height, b->height - top),
                    min(width, b->width - left), y, own);
    }
}

/* Some panels of a weight, from `first` on. */
struct panels {
    const uint16_t *packed;
    long k, first, count;
};

/* GELU without a division, off by 4e-5 at most: less than the rounding to bf16 from 0.016 on. As in
 * gaussian_share, the share below x is 1/2 + t * p(t * t), with x limited to where it changes. */
INLINE vector near_gelu(vector x) {
    vector t = clamp(x, 4.4f), s = t * t;
    vector p = s * 3.56931378e-11f - 3.75395160e-09f;
    p = p * s + 1.74081421e-07f;
    p = p * s - 4.72481108e-06f;
    p = p * s + 8.42925089e-05f;
    p = p * s - 1.05499064e-03f;
    p = p * s + 9.64302987e-03f;
    p = p * s - 6.60764557e-02f;
    p = p * s + 3.98761635e-01f;
    return x * (0.5f + t * p);
}

/* Write the hidden block of some positions: GELU of the sums with the bias. */
static void activate(const float *sums, const float *bias, long count, long rows, uint16_t *to) {
    for (long v = 0; v < EDGE; v += LANES) {
        vector b = load_some(bias + v, max(count - v, 0));
        for (long r = 0; r < rows; r++)
            narrow(to + r * EDGE + v, near_gelu(load(sums + r * EDGE + v) + b));
    }
}

/* Add the squares of each channel of a block. */
static void add_squares(const uint16_t *x, long rows, float *to) {
    for (long v = 0; v < EDGE; v += LANES) {
        vector total = {0};
        for (long r = 0; r < rows; r++) {
            vector value = widen(x + r * EDGE + v);
            total += value * value;
        }
        store(to + v, load(to + v) + total);
    }
}

/* Write panels of the hidden map of m positions, and add up their squares unless these are NULL. */
static void multiply_up(const struct block_bf16 *b, const struct plan *plan, struct panels up,
                        const uint16_t *y, long m, float *sums, uint16_t *hidden,
                        float *squares) {
    for (long panel = up.first; panel < up.first + up.count; panel++)
        for (long part = 0; part < up.k; part += PANEL_PART)
            for (long i = 0; i < blocks(m); i++) {
                long size = min(PANEL_PART, up.k - part), rows = min(EDGE, m - i * EDGE);
                multiply(y + (i * up.k + part) * BLOCK, up.packed + (panel * up.k + part) * BLOCK,
                         size, rows, part > 0, sums + i * BLOCK);
                if (part + size < up.k) continue;
                uint16_t *to = hidden + (i * plan->hidden + panel) * BLOCK;
                activate(sums + i * BLOCK, b->pwconv1_bias + panel * EDGE,
                         b->hidden - panel * EDGE, rows, to);
                if (squares) add_squares(to, rows, squares + panel * EDGE);
            }
}

/* Add the sums of a block, with bias and layer scale, to channels of some positions. */
static void add_block(const struct block_bf16 *b, const float *sums, long channel, long rows,
                      uint16_t *x) {
    for (long v = 0; v < EDGE && channel + v < b->channels; v += LANES) {
        long count = b->channels - channel - v;
        vector bias = load_some(b->pwconv2_bias + channel + v, count);
        vector scale = b->gamma ? load_some(b->gamma + channel + v, count) : all(1);
        for (long r = 0; r < rows; r++) {
            uint16_t *to = x + r * b->channels + channel + v;
            vector branch = load(sums + r * EDGE + v) + bias;
            narrow_some(to, widen_some(to, count) + scale * branch, count);
        }
    }
}

/* Add panels of the branch to m positions. */
static void multiply_down(const struct block_bf16 *b, struct panels down, const uint16_t *hidden,
                          long m, float *sums, uint16_t *x) {
    for (long panel = down.first; panel < down.first + down.count; panel++)
        for (long part = 0; part < down.k; part += PANEL_PART)
            for (long i = 0; i < blocks(m); i++) {
                long size = min(PANEL_PART, down.k - part), rows = min(EDGE, m - i * EDGE);
                multiply(hidden + (i * down.k + part) * BLOCK,
                         down.packed + (panel * down.k + part) * BLOCK, size, rows, part > 0,
                         sums + i * BLOCK);
                if (part + size < down.k) continue;
                add_block(b, sums + i * BLOCK, panel * EDGE, rows, x + i * EDGE * b->channels);
            }
}

static struct panels up_panels(const struct block_bf16 *b, const struct plan *plan) {
    return (struct panels){b->packed, plan->k, 0, plan->hidden};
}

static struct panels down_panels(const struct block_bf16 *b, const struct plan *plan) {
    const uint16_t *packed = b->packed;
    return (struct panels){packed + plan->k * plan->hidden * BLOCK, plan->hidden, 0, plan->k};
}

/* Add the branch of all positions, whose hidden map is not kept. */
static void add_branch(const struct block_bf16 *b, const struct plan *plan,
                       const struct memory *memory, float *own) {
    uint16_t *hidden = (uint16_t *)(own + plan->step * BLOCK);
    long step = plan->step * EDGE;
#pragma omp for schedule(dynamic)
    for (long tile = 0; tile < plan->tiles; tile++) {
        long start = tile * step, m = min(step, plan->positions - start);
        const uint16_t *y = memory->y + tile * plan->step * plan->k * BLOCK;
        multiply_up(b, plan, up_panels(b, plan), y, m, own, hidden, NULL);
        multiply_down(b, down_panels(b, plan), hidden, m, own, b->x + start * b->channels);
    }
}

/* How many panels a thread takes at once, such that there is enough to do for all threads. */
static long shared_panels(const struct block_bf16 *b, const struct plan *plan, long count) {
    return share(count, parts(count, parts(4 * b->threads, plan->tiles)));
}

/* Turn the sums of squares into the scale of each hidden channel. */
static void weigh(const struct block_bf16 *b, const struct plan *plan,
                  const struct memory *memory) {
    long channels = plan->hidden * EDGE;
    double mean = 0;
    for (long k = 0; k < b->hidden; k++) {
        float squares = 0;
        for (int t = 0; t < omp_get_num_threads(); t++)
            squares += memory->squares[t * channels + k];
        mean += memory->scale[k] = sqrtf(squares);
    }
    mean /= b->hidden;
    for (long k = 0; k < b->hidden; k++)
        memory->scale[k] = 1 + b->grn_gamma[k] * memory->scale[k] / ((float)mean + GRN_EPS);
    for (long k = b->hidden; k < channels; k++) memory->scale[k] = 0;
}

/* Write the hidden map of some position blocks, with scale and bias of GRN; `to` may be `from`. */
static void rescale(const struct block_bf16 *b, const struct plan *plan, const float *scale,
                    const uint16_t *from, long count, uint16_t *to) {
    for (long i = 0; i < count; i++)
        for (long k = 0; k < plan->hidden; k++, from += BLOCK, to += BLOCK)
            for (long v = 0; v < EDGE; v += LANES) {
                long left = b->hidden - k * EDGE - v;
                vector factor = load(scale + k * EDGE + v);
                vector beta = load_some(b->grn_beta + k * EDGE + v, max(left, 0));
                for (long r = 0; r < BLOCK; r += EDGE)
                    narrow(to + r + v, widen(from + r + v) * factor + beta);
            }
}

/* Write the hidden map of a group, and each thread's sums of its squares. */
static void fill_group(const struct block_bf16 *b, const struct plan *plan,
                        const struct memory *memory, long group, float *own) {
    long step = plan->step * EDGE, channels = plan->hidden * EDGE;
    long size = shared_panels(b, plan, plan->hidden), ranges = parts(plan->hidden, size);
    const uint16_t *y = memory->y + group * plan->blocks * plan->k * BLOCK;
    float *squares = b->grn_gamma ? memory->squares + omp_get_thread_num() * channels : NULL;
    if (squares) memset(squares, 0, channels * sizeof(float));
#pragma omp for schedule(dynamic)
    for (long item = 0; item < plan->tiles * ranges; item++) {
        long tile = item / ranges, first = tile * plan->step;
        struct panels up = up_panels(b, plan);
        up.first = item % ranges * size;
        up.count = min(size, plan->hidden - up.first);
        multiply_up(b, plan, up, y + first * plan->k * BLOCK,
                    min(step, plan->positions - first * EDGE), own,
                    memory->hidden + first * plan->hidden * BLOCK, squares);
    }
}

/* Add the branch of a group, whose hidden map is kept. */
static void add_group(const struct block_bf16 *b, const struct plan *plan,
                        const struct memory *memory, long group, float *own) {
    long size = shared_panels(b, plan, plan->k), ranges = parts(plan->k, size);
    long row = plan->hidden * BLOCK, has_grn = b->grn_gamma != NULL;
    uint16_t *scaled = (uint16_t *)(own + plan->step * BLOCK);
    uint16_t *x = b->x + group * plan->positions * b->channels;
    /* A thread scales the hidden map that only it needs in its cache. */
    if (has_grn && ranges > 1) {
#pragma omp for schedule(dynamic)
        for (long i = 0; i < plan->blocks; i++)
            rescale(b, plan, memory->scale, memory->hidden + i * row, 1, memory->hidden + i * row);
    }
#pragma omp for schedule(dynamic)
    for (long item = 0; item < plan->tiles * ranges; item++) {
        long first = item / ranges * plan->step, start = first * EDGE;
        const uint16_t *hidden = memory->hidden + first * row;
        if (has_grn && ranges == 1) {
            rescale(b, plan, memory->scale, hidden, min(plan->step, plan->blocks - first), scaled);
            hidden = scaled;
        }
        struct panels down = down_panels(b, plan);
        down.first = item % ranges * size;
        down.count = min(size, plan->k - down.first);
        multiply_down(b, down, hidden, min(plan->step * EDGE, plan->positions - start), own,
                      x + start * b->channels);
    }
}

void block_bf16_forward(const struct block_bf16 *b) {
    struct plan plan = divide(b);
    struct memory memory = assign(b, &plan, aligned(b->scratch));
#pragma omp parallel num_threads(b->threads)
    {
        float *own = memory.own + omp_get_thread_num() * own_floats(b, &plan);
        expand(b, &plan, memory.y, own);
        begin_products();
        if (!plan.whole) add_branch(b, &plan, &memory, own);
        for (long group = 0; plan.whole && group < plan.groups; group++) {
            fill_group(b, &plan, &memory, group, own);
            if (b->grn_gamma) {
#pragma omp single
                weigh(b, &plan, &memory);
            }
            add_group(b, &plan, &memory, group, own);
        }
        end_products();
    }
}

#else

int block_bf16_supported(void) { return 0; }

#endif
