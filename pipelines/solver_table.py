"""A table of named solver classes: what `register_solver` fills and `get_solver` reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from samplers.errors import choose


class SolverTable:
    """Solver classes by name; each model file has its own, as CFGpp's have."""

    def __init__(self) -> None:
        self.classes: dict[str, type] = {}

    def register(self, name: str) -> Callable[[type], type]:
        """Register a solver class under a name; a name cannot be taken twice."""

        def wrapper(cls: type) -> type:
            if name in self.classes:
                raise ValueError(f"solver {name!r} is registered already; choose another name")
            self.classes[name] = cls
            return cls

        return wrapper

    def get(self, name: str, **kwargs: Any) -> Any:
        """Construct a registered solver; a ValueError suggests the nearest name."""
        return choose("solver", name, self.classes)(**kwargs)
