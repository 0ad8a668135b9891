"""One batch is learnt by heart by each encoder with each loss: `pytest tests/benchmarks/test_rois_learn.py --benchmark-only` (minutes)."""

from __future__ import annotations

import numpy as np
import pytest

from cohort_engine.nn.encoders import ENCODERS
from cohort_engine.rois.evaluate import score
from cohort_engine.rois.thresholds import above, best_thresholds
from cohort_engine.rois.train import RoiNet, RoiRun
from tests.unit.rois.test_train import LOSSES, drawn_slices, settings


@pytest.mark.parametrize("loss", [*LOSSES, {"kind": "hdl", "output": "softmax9"}], ids=str)
@pytest.mark.parametrize("encoder", [*ENCODERS, "unet"])
def test_one_batch_by_heart(benchmark, encoder, loss) -> None:
    some = drawn_slices(2)
    if loss.get("output") and encoder in ENCODERS:
        pytest.skip("refused: heat that is a share is not learnt by these encoders")
    config = settings(net={"encoder": encoder, "width": 1 / 4, "channels": [16, 32]}, loss=loss, epochs=500, average=0.9, rate=2e-3, warm_up=5)
    run = RoiRun(config, some, some)

    def learn() -> None:
        while run.epoch < config.epochs:
            run.advance()

    benchmark.pedantic(learn, rounds=1)
    net = RoiNet(run.mean.state_dict(), {"config": config.model_dump(mode="json"), "thresholds": [0.5] * 8, "area": [4.0] * 8})
    heat = net.predict(some)
    dice = np.nanmean(score(above(heat, best_thresholds(heat, some.drawn)), some).dice, 0)
    benchmark.extra_info["dice"] = dice.round(3).tolist()
    print(encoder, loss, dice.round(2))
    assert dice.mean() > 0.9
