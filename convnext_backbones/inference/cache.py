"""Values derived from parameters, such as packed weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from torch import Tensor, nn

T = TypeVar('T')


class ParameterCache(Generic[T]):
    """Cache of a value derived from a module's parameters, recomputed when they change.

    Torch counts the in-place changes of a parameter, but not those through ``.data``: these are
    not noticed. oneDNN's own formats can neither be copied nor saved, so copies and pickles of the
    cache are empty.
    """

    def __init__(self) -> None:
        self.value: T | None = None
        self.state: list[object] | None = None
        self.sources: list[Tensor] = []

    def get(self, module: nn.Module, geometry: object, compute: Callable[[], T]) -> T:
        """Return ``compute()``, or its last result if nothing has changed since.

        Args:
            module: The module with the parameters.
            geometry: Whatever else the result depends on.
            compute: Called without arguments.
        """
        parameters = [*module.parameters()]
        if any(parameter.is_inference() for parameter in parameters):
            return compute()  # tensors of inference mode do not count their changes
        state = [geometry, *((x.data_ptr(), x._version) for x in parameters)]
        if self.value is None or state != self.state:
            self.value, self.state = compute(), state
            # These aliases keep the memory alive, so that no other parameter gets its address.
            self.sources = [parameter.detach() for parameter in parameters]
        return self.value

    def __reduce__(self) -> tuple:
        return ParameterCache, ()
