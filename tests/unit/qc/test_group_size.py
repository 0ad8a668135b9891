"""The page of ten thousand people: what it weighs, and that outliers are named and hostile words cut whatever their number."""

from __future__ import annotations

import json

from cohort_engine.qc.group_page import IndexPage
from cohort_engine.qc.simulated import simulate_group
from cohort_engine.quality.limits import NUMBERS

MANY, LARGEST = 10_000, 5 * 10**6
PICTURES = [("mask", "mt", "MT-on image"), ("mask", "t2w", "T2w image"), ("levels", "t2w", "T2w image"), ("pair", "mt", "MT-on and MT-off"),
            ("template", "mt", "MT-on image"), ("map", "mtr", "magnetization transfer ratio"), ("map", "fa", "fractional anisotropy")]  # fmt: skip


def test_ten_thousand_people_weigh_less_than_five_megabytes() -> None:
    text = IndexPage("study.zarr", simulate_group(MANY), dict.fromkeys(range(MANY), PICTURES)).render()
    size = len(text.encode())
    print(f"page of {MANY} people: {size / 1e6:.2f} MB")
    assert size < LARGEST
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert len(data["name"]) == len(data["pictures"]) == MANY
    assert data["pictures"][0] == "0123456"
    assert data["flags"][10][1][1].endswith("MT-off 3.4)")


def test_the_furthest_of_a_site_is_named() -> None:
    group = simulate_group(400)
    group.numbers["mt_explained"].values[7] = 0.1
    page = IndexPage("study.zarr", group, {})
    shown = next(n for n in page.numbers if n.name == NUMBERS["mt_explained"].name)
    assert shown.named[0][:2] == (group.names[7], "000007")
    assert shown.beyond == 1
