"""What ZeroGPU hardware asks of an app, though this one needs no GPU. Imported before anything imports gradio.

A personal account without a paid plan can create Gradio Spaces on ZeroGPU only. The platform ends an app there unless
it has a function for the GPU when `Blocks.launch` is called; the package `spaces`, which every Space has, then reports
it (spaces 0.51.3, `zero/__init__.py`; https://huggingface.co/docs/hub/spaces-zerogpu).
"""

from __future__ import annotations

import importlib
import os


def idle() -> None:
    """Do nothing. The function is never called, so it uses no quota."""


if os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true"):
    importlib.import_module("spaces").GPU(idle)
