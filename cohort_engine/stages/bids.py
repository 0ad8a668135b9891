"""Subjects as images: a BIDS dataset with what people made of it."""

from __future__ import annotations

from cohort_engine import schema
from cohort_engine.io.bids import bids_roles, index_study
from cohort_engine.stages.base import SOURCES, Source

SOURCES.add(Source(schema.BIDS, "computes from images, masks and landmarks", index_study, bids_roles))
