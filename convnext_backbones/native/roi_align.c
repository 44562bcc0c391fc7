/* RoIAlign: the means of samples that are interpolated between four cells of the map.
 *
 * The mean of a bin is a weighted sum of cells, whose weights are products of those along the two
 * axes. Positions are computed in the order of ops/roi_align.py, and of mmcv, with each operation
 * rounded: rounding decides whether a sample at the edge is inside.
 */

#include "roi_align.h"

#include "products.h"

#define BLOCK (8 * LANES) /* channels that are summed up together */
#define SIDE 8            /* of the squares that are transposed */

/* The cells that a bin is made of along an axis, and their weights, (bins, cells). */
struct axis {
    long cells;
    long *cell;
    float *weight;
    long capacity;
};

static long samples_of(const struct regions *r, float bin) {
    return r->ratio > 0 ? r->ratio : max((long)ceilf(bin), 0);
}

/* The position of a sample; volatile keeps compilers from fusing operations. */
static float position(float start, float bin, long number, long sample, long samples) {
    volatile float before = bin * number, within = bin * (sample + 0.5f);
    volatile float first = start + before;
    return first + within / samples;
}

static int reserve(struct axis *axis, long count) {
    if (count <= axis->capacity) return 1;
    free(axis->cell);
    free(axis->weight);
    axis->cell = malloc(count * sizeof(long));
    axis->weight = malloc(count * sizeof(float));
    axis->capacity = axis->cell && axis->weight ? count : 0;
    return axis->capacity > 0;
}

/* Find the cells of all bins along one axis of a map of `size` cells. Samples that are at most a
 * cell apart share cells. Return whether there was enough memory. */
static int divide(const struct regions *r, float start, float bin, long bins, long size,
                  struct axis *axis) {
    long samples = samples_of(r, bin), dense = r->ratio <= 0;
    axis->cells = dense ? samples + 1 : 2 * samples;
    if (!reserve(axis, bins * axis->cells)) return 0;
    memset(axis->weight, 0, bins * axis->cells * sizeof(float));
    long *cell = axis->cell;
    float *weight = axis->weight;
    for (long b = 0; b < bins; b++, cell += axis->cells, weight += axis->cells)
        for (long s = 0; s < samples; s++) {
            float where = position(start, bin, b, s, samples);
            int inside = where >= -1 && where <= size;
            where = fminf(fmaxf(where, 0), size - 1);
            long low = (long)where, next = min(low + 1, size - 1);
            if (!s)
                for (long i = 0; i < axis->cells; i++) cell[i] = min(low + dense * i, size - 1);
            float share = where - low;
            long i = dense ? min(low - cell[0], samples) : 2 * s;
            long j = dense ? min(next - cell[0], samples) : 2 * s + 1;
            if (!dense) cell[i] = low, cell[j] = next;
            weight[i] += inside * (1 - share) / samples;
            weight[j] += inside * share / samples;
        }
    return 1;
}

/* Write the mean of a bin for up to BLOCK channels. */
INLINE void sum_cells(const struct regions *r, const float *x, const struct axis *y_axis, long row,
                      const struct axis *x_axis, long column, long count, float *to) {
    vector sums[BLOCK / LANES] = {{0}};
    for (long i = 0; i < y_axis->cells; i++)
        for (long j = 0; j < x_axis->cells; j++) {
            float weight = y_axis->weight[row * y_axis->cells + i] *
                           x_axis->weight[column * x_axis->cells + j];
            long place = y_axis->cell[row * y_axis->cells + i] * r->width +
                         x_axis->cell[column * x_axis->cells + j];
            const float *from = x + place * r->channels;
            UNROLL(8)
            for (int v = 0; v < BLOCK / LANES; v++)
                if (v * LANES < count)
                    sums[v] += weight * load_some(from + v * LANES, count - v * LANES);
        }
    UNROLL(8)
    for (int v = 0; v < BLOCK / LANES; v++)
        if (v * LANES < count) store_some(to + v * LANES, sums[v], count - v * LANES);
}

/* Write a matrix of (rows, columns) as (columns, rows). */
static void write_transposed(const float *from, long rows, long columns, float *to) {
    long whole_rows = rows / SIDE * SIDE, whole_columns = columns / SIDE * SIDE;
    for (long i = 0; i < whole_rows; i += SIDE)
        for (long j = 0; j < whole_columns; j += SIDE)
            transpose(from + i * columns + j, columns, to + j * rows + i, rows);
    for (long i = 0; i < rows; i++)
        for (long j = i < whole_rows ? whole_columns : 0; j < columns; j++)
            to[j * rows + i] = from[i * columns + j];
}

static int align_one(const struct regions *r, long number, struct axis *y_axis,
                     struct axis *x_axis, float *bins) {
    const float *roi = r->rois + 5 * number;
    float offset = r->aligned ? 0.5f : 0, least = r->aligned ? -INFINITY : 1;
    volatile float corners[4];
    for (int i = 0; i < 4; i++) corners[i] = roi[1 + i] * r->scale;
    float left = corners[0] - offset, top = corners[1] - offset;
    float width = fmaxf(corners[2] - offset - left, least);
    float height = fmaxf(corners[3] - offset - top, least);
    if (!divide(r, top, height / r->rows, r->rows, r->height, y_axis)) return 0;
    if (!divide(r, left, width / r->columns, r->columns, r->width, x_axis)) return 0;
    long c = r->channels, total = r->rows * r->columns;
    const float *x = r->x + (long)roi[0] * r->height * r->width * c;
    float *out = r->out + r->places[number] * total * c, *to = r->channels_first ? bins : out;
    for (long bin = 0; bin < total; bin++)
        for (long v = 0; v < c; v += BLOCK)
            if (c - v >= BLOCK)
                sum_cells(r, x + v, y_axis, bin / r->columns, x_axis, bin % r->columns, BLOCK,
                          to + bin * c + v);
            else
                sum_cells(r, x + v, y_axis, bin / r->columns, x_axis, bin % r->columns, c - v,
                          to + bin * c + v);
    if (r->channels_first) write_transposed(bins, total, c, out);
    return 1;
}

int align_regions(const struct regions *r) {
    int failed = 0;
#pragma omp parallel num_threads(r->threads)
    {
        struct axis y_axis = {0}, x_axis = {0};
        float *bins = malloc(r->rows * r->columns * r->channels * sizeof(float));
#pragma omp for schedule(dynamic)
        for (long i = 0; i < r->count; i++)
            if (!bins || !align_one(r, i, &y_axis, &x_axis, bins))
#pragma omp atomic write
                failed = 1;
        free(y_axis.cell);
        free(y_axis.weight);
        free(x_axis.cell);
        free(x_axis.weight);
        free(bins);
    }
    return failed;
}
