/* Gradients of the depthwise convolution and of GELU; the fields are those of _Depthwise in
 * kernels.py. */

#pragma once

struct depthwise {
    const float *x, *gradient; /* input, and gradient of the output, (samples, height, width, c) */
    long samples, height, width, channels;
    const float *flipped;    /* taps in reverse order, (KERNEL, KERNEL, channels) */
    float *input_gradient;   /* of the shape of x, or NULL */
    float *taps_gradient;    /* (KERNEL * KERNEL + 1, channels), the last row of the bias; or NULL */
    float *scratch;          /* depthwise_scratch floats */
    int threads;
};

/* Return how many floats of scratch memory depthwise_backward needs. */
long depthwise_scratch(const struct depthwise *d);

/* Write the gradients. */
void depthwise_backward(const struct depthwise *d);

/* Write the gradient of the input of GELU, `count` floats. */
void gelu_backward(const float *x, const float *gradient, float *out, long count, int threads);
