"""Every public name of the package says what it is, of which shape and in which unit.

The package is read as syntax trees, so nothing is imported and nothing runs.
"""

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[2] / "workflow" / "src" / "mlip_studies"

#: annotations of arrays, aliases included
ARRAY = re.compile(r"\b(Tensor|ndarray|NDArray|ArrayLike|[A-Z]\w*Array|Array)\b")
#: one length in a shape: a number, a name, a product or sum of them, or dots
_LENGTH = (
    r"(?:\.\.\.|…|(?:\d+ )?[\w².]+(?:\(\w+\))?(?:\s*[·*+\-−/]\s*[\w²(]+\)?)*|\([^()]*\)²?|(?:sum|number) of [\w\s+·]+)"
)
_BRACKETS = re.compile(rf"[(\[]({_LENGTH}(?:\s*,\s*{_LENGTH})*,?)[)\]]")
_WORDS = re.compile(r"\b(scalars?|any shape|same shapes?)\b", re.I)
#: what makes a bracket a shape and not an aside: a number, dots, an index or a count
_COUNT = re.compile(r"(^|[\s,(])(\d+|\.\.\.|…|[a-zA-Z]|n_\w+|len\(\w+\)|[A-Z]|rows|\w+_size)\b|,$")

#: last words of names that are physical quantities; those that carry their unit (``time_ps``) end in something else
QUANTITIES = {
    *("energy", "energies", "force", "forces", "positions", "coordinates", "cutoff", "temperature"),
    *("temperatures", "time", "times", "timestep", "distance", "distances", "velocity", "velocities", "mass", "masses"),
    *("momenta", "momentum", "charge", "charges", "dipole", "hessian", "length", "lengths"),
}
#: annotations of what can have a unit: numbers and arrays, not switches, names or functions
_NUMBER = re.compile(r"\bfloat\b|\bint\b")
_UNIT = re.compile(
    r"Å|(?<!')\b(?:m?eV|fs|ps|K|amu|kcal/mol|hartree|bohr|rad|e|s|ms)\b|µs|dimensionless|elementary charge|degrees"
    r"|seconds|\bunits?\b(?! (?:vector|length|norm|Euclid|sphere))"
)
#: a docstring that is one reference, mostly of a method that a base class describes
_REFERENCE = re.compile(r"(See|As) (the|its|:\w+:)")


class Problem(NamedTuple):
    """Something that a docstring should say and does not."""

    where: str
    what: str

    def __str__(self):
        return f"{self.where}: {self.what}"


def has_shape(text):
    """Whether a docstring states a shape."""
    return bool(_WORDS.search(text)) or any(_COUNT.search(match[1]) for match in _BRACKETS.finditer(text))


def has_unit(text):
    """Whether a docstring states a unit."""
    return bool(_UNIT.search(text))


def is_quantity(name):
    """Whether a name ends in the name of a physical quantity."""
    return name.split("_")[-1] in QUANTITIES and not name.startswith(("n_", "is_", "has_", "with_"))


def _measurable(annotation):
    """Whether something of this annotation can have a unit."""
    text = "" if annotation is None else ast.unparse(annotation)
    if re.search(r"\b(Callable|str|bool|Mapping|dict)\b", text):
        return False
    return bool(ARRAY.search(text) or _NUMBER.search(text))


def _is_array(annotation):
    text = "" if annotation is None else ast.unparse(annotation)
    return bool(ARRAY.search(text)) and "Callable" not in text


def _entries(doc):
    """The text about each parameter in the section of arguments, by name."""
    section = re.search(
        r"^\s*Args:\n(.*?)(?=^\s*(?:Returns|Raises|Yields|Attributes|Example|Note)s?:|\Z)", doc, re.M | re.S
    )
    found, name = {}, None
    for line in section[1].splitlines() if section else ():
        start = re.match(r"\s*\**(\w+(?:, \w+)*):\s", line)
        if start:
            name = start[1]
        if name is not None:
            for each in name.split(", "):
                found[each] = found.get(each, "") + " " + line.strip()
    return found


def _parameters(function):
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg]
    return [each for each in every if each is not None and each.arg not in ("self", "cls")]


