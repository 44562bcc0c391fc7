"""Exchange the class of a module for one that computes the same, faster.

A fast class, such as ``InferenceBlock``, derives from the class that it replaces, ``Block``. For a
subclass of ``Block`` a class is made at run time that derives from both, so that ``isinstance``,
attributes and methods of the subclass stay. Pickles and copies of such modules name the two classes
it was made of.
"""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Any

from torch import nn

# The classes made at run time, by fast and original class.
_MADE: dict[tuple[type[nn.Module], type[nn.Module]], type[nn.Module]] = {}


def swap_class(module: nn.Module, fast: type[nn.Module]) -> None:
    """Turn ``module`` into an instance of ``fast`` and of its own class."""
    module.__class__ = fast_class(fast, type(module))


def restore_class(module: nn.Module) -> None:
    """Undo :func:`swap_class`; does nothing to other modules."""
    original = getattr(type(module), 'original_class', None)
    if original is not None:
        module.__class__ = original


def fast_class(fast: type[nn.Module], original: type[nn.Module]) -> type[nn.Module]:
    """Return the class derived from ``fast`` and ``original``, always the same one.

    Args:
        fast: Has the class that it replaces as its only base.
        original: That base, or a subclass of it.
    """
    if fast.__bases__ == (original,):
        return fast
    if (fast, original) in _MADE:
        return _MADE[fast, original]
    content = dict(
        original_class=original,
        __reduce_ex__=_reduce,
        __doc__=f'{original.__name__} with the methods of {fast.__name__}.',
        __module__=__name__,
    )
    name = f'Inference{original.__name__}'
    made = types.new_class(name, (fast, original), exec_body=lambda names: names.update(content))
    return _MADE.setdefault((fast, original), made)


def keeps_methods(
    module: nn.Module, fast: type[nn.Module], replaced: Iterable[str] = ('forward',)
) -> bool:
    """Whether ``fast`` may take over ``module``: neither its class nor itself defines the names.

    Args:
        module: An instance of the class that ``fast`` replaces, or of a subclass.
        fast: The fast class. Its own attributes and methods must not hide any of ``module``.
        replaced: Methods whose work the fast class does in its own way.
    """
    (base,) = fast.__bases__
    own = {*vars(fast), *fast.__annotations__}
    names = {name for name in own if not name.startswith(('__', '_abc_'))}
    names |= {*replaced, '__call__'}
    in_instance = {*vars(module), *module._modules, *module._parameters, *module._buffers}
    return not (names & in_instance) and all(
        getattr(type(module), name, None) is getattr(base, name, None) for name in names
    )


def runs_forward_of(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether ``module`` computes by the ``forward`` of one of ``kinds``, also if derived."""
    return (
        not {'forward', '__call__'} & vars(module).keys()
        and isinstance(module, kinds)
        and any(type(module).forward is kind.forward for kind in kinds)
        and type(module).__call__ is nn.Module.__call__
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether forward hooks are registered on ``module`` or on a part of it."""
    if module._forward_hooks or module._forward_pre_hooks:
        return True
    # Not by modules(), which takes a millisecond for a backbone.
    return any(has_hooks(part) for part in module._modules.values() if part is not None)


def _reduce(self: nn.Module, protocol: Any) -> str | tuple:
    """Reduce to the classes that the instance's own class was made of, which have names."""
    kind = type(self)
    reduced = super(kind, self).__reduce_ex__(max(int(protocol), 2))
    if isinstance(reduced, str) or getattr(reduced[0], '__name__', '') != '__newobj__':
        return reduced  # the user's class defines its own way
    arguments, *rest = reduced[1:]
    return _new, (*kind.__bases__, *arguments[1:]), *rest


def _new(fast: type[nn.Module], original: type[nn.Module], *arguments: Any) -> nn.Module:
    kind = fast_class(fast, original)
    return kind.__new__(kind, *arguments)
