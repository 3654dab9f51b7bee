"""Specialise the source of a pure function: known arguments folded in, checks and docs dropped.

`samplers.dropin.inline` builds a self-contained class with it. Unchanged lines keep their text and
comments. The rules know scalars only: constant arithmetic, 0·x = 0 and 1·x = x (a folded 0 never
meets an infinity), 0 <= exp(x) <= inf, known conditions, locals that are assigned one constant.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import math
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from samplers.dropin.source_text import emit, header
from samplers.errors import finite, pair, whole

EVALUATED = (whole, finite, pair, math.exp, math.expm1, math.log, math.sqrt)
SCALARS = (bool, int, float, str, type(None))


@dataclass
class Source:
    """A specialised function: its text, and the package's objects that the text refers to."""

    name: str
    lines: list[str]
    node: ast.FunctionDef
    uses: dict[str, Any] = field(default_factory=dict)

    @property
    def tail_call(self) -> ast.Call | None:
        """The call f(…) of a function that does nothing but `return f(…)`."""
        body = self.node.body
        only = body[0].value if len(body) == 1 and isinstance(body[0], ast.Return) else None
        return only if isinstance(only, ast.Call) and isinstance(only.func, ast.Name) else None

    @property
    def expression(self) -> str:
        """What the function returns, as one expression of its parameters.

        Raises ValueError for a body other than `name = …` where needed and one `return`.
        """
        *assigned, last = self.node.body
        if not isinstance(last, ast.Return) or not all(isinstance(a, ast.Assign) for a in assigned):
            raise ValueError(f"{self.name} does more than to return an expression")
        value = last.value
        for statement in reversed(assigned):
            value = _Rename(statement.targets[0].id, statement.value).visit(value)
        return ast.unparse(value)


def specialise(function: Callable, known: Mapping[str, Any], properties: type) -> Source:
    """Return a function's source with the parameters in `known` fixed.

    known       values of parameters: scalars, tuples of them, or objects read by attribute
    properties  a class whose one-line properties are written out where they are read
    """
    text = textwrap.dedent(inspect.getsource(function))
    node = ast.parse(text).body[0]
    scope = vars(builtins) | function.__globals__ | inspect.getclosurevars(function).nonlocals
    before = {id(n): header(n) for n in ast.walk(node) if isinstance(n, ast.stmt)}
    fold = _Fold(node, scope, known, properties)
    node = fold.visit(node)
    lines = [line.replace("1e309", "inf") for line in emit(node, before, text.splitlines())]
    left = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return Source(node.name, lines, node, {k: v for k, v in fold.uses.items() if k in left})


