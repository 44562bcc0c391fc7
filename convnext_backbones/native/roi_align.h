/* RoIAlign of a channels_last map; the fields are those of _Regions in head_kernels.py. */

#pragma once

struct regions {
    const float *x; /* (samples, height, width, channels) */
    long samples, height, width, channels;
    const float *rois;  /* (count, 5): index of the sample, x1, y1, x2, y2 */
    const long *places; /* where in out each goes, (count) */
    long count;
    float scale; /* cells of the map per unit of the RoIs */
    long ratio;  /* samples along each side of a bin; 0 for about one a cell */
    int aligned; /* whether the center of cell i is at i + 0.5, and not at i */
    long rows, columns; /* bins */
    float *out;         /* (any, channels, rows, columns), or with the channels last */
    int channels_first;
    int threads;
};

/* Write the means of the bins of RoIs, which are finite; see ops/roi_align.py. Return 0, or 1 if
 * there is not enough memory. */
int align_regions(const struct regions *r);
