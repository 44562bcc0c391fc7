/* Between the stages: convolutions over patches and the normalized outputs; the fields are those of
 * _Patches and _Output in kernels.py. */

#pragma once

struct patches {
    const float *x; /* of (samples, height, width, channels), with any strides, in floats */
    long samples, height, width, channels;
    long sample_stride, row_stride, column_stride, channel_stride;
    long size; /* of a patch */
    const float *weight, *bias; /* (out_channels, channels, size, size), (out_channels) or NULL */
    const float *norm_weight, *norm_bias; /* of the input, or of the output */
    float eps;
    int norms_input; /* which needs a channel_stride of 1 */
    float *out;      /* (samples, height / size, width / size, out_channels) */
    long out_channels;
    float *scratch; /* patches_scratch floats */
    int threads;
};

/* Return how many floats of scratch memory convolve_patches needs. */
long patches_scratch(const struct patches *p);

/* Convolve patches that do not overlap, after or before LayerNorm over the channels. */
void convolve_patches(const struct patches *p);

struct output {
    const float *x; /* (samples, positions, channels) */
    long samples, positions, channels;
    const float *weight, *bias;
    float eps;
    float *out;
    int channels_first; /* whether out is (samples, channels, positions) */
    int threads;
};

/* Write LayerNorm over the channels of a map. */
void normalize_map(const struct output *o);
