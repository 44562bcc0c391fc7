"""Translate the names of tensors by pairs of templates; see :mod:`.layouts` for their syntax."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache

FIELD = re.compile(r'\{(?:(\d+)\*)?([a-z])(?:\+(\d+))?\}')


def translate(name: str, pairs: tuple[tuple[str, str], ...]) -> str | None:
    """Return ``name`` in other words, by the first pair of templates that matches it, or None.

    Args:
        name: Such as ``features.1.2.block.0.weight``.
        pairs: Such as (``features.{2*i+1}.{j}.block.0.{p}``, ``stages.{i}.{j}.dwconv.{p}``).
    """
    for source, target in pairs:
        values = _parse(source)(name)
        if values is not None:
            return _fill(target, values)
    return None


@cache
def _parse(template: str) -> Callable[[str], dict[str, str | int] | None]:
    """Return a function that reads the fields of ``template`` from a name that matches it.

    It returns None for other names, and for numbers that the arithmetic of the template cannot
    produce.
    """
    pattern, end = '', 0
    fields: list[tuple[str, int, int]] = []
    for match in FIELD.finditer(template):
        pattern += re.escape(template[end : match.start()])
        pattern += '(weight|bias)' if match[2] == 'p' else r'(\d+)'
        fields.append((match[2], int(match[1] or 1), int(match[3] or 0)))
        end = match.end()
    compiled = re.compile(pattern + re.escape(template[end:]))

    def read(name: str) -> dict[str, str | int] | None:
        found = compiled.fullmatch(name)
        if found is None:
            return None
        values: dict[str, str | int] = {}
        for (letter, factor, offset), text in zip(fields, found.groups(), strict=True):
            if letter == 'p':
                values[letter] = text
                continue
            number, remainder = divmod(int(text) - offset, factor)
            if remainder or number < 0:
                return None
            values[letter] = number
        return values

    return read


def _fill(template: str, values: Mapping[str, str | int]) -> str:
    """Return the name that ``template`` gives for the values of its fields."""

    def value(match: re.Match) -> str:
        if match[2] == 'p':
            return str(values['p'])
        return str(int(match[1] or 1) * int(values[match[2]]) + int(match[3] or 0))

    return FIELD.sub(value, template)
