"""The vocabulary: every dimension, group, variable, role and flag that a cohort store may hold, written once.

A `variable.VariableSpec` says what an array means (dims, dtype, unit, range, fill) and how it lies on disk (chunks). The writer lays
arrays out from it, the accessor reads by it, the documentation lists it. Names are typed here and nowhere else; all are had from this package.
"""

from cohort_engine.schema.cohort import *
from cohort_engine.schema.cross_sections import *
from cohort_engine.schema.diffusion import *
from cohort_engine.schema.files import *
from cohort_engine.schema.metrics import *
from cohort_engine.schema.quality import *
from cohort_engine.schema.rois import *
from cohort_engine.schema.units import *
from cohort_engine.schema.words import *
from cohort_engine.variable import SUBJECT as SUBJECT
from cohort_engine.variable import VariableSpec as VariableSpec
