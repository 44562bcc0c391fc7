/* Depthwise 7x7 convolution and LayerNorm of a channels_last map. */

#pragma once

#include "vectors.h"

#define KERNEL 7
#define RADIUS 3
/* Neighbors in a row that are computed together: with the taps of a row they fill the registers. */
#define NEIGHBORS (ROWS > 6 ? 14 : 8)
#define FEW 4
/* Positions of a tile: whole groups of neighbors, and few enough that with the margin, and for LINE
 * channels, they stay in the first cache while they are convolved. */
#define TILE_HEIGHT (ROWS > 6 ? 20 : 12)
#define TILE_WIDTH (ROWS > 6 ? NEIGHBORS : 2 * NEIGHBORS)
#define LINE 16 /* channels that are computed together: a line of the cache */

struct map {
    long height, width, channels;
};

/* Copy `count` channels; the rest of the LINE becomes zeros. */
INLINE void copy_line(const float *from, long count, float *to) {
    for (long v = 0; v < LINE; v += LANES) store(to + v, load_some(from + v, max(count - v, 0)));
}

/* Copy LINE channels of a tile with its margin; what lies outside of the map is zero. */
static void copy_tile(const float *x, struct map map, long top, long left, long rows, long columns,
                      long channel, float *to) {
    long count = min(LINE, map.channels - channel);
    for (long r = top - RADIUS; r < top + rows + RADIUS; r++)
        for (long q = left - RADIUS; q < left + columns + RADIUS; q++, to += LINE) {
            if (r < 0 || r >= map.height || q < 0 || q >= map.width) {
                memset(to, 0, LINE * sizeof(float));
                continue;
            }
            const float *from = x + (r * map.width + q) * map.channels + channel;
            __builtin_prefetch(from + LINE); /* for the next channels */
            copy_line(from, count, to);
        }
}

/* Convolve `count` neighbors. */
INLINE void convolve(const int count, const float *x, long row, const float *taps, vector bias,
                     vector *out) {
    vector sums[NEIGHBORS];
    UNROLL(16)
    for (int q = 0; q < count; q++) sums[q] = bias;
    for (int i = 0; i < KERNEL; i++, x += row, taps += KERNEL * LINE) {
        vector tap[KERNEL];
    UNROLL(7)
        for (int j = 0; j < KERNEL; j++) tap[j] = load(taps + j * LINE);
    UNROLL(20)
        for (int q = 0; q < count + KERNEL - 1; q++) {
            vector value = load(x + q * LINE);
    UNROLL(7)
            for (int j = 0; j < KERNEL; j++)
                if (q - j >= 0 && q - j < count) sums[q - j] += value * tap[j];
        }
    }
    UNROLL(16)
    for (int q = 0; q < count; q++) out[q] = sums[q];
}

/* Convolve LINE channels of a tile. The last neighbors of a row overlap those before them. */
SEPARATE void convolve_tile(const float *x, long rows, long columns, const float *taps,
                          const float *bias, float *out, long out_row, long stride, long channels) {
    long row = (columns + KERNEL - 1) * LINE;
    vector found[NEIGHBORS];
    for (long v = 0; v < LINE && v < channels; v += LANES)
        for (long r = 0; r < rows; r++)
            for (long q = 0, step; q < columns; q += step) {
                step = columns >= NEIGHBORS ? NEIGHBORS : columns >= FEW ? FEW : 1;
                q = min(q, columns - step);
                const float *from = x + r * row + q * LINE + v;
                vector b = load(bias + v);
                if (step == NEIGHBORS)
                    convolve(NEIGHBORS, from, row, taps + v, b, found);
                else if (step == FEW)
                    convolve(FEW, from, row, taps + v, b, found);
                else
                    convolve(1, from, row, taps + v, b, found);
                float *to = out + r * out_row + q * stride + v;
                for (long i = 0; i < step; i++)
                    store_some(to + i * stride, found[i], channels - v);
            }
}
