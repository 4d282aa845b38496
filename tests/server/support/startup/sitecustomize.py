"""Python runs this first in every server that a test starts: Gradio writes no type stubs there.

At each import Gradio (6.31, `component_meta.py`) parses the source of all its components and writes `.pyi` files
beside them, which takes nearly as long as the rest of the import. Nothing that is tested depends on them.
"""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class WithoutStubs:
    """Finds `gradio.component_meta` where it is, and takes out of it what writes the stubs."""

    @staticmethod
    def find_spec(name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == "gradio.component_meta" else None
        if spec and spec.loader:
            spec.loader.exec_module = lambda module, run=spec.loader.exec_module: WithoutStubs.load(module, run)
        return spec

    @staticmethod
    def load(module: Any, run: Any) -> None:
        run(module)
        assert callable(module.create_or_modify_pyi), "Gradio writes its stubs another way now; is this still needed?"
        module.create_or_modify_pyi = lambda *_: None


sys.meta_path.insert(0, WithoutStubs)
