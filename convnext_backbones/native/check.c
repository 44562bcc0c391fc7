/* Compares the kernels with plain loops: run once in a process of its own after compiling, so that
 * neither an instruction that the processor lacks nor a fault of the compiler reaches a user. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "block.h"
#include "block_bf16.h"
#include "check.h"

enum { SAMPLES = 2, HEIGHT = 13, WIDTH = 19, CHANNELS = 40, HIDDEN = 4 * CHANNELS };
#define TOLERANCE 1e-4
#define TOLERANCE_BF16 0.1

float *draw(long count, float scale) {
    static unsigned state = 1;
    float *values = malloc(count * sizeof(float));
    for (long i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = scale * ((state >> 8) / 8388608.0f - 1);
    }
    return values;
}

int differ(float result, double expected) {
    return !(fabs(result - expected) < TOLERANCE * fmax(1, fabs(expected)));
}

/* Write the hidden map of one position before GRN. */
static void expand_position(const struct block *b, long sample, long row, long column,
                            double *hidden) {
    double y[CHANNELS], mean = 0, variance = 0;
    for (long c = 0; c < CHANNELS; c++) {
        y[c] = b->dwconv_bias[c];
        for (long i = 0; i < 49; i++) {
            long r = row + i / 7 - 3, q = column + i % 7 - 3;
            if (r >= 0 && r < HEIGHT && q >= 0 && q < WIDTH)
                y[c] += b->x[((sample * HEIGHT + r) * WIDTH + q) * CHANNELS + c] *
                        b->dwconv[c * 49 + i];
        }
        mean += y[c] / CHANNELS;
    }
    for (long c = 0; c < CHANNELS; c++) variance += (y[c] - mean) * (y[c] - mean) / CHANNELS;
    for (long c = 0; c < CHANNELS; c++)
        y[c] = (y[c] - mean) / sqrt(variance + b->eps) * b->norm_weight[c] + b->norm_bias[c];
    for (long k = 0; k < HIDDEN; k++) {
        double value = b->pwconv1_bias[k];
        for (long c = 0; c < CHANNELS; c++) value += b->pwconv1[k * CHANNELS + c] * y[c];
        hidden[k] = value * 0.5 * (1 + erf(value * sqrt(0.5)));
    }
}

/* Write the output of the block for one sample. */
static void plain_block(const struct block *b, long sample, float *out) {
    long positions = HEIGHT * WIDTH;
    double *hidden = malloc(positions * HIDDEN * sizeof(double)), norms[HIDDEN], mean = 0;
    for (long p = 0; p < positions; p++)
        expand_position(b, sample, p / WIDTH, p % WIDTH, hidden + p * HIDDEN);
    for (long k = 0; k < HIDDEN; k++) {
        norms[k] = 0;
        for (long p = 0; p < positions; p++) norms[k] += pow(hidden[p * HIDDEN + k], 2);
        norms[k] = sqrt(norms[k]);
        mean += norms[k] / HIDDEN;
    }
    for (long p = 0; p < positions; p++)
        for (long c = 0; c < CHANNELS; c++) {
            double value = b->pwconv2_bias[c];
            for (long k = 0; k < HIDDEN; k++) {
                double h = hidden[p * HIDDEN + k];
                if (b->grn_gamma)
                    h += b->grn_gamma[k] * h * norms[k] / (mean + 1e-6) + b->grn_beta[k];
                value += b->pwconv2[c * HIDDEN + k] * h;
            }
            long place = (sample * positions + p) * CHANNELS + c;
            out[place] = b->x[place] + (b->gamma ? b->gamma[c] : 1) * value;
        }
    free(hidden);
}

static int block_differs(struct block b) {
    long values = (long)SAMPLES * HEIGHT * WIDTH * CHANNELS;
    float *expected = malloc(values * sizeof(float)), *x = malloc(values * sizeof(float));
    memcpy(x, b.x, values * sizeof(float));
    for (long sample = 0; sample < SAMPLES; sample++) plain_block(&b, sample, expected);
    b.x = x;
    b.scratch = malloc(block_scratch(&b) * sizeof(float));
    block_forward(&b);
    int found = 0;
    for (long i = 0; i < values; i++) found |= differ(x[i], expected[i]);
    free(b.scratch);
    free(expected);
    free(x);
    return found;
}

