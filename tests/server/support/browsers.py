"""How the pages are looked at: in which sizes and colours, and how well what they say can be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page

from support.processes import Process

CHROMIUM_ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
LOOKS: dict[str, Any] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 800}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 800}},
    "phone": {
        "color_scheme": "light",
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "has_touch": True,
    },
}

FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
# The contrast of every piece of our own text with what is painted behind it, as WCAG 2 counts it.
CONTRASTS = """() => {
  const rgba = color => { const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number); return [r, g, b, a] };
  const over = ([r, g, b, a], under) => [r, g, b].map((part, i) => part * a + under[i] * (1 - a));
  const behind = e => e ? over(rgba(getComputedStyle(e).backgroundColor), behind(e.parentElement)) : [255, 255, 255];
  const light = color => color.map(part => part / 255)
    .map(part => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4)
    .reduce((sum, part, i) => sum + part * [.2126, .7152, .0722][i], 0);
  return [...document.querySelectorAll(".webhooks-card *")]
    .filter(e => [...e.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim()))
    .map(e => {
      const paper = behind(e), [low, high] = [paper, over(rgba(getComputedStyle(e).color), paper)]
        .map(light).sort((a, b) => a - b);
      return [e.innerText, (high + .05) / (low + .05)];
    });
}"""


@contextmanager
def opened_page(browser: Browser, server: Process, path: str = "", **options: Any) -> Iterator[Page]:
    """Open a page. A complaint of the browser fails the test."""
    complaints: list[str] = []
    with browser.new_context(**options) as context:
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(server.url + path)
        yield page
    assert [text for text in complaints if "status of 4" not in text] == []
