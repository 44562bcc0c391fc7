"""Which maps of a backbone the neck and the heads read, and how they follow another backbone.

A map that nothing reads would cost time, and the norm on it would get no gradient, at which
distributed training stops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .foreign_backbones import kind_of

# It asks for the sizes of maps 1 to 3 by number, and leaves map 0 unread.
BY_NUMBER = 'NASFCOS_FPN'
# Its in_channels begin with the last map.
REVERSED = ('YOLOV3Neck',)
# It passes all maps but the last on to the heads.
PASSING = 'JPU'
SSD = 'SSDNeck'
NO_NECK: dict[str, str] = {
    'RFP': 'its neck runs the backbone again on the output of the neck, which only DetectoRS can',
    **dict.fromkeys(
        ('Feature2Pyramid', 'MultiLevelNeck', 'MLANeck'),
        'its neck makes a pyramid of maps of one resolution',
    ),
    'ICNeck': 'its neck is made for the three branches of ICNet',
    'GlobalAveragePooling': 'its head reads one vector of an image, not maps',
}


def follow_backbone(network: dict[str, Any], stages: Sequence[int], dims: Sequence[int]) -> list:
    """Let the neck and heads of a network read a ConvNeXt.

    Args:
        network: A detector or segmentor; its neck and heads are changed in place.
        stages: The stage with the stride of each map that they read now.
        dims: Channels of each stage of the ConvNeXt.

    Returns:
        The stages that are read, for ``out_indices``.

    Raises:
        ValueError: The neck or a head is not made for a pyramid.
    """
    readers = list(_readers(network))
    if not readers:
        raise ValueError(
            f'cannot exchange the backbone of {kind_of(network)}: neither a neck nor a head of it '
            'has in_channels'
        )
    read = sorted({place for reader in readers for place in reader.places(len(stages))})
    for reader in readers:
        reader.follow(read, {place: dims[stages[place]] for place in read}, len(stages))
    return [stages[place] for place in read]


def leaves_a_map_unread(network: dict[str, Any]) -> bool:
    """Whether the neck needs a map that it does not read, whose norm then gets no gradient."""
    neck = network.get('neck')
    return isinstance(neck, dict) and kind_of(neck) == BY_NUMBER


def _readers(network: dict[str, Any]) -> Iterator[_Neck | _Head]:
    neck = network.get('neck')
    first = neck[0] if isinstance(neck, (list, tuple)) and neck else neck
    if first:
        kind = kind_of(first)
        if kind in NO_NECK:
            raise ValueError(f'cannot exchange the backbone below {kind}: {NO_NECK[kind]}')
        if 'in_channels' not in first:
            raise ValueError(f'expected in_channels in the neck {kind}, got {sorted(first)}')
        yield _Neck(first, network)
        return
    for key, value in network.items():
        if key == 'roi_head' and value and value.get('shared_head'):
            raise ValueError(
                'cannot exchange the backbone below shared_head, which is the last stage of the '
                'ResNet'
            )
        if key.endswith('head'):
            for head in value if isinstance(value, (list, tuple)) else [value]:
                yield from _head_readers(head)


def _head_readers(head: Any) -> Iterator[_Head]:
    """Iterate over what reads maps in a head: itself, or the one that starts a K-Net."""
    if not isinstance(head, dict):
        return
    head = head.get('kernel_generate_head', head)
    if 'in_channels' in head:
        yield _Head(head)


class _Neck:
    """The first part of a neck."""

    def __init__(self, neck: dict[str, Any], network: dict[str, Any]) -> None:
        self.neck, self.network = neck, network
        self.kind = kind_of(neck)

    def places(self, count: int) -> list[int]:
        """Return the places of the maps that it reads, among ``count`` maps."""
        channels = self.neck['in_channels']
        if isinstance(channels, int):
            return [count - 1]  # such necks read the last map
        if len(channels) != count:
            raise ValueError(
                f'expected in_channels of {self.kind} to have an entry for each of {count} maps '
                f'of the backbone, got {list(channels)}'
            )
        if self.kind == BY_NUMBER:
            return list(range(count))
        end = self.neck.get('end_level', -1)
        return list(range(self.neck.get('start_level', 0), count if end == -1 else end + 1))

    def follow(self, read: list[int], channels: dict[int, int], count: int) -> None:
        """Set the channels of the maps that are read, which are the only ones from now on."""
        if self.kind == PASSING:
            self._let_heads_follow(channels)
        if self.kind != BY_NUMBER:
            self.neck |= {
                key: value
                for key, value in dict(start_level=0, end_level=-1).items()
                if key in self.neck
            }
        old = self.neck['in_channels']
        if isinstance(old, int):
            self.neck['in_channels'] = channels[read[-1]]
            return
        new = [channels[place] for place in read]
        self.neck['in_channels'] = type(old)(new[::-1] if self.kind in REVERSED else new)
        if self.kind == SSD:  # these maps are its first outputs
            for part, key in ((self.neck, 'out_channels'), (self.network['bbox_head'],) * 2):
                key = key if isinstance(key, str) else 'in_channels'
                part[key] = type(part[key])([*new, *part[key][len(new) :]])

    def _let_heads_follow(self, channels: dict[int, int]) -> None:
        passed = [channels[place] for place in sorted(channels)][:-1]
        for key in ('decode_head', 'auxiliary_head'):
            heads = self.network.get(key) or []
            for head in heads if isinstance(heads, (list, tuple)) else [heads]:
                index, old = head.get('in_index', -1), head['in_channels']
                if isinstance(index, int):
                    head['in_channels'] = [*passed, old][index]
                else:
                    new = [[*passed, one][place] for place, one in zip(index, old, strict=True)]
                    head['in_channels'] = type(old)(new)


class _Head:
    """A head that reads the backbone."""

    def __init__(self, head: dict[str, Any]) -> None:
        self.head = head

    def places(self, count: int) -> list[int]:
        """Return the places of the maps that it reads, among ``count`` maps."""
        places = self._own(count)
        return [0, *places] if self.head.get('c1_in_channels') else places

    def _own(self, count: int) -> list[int]:
        index, channels = self.head.get('in_index'), self.head['in_channels']
        if index is None:
            index = -1 if isinstance(channels, int) else range(count)
        places = [index] if isinstance(index, int) else list(index)
        if not all(-count <= place < count for place in places):
            raise ValueError(
                f'expected in_index of {kind_of(self.head)} below {count}, the number of maps, got '
                f'{places}'
            )
        places = [place % count for place in places]
        if kind_of(self.head) == 'EncHead' and not self.head.get('add_lateral'):
            return places[-1:]  # it takes the others, and does nothing with them
        return places

    def follow(self, read: list[int], channels: dict[int, int], count: int) -> None:
        """Set the channels and the places of the maps that it reads."""
        own = self._own(count)
        old = self.head['in_channels']
        if 'in_index' in self.head:
            index = [read.index(place) for place in own]
            single = isinstance(self.head['in_index'], int)
            self.head['in_index'] = index[0] if single else type(self.head['in_index'])(index)
        new = [channels[place] for place in own]
        self.head['in_channels'] = new[0] if isinstance(old, int) else type(old)(new)
        if self.head.get('c1_in_channels'):
            self.head['c1_in_channels'] = channels[0]
