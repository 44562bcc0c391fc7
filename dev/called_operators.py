"""Find which operators of ``mmcv._ext`` a model can call, by reading its code.

A model's classes are followed through every name in their functions: to functions, to other
classes, and into ``mmcv.ops``, where ``ext_module.NAME`` is a call of an operator. So no operator
is listed by hand, and a branch that only a GPU takes counts too. What is reached is more than what
runs: a class counts with all of its methods.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

# The packages whose code is read; what torch or mmengine do, mmcv's operators have no part in.
FOLLOWED = ('mmcv', 'mmdet', 'mmseg', 'mmpretrain')
EXTENSION = 'ext_module'  # what every module of mmcv.ops calls mmcv._ext


def read_operators() -> dict[str, set[str]]:
    """Return the operators that each module of ``mmcv.ops`` calls, by the module's name."""
    import mmcv.ops

    folder = Path(mmcv.ops.__file__).parent
    return {path.stem: _attributes(path) for path in sorted(folder.glob('*.py'))}


def _attributes(path: Path) -> set[str]:
    """Return the names that a file takes from the extension."""
    return {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == EXTENSION
    }


def called_by(roots: Iterable[Any]) -> set[str]:
    """Return the operators that functions, classes or instances can call.

    Args:
        roots: Functions, classes, and objects, for which their classes stand.
    """
    reached: set[str] = set()
    seen: dict[int, Any] = {}  # the items themselves keep their ids from being used again
    todo: list[Any] = [root if _is_code(root) else type(root) for root in roots]
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen[id(item)] = item
        operators, following = _read(item)
        reached |= operators
        todo += following
    return reached


def parts(model: Any) -> Iterator[Any]:
    """Yield a model, its layers, and all that they hold: samplers, coders, assigners."""
    seen: dict[int, Any] = {}
    todo = [model]
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen[id(item)] = item
        if isinstance(item, Mapping):
            todo += item.values()
        elif isinstance(item, (list, tuple)):
            todo += item
        elif isinstance(item, functools.partial):
            todo += [item.func, *item.args, *item.keywords.values()]
        elif _is_code(item):
            yield item
        elif hasattr(item, '__dict__') and not isinstance(item, ModuleType):
            yield item
            # A layer keeps its layers in a dictionary of its own, which is an attribute, too.
            todo += vars(item).values()


def named(config: Any) -> Iterator[Any]:
    """Yield the functions and classes of ``mmcv.ops`` that a config names by ``type``.

    Such as that of the suppression in ``test_cfg.nms``, which mmcv finds by its name when it runs.
    """
    import mmcv.ops

    if isinstance(config, Mapping):
        found = config.get('type')
        if isinstance(found, str) and _is_code(getattr(mmcv.ops, found, None)):
            yield getattr(mmcv.ops, found)
        config = list(config.values())
    if isinstance(config, (list, tuple)):
        for value in config:
            yield from named(value)


def code_of(module: ModuleType) -> list[Any]:
    """Return the functions and classes in a module, its own and those that it imports."""
    return [item for item in vars(module).values() if _is_code(item) and _is_followed(item)]


def _is_code(item: Any) -> bool:
    return inspect.isroutine(item) or inspect.isclass(item)


def _is_followed(item: Any) -> bool:
    return (getattr(item, '__module__', None) or '').partition('.')[0] in FOLLOWED


@functools.cache
def _read(item: Any) -> tuple[frozenset[str], tuple[Any, ...]]:
    """Return the operators that a function or class calls itself, and what it leads to."""
    if inspect.isclass(item):
        values = [value for base in item.__mro__ if _is_followed(base) for value in _values(base)]
        return frozenset(), tuple(code for value in values for code in _functions(value))
    following: list[Any] = []
    # `roi_align = RoIAlignFunction.apply` is a method bound to a class.
    owner = getattr(item, '__self__', None)
    if inspect.isclass(owner) and _is_followed(owner):
        following.append(owner)
    function = getattr(item, '__func__', item)
    if not isinstance(function, FunctionType) or not _is_followed(function):
        return frozenset(), tuple(following)
    # A decorator holds what it wraps in a cell.
    for cell in function.__closure__ or ():
        following += _functions(_content(cell))
    names = set(_names(function.__code__))
    for name in names:
        following += _global(function, name, names)
    operators = names & _read_file(function.__code__.co_filename) if EXTENSION in names else ()
    return frozenset(operators), tuple(following)


def _values(cls: type) -> list[Any]:
    return list(vars(cls).values())


def _functions(value: Any) -> Iterator[Any]:
    """Yield the code of an attribute of a class."""
    if isinstance(value, property):
        yield from filter(None, (value.fget, value.fset))
    elif isinstance(value, (staticmethod, classmethod)):
        yield value.__func__
    elif _is_code(value):
        yield value


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is still empty
        return None


def _names(code: CodeType) -> Iterator[str]:
    """Yield all names, global or of attributes, of a function and the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
        elif isinstance(constant, str) and 'eval' in code.co_names:
            yield constant  # batched_nms evaluates the name of a function, by default 'nms'


def _global(function: FunctionType, name: str, names: set[str]) -> list[Any]:
    """Return the code behind one of the names of a function."""
    value = function.__globals__.get(name)
    if name.startswith('mmcv.ops'):  # an import inside the function
        value = importlib.import_module(name)
    if isinstance(value, ModuleType) and value.__name__.partition('.')[0] in FOLLOWED:
        attributes = [getattr(value, other, None) for other in names]
        return [found for found in attributes if _is_code(found)]
    return [value] if _is_code(value) else []


@functools.cache
def _read_file(path: str) -> set[str]:
    return _attributes(Path(path))
