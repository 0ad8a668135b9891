"""A study and its cohort in a bucket that fails: what is built is, array by array, what an undisturbed build on a disk makes."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import s3
import zarr

from cohort_engine import schema
from cohort_engine.config import Config, parse_config
from cohort_engine.engine.build import BuildReport, build
from cohort_engine.engine.status import status
from cohort_engine.errors import ConfigError, StorageError, StoreError
from cohort_engine.io import objects, places
from cohort_engine.io.places import open_zarr_store, read_bytes
from cohort_engine.stages.base import Stage, StageInput
from cohort_engine.store import tags
from cohort_engine.store.lease import lease
from cohort_engine.store.maintenance import gather
from cohort_engine.store.records import list_ledger, read_entries
from cohort_engine.store.verify import verify

OF_A_RUN = ("seconds", "peak_memory")
"""What no two runs share."""
SUBJECTS = 4
RAN: list[str] = []
"""Stages that ran in this process."""


# --- a study of small files ---------------------------------------------------------------------------------------------
def fit(inputs: StageInput) -> dict[str, Any]:
    RAN.append("fit_mt")
    shift = json.loads(inputs.text("mt_mask"))["value"]
    return {"fit/mt": np.asarray(inputs.template.packing.xyz + shift, np.float32), "qc/mt_dice": np.float32(0.9)}


def mtr(inputs: StageInput) -> dict[str, Any]:
    RAN.append("mtr")
    return {"maps/mtr": 40 + 0.01 * inputs.load("fit/mt")[:, 2], "qc/mtr_cord_median": np.float32(40)}


FIT = Stage("fit_mt", "1", fit, ("mt_mask",), (schema.fit_spec("mt"), schema.qc_specs("mt", schema.FIT_QC, "fit_mt")["dice"]), memory=100)
MTR_SPECS = schema.METRICS["mtr"].map, schema.qc_specs("mtr", schema.METRICS["mtr"].quality, "mtr")["cord_median"]
STAGES = FIT, Stage("mtr", "1", mtr, ("mt_on", "mt_off", "mt_mask"), MTR_SPECS, needs=("fit_mt",), memory=100)


def files() -> dict[str, bytes]:
    rows = ["participant_id\tage", *(f"sub-{i:02d}\t{40 + i}" for i in range(SUBJECTS))]
    found = {"participants.tsv": "\n".join(rows).encode() + b"\n"}
    for i in range(SUBJECTS):
        scan = f"sub-{i:02d}/anat/sub-{i:02d}_flip-1_mt"
        found |= {f"{scan}-on_MTS.nii.gz": b"on", f"{scan}-off_MTS.nii.gz": b"off"}
        found[f"derivatives/labels/{scan}-on_MTS_label-SC_seg.nii.gz"] = json.dumps({"value": i}).encode()
    return found


def study(bids: str, store: str) -> Config:
    return parse_config(
        {
            "data": {"bids": bids, "store": store},
            "template": {"name": "parametric"},
            "compute": {"cluster": "synchronous"},
            "stages": {"reduce": {"spaces": ["template"]}, "segment": {"enabled": False}, "levels": {"enabled": False}},
        }
    )


def arrays(url: str) -> dict[str, Any]:
    found = dict(zarr.open_group(open_zarr_store(url), mode="r", use_consolidated=False).members(max_depth=None))
    return {path: node[...] for path, node in found.items() if isinstance(node, zarr.Array) and path.rpartition("/")[2] not in OF_A_RUN}


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for path, values in one.items():
        np.testing.assert_array_equal(values, other[path], err_msg=path)


def outcomes(report: BuildReport) -> dict[str, dict[str, int]]:
    return {stage: {k: n for k, n in counts.items() if n} for stage, counts in report.counts.items()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Arrays of the cohort as it is built on a disk."""
    root = tmp_path_factory.mktemp("study")
    for name, data in files().items():
        path = root / "bids" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert build(study(str(root / "bids"), str(root / "study.zarr")), stages=STAGES).exit_code == 0
    return arrays(str(root / "study.zarr"))


@pytest.fixture
def config(bucket: s3.Bucket) -> Config:
    for name, data in files().items():
        bucket.change(f"study/{name}", data)
    RAN.clear()
    return study(f"{bucket.url}/study", f"{bucket.url}/study.zarr")


# --- what is read -------------------------------------------------------------------------------------------------------
def images_read(requests: list[s3.Request]) -> Counter[str]:
    return Counter(r.key for r in requests if r.method == "GET" and r.key.endswith(".nii.gz"))


