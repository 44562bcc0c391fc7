/* What both checks use. */

#pragma once

/* Return random numbers between -scale and scale, the same in every run. */
float *draw(long count, float scale);

/* Whether a result is not the expected one; NaN never is. */
int differ(float result, double expected);

/* Return 0 if the kernels of maps.h, winograd.h, roi_align.h and train.h compute what they should. */
int check_maps(void);
