"""The stub of the compiled module names exactly what the module has."""

import ast
import inspect
from pathlib import Path

import pytest

import cmbagent
from cmbagent import _core

STUB = ast.parse((Path(cmbagent.__file__).parent / "_core.pyi").read_text(encoding="utf-8"))
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}


def declared(nodes):
    names = set()
    for node in nodes:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def public(names):
    return {name for name in names if not name.startswith("_") or name == "__version__"}


def parameters(node):
    arguments = node.args
    return [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def test_module_names():
    assert public(declared(STUB.body)) == public(dir(_core))


@pytest.mark.parametrize("name", CLASSES)
def test_class_members(name):
    own = {each for each in vars(getattr(_core, name)) if not each.startswith("_")}
    assert public(declared(CLASSES[name].body)) == own


@pytest.mark.parametrize(
    "node", [n for n in STUB.body if isinstance(n, ast.FunctionDef)], ids=lambda n: n.name
)
def test_function_parameters(node):
    assert parameters(node) == list(inspect.signature(getattr(_core, node.name)).parameters)


@pytest.mark.parametrize("name", CLASSES)
def test_method_parameters(name):
    for node in CLASSES[name].body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        member = inspect.getattr_static(getattr(_core, name), node.name)
        if callable(member):
            assert parameters(node) == list(inspect.signature(member).parameters), node.name
