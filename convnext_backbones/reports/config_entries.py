"""Configs as lines of single entries, so that two of them can be compared.

A config of OpenMMLab is Python. The config of a finished training is read here as text: its syntax
tree is walked, and nothing of it is executed.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping, Sequence
from typing import Any


class Expression(str):
    """The source of a value that is no plain data, such as a sum of two names."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def read_config_text(text: str) -> dict[str, Any]:
    """Return the values that a config assigns to names, without executing anything.

    Args:
        text: The source of the config.

    Returns:
        Plain values, where ``dict(...)`` is a dict as well; an :class:`Expression` for the rest.

    Raises:
        ValueError: The text is not Python.
    """
    try:
        module = ast.parse(text)
        return {
            line.targets[0].id: _value(line.value)
            for line in module.body
            if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)
        }
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(
            f'expected a Python config, got text that does not parse: {error}'
        ) from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, (ast.List, ast.Tuple)):
        values = [_value(child) for child in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
        pairs = zip(node.keys, node.values, strict=True)
        return {key.value: _value(value) for key, value in pairs if isinstance(key, ast.Constant)}
    if _is_plain_dict_call(node):
        assert isinstance(node, ast.Call)
        return {keyword.arg: _value(keyword.value) for keyword in node.keywords}
    try:
        return ast.literal_eval(node)
    except ValueError:
        return Expression(ast.unparse(node))


def _is_plain_dict_call(node: ast.expr) -> bool:
    """Whether a node is ``dict(name=value, ...)``."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == 'dict'
        and not node.args
        and all(keyword.arg for keyword in node.keywords)
    )


def config_lines(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a config as dotted names and values, sorted by name.

    A list with dicts in it, such as a pipeline, has a line for each item, in order, under one name
    that ends with ``[]``.

    Args:
        config: Nested dicts, lists and plain values.
    """
    return sorted(_lines('', config), key=lambda line: line[0])


def _lines(path: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        return [
            line
            for name, child in value.items()
            for line in _lines(f'{path}.{name}' if path else str(name), child)
        ]
    if isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
        return [(f'{path}[]', _written(item)) for item in value]
    return [(path, _written(value))]


def _written(value: Any) -> str:
    """Return a value as a config writes it."""
    if isinstance(value, Mapping):
        return f'dict({", ".join(f"{name}={_written(child)}" for name, child in value.items())})'
    if isinstance(value, (list, tuple)):
        inside = ', '.join(map(_written, value))
        if isinstance(value, list):
            return f'[{inside}]'
        return f'({inside},)' if len(value) == 1 else f'({inside})'
    return repr(value)


def config_diff(base: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return what a config changes: lines with ``-`` of the base, lines with ``+`` of the config.

    Each line has the whole name of its entry, so there is no context around it.
    """
    old, new = ([f'{name} = {value}' for name, value in config_lines(c)] for c in (base, config))
    lines = list(difflib.unified_diff(old, new, n=0, lineterm=''))[2:]
    return '\n'.join(line for line in lines if not line.startswith('@@'))


def differing_lines(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str | None]]]:
    """Return the entries that are not the same in all configs.

    Args:
        configs: Any number of configs.

    Returns:
        Pairs of a name and its value in each config, None where a config lacks it. Of a list of
        dicts only the items that some config lacks are there, one a line.
    """
    tables: list[dict[str, list[str]]] = []
    for config in configs:
        table: dict[str, list[str]] = {}
        for name, value in config_lines(config):
            table.setdefault(name, []).append(value)
        tables.append(table)
    rows: list[tuple[str, list[str | None]]] = []
    for name in sorted({name for table in tables for name in table}):
        values = [table.get(name) for table in tables]
        if all(value == values[0] for value in values):
            continue
        common = set.intersection(*(set(value or ()) for value in values))
        reordered = all(set(value or ()) == common for value in values)
        rows.append((name, [_own_items(value, set() if reordered else common) for value in values]))
    return rows


def _own_items(items: list[str] | None, common: set[str]) -> str | None:
    return '\n'.join(item for item in items if item not in common) or None if items else None
