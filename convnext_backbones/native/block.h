/* What the block reads and writes; the fields are those of _Block in kernels.py. */

#pragma once

struct block {
    float *x; /* (samples, height, width, channels), replaced by the output */
    long samples, height, width, channels, hidden;
    const float *dwconv; /* (channels, KERNEL, KERNEL) */
    const float *dwconv_bias, *norm_weight, *norm_bias;
    float eps;
    const float *pwconv1, *pwconv1_bias; /* (hidden, channels) */
    const float *pwconv2, *pwconv2_bias; /* (channels, hidden) */
    const float *grn_gamma, *grn_beta;   /* (hidden), or NULL */
    const float *gamma;                  /* layer scale, (channels), or NULL */
    float *scratch;                      /* block_scratch floats */
    int threads;
};

/* Return how many floats of scratch memory block_forward needs. */
long block_scratch(const struct block *b);

/* Replace b->x by the output of the block. */
void block_forward(const struct block *b);
