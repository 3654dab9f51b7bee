"""Collect the functions that a sampler's coefficients need, each before its use."""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields

from samplers import exponential, solvers
from samplers.dropin import written_out
from samplers.dropin.specialise import specialise
from samplers.registry import Recipe
from samplers.schedule import NoiseSchedule

RECORDS = ("Move", "Stage")
STANDARD = {  # what Python's standard library would give; CFGpp's files do not import it
    "bisect_right": "bisect_right = lambda table, x: sum(value <= x for value in table)",
    "pairwise": "pairwise = lambda values: zip(values, values[1:])",
}


class Parts:
    """The functions that a recipe needs, each before its use."""

    def __init__(self, recipe: Recipe, memory: int):
        self.recipe, self.memory = recipe, memory
        self.blocks: list[list[str]] = []
        self._names: dict[str, object] = {"exp": math.exp, "log": math.log}

    def solver(self) -> str:
        """Add the recipe's solver with its options folded in; follow functions that only call."""
        function, known = self.recipe.solver, self.recipe.defaults
        while True:
            parameters = inspect.signature(function).parameters.values()
            defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
            source = specialise(function, {**defaults, **known}, NoiseSchedule)
            call = source.tail_call
            if call is None:
                steady = function is solvers.exponential and "_third_order_start" not in source.uses
                self._anywhere = not steady
                return self.add(function, {**defaults, **known})
            function = source.uses[call.func.id]
            names = list(inspect.signature(function).parameters)
            given = {name: arg for name, arg in zip(names, call.args, strict=False)}
            given |= {keyword.arg: keyword.value for keyword in call.keywords}
            known = {n: a.value for n, a in given.items() if isinstance(a, ast.Constant)}

    def add(self, function: Callable, known: dict) -> str:
        """Add a function and what it uses; return its name in the text."""
        if function is exponential.weights:
            self._names["expm1"] = math.expm1
            lines = written_out.weights(self.memory, self._anywhere)
            name, uses = "weights", {}
        else:
            source = specialise(function, known, NoiseSchedule)
            name, lines, uses = source.name, source.lines, source.uses
        if name not in self._names:
            self._names[name] = function
            self._use(uses)
            self.blocks.append(lines)
        elif self._names[name] is not function:
            raise ValueError(f"two functions named {name!r} meet in sampler {self.recipe.name!r}")
        return name

    def _use(self, uses: dict[str, object]) -> None:
        for name, value in uses.items():
            if name in RECORDS or name in STANDARD or getattr(math, name, None) is value:
                self._names[name] = value
            elif name != "inf":
                self.add(value, {})

    def schedule(self) -> list[str]:
        """The class NoiseSchedule with the methods that are used."""
        wanted, methods = ["__init__", *self._methods("schedule", self.blocks), "timestep"], {}
        while wanted:
            name = wanted.pop()
            if name not in methods:
                source = specialise(getattr(NoiseSchedule, name), {}, NoiseSchedule)
                methods[name] = source.lines
                self._use(source.uses)
                wanted += self._methods("self", [source.lines])
        ordered = [methods[name] for name in vars(NoiseSchedule) if name in methods]
        return ["class NoiseSchedule:", *("    " + line for lines in ordered for line in lines)]

    def _texts(self) -> list[str]:
        return [line for block in self.blocks for line in block]

    @staticmethod
    def _methods(owner: str, blocks: Iterable[list[str]]) -> list[str]:
        text = "\n".join(line for lines in blocks for line in lines)
        return re.findall(rf"\b{owner}\.(\w+)\(", text)

    def kick(self) -> list[str]:
        """How much Δ a move takes per unit of the scale."""
        lines = ["def kick(move):"]
        if self._kicks():
            lines += ["    if move.kicks:", "        return sum(move.kicks)"]
        if self.recipe.strength == "leaky_kick":
            lines += ["    if len(move.gains) > 1:", "        return 1 - move.gains[1]"]
        return [*lines, "    return 1.0 if move.gains else 0.0"]

    def _kicks(self) -> bool:
        """Whether the solver says itself what kicks its moves take."""
        return any("kicks=" in text for text in self._texts())

    def mathematics(self) -> list[str]:
        """What the functions take from the standard library, and what they return."""
        names = [n for n, v in self._names.items() if v is not None and getattr(math, n, 0) is v]
        functions = ", ".join(f"torch.{name}" for name in names)
        owned = [f for f in fields(solvers.Move) if f.name != "kicks" or self._kicks()]
        parameters = ", ".join(
            f.name if f.default is MISSING else f"{f.name}={f.default!r}" for f in owned
        )
        attributes = ", ".join(f"self.{f.name}" for f in owned)
        return [
            "real = lambda f: lambda x: f(torch.tensor(x, dtype=torch.float64)).item()  # math",
            f"{', '.join(names)} = map(real, ({functions}))",
            *["inf = torch.inf"] * any("inf" in re.findall(r"\w+", t) for t in self._texts()),
            *(text for name, text in STANDARD.items() if name in self._names),
            "class Move:",
            f"    def __init__(self, {parameters}):",
            f"        {attributes} = {', '.join(f.name for f in owned)}",
            "Stage = lambda at, carry, probe=None: (exp(-at), carry, probe)",
        ]
