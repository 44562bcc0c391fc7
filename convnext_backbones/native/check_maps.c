/* Compares stem, output norm, 3x3 convolution, RoIAlign and gradients with plain loops; see check.c. */

#include <math.h>
#include <stdlib.h>

#include "check.h"
#include "maps.h"
#include "roi_align.h"
#include "train.h"
#include "winograd.h"

enum { HEIGHT = 14, WIDTH = 18, CHANNELS = 20, OUT = 24, POSITIONS = HEIGHT * WIDTH };

static const float *at(const float *x, long row, long column) {
    static const float zeros[CHANNELS];
    int inside = row >= 0 && row < HEIGHT && column >= 0 && column < WIDTH;
    return inside ? x + (row * WIDTH + column) * CHANNELS : zeros;
}

/* Write a normalized position. */
static void norm(const float *x, const float *weight, const float *bias, double *y) {
    double mean = 0, variance = 0;
    for (long c = 0; c < CHANNELS; c++) mean += x[c] / (double)CHANNELS;
    for (long c = 0; c < CHANNELS; c++) variance += (x[c] - mean) * (x[c] - mean) / CHANNELS;
    for (long c = 0; c < CHANNELS; c++)
        y[c] = (x[c] - mean) / sqrt(variance + 1e-6) * weight[c] + bias[c];
}

static int patches_differ(const float *x, const float *weight, const float *scale) {
    float *out = draw(POSITIONS / 4 * OUT, 1);
    struct patches p = {
        .x = x, .samples = 1, .height = HEIGHT, .width = WIDTH, .channels = CHANNELS,
        .row_stride = WIDTH * CHANNELS, .column_stride = CHANNELS, .channel_stride = 1, .size = 2,
        .weight = weight, .bias = scale, .norm_weight = scale, .norm_bias = scale, .eps = 1e-6f,
        .norms_input = 1, .out = out, .out_channels = OUT, .threads = 2,
    };
    p.scratch = malloc(patches_scratch(&p) * sizeof(float));
    convolve_patches(&p);
    int found = 0;
    for (long i = 0; i < POSITIONS / 4 * OUT; i++) {
        long position = i / OUT, j = i % OUT;
        double expected = scale[j], y[CHANNELS];
        for (long k = 0; k < 4; k++) {
            long row = position / (WIDTH / 2) * 2 + k / 2, column = position % (WIDTH / 2) * 2 + k % 2;
            norm(at(x, row, column), scale, scale, y);
            for (long c = 0; c < CHANNELS; c++) expected += y[c] * weight[(j * CHANNELS + c) * 4 + k];
        }
        found |= differ(out[i], expected);
    }
    free(p.scratch);
    free(out);
    return found;
}

static int outputs_differ(const float *x, const float *scale) {
    float *out = draw(POSITIONS * CHANNELS, 1);
    struct output o = {x, 1, POSITIONS, CHANNELS, scale, scale, 1e-6f, out, 1, 2};
    normalize_map(&o);
    int found = 0;
    for (long i = 0; i < POSITIONS; i++) {
        double y[CHANNELS];
        norm(x + i * CHANNELS, scale, scale, y);
        for (long c = 0; c < CHANNELS; c++) found |= differ(out[c * POSITIONS + i], y[c]);
    }
    free(out);
    return found;
}

static int convolutions_differ(const float *x, const float *weight, const float *bias) {
    float *out = draw(POSITIONS * OUT, 1);
    struct convolution c = {.x = x, .samples = 1, .height = HEIGHT, .width = WIDTH,
                            .channels = CHANNELS, .weight = weight, .bias = bias, .out = out,
                            .out_channels = OUT, .relu = 1, .threads = 2};
    c.scratch = malloc(convolution_scratch(&c) * sizeof(float));
    convolve_3x3(&c);
    int found = 0;
    for (long i = 0; i < POSITIONS * OUT; i++) {
        long row = i / OUT / WIDTH, column = i / OUT % WIDTH, j = i % OUT;
        double expected = bias[j];
        for (long k = 0; k < 9; k++)
            for (long v = 0; v < CHANNELS; v++)
                expected += at(x, row + k / 3 - 1, column + k % 3 - 1)[v] *
                            weight[(j * 9 + k) * CHANNELS + v];
        found |= differ(out[i], expected > 0 ? expected : 0);
    }
    free(c.scratch);
    free(out);
    return found;
}

/* A box of 7 x 8 cells with one sample in each, whose places are those of the cells. */
static int regions_differ(const float *x) {
    const float roi[] = {0, 2, 3, 10, 10};
    const long place = 0;
    float *out = draw(7 * 8 * CHANNELS, 1);
    struct regions r = {.x = x, .samples = 1, .height = HEIGHT, .width = WIDTH,
                        .channels = CHANNELS, .rois = roi, .places = &place, .count = 1,
                        .scale = 1, .ratio = 0, .aligned = 1, .rows = 7, .columns = 8,
                        .out = out, .channels_first = 1, .threads = 2};
    int found = align_regions(&r);
    for (long i = 0; i < 7 * 8; i++)
        for (long c = 0; c < CHANNELS; c++)
            found |= differ(out[c * 7 * 8 + i], at(x, 3 + i / 8, 2 + i % 8)[c]);
    free(out);
    return found;
}

static int gradients_differ(const float *x, const float *gradient, const float *flipped) {
    float *input = draw(POSITIONS * CHANNELS, 1), *taps = draw(50 * CHANNELS, 1);
    struct depthwise d = {.x = x, .gradient = gradient, .samples = 1, .height = HEIGHT,
                          .width = WIDTH, .channels = CHANNELS, .flipped = flipped,
                          .input_gradient = input, .taps_gradient = taps, .threads = 2};
    d.scratch = malloc(depthwise_scratch(&d) * sizeof(float));
    depthwise_backward(&d);
    int found = 0;
    double sums[50][CHANNELS] = {{0}};
    for (long i = 0; i < POSITIONS * CHANNELS; i++) {
        long row = i / CHANNELS / WIDTH, column = i / CHANNELS % WIDTH, c = i % CHANNELS;
        double expected = 0;
        for (long k = 0; k < 49; k++) {
            long r = row + k / 7 - 3, q = column + k % 7 - 3;
            expected += at(gradient, r, q)[c] * flipped[k * CHANNELS + c];
            sums[k][c] += at(x, r, q)[c] * gradient[i];
        }
        sums[49][c] += gradient[i];
        found |= differ(input[i], expected);
    }
    for (long i = 0; i < 50 * CHANNELS; i++) 
        found |= differ(taps[i], sums[i / CHANNELS][i % CHANNELS]);
    gelu_backward(x, gradient, input, POSITIONS * CHANNELS, 2);
    for (long i = 0; i < POSITIONS * CHANNELS; i++) {
        double v = x[i], share = 0.5 * (1 + erf(v * sqrt(0.5)));
        double slope = share + v * exp(-v * v / 2) * 0.3989422804014327;
        found |= differ(input[i], slope * gradient[i]);
    }
    free(d.scratch);
    free(input);
    free(taps);
    return found;
}

int check_maps(void) {
    const float *x = draw(POSITIONS * CHANNELS, 1), *gradient = draw(POSITIONS * CHANNELS, 1);
    const float *weight = draw(OUT * 9 * CHANNELS, 0.3f), *scale = draw(OUT, 1);
    const float *taps = draw(49 * CHANNELS, 0.3f);
    return patches_differ(x, weight, scale) | 2 * outputs_differ(x, scale) |
           4 * convolutions_differ(x, weight, scale) | 8 * gradients_differ(x, gradient, taps) |
           16 * regions_differ(x);
}
