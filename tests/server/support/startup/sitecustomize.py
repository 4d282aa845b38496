"""Change two modules in each server that a test starts. Python imports this file first."""

import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


def write_no_stubs(component_meta: Any) -> None:
    """Write no `.pyi` files: they take nearly half of Gradio's import (6.31), and no test needs them."""
    assert callable(component_meta.create_or_modify_pyi)
    component_meta.create_or_modify_pyi = lambda *_: None


def serve_on_another_port(reloading: Any) -> None:
    """Choose the port of the reload server: Gradio takes the same port for all Spaces."""
    reloading.start_reload_server.__defaults__ = (int(os.environ.get("RELOAD_PORT", "0")),)


CHANGES: dict[str, Callable[[Any], None]] = {
    "gradio.component_meta": write_no_stubs,
    "spaces.reloading": serve_on_another_port,
}


class Changed:
    """Find these modules as usual, and change them once they are loaded."""

    @staticmethod
    def find_spec(name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in CHANGES or (spec := PathFinder.find_spec(name, path)) is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_change(module: ModuleType) -> None:
            load(module)
            CHANGES[name](module)

        spec.loader.exec_module = load_and_change  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Changed)  # type: ignore[arg-type]