class _Fold(ast.NodeTransformer):
    """Fold what is known, in place, and note what else of the package is used."""

    def __init__(self, root: ast.FunctionDef, scope: dict, known: Mapping[str, Any], properties):
        self.scope, self.known, self.properties = scope, dict(known), properties
        self.uses: dict[str, Any] = {}
        stored = [n.id for n in ast.walk(root) if _stores(n)]
        stored += [a.arg for n in ast.walk(root) if isinstance(n, ast.arguments) for a in n.args]
        stored += [n.name for n in ast.walk(root) if isinstance(n, ast.FunctionDef)][1:]
        self.local = set(stored)
        # a parameter that is known counts as no assignment: a later one may replace it
        self.once = {n for n in stored if stored.count(n) - (n in self.known) == 1}

    # --- statements ----------------------------------------------------------------------------

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        names = [a.arg for a in node.args.args]
        defaults = dict(zip(reversed(names), reversed(node.args.defaults), strict=False))
        kept = [name for name in names if name not in self.known]
        node.args.args = [ast.arg(name) for name in kept]
        node.args.defaults = [self.visit(defaults[name]) for name in kept if name in defaults]
        node.returns, node.decorator_list = None, []
        node.body = self._block(node.body)
        return node

    def _block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        out: list[ast.stmt] = []
        for statement in body:
            done = self.visit(statement)
            out += done if isinstance(done, list) else [done] if done else []
            if out and isinstance(out[-1], ast.Return | ast.Continue):
                break
        return out

    def visit_If(self, node: ast.If) -> ast.If | list[ast.stmt] | None:
        node.test = self.visit(node.test)
        if isinstance(node.test, ast.Constant):
            return self._block(node.body if node.test.value else node.orelse)
        node.body, node.orelse = self._block(node.body), self._block(node.orelse)
        checks = all(isinstance(statement, ast.Raise) for statement in node.body)
        return None if checks and not node.orelse else node

    def visit_For(self, node: ast.For) -> ast.For | None:
        node.iter, node.body = self.visit(node.iter), self._block(node.body)
        return node if node.body else None

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        self.generic_visit(node)
        return None if isinstance(node.value, ast.Constant) else node

    def visit_Assign(self, node: ast.Assign) -> ast.Assign | None:
        node.value = self.visit(node.value)
        target = node.targets[0]
        constant = isinstance(target, ast.Name) and isinstance(node.value, ast.Constant)
        if constant and target.id in self.once:
            self.known[target.id] = node.value.value
            return None
        return node

    # --- expressions ---------------------------------------------------------------------------

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if not isinstance(node.ctx, ast.Load):
            return node
        if node.id in self.known:
            value = self.known[node.id]
            return ast.Constant(value) if _is_constant(value) else node
        if node.id in self.local:
            return node
        return self._global(self.scope[node.id], node)

    def _global(self, value: Any, node: ast.expr) -> ast.expr:
        if value is math.inf:
            return ast.Name("inf", ast.Load())
        if _is_constant(value):
            return ast.Constant(value)
        name = value.__name__
        if getattr(builtins, name, None) is not value:
            self.uses[name] = value
        return ast.Name(name, ast.Load())

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.value, ast.Name):
            owner = self.known.get(node.value.id, self.scope.get(node.value.id))
            if node.value.id in self.known and not _is_constant(owner):
                return ast.Constant(getattr(owner, node.attr))
            if isinstance(owner, ModuleType):
                return self._global(getattr(owner, node.attr), node)
        written = getattr(self.properties, node.attr, None)
        if isinstance(written, property):
            tree = ast.parse(textwrap.dedent(inspect.getsource(written.fget)))
            value = tree.body[0].body[-1].value
            return self.visit(_Rename("self", node.value).visit(value))
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        callee = self.scope.get(node.func.id) if isinstance(node.func, ast.Name) else None
        node.args = [self.visit(a) for a in node.args]
        if callee in EVALUATED and all(isinstance(a, ast.Constant) for a in node.args):
            return ast.Constant(_plain(callee(*(a.value for a in node.args))))
        node.func = self.visit(node.func)
        for keyword in node.keywords:
            keyword.value = self.visit(keyword.value)
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            return node.body if node.test.value else node.orelse
        return node.body if ast.dump(node.body) == ast.dump(node.orelse) else node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        stops = isinstance(node.op, ast.Or)  # the value that decides: True for or, False for and
        values: list[ast.expr] = []
        for value in map(self.visit, node.values):
            if not isinstance(value, ast.Constant):
                values.append(value)
            elif bool(value.value) is stops:
                values.append(value)
                break
        if not values:
            return ast.Constant(not stops)
        if isinstance(values[0], ast.Constant):
            return values[0]
        node.values = values
        return node if len(values) > 1 else values[0]

    def generic_visit(self, node: ast.AST) -> ast.AST:
        node = super().generic_visit(node)
        if isinstance(node, ast.BinOp | ast.Compare):
            node = _simplify(node)
        foldable = isinstance(node, ast.BinOp | ast.UnaryOp | ast.Compare | ast.Subscript)
        if foldable and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
            parts = [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.expr)]
            if all(isinstance(n, ast.Constant) for n in parts):
                code = compile(ast.fix_missing_locations(ast.Expression(node)), "fold", "eval")
                return ast.Constant(_plain(eval(code, {})))
        return node


class _Rename(ast.NodeTransformer):
    def __init__(self, name: str, value: ast.expr):
        self.name, self.value = name, value

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.value if node.id == self.name else node


def _simplify(node: ast.BinOp | ast.Compare) -> ast.expr:
    if isinstance(node, ast.Compare):
        always = re.fullmatch(r"0\.0 <= exp\([^()]*\) <= 1e309", ast.unparse(node))  # 1e309 = inf
        return ast.Constant(True) if always else node
    sides = (node.left, node.right)
    left, right = (n.value if isinstance(n, ast.Constant) else None for n in sides)
    if isinstance(node.op, ast.Mult):
        if 0 in (left, right):
            return ast.Constant(0.0)
        return node.right if left == 1 else node.left if right == 1 else node
    if isinstance(node.op, ast.Add) and 0 in (left, right):
        return node.right if left == 0 else node.left
    return node


def _plain(value: Any) -> Any:
    return 0.0 if isinstance(value, float) and value == 0 else value  # no −0.0


def _is_constant(value: Any) -> bool:
    return isinstance(value, SCALARS) or (
        isinstance(value, tuple) and all(isinstance(v, SCALARS) for v in value)
    )


def _stores(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
