"""The page about a segmentor has the numbers of the analysis, in a form that is safe to open."""

import re

import numpy as np
import pytest
from markupsafe import escape

from convnext_backbones.analysis.segmentation_choice import choose_images
from convnext_backbones.analysis.segmentations import SegmentationCounter
from convnext_backbones.reports import segmentation_pictures as pictures
from convnext_backbones.reports.segmentation_page import write_segmentation_page

HOSTILE = '<script>alert(1)</script>'


def label_maps(classes, count=6, shape=(24, 32)):
    rng = np.random.default_rng(0)
    for _ in range(count):
        truth = np.kron(rng.integers(0, classes, (3, 4)), np.ones((8, 8), int))
        predicted = np.where(rng.random(shape) < 0.2, rng.integers(0, classes, shape), truth)
        truth[:2] = 255
        yield truth, predicted


def write(path, names, pairs, missing=''):
    counter = SegmentationCounter(names)
    for number, pair in enumerate(pairs):
        counter.add(f'{number}.jpg', *pair)
    analysis = counter.analysis()
    legend = pictures.make_legend(names)
    image = None if missing else np.zeros((24, 32, 3), np.uint8)
    cards = [
        pictures.segmentation_card(
            analysis.images[i], group, image, *pairs[i], legend, 255, missing
        )
        for i, group in choose_images(analysis).items()
    ]
    write_segmentation_page(path, analysis, cards, legend, {'mIoU': 12.34}, {'command': HOSTILE})
    return analysis, path.read_text()


@pytest.mark.parametrize('classes', [3, 12, 40])
def test_the_page_has_the_numbers_of_the_analysis(classes, tmp_path):
    names = [f'kind {i}' for i in range(classes)]
    analysis, page = write(tmp_path / 'report.html', names, list(label_maps(classes)))
    rows = re.findall(r'<tr data-class="([^"]+)">(.*?)</tr>', page, re.S)
    by_class = dict(reversed(rows))  # the first table with classes
    for score in analysis.classes:
        values = re.findall(r'data-value="([^"]+)"', by_class[score.name])
        expected = [score.iou, score.accuracy, score.boundary_iou, score.dice, score.precision]
        numbers = [*(100 * v for v in expected if v is not None)]
        numbers += [score.true_pixels, score.predicted_pixels]
        assert [float(value) for value in values] == pytest.approx(numbers)
    for image in analysis.images:
        assert repr(100 * image.mean_iou) in page
    assert '12.34' in page
    # Charts: bars, positions, distances; and the matrix, if it is not too large.
    assert page.count('<figure class="chart">') == (4 if classes <= 30 else 3)
    assert page.count('<img') == 4 * len(choose_images(analysis))


def test_names_are_escaped(tmp_path):
    names = [HOSTILE, '$a_b$ & "c"', 'x' * 80]
    _, page = write(tmp_path / 'report.html', names, list(label_maps(3)))
    assert HOSTILE not in page and str(escape(HOSTILE)) in page
    assert page.count('<script>') == 1


def test_an_image_that_cannot_be_read_is_replaced_by_a_sentence(tmp_path):
    _, page = write(tmp_path / 'report.html', 'abc', list(label_maps(3)), 'cannot read the image')
    assert 'cannot read the image' in page
    assert page.count('<figcaption>truth') == 6 and '<figcaption>image' not in page


def test_perfect_predictions_and_absent_classes(tmp_path):
    truth = np.zeros((24, 32), int)
    analysis, page = write(tmp_path / 'report.html', 'ab', [(truth, truth)])
    assert analysis.mean_iou == 1
    assert 'No pixel is wrong.' in page
    assert 'classes without a true pixel' in page


def test_no_images(tmp_path):
    _, page = write(tmp_path / 'report.html', 'ab', [])
    assert 'There are no images to show.' in page


# --- pictures -------------------------------------------------------------------------------


def test_colors_of_the_data_set_are_used_and_others_made():
    legend = pictures.make_legend('ab', [[1, 2, 3], [255, 0, 16]])
    assert legend.color(1) == '#ff0010' and '#010203' in legend.swatch(0)
    assert legend.paint(np.array([[0, 1, 2]])).tolist() == [[[1, 2, 3], [255, 0, 16], [255] * 3]]
    for palette in (None, [[0, 0, 0]]):
        made = pictures.make_legend([str(i) for i in range(150)], palette)
        assert len({tuple(color) for color in made.colors.tolist()}) > 140


def test_pictures_are_reduced_and_labels_are_not_averaged():
    labels = np.zeros((1000, 2000), np.uint16)
    labels[:, 1000:] = 200
    reduced = pictures.reduce_labels(labels)
    assert reduced.shape == (240, 480) and set(np.unique(reduced)) == {0, 200}
    assert pictures.reduce_picture(np.zeros((9, 7, 3), np.uint8)).shape == (9, 7, 3)
    assert pictures.reduce_picture(np.zeros((7200, 100, 3), np.uint8)).shape == (720, 10, 3)


def test_only_wrong_pixels_have_the_color_of_the_predicted_class():
    legend = pictures.make_legend('ab', [[9, 9, 9], [200, 0, 0]])
    image = np.full((5, 9, 3), 55, np.uint8)
    labels = np.ones((5, 9), int)
    wrong = np.zeros((5, 9), bool)
    wrong[2, 4] = True
    drawn = pictures.draw_differences(image, labels, wrong, legend)
    assert drawn[2, 4].tolist() == [200, 0, 0]
    assert drawn[2, 5].tolist() == [90, 90, 90]  # outline
    assert drawn[0, 0].tolist() == [205, 205, 205]  # pale


def test_a_card_says_what_was_confused():
    legend = pictures.make_legend(['sky', 'sea'])
    truth, predicted = np.zeros((4, 5), int), np.ones((4, 5), int)
    predicted[0] = 0
    truth[1, 0] = 255
    counter = SegmentationCounter(legend.classes)
    card = pictures.segmentation_card(
        counter.add('a.jpg', truth, predicted), 'worst', None, truth, predicted, legend, 255
    )
    assert 'Most wrong pixels: sky as sea (14)' in card.lines
    assert card.lines[0] == 'mIoU 13.2 %, accuracy 26.3 %'
    assert card.classes == ['sky', 'sea'] and card.group == 'worst'
