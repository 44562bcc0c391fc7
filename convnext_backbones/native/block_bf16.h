/* The block in bf16: what it reads and writes. */

#pragma once

#include <stdint.h>

/* Like struct block, but the map and the weights of both pointwise layers are in bf16. */
struct block_bf16 {
    uint16_t *x; /* (samples, height, width, channels), replaced by the output */
    long samples, height, width, channels, hidden;
    const float *taps; /* (KERNEL, KERNEL, channels) */
    const float *dwconv_bias, *norm_weight, *norm_bias;
    float eps;
    const void *packed; /* by pack_block_bf16 */
    const float *pwconv1_bias, *pwconv2_bias;
    const float *grn_gamma, *grn_beta; /* (hidden), or NULL */
    const float *gamma;                /* layer scale, (channels), or NULL */
    float *scratch;                    /* block_bf16_scratch floats */
    int threads;
};

/* Whether this processor and its system allow for what follows. To be called first, once in a
 * process: then the system permits the use of AMX. Without the instructions, it is all there is. */
int block_bf16_supported(void);

/* Return how many bytes both weights take when packed. */
long block_bf16_packed_bytes(long channels, long hidden);

/* Round and pack the weights: pwconv1 of (hidden, channels), pwconv2 of (channels, hidden). Packed
 * ones may lie, and be moved, anywhere; at a multiple of 64 bytes they are read the fastest. */
void pack_block_bf16(const float *pwconv1, const float *pwconv2, long channels, long hidden,
                     void *packed);

/* Return how many floats of scratch memory block_bf16_forward needs. */
long block_bf16_scratch(const struct block_bf16 *b);

/* Replace b->x, which has a position at least, by the output of the block. */
void block_bf16_forward(const struct block_bf16 *b);