#if defined(__AVX512BF16__) && !defined(WITHOUT_BF16)
static float widened(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static int bf16_differs(struct block b) {
    long values = (long)SAMPLES * HEIGHT * WIDTH * CHANNELS;
    float *expected = malloc(values * sizeof(float)), *rounded = malloc(values * sizeof(float));
    float *taps = malloc(49 * CHANNELS * sizeof(float));
    uint16_t *x = malloc(values * sizeof(uint16_t));
    for (long i = 0; i < values; i++) {
        uint32_t bits;
        memcpy(&bits, b.x + i, sizeof bits);
        rounded[i] = widened(x[i] = bits >> 16);
    }
    for (long i = 0; i < 49 * CHANNELS; i++) taps[i] = b.dwconv[i % CHANNELS * 49 + i / CHANNELS];
    b.x = rounded;
    for (long sample = 0; sample < SAMPLES; sample++) plain_block(&b, sample, expected);
    void *packed = malloc(block_bf16_packed_bytes(CHANNELS, HIDDEN));
    pack_block_bf16(b.pwconv1, b.pwconv2, CHANNELS, HIDDEN, packed);
    struct block_bf16 half = {
        x, SAMPLES, HEIGHT, WIDTH, CHANNELS, HIDDEN, taps, b.dwconv_bias, b.norm_weight,
        b.norm_bias, b.eps, packed, b.pwconv1_bias, b.pwconv2_bias, b.grn_gamma, b.grn_beta,
        b.gamma, NULL, b.threads,
    };
    half.scratch = malloc(block_bf16_scratch(&half) * sizeof(float));
    block_bf16_forward(&half);
    int found = 0;
    for (long i = 0; i < values; i++) {
        double difference = fabs(widened(x[i]) - expected[i]);
        found |= !(difference < TOLERANCE_BF16 * fmax(1, fabs(expected[i])));
    }
    free(half.scratch);
    free(packed);
    free(x);
    free(taps);
    free(rounded);
    free(expected);
    return found;
}
#else
static int bf16_differs(struct block b) { return b.x == NULL; } /* without the instructions */
#endif

static struct block example(void) {
    return (struct block){
        .x = draw((long)SAMPLES * HEIGHT * WIDTH * CHANNELS, 1),
        .samples = SAMPLES, .height = HEIGHT, .width = WIDTH, .channels = CHANNELS,
        .hidden = HIDDEN, .dwconv = draw(49 * CHANNELS, 0.3f), .dwconv_bias = draw(CHANNELS, 1),
        .norm_weight = draw(CHANNELS, 1), .norm_bias = draw(CHANNELS, 1), .eps = 1e-6f,
        .pwconv1 = draw(HIDDEN * CHANNELS, 0.3f), .pwconv1_bias = draw(HIDDEN, 1),
        .pwconv2 = draw(HIDDEN * CHANNELS, 0.3f), .pwconv2_bias = draw(CHANNELS, 1),
        .gamma = draw(CHANNELS, 1), .threads = 2,
    };
}

/* Return 0 if the kernels in single precision compute what they should. */
int check_kernels(void) {
    struct block b = example();
    int found = block_differs(b);
    b.grn_gamma = draw(HIDDEN, 1);
    b.grn_beta = draw(HIDDEN, 1);
    b.gamma = NULL;
    return found | 2 * block_differs(b) | 4 * check_maps();
}

/* Return 0 if those in bf16 do, or if there are none. */
int check_bf16(void) {
    if (!block_bf16_supported()) return 0;
    struct block b = example();
    int found = bf16_differs(b);
    b.grn_gamma = draw(HIDDEN, 1);
    b.grn_beta = draw(HIDDEN, 1);
    return found | 2 * bf16_differs(b);
}