def test_a_study_in_a_bucket_is_read_once_and_built_as_on_a_disk(bucket: s3.Bucket, config: Config, expected: dict[str, Any]) -> None:
    bucket.change("study/sub-00/anat/sub-00_T1w.nii.gz", b"nobody needs it")
    with bucket.counting() as requests:
        assert build(config, stages=STAGES).exit_code == 0
    same(arrays(config.data.store), expected)
    assert images_read(requests) == Counter(f"study/{name}" for name in files() if name.endswith(".nii.gz"))
    assert verify(config.data.store) == []
    with bucket.counting() as again:
        assert build(config, stages=STAGES).exit_code == 0
    assert not images_read(again)
    assert not [r for r in again if r.method == "PUT" and "lease" not in r.key]


# --- faults -------------------------------------------------------------------------------------------------------------
def test_a_tenth_of_requests_fails_and_nothing_is_lost_or_done_twice(bucket: s3.Bucket, config: Config, expected: dict[str, Any]) -> None:
    bucket.faults = s3.Faults(0.1, s3.PASSING, seed=1)
    report = build(config, stages=STAGES)
    done, bucket.faults = bucket.faults.done, s3.Faults()
    assert all(done[k] > 3 for k in s3.PASSING), done
    assert outcomes(report) == {"fit_mt": {"done": SUBJECTS}, "mtr": {"done": SUBJECTS}}
    assert report.trouble == ""
    assert Counter(RAN) == {"fit_mt": SUBJECTS, "mtr": SUBJECTS}
    same(arrays(config.data.store), expected)
    assert verify(config.data.store) == []
    assert not [k for k in bucket.objects if "lease" in k]


@pytest.mark.parametrize("kind", s3.PASSING)
def test_every_kind_of_request_outlives_every_kind_of_fault(bucket: s3.Bucket, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(objects.RETRY, "backoff", {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=5)})
    bucket.faults, data = s3.Faults(0.4, (kind,), seed=3), bytes(range(256)) * 8
    store = places.object_store(f"{bucket.url}/x")
    for i in range(8):
        objects.put(store, f"a/{i}", data)
        assert bytes(objects.get(store, f"a/{i}")) == data
        assert bytes(objects.get_range(store, f"a/{i}", 5, 9)) == data[5:9]
        assert bytes(objects.get(store, f"a/{i}", {"suffix": 3})) == data[-3:]
        assert objects.head(store, f"a/{i}")["size"] == len(data)
        objects.copy(store, f"a/{i}", f"b/{i}")
    assert sorted(objects.names_below(store, "b")) == [f"b/{i}" for i in range(8)]
    assert sorted(objects.children(store)[0]) == ["a", "b"]
    objects.delete(store, [f"a/{i}" for i in range(8)])
    objects.delete(store, "b/0")
    assert len(list(objects.names_below(store))) == 7
    assert bucket.faults.done[kind] > 10