def _check_function(function, where, context=""):
    """Problems of one public function; ``context`` is the docstring of the class of a constructor."""
    doc = ast.get_docstring(function) or ""
    text = f"{context}\n{doc}"
    if not text.strip():
        return [Problem(where, "no docstring")]
    if _REFERENCE.match(doc):
        return []
    problems = []
    parameters = _parameters(function)
    arrays = [each.arg for each in parameters if _is_array(each.annotation)]
    if (arrays or _is_array(function.returns)) and not has_shape(text):
        problems.append(Problem(where, f"no shape of {', '.join(arrays) or 'the result'}"))
    entries = _entries(text)
    problems += [
        Problem(where, f"no unit of {each.arg}")
        for each in parameters
        if is_quantity(each.arg) and _measurable(each.annotation) and not has_unit(entries.get(each.arg, text))
    ]
    if is_quantity(function.name) and _measurable(function.returns) and not has_unit(text):
        problems.append(Problem(where, "no unit of the result"))
    return problems


def _is_repeated(function):
    """Whether the docstring is elsewhere: a setter's at its property, an overload's at the function."""
    return any(ast.unparse(mark).endswith((".setter", "overload")) for mark in function.decorator_list)


def _check_class(node, where):
    doc = ast.get_docstring(node)
    problems = [] if doc else [Problem(where, "no docstring")]
    for each in node.body:
        if isinstance(each, ast.ClassDef) and not each.name.startswith("_"):
            problems += _check_class(each, f"{where}.{each.name}")
        elif isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            if each.name == "__init__":
                problems += _check_function(each, f"{where}.__init__", doc or "")
            elif (each.name == "__call__" or not each.name.startswith("_")) and not _is_repeated(each):
                problems += _check_function(each, f"{where}.{each.name}")
    return problems


def problems_of(source, name):
    """What the docstrings of a module leave out.

    Args:
        source: of the module.
        name: of the module.
    """
    tree = ast.parse(source)
    problems = [] if ast.get_docstring(tree) else [Problem(name, "no docstring")]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            problems += _check_class(node, f"{name}.{node.name}")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            problems += _check_function(node, f"{name}.{node.name}")
    return problems


def _modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), path


@pytest.mark.parametrize(("name", "path"), [pytest.param(*each, id=each[0]) for each in _modules()])
def test_docstrings_state_shapes_and_units(name, path):
    assert not (found := problems_of(path.read_text(encoding="utf-8"), name)), "\n".join(map(str, found))


def test_the_whole_package_is_looked_at():
    names = [name for name, _ in _modules()]
    assert {"graph.batch", "models.gemnet", "md.engine", "units"} <= set(names) and len(names) > 150


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Forces, shape (n_atoms, 3).", True),
        ("One row each, (n,).", True),
        ("Matrices [N, 3, 3].", True),
        ("Of (n, k · b, c) and weights (n, ...).", True),
        ("The same shape as x.", True),
        ("Forces (of the test set, in meV/Å).", False),
        ("Rows that were read.", False),
    ],
)
def test_a_shape_is_recognised(text, expected):
    assert has_shape(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("positions (n, 3), Å", True),
        ("in meV per atom", True),
        ("of the molecule, e", True),
        ("the largest one", False),
        ("every atom's", False),
    ],
)
def test_a_unit_is_recognised(text, expected):
    assert has_unit(text) is expected


def _written(doc, signature="positions: Tensor, cutoff: float", returns="Tensor"):
    return f'"""A module."""\ndef function({signature}) -> {returns}:\n    """{doc}"""\n'


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('def function():\n    """Documented."""\n', ["no docstring"]),
        ('"""A module."""\ndef function():\n    pass\n', ["no docstring"]),
        ('"""A module."""\nclass Thing:\n    """A thing."""\n    def method(self):\n        pass\n', ["no docstring"]),
        ('"""A module."""\ndef _hidden(positions: Tensor):\n    pass\n', []),
        (_written("Edges."), ["no shape of positions", "no unit of positions", "no unit of cutoff"]),
        (_written("Edges of positions (n, 3), Å, within a cutoff, Å."), []),
        (_written("Edges.\n\n    Args:\n        positions: shape (n, 3), Å.\n        cutoff: largest.\n    "),
         ["no unit of cutoff"]),
        (_written("Whether it is near.", "cutoff: bool", "bool"), []),
        (_written("It.", "time_ps: float", "float"), []),
        ('"""A module."""\ndef kinetic_energy() -> float:\n    """Of all atoms."""\n', ["no unit of the result"]),
        ('"""A module."""\nclass Thing:\n    """Positions (n, 3), Å."""\n'
         '    def __init__(self, positions: Tensor):\n        pass\n', []),
    ],
)  # fmt: skip
def test_what_is_left_out_is_found(source, expected):
    assert [problem.what for problem in problems_of(source, "module")] == expected
