"""The tree keeps the rules of its own layout: a test per module, a page per table, one place for every name.

What is listed here as an exception says why; a rule without an exception has none.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from asman import state
from asman.config import SETTINGS, Config
from asman.errors import AsmanError

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
AREAS = ("asman", "backends", "plugins", "worker")
MODULES = sorted(path.relative_to(ROOT).as_posix() for area in AREAS for path in (ROOT / area).rglob("*.py"))

WITHOUT_A_TEST = {
    "asman/__main__.py": "starts the command line; every test of the command line runs it",
    "asman/abc.py": "protocols: each sentence is a test of the kits in asman.testing, run for every backend",
    "asman/services.py": "data without logic; mypy checks it",
}
"""Modules without a test file of their own."""

TESTED_IN: dict[str, str] = {
    "backends/asman_cloudflare/r2_bucket.py": "backends/test_cloudflare_blobs.py",
    "backends/asman_cloudflare/r2_reading.py": "backends/test_cloudflare_blobs.py",
    "backends/asman_cloudflare/r2_upload.py": "backends/test_cloudflare_blobs.py",
    "backends/asman_cloudflare/directory.py": "backends/test_cloudflare_durable.py",
    "backends/asman_sqlite/store.py": "backends/test_sqlite_requests.py",
    "plugins/asman_metrics/families.py": "plugins/test_metrics_server.py",
}
"""Modules whose tests stand in a file of another name, which imports them."""

REFUSED_NAMES = {"utils", "util", "common", "helpers", "manager", "base", "misc"}


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse((ROOT / module).read_text())


@cache
def _test_texts() -> dict[str, str]:
    return {path.relative_to(TESTS).as_posix(): path.read_text() for path in sorted(TESTS.rglob("*.py"))}


def _dotted(module: str) -> str:
    parts = list(Path(module).with_suffix("").parts)
    parts = parts if parts[0] == "asman" else parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _has_code(module: str) -> bool:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return any(isinstance(node, kinds) for node in _tree(module).body)


# --- a test file for each module --------------------------------------------------------------------------------------


def _test_files(module: str) -> list[str]:
    """Test files that stand for a module: its name, in its area; below a package, with the package in the path.

    A small package may have one file of the package's name, if that file imports the module. Routes may be tested
    over HTTP, in ``contract``.
    """
    area = Path(module).parts[0]
    names = [part.removeprefix("asman_").strip("_") for part in _dotted(module).split(".")]
    names = names[1:] if area in ("asman", "worker") and len(names) > 1 else names
    packages, own = names[:-1], names[-1]
    found = []
    for path, text in _test_texts().items():
        if path == f"contract/test_{own}.py" and packages == ["routes"]:
            found.append(path)
        if not path.startswith(f"{area}/"):
            continue
        words = re.split(r"[/_.]", path)
        stem = Path(path).stem
        own_file = stem in (f"test_{own}", f"test_{'_'.join(names)}") and all(p in words for p in packages)
        package_file = bool(packages) and stem == f"test_{packages[-1]}" and _imports(text, module)
        if own_file or package_file:
            found.append(path)
    return found


def _imports(text: str, module: str) -> bool:
    """Does a test name the module, or import one of its names from the package?"""
    dotted = _dotted(module)
    package, _, name = dotted.rpartition(".")
    taken = re.findall(rf"from {re.escape(package)} import (\([^)]*\)|[^\n]*)", text)
    wanted = re.compile(rf"\b({'|'.join(map(re.escape, [name, *(_listed(module) or ())]))})\b")
    return dotted in text or any(wanted.search(names) for names in taken)


@pytest.mark.parametrize("module", [m for m in MODULES if _has_code(m) and m not in WITHOUT_A_TEST])
def test_every_module_has_a_test_file(module: str) -> None:
    if module in TESTED_IN:
        text = _test_texts()[TESTED_IN[module]]
        assert _imports(text, module), f"{TESTED_IN[module]} does not import {_dotted(module)}"
    else:
        assert _test_files(module), f"no test file for {module}: make tests/{module.replace('.py', '')} as test_*.py"


def test_exceptions_name_modules_that_exist() -> None:
    assert {*WITHOUT_A_TEST, *TESTED_IN} <= {*MODULES}


def test_every_test_file_is_in_a_folder_that_is_run() -> None:
    allowed = {*AREAS, "contract", "end_to_end", "packaging", "pyodide", "support", "web", "docs", "deploy"}
    assert {path.split("/")[0] for path in _test_texts() if "/" in path} <= allowed


# --- names ------------------------------------------------------------------------------------------------------------


def _listed(module: str) -> list[str] | None:
    for node in _tree(module).body:
        if isinstance(node, ast.Assign) and [t.id for t in node.targets if isinstance(t, ast.Name)] == ["__all__"]:
            return list(ast.literal_eval(node.value))
    return None


_SAME_FUNCTION = {"contextmanager", "asynccontextmanager", "cache", "lru_cache", "overload"}


def _is_registered(node: ast.stmt) -> bool:
    """Is this a function that its decorator hands to somebody else: a hook, a view, a command, a fixture?"""
    decorators = getattr(node, "decorator_list", [])
    names = {ast.unparse(d).split("(")[0].split(".")[-1] for d in decorators}
    return not isinstance(node, ast.ClassDef) and bool(names - _SAME_FUNCTION)


def _is_type_variable(node: ast.Assign | ast.AnnAssign) -> bool:
    return isinstance(node.value, ast.Call) and ast.unparse(node.value.func) in ("TypeVar", "ParamSpec")


def _defined(module: str) -> set[str]:
    """Public names that the module itself makes for others to import."""
    names: set[str] = set()
    for node in _tree(module).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not _is_registered(node):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and not _is_type_variable(node):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name))
    return {name for name in names if not name.startswith("_")}


def _registered(module: str) -> set[str]:
    return {getattr(node, "name", "") for node in _tree(module).body if _is_registered(node)}


def _imported(module: str) -> set[str]:
    nodes = [node for node in ast.walk(_tree(module)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return {alias.asname or alias.name for node in nodes for alias in node.names}


@pytest.mark.parametrize("module", MODULES)
def test_all_lists_the_public_names_of_the_module(module: str) -> None:
    listed = _listed(module)
    if listed is None:
        assert not _defined(module), f"{module} has public names and no __all__"
        return
    assert len(listed) == len(set(listed)), f"{module}: a name stands twice in __all__"
    assert set(listed) >= _defined(module), f"{module}: __all__ lacks {_defined(module) - set(listed)}"
    submodules = (
        {path.stem for path in (ROOT / module).parent.glob("*.py")} if module.endswith("__init__.py") else set()
    )
    extra = set(listed) - _defined(module) - _registered(module) - _imported(module) - submodules - {"__version__"}
    assert not extra, f"{module}: __all__ names {extra}, which the module does not have"


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is_for(module: str) -> None:
    assert len(ast.get_docstring(_tree(module)) or "") > 20, f"{module} has no docstring that says what it owns"


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [module for module in MODULES if Path(module).stem in REFUSED_NAMES] == []


# --- pages made from code ---------------------------------------------------------------------------------------------


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = _generator()


@pytest.mark.parametrize("page", sorted(GENERATOR.PAGES))
def test_a_page_made_from_code_is_up_to_date(page: str) -> None:
    path = ROOT / "docs" / page
    assert path.is_file(), "run: python docs/generate.py"
    assert path.read_text() == GENERATOR.PAGES[page](), "run: python docs/generate.py"


def test_the_state_diagram_has_an_edge_for_every_change_of_state() -> None:
    diagram = GENERATOR.state_diagram()
    for row in state.TRANSITIONS:
        for source in row.states:
            if source is not row.to:
                shown = "[*]" if source.value == "Absent" else source.value
                assert re.search(
                    rf"^    {re.escape(shown)} --> {row.to.value}: .*\b{row.event.__name__}\b", diagram, re.M
                )


# --- hooks, settings, errors ------------------------------------------------------------------------------------------


def _tests_that_name(word: str) -> list[str]:
    found = re.compile(rf"\b{re.escape(word)}\b")
    return [path for path, text in _test_texts().items() if found.search(text) and path != "test_layout.py"]


@pytest.mark.parametrize("hook", sorted(GENERATOR.hooks()))
def test_every_hook_is_explained_and_tested(hook: str) -> None:
    explained = (GENERATOR.hooks()[hook].__doc__ or "").strip()
    assert "alled" in explained, f"{hook} does not say when it is called"
    assert len(explained.splitlines()) < 10
    assert _tests_that_name(hook), f"no test names {hook}"


def test_every_setting_is_a_field_of_the_configuration_with_the_same_default() -> None:
    table = {s.name: s.default for s in SETTINGS}
    config = {f.name: f.default for f in fields(Config) if f.name != "limits"}
    assert table == config
    assert MISSING not in config.values()


def test_every_setting_has_its_own_variable_and_a_line_of_help() -> None:
    assert {s.env for s in SETTINGS} == {f"ASMAN_{s.name.removesuffix('_s').upper()}" for s in SETTINGS}
    assert [s.name for s in SETTINGS if not s.help.endswith(".") or len(s.help) > 120] == []
    assert {s.kind for s in SETTINGS} <= {"text", "duration", "size", "whole", "flag", "list"}


@pytest.mark.parametrize("setting", [s.name for s in SETTINGS])
def test_every_setting_is_used_and_tested(setting: str) -> None:
    word = re.compile(rf"\.{setting}\b")
    assert [m for m in MODULES if word.search((ROOT / m).read_text())], f"nothing reads {setting}"
    known = (
        setting,
        f"--{setting.removesuffix('_s').replace('_', '-')}",
        f"ASMAN_{setting.removesuffix('_s').upper()}",
    )
    assert any(_tests_that_name(word) for word in known), f"no test names {setting}"


ERRORS: list[type[AsmanError]] = GENERATOR.error_classes()


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in ERRORS]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)
    assert all(400 <= error.status < 600 for error in ERRORS)


def test_the_tree_at_the_top_of_the_errors_is_the_tree_of_classes() -> None:
    drawn = [
        m[2]
        for m in re.finditer(
            r"^ {4}([│├└─ ]*)([A-Z]\w+)", ast.get_docstring(_tree("asman/errors.py"), clean=False) or "", re.M
        )
    ]
    assert drawn == [error.__name__ for error in ERRORS]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_every_error_is_tested(error: type[AsmanError]) -> None:
    assert _tests_that_name(error.__name__) or _tests_that_name(error.code), f"no test names {error.__name__}"


# --- who may import what ----------------------------------------------------------------------------------------------

OPEN_TO_BACKENDS = {
    *(
        "_emscripten",
        "abc",
        "batches",
        "client",
        "completion",
        "config",
        "contract",
        "definition",
        "demand",
        "errors",
        "exposition",
        "hookspecs",
        "identity",
        "job",
    ),
    *("matching", "messages", "state", "strict_json", "units"),
}
"""Modules of the core that backends, plugins and the worker may import."""


def test_every_core_module_is_either_open_or_closed_to_backends() -> None:
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    (closed,) = (
        set(c["forbidden_modules"]) for c in contracts if c["name"].startswith("Backends, plugins and the worker use")
    )
    modules = {
        f"asman.{path.stem}"
        for path in (ROOT / "asman").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert closed & {f"asman.{name}" for name in OPEN_TO_BACKENDS} == set()
    assert modules - closed - {f"asman.{name}" for name in OPEN_TO_BACKENDS} == {"asman.__init__"}


def test_the_example_package_uses_what_is_open_to_backends_and_nothing_else() -> None:
    files = sorted((ROOT / "examples").glob("*/src/**/*.py"))
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    named = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    named |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    ours = {name.split(".")[1] for name in named if name.startswith("asman.")}
    assert ours
    assert ours <= OPEN_TO_BACKENDS
    assert not named & {"asman"}
