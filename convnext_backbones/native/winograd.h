/* 3x3 convolution of a channels_last map; the fields are those of _Convolution in head_kernels.py. */

#pragma once

struct convolution {
    const float *x; /* (samples, height, width, channels) */
    long samples, height, width, channels;
    const float *weight, *bias; /* (out_channels, 3, 3, channels), (out_channels) or NULL */
    float *out;                 /* (samples, height, width, out_channels) */
    long out_channels;
    int relu;       /* whether negative results become zero */
    float *scratch; /* convolution_scratch floats */
    int threads;
};

/* Return how many floats of scratch memory convolve_3x3 needs. */
long convolution_scratch(const struct convolution *c);

/* Convolve a map that is padded with a zero on all sides. */
void convolve_3x3(const struct convolution *c);
