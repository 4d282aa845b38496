"""Speed up each server that a test starts. Python imports this file first."""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class WithoutStubs:
    """Let Gradio write no `.pyi` files: they take nearly half of its import (6.31), and no test needs them."""

    @staticmethod
    def find_spec(name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "gradio.component_meta" or (spec := PathFinder.find_spec(name, path)) is None:
            return None
        load = spec.loader.exec_module  # type: ignore[union-attr]

        def load_and_change(module: Any) -> None:
            load(module)
            module.create_or_modify_pyi = lambda *_: None

        spec.loader.exec_module = load_and_change  # type: ignore[method-assign, union-attr]
        return spec


sys.meta_path.insert(0, WithoutStubs)  # type: ignore[arg-type]
