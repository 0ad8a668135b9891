"""What a build in a bucket asks of it for each subject: requests and bytes, of stages that write arrays as those of a study from images alone do.

Run with ``pytest --benchmark-only -s tests/benchmarks/test_bucket_writes.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from cohort_engine.config import parse_config
from cohort_engine.engine.build import build
from cohort_engine.io import places

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "storage")]
FEW, MANY = 8, 24


def test_requests_of_a_subject(benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import large
    import s3

    found: dict[int, tuple[dict[str, int], int, int]] = {}

    def run(subjects: int) -> None:
        root = tmp_path / str(subjects)
        large.make_images(root, subjects)
        with s3.serving() as (bucket, environment):
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            places.object_store.cache_clear()
            raw = large.config_of(root).model_dump(exclude_defaults=True)
            raw |= {"data": {"bids": str(root / "bids"), "store": f"{bucket.url}/study.zarr"}, "compute": {"cluster": "synchronous"}}
            config = parse_config(raw)
            assert build(config, stages=large.stages_for(config)).exit_code == 0
            found[subjects] = dict(bucket.counts()), sum(len(data) for data, _ in bucket.objects.values()), len(bucket.objects)
        places.object_store.cache_clear()

    run(FEW)
    benchmark.pedantic(run, args=(MANY,), rounds=1)
    (few, few_bytes, few_objects), (many, many_bytes, many_objects) = found[FEW], found[MANY]
    more = MANY - FEW
    each = {method: (many[method] - few.get(method, 0)) / more for method in sorted(many)}
    print(
        f"\na subject: {', '.join(f'{n:.1f} {method}' for method, n in each.items())}; kept {(many_bytes - few_bytes) / more / 1e6:.2f} MB, ", end=""
    )
    print(f"{(many_objects - few_objects) / more:.1f} objects")
    assert sum(each.values()) < 300
