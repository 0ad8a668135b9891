"""Clicks that arrive while text is still on its way are answered when the session may be changed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("panel", reason="needs the extra explore")
from bokeh.document import Document
from panel.io.state import set_curdoc

from cohort_engine.explore.page import Page


def test_a_click_waits_for_its_session() -> None:
    page: Any = Page.__new__(Page)
    shown: list[str] = []
    page.show = shown.append
    page._show_in_turn("without a session")
    assert shown == ["without a session"]
    context, session = SimpleNamespace(), Document()
    session._session_context = lambda: context  # as Bokeh's server sets it, a weak reference
    with set_curdoc(session):
        page._show_in_turn("in a session")
    assert shown == ["without a session"]
    [callback] = session.session_callbacks
    callback.callback()
    assert shown == ["without a session", "in a session"]
