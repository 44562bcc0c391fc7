/* Compares the kernels with plain loops: run once in a process of its own after compiling, so that
 * neither an instruction that the processor lacks nor a fault of the compiler reaches a user. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "block.h"
#include "block_bf16.h"
#include "check.h"

enum { SAMPLES = 2 };
/* Many positions of few channels, and the reverse: kernels divide their work in different ways. */
static const long SHAPES[][3] = {{13, 19, 40}, {7, 7, 416}}; /* height, width, channels */
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
    long channels = b->channels;
    double y[channels], mean = 0, variance = 0;
    for (long c = 0; c < channels; c++) {
        y[c] = b->dwconv_bias[c];
        for (long i = 0; i < 49; i++) {
            long r = row + i / 7 - 3, q = column + i % 7 - 3;
            if (r >= 0 && r < b->height && q >= 0 && q < b->width)
                y[c] += b->x[((sample * b->height + r) * b->width + q) * channels + c] *
                        b->dwconv[c * 49 + i];
        }
        mean += y[c] / channels;
    }
    for (long c = 0; c < channels; c++) variance += (y[c] - mean) * (y[c] - mean) / channels;
    for (long c = 0; c < channels; c++)
        y[c] = (y[c] - mean) / sqrt(variance + b->eps) * b->norm_weight[c] + b->norm_bias[c];
    for (long k = 0; k < b->hidden; k++) {
        double value = b->pwconv1_bias[k];
        for (long c = 0; c < channels; c++) value += b->pwconv1[k * channels + c] * y[c];
        hidden[k] = value * 0.5 * (1 + erf(value * sqrt(0.5)));
    }
}

/* Write the output of the block for one sample. */
static void plain_block(const struct block *b, long sample, float *out) {
    long positions = b->height * b->width, channels = b->channels, width = b->hidden;
    double *hidden = malloc(positions * width * sizeof(double)), norms[width], mean = 0;
    for (long p = 0; p < positions; p++)
        expand_position(b, sample, p / b->width, p % b->width, hidden + p * width);
    for (long k = 0; k < width; k++) {
        norms[k] = 0;
        for (long p = 0; p < positions; p++) norms[k] += pow(hidden[p * width + k], 2);
        norms[k] = sqrt(norms[k]);
        mean += norms[k] / width;
    }
    for (long p = 0; p < positions; p++)
        for (long c = 0; c < channels; c++) {
            double value = b->pwconv2_bias[c];
            for (long k = 0; k < width; k++) {
                double h = hidden[p * width + k];
                if (b->grn_gamma)
                    h += b->grn_gamma[k] * h * norms[k] / (mean + 1e-6) + b->grn_beta[k];
                value += b->pwconv2[c * width + k] * h;
            }
            long place = (sample * positions + p) * channels + c;
            out[place] = b->x[place] + (b->gamma ? b->gamma[c] : 1) * value;
        }
    free(hidden);
}

static int block_differs(struct block b) {
    long values = b.samples * b.height * b.width * b.channels;
    float *expected = malloc(values * sizeof(float)), *x = malloc(values * sizeof(float));
    memcpy(x, b.x, values * sizeof(float));
    for (long sample = 0; sample < b.samples; sample++) plain_block(&b, sample, expected);
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
    long values = b.samples * b.height * b.width * b.channels;
    float *expected = malloc(values * sizeof(float)), *rounded = malloc(values * sizeof(float));
    float *taps = malloc(49 * b.channels * sizeof(float));
    uint16_t *x = malloc(values * sizeof(uint16_t));
    for (long i = 0; i < values; i++) {
        uint32_t bits;
        memcpy(&bits, b.x + i, sizeof bits);
        rounded[i] = widened(x[i] = bits >> 16);
    }
    for (long i = 0; i < 49 * b.channels; i++) taps[i] = b.dwconv[i % b.channels * 49 + i / b.channels];
    b.x = rounded;
    for (long sample = 0; sample < b.samples; sample++) plain_block(&b, sample, expected);
    void *packed = malloc(block_bf16_packed_bytes(b.channels, b.hidden));
    pack_block_bf16(b.pwconv1, b.pwconv2, b.channels, b.hidden, packed);
    struct block_bf16 half = {
        x, b.samples, b.height, b.width, b.channels, b.hidden, taps, b.dwconv_bias, b.norm_weight,
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

static struct block example(const long *shape) {
    long c = shape[2], hidden = 4 * c;
    float scale = 2 / sqrtf(c);
    return (struct block){
        .x = draw(SAMPLES * shape[0] * shape[1] * c, 1),
        .samples = SAMPLES, .height = shape[0], .width = shape[1], .channels = c,
        .hidden = hidden, .dwconv = draw(49 * c, 0.3f), .dwconv_bias = draw(c, 1),
        .norm_weight = draw(c, 1), .norm_bias = draw(c, 1), .eps = 1e-6f,
        .pwconv1 = draw(hidden * c, scale), .pwconv1_bias = draw(hidden, 1),
        .pwconv2 = draw(hidden * c, scale), .pwconv2_bias = draw(c, 1),
        .gamma = draw(c, 1), .threads = 2,
    };
}

/* Return a bit for each of V1 and V2 that differs in any shape. */
static int blocks_differ(int (*differs)(struct block)) {
    int found = 0;
    for (long i = 0; i < (long)(sizeof SHAPES / sizeof *SHAPES); i++) {
        struct block b = example(SHAPES[i]);
        found |= differs(b);
        b.grn_gamma = draw(b.hidden, 1);
        b.grn_beta = draw(b.hidden, 1);
        b.gamma = NULL;
        found |= 2 * differs(b);
    }
    return found;
}

/* Return 0 if the kernels in single precision compute what they should. */
int check_kernels(void) { return blocks_differ(block_differs) | 4 * check_maps(); }

/* Return 0 if those in bf16 do, or if there are none. */
int check_bf16(void) { return block_bf16_supported() ? blocks_differ(bf16_differs) : 0; }
