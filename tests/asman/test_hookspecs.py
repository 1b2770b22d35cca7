from __future__ import annotations

import inspect

from asman import hookspecs

HOOKS = [hook for name, hook in vars(hookspecs).items() if name.startswith("asman_")]


def test_every_hook_is_a_plain_function_with_a_short_docstring() -> None:
    assert len(HOOKS) >= 8
    for hook in HOOKS:
        assert not inspect.iscoroutinefunction(hook), hook.__name__
        assert hook.__doc__, hook.__name__
        assert len(hook.__doc__.splitlines()) < 10, hook.__name__


def test_hooks_have_one_call_site_each() -> None:
    from pathlib import Path

    sources = "\n".join(file.read_text() for file in Path(hookspecs.__file__).parent.rglob("*.py"))
    for hook in HOOKS:
        assert f".hook.{hook.__name__}(" in sources, hook.__name__
