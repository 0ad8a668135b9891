"""What the metrics of one image share."""

from __future__ import annotations

import numpy as np

from cohort_engine import schema
from cohort_engine.io.volume import Volume
from cohort_engine.mapping import native
from cohort_engine.stages import metric
from cohort_engine.stages.base import StageInput
from cohort_engine.stages.metric import MetricImage, fitted_atlas


def test_the_atlas_is_brought_into_an_image_once_for_all_metrics_of_it(monkeypatch):
    made = []
    monkeypatch.setattr(native, "native_atlas", lambda fit, *rest, **more: made.append((float(fit[0]), more["shifts"])) or len(made))
    monkeypatch.setattr(metric, "_PLACED", {})
    template, volume, shifts = object(), Volume(np.zeros((2, 2, 2), np.float32), np.eye(4)), np.zeros((3, 2, 2))

    def atlas(place: float, shifts=shifts, template=template):
        inputs = StageInput({}, {}, {"reduce.native": schema.INTEGRAL}, template, lambda path: np.array([place]))  # type: ignore[arg-type]
        return fitted_atlas(inputs, schema.DWI, MetricImage(volume, shifts=shifts))

    assert [atlas(1.0), atlas(1.0), atlas(2.0), atlas(2.0, None), atlas(2.0, None), atlas(2.0, shifts + 1), atlas(2.0, shifts + 1)] == [
        1,
        1,
        2,
        3,
        3,
        4,
        4,
    ]
    assert atlas(2.0, shifts + 1, object()) == 5
    assert [place for place, _ in made] == [1.0, 2.0, 2.0, 2.0, 2.0]
