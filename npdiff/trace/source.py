"""What the source says about a result: its equation, its derivation and the lines of code that compute it.

All is read from the functions themselves, so it cannot differ from what runs.
"""

import ast
import inspect
import re
import textwrap
from functools import cache
from pathlib import Path
from typing import NamedTuple

import npdiff

ROOT = Path(npdiff.__file__).parents[1]


class Line(NamedTuple):
    """One statement of the source."""
    file: str               # from the folder that holds npdiff, as "npdiff/nn/linear.py"
    line: int
    text: str


def equations(doc, symbol):
    """The equations of a docstring that begin with the symbol, each with the docstring's line it stands in.

    "dW" finds "dW[i,o] = sum_n x[n,i] dy[n,o]" and "dW = x^T dy". An equation ends at a wide gap, at a full
    stop or with its line. Where the docstring is a table, "alpha    1 - beta" is found.
    """
    found = []
    pattern = rf"(?<![\w∂/])(?<!\+ ){re.escape(symbol)}(\[[^\]]*\])?\s+= .*?(?=[.,]?\s{{2,}}\S|\.\s|[.,]?$)"
    for line in doc.splitlines():
        if entry := re.match(rf"\s*{re.escape(symbol)}\s{{2,}}(?![=\s])(.*?)(\s{{3,}}.*)?$", line):
            found.append((f"{symbol} = {entry[1]}", line.strip()))
        found += [(re.sub(r"\s+", " ", match[0]), line.strip()) for match in re.finditer(pattern, line)]
    return found


def code_lines(function, symbol):
    """The statements of a function that assign to the symbol; where none does, what it returns."""
    source, first, file = source_of(function)
    nodes = list(ast.walk(ast.parse(source)))
    chosen = ([node for node in nodes if symbol in targets(node)]
              or [node for node in nodes if isinstance(node, ast.Return)])
    return [Line(file, first + node.lineno - 1, " ".join(ast.get_source_segment(source, node).split()))
            for node in sorted(chosen, key=lambda node: node.lineno)]


@cache
def source_of(function):
    """A function's source, its first line and its file."""
    lines, first = inspect.getsourcelines(function)
    file = Path(inspect.getsourcefile(function)).relative_to(ROOT).as_posix()
    return textwrap.dedent("".join(lines)), first, file


def targets(node):
    """The names that a statement assigns to: variables, attributes, and variables that operators change."""
    if isinstance(node, ast.Assign | ast.AugAssign):
        ends = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {name for end in ends for part in ast.walk(end)
                if (name := getattr(part, "id", getattr(part, "attr", None)))}
    return set()
