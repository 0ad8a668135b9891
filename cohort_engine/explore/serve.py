"""The explorer's server: on this machine alone, unless told."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from cohort_engine.errors import InputError
from cohort_engine.explore.numbers import Explored

LOOPBACK = "127.0.0.1"
SLOWEST_MS = 600_000
"""How long a browser may take from the page to its connection: with less, a slow one comes back to another session than that of its address."""


def serve(url: str, *, port: int = 0, address: str = LOOPBACK, ready: Callable[[str], None] = print) -> None:
    """Serve the explorer of a store until it is interrupted.

    Parameters
    ----------
    url : str
        Folder or URL of a store.
    port : int
        0: a free one.
    address : str
        By default nobody but this machine reaches it: whoever reaches it sees the table of people. Ratings are saved at that address alone.
    ready : callable
        Is given the address of the page.

    Raises
    ------
    StoreError, StorageError, InputError
        No store, one that does not answer, one without people; the port is taken.
    """
    server = make_server(url, port=port, address=address)
    server.start()
    ready(f"http://{address}:{server.port}/")
    server.run_until_shutdown()


def make_server(url: str, *, port: int = 0, address: str = LOOPBACK) -> Any:
    """Make the server and load what the first page shows; see `serve`."""
    explored = Explored(url)
    explored.pick(explored.checked(explored.start()))
    import panel as pn
    from panel.io.resources import LOCAL_DIST

    from cohort_engine.explore.page import STYLE, Page
    from cohort_engine.explore.viewer import SLUG, VENDOR
    from cohort_engine.query.accessor import open_cohort

    opened = cache(lambda: open_cohort(url))

    def window() -> Any:
        search = pn.state.location.search if pn.state.location is not None else ""
        if pn.state.curdoc is not None:  # a page whose session was made anew must ask nobody else for its styles
            pn.state.curdoc.template_variables.setdefault("dist_url", LOCAL_DIST)
        page = Page(explored, opened, search or "", may_rate=address == LOOPBACK)
        pn.config.raw_css.append(STYLE)
        return page.layout()

    try:
        return pn.io.server.get_server(
            window, port=port, address=address, title="Cohort explorer", static_dirs={SLUG: str(VENDOR)}, show=False, start=False,
            unused_session_lifetime_milliseconds=SLOWEST_MS,
        )  # fmt: skip
    except OSError as error:
        raise InputError(
            expected="a free port", found=f"port {port} is taken", where="explorer", remedy="Give another --port, or none for a free one."
        ) from error
