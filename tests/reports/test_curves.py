"""The curves of a training: which panels there are, and what is drawn."""

import cv2
import numpy as np
from matplotlib.axes import Axes

from convnext_backbones.reports import curves
from convnext_backbones.reports.curves import (
    Curve,
    Panel,
    compare_panels,
    draw_results,
    panel_figure,
    plan_panels,
)


def rows_of_a_detector() -> list[dict]:
    rows = []
    for step in range(1, 61):
        rows.append(dict(split='train', step=step, loss=2 / step, loss_cls=1 / step, acc=50.0))
        rows[-1] |= dict(highest_lr=1e-3 / step, lowest_lr=1e-4 / step, time=0.1)
    boxes = {'coco/bbox_mAP': 0.2, 'coco/bbox_mAP_50': 0.3, 'coco/bbox_mAP_l': -1.0}
    masks = {'coco/segm_mAP': 0.1, 'coco/segm_mAP_50': float('nan')}
    rows.append(dict(split='val', step=60, **boxes, **masks, mIoU=1.0))
    rows[-1] |= {'val/loss': 0.5, 'val/loss_cls': 0.25}
    return rows


def test_panels_for_losses_rates_and_metrics():
    panels = {panel.title: panel for panel in plan_panels(rows_of_a_detector())}
    labels = {title: [curve.label for curve in panel.curves] for title, panel in panels.items()}
    assert labels == {
        'loss': ['loss'],
        'terms of the loss': ['loss_cls'],
        'learning rate': ['highest', 'lowest'],
        # What could not be measured is left out.
        'coco/bbox': ['mAP', 'mAP_50'],
        'coco/segm': ['mAP'],
        'validation': ['mIoU'],
    }
    assert panels['loss'].companions == [
        Curve('loss', [60], [0.5]),
        Curve('loss_cls', [60], [0.25]),
    ]
    same = [dict(split='train', step=1, highest_lr=1.0, lowest_lr=1.0)]
    assert plan_panels(same)[0].curves == [Curve('all groups', [1], [1.0])]
    assert plan_panels([]) == []


def test_the_picture_shows_each_panel(tmp_path):
    rows = rows_of_a_detector()
    draw_results(rows, tmp_path / 'results.png')
    picture = cv2.imread(str(tmp_path / 'results.png'))
    height = int(curves.PANEL_HEIGHT * curves.DPI)
    assert picture.shape[:2] == (6 * height, int(curves.WIDTH * curves.DPI))
    blue = np.array([180, 119, 31])  # BGR of the first color
    for panel in np.split(picture, 6):
        assert (np.abs(panel.astype(int) - blue).max(axis=2) < 8).sum() > 20
    draw_results([], tmp_path / 'none.png')
    assert not (tmp_path / 'none.png').exists()


def test_more_curves_than_fit_are_counted(tmp_path, monkeypatch):
    labels, plot = [], Axes.plot

    def noting(self, *args, label=None, **style):
        labels.append(label)
        return plot(self, *args, label=label, **style)

    monkeypatch.setattr(Axes, 'plot', noting)
    metrics = {f'AP of class {i}': 0.5 for i in range(curves.MOST_CURVES + 3)}
    draw_results([dict(split='val', step=1, **metrics)], tmp_path / 'results.png')
    assert len(labels) == curves.MOST_CURVES + 1
    assert labels[-1] == 'and 3 more in results.csv'


def test_several_trainings_have_a_panel_for_each_number():
    short = [row for row in rows_of_a_detector() if row['step'] <= 30]
    panels = {p.title: p for p in compare_panels(dict(one=rows_of_a_detector(), two=short))}
    labels = {title: [curve.label for curve in panel.curves] for title, panel in panels.items()}
    assert labels == {
        'loss': ['one', 'two'],
        'loss_cls': ['one', 'two'],
        'learning rate: highest': ['one', 'two'],
        'learning rate: lowest': ['one', 'two'],
        'coco/bbox: mAP': ['one'],
        'coco/bbox: mAP_50': ['one'],
        'coco/segm: mAP': ['one'],
        'mIoU': ['one'],
    }
    assert panels['loss'].curves[1].steps == list(range(1, 31))
    assert panels['loss_cls'].companions == [Curve('one', [60], [0.25])]
    assert panels['mIoU'].metrics and not panels['loss'].metrics


def test_a_figure_of_one_panel_has_a_limited_number_of_points():
    steps = [float(step) for step in range(10 * curves.MOST_POINTS + 1)]
    companion = Curve('loss', [5.0], [1.0])
    long = Curve('loss', steps, steps)
    figure = panel_figure(Panel('loss', [long, Curve('x' * 200, [1.0], [2.0])], [companion]))
    (axes,) = figure.axes
    drawn = axes.lines[0].get_xdata()
    assert curves.MOST_POINTS / 2 < len(drawn) <= curves.MOST_POINTS
    assert list(drawn) == sorted(drawn) and drawn[-1] == steps[-1]
    assert list(axes.lines[0].get_ydata()) == list(drawn)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert [len(label) for label in labels][1] < curves.MOST_LETTERS and '…' in labels[1]
    assert axes.get_xlabel() == 'iteration' and axes.get_ylabel() == 'loss'


def test_iterations_are_whole_even_around_a_single_one():
    figure = panel_figure(Panel('loss', [Curve('loss', [10.0], [1.0])]))
    figure.draw_without_rendering()
    assert set(figure.axes[0].get_xticks()) >= {9, 10, 11}
    assert all(tick == int(tick) for tick in figure.axes[0].get_xticks())
