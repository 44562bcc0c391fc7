"""Whether scores mean what they say: the share of correct detections at every score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .detection_matches import CORRECT, IGNORED, Matches

BINS = 10


@dataclass(frozen=True)
class Calibration:
    """Scores and correctness of all detections, in bins of equal width from 0 to 1.

    Attributes:
        edges: (bins + 1,), the scores between which bins lie; a bin has its lower edge.
        counts: (bins,), number of detections.
        mean_scores: (bins,), NaN for bins without detections.
        shares: (bins,), share of detections that are correct at IoU 0.5; NaN likewise.
        error: The expected calibration error, from 0 to 1: the mean of the differences of mean
            score and share, weighted by counts; None without detections.
    """

    edges: np.ndarray
    counts: np.ndarray
    mean_scores: np.ndarray
    shares: np.ndarray
    error: float | None


def measure_calibration(matches: Matches, bins: int = BINS) -> Calibration:
    """Compare the scores of all detections with the shares of them that are correct.

    Detections in crowds, which are ignored, do not count.

    Args:
        matches: What the detections are.
        bins: The number of bins.
    """
    counted = matches.kind != IGNORED
    scores, correct = matches.score[counted], matches.kind[counted] == CORRECT
    place = np.clip((scores * bins).astype(int), 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid='ignore'):
        mean_scores = np.bincount(place, scores, bins) / counts
        shares = np.bincount(place, correct, bins) / counts
    error = (
        float(np.nansum(counts * np.abs(mean_scores - shares)) / len(scores))
        if len(scores)
        else None
    )
    return Calibration(np.linspace(0, 1, bins + 1), counts, mean_scores, shares, error)
