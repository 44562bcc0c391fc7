"""Which changed images a comparison shows."""

from dataclasses import dataclass

from convnext_backbones.analysis.changes import choose_changed


@dataclass
class Image:
    classes: tuple[int, ...]


def test_the_most_changed_images_come_first_and_every_class_has_some():
    ranked = [Image((0,))] * 5 + [Image((1,))] * 4 + [Image((0, 2))]
    assert choose_changed(ranked, most_changed=3, per_class=2) == [0, 1, 2, 5, 6, 9]
    assert choose_changed(ranked, most_changed=3, per_class=2, most=4) == [0, 1, 2, 5]
    assert choose_changed(ranked, most_changed=30) == list(range(10))
    assert choose_changed([]) == []
