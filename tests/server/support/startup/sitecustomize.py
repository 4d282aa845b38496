"""Python runs this first in every server that a test starts, and changes two modules when they are imported."""

import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


def write_no_stubs(component_meta: Any) -> None:
    """Spare each server what takes nearly as long as the rest of Gradio's import, and changes nothing that is tested.

    At each import it parses the source of all its components and writes `.pyi` files beside them (6.31).
    """
    assert callable(component_meta.create_or_modify_pyi)
    component_meta.create_or_modify_pyi = lambda *_: None


def serve_on_another_port(reloading: Any) -> None:
    """Let several Spaces run on one machine: each has a reload server, and Gradio chooses the same port for all."""
    reloading.start_reload_server.__defaults__ = (int(os.environ.get("RELOAD_PORT", "0")),)


CHANGES: dict[str, Callable[[Any], None]] = {
    "gradio.component_meta": write_no_stubs,
    "spaces.reloading": serve_on_another_port,
}


class Changed:
    """Finds these modules where they are, and has them changed after they are loaded."""

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
