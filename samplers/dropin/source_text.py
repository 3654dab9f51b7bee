"""Write a changed syntax tree back as text that keeps the lines which did not change."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator, Mapping, Sequence

WIDTH = 84  # of a rewritten line, so that it stays below 100 inside a method's nested function


def header(node: ast.stmt) -> str:
    """Describe a statement without its blocks, so that two descriptions tell a change."""
    parts = [(k, v) for k, v in ast.iter_fields(node) if k not in ("body", "orelse")]
    return repr([(k, [ast.dump(n) for n in _nodes(v)]) for k, v in parts])


def emit(
    node: ast.stmt, before: Mapping[int, str], source: Sequence[str], depth: int = 0
) -> Iterator[str]:
    """Yield the lines of a statement: the source's own where nothing changed.

    before  `header` of every statement before the tree was changed, by id
    source  the lines that the tree was parsed from
    """
    indent, body = "    " * depth, getattr(node, "body", None)
    if before.get(id(node)) == header(node) and not isinstance(node, ast.FunctionDef):
        first, last = node.lineno - 1, _end(node) if body else node.end_lineno
        while first and source[first - 1].lstrip().startswith("#"):
            first -= 1
        yield from (indent + line[node.col_offset :] for line in source[first:last])
    else:
        yield from (indent + line for line in _rewritten(node))
    for statement in body or ():
        yield from emit(statement, before, source, depth + 1)
    orelse = getattr(node, "orelse", [])
    if len(orelse) == 1 and isinstance(orelse[0], ast.If):
        first, *rest = emit(orelse[0], before, source, depth)
        yield indent + "el" * first.startswith(f"{indent}if") + first.removeprefix(indent)
        yield from rest
    elif orelse:
        yield f"{indent}else:"
        for statement in orelse:
            yield from emit(statement, before, source, depth + 1)


def _rewritten(node: ast.stmt) -> list[str]:
    """Return a statement, or a compound one's first line, as new text."""
    if hasattr(node, "body"):
        fields = dict(ast.iter_fields(node)) | {"body": [ast.Pass()], "orelse": []}
        bare = type(node)(**{k: fields[k] for k in node._fields if k in fields})
        return ast.unparse(ast.fix_missing_locations(bare)).splitlines()[:1]
    text = ast.unparse(ast.fix_missing_locations(node))
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple) and len(text) <= WIDTH:
        target, _, value = text.partition(" = ")
        return [f"{target} = {value.removeprefix('(').removesuffix(')')}"]
    if len(text) > WIDTH and isinstance(node, ast.Assign) and not isinstance(node.value, ast.Tuple):
        target, _, value = text.partition(" = ")
        text = f"{target} = ({value})"
    return textwrap.wrap(text, WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def _end(node: ast.stmt) -> int:
    """Return the last line of a compound statement's header."""
    return max(n.end_lineno for n in ast.iter_child_nodes(node) if isinstance(n, ast.expr))


def _nodes(value: object) -> list[ast.AST]:
    return [n for n in (value if isinstance(value, list) else [value]) if isinstance(n, ast.AST)]