def test_an_answer_that_does_not_come_is_asked_for_again(bucket: s3.Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(objects.CLIENT, "read_timeout", "300ms")
    places.object_store.cache_clear()
    bucket.change("study/a.json", b"{}")
    bucket.faults = Once(s3.LATE)
    started = time.monotonic()
    assert read_bytes(f"{bucket.url}/study/a.json") == b"{}"
    assert time.monotonic() - started < s3.Faults.seconds


class Once(s3.Faults):
    """The first request goes wrong, or the first ones."""

    def __init__(self, *kinds: str) -> None:
        super().__init__(1.0)
        self.left = list(kinds)

    def next(self) -> str:
        return self.left.pop(0) if self.left else ""


def test_answers_that_are_cut_again_and_again_come_in_the_end(bucket: s3.Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PAUSES", (0.01,) * 4)
    bucket.change("study/a.json", b"0123456789" * 1000)
    bucket.faults = Once(*[s3.CUT] * 12)
    assert len(read_bytes(f"{bucket.url}/study/a.json")) == 10_000


def test_a_lease_whose_first_answer_was_lost_is_held(bucket: s3.Bucket) -> None:
    url = f"{bucket.url}/study.zarr"
    places.object_store(f"{url}.ledger")
    bucket.faults = Once("", s3.LOST)  # the look who holds it, then the put
    with lease(url, "build") as held:
        held.check()
    assert bucket.objects == {}


def test_two_builds_of_one_store_the_second_is_told(bucket: s3.Bucket, config: Config, expected: dict[str, Any]) -> None:
    refused: list[str] = []

    def second() -> None:
        try:
            build(config, stages=STAGES)
        except StoreError as error:
            refused.append(str(error))

    class Meanwhile(s3.Faults):
        """Starts the second build when the first has written its first record."""

        def next(self) -> str:
            if not refused and not thread.ident and any("/records/" in k for k in bucket.objects):
                thread.start()
            return ""

    thread = threading.Thread(target=second)
    bucket.faults = Meanwhile()
    assert build(config, stages=STAGES).exit_code == 0
    thread.join()
    assert "to be the only writer" in refused[0]
    assert Counter(RAN) == {"fit_mt": SUBJECTS, "mtr": SUBJECTS}
    same(arrays(config.data.store), expected)


# --- listings that lag --------------------------------------------------------------------------------------------------
def test_listings_that_are_seconds_old_lose_nothing(bucket: s3.Bucket, config: Config, expected: dict[str, Any]) -> None:
    bucket.past.clear()
    bucket.stale = 3600.0
    report = build(config, stages=STAGES)
    assert outcomes(report) == {"fit_mt": {"done": SUBJECTS}, "mtr": {"done": SUBJECTS}}
    bucket.stale = 0.0
    assert build(config, stages=STAGES).exit_code == 0
    assert Counter(RAN) == {"fit_mt": SUBJECTS, "mtr": SUBJECTS}
    same(arrays(config.data.store), expected)
    assert verify(config.data.store) == []


def test_a_record_that_is_listed_and_gathered_counts_once(bucket: s3.Bucket, config: Config) -> None:
    url = config.data.store
    assert build(config, stages=STAGES).exit_code == 0
    bucket.stale = 3600.0  # the listing shows the records, which are gathered and gone
    bucket.past[:] = [change for change in bucket.past if "/records/" in change[1] and change[2] is not None]
    assert list_ledger(url)[0]
    assert len(read_entries(url)) == 2 * SUBJECTS
    gather(url)
    assert {e.status for e in read_entries(url)} == {schema.DONE}
    assert status(url).exit_code == 0


# --- who may not --------------------------------------------------------------------------------------------------------
def test_a_refusal_says_credentials_and_names_none(bucket: s3.Bucket, config: Config) -> None:
    bucket.faults = s3.Faults(1.0, (s3.REFUSED,))
    for ask in (lambda: read_bytes(f"{bucket.url}/study/participants.tsv"), lambda: build(config, stages=STAGES)):
        with pytest.raises(StorageError, match=r"lets us in, found that it refuses\. Check the credentials") as caught:
            ask()
        assert "SECRET" not in str(caught.value).replace("AWS_SECRET_ACCESS_KEY", "")
        assert "a-secret-of-nobody" not in str(caught.value)
    assert len(bucket.requests) < 10  # nobody hammers at a closed door


def test_no_credentials_are_written_anywhere(bucket: s3.Bucket, config: Config) -> None:
    assert build(config, stages=STAGES).exit_code == 0
    for key, (data, _) in bucket.objects.items():
        assert b"a-secret-of-nobody" not in data, key
        assert b"AKIATEST" not in data, key


def test_a_bucket_that_is_not_there_is_called_so(bucket: s3.Bucket) -> None:
    with pytest.raises(StorageError, match="expected a bucket, found none of that name"):
        build(study("s3://other/study", f"{bucket.url}/study.zarr"), stages=STAGES)


@pytest.mark.parametrize("url", ["s3://AKIAX:secret@cohorts/study", "az://box/study?sv=2024&sig=abc"])
def test_a_url_with_a_key_in_it_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="without credentials") as caught:
        read_bytes(f"{url}/participants.tsv")
    assert "secret" not in str(caught.value).lower().replace("aws_secret_access_key", "")
    assert "abc" not in str(caught.value)


# --- freezes ------------------------------------------------------------------------------------------------------------
def test_a_freeze_in_a_bucket_is_made_within_it_and_gone_back_to(bucket: s3.Bucket, config: Config, expected: dict[str, Any]) -> None:
    url = config.data.store
    build(config, stages=STAGES)
    bucket.faults = s3.Faults(0.05, s3.PASSING, seed=4)
    with bucket.counting() as requests:
        frozen = tags.freeze(url, "v1")
    assert sum(r.sent for r in requests if r.method == "GET") < 3 * frozen.size
    bucket.change("study/derivatives/labels/sub-01/anat/sub-01_flip-1_mt-on_MTS_label-SC_seg.nii.gz", b'{"value": 50}')
    assert build(config, stages=STAGES).exit_code == 0
    at = tags.at_tag(f"{url}@v1")
    same(arrays(at), expected)
    assert arrays(url)["fit/mt"][1, 0, 0] - expected["fit/mt"][1, 0, 0] == 49
    tags.roll_back(url, "v1")
    bucket.faults = s3.Faults()
    same(arrays(url), expected)
    assert verify(url) == verify(at) == []
    tags.delete_freeze(url, "v1")
    assert not [k for k in bucket.objects if "freezes" in k]
