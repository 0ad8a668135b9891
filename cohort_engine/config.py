"""The study file: a few named sections, every field with its sentence, unknown keys refused with the near name.

A YAML file becomes a `Config`; the resolved JSON is the record of a run. Only the *scientific* sections (`template`, `stages`) enter
`science_hash`: moving a cohort from a laptop to a cluster changes nothing that was measured. Below ``stages:`` each kind of stage owns a section,
which it registers in `STAGE_KINDS` with the rest of it; so do those of other packages.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator

from cohort_engine import schema
from cohort_engine.errors import ConfigError, unknown_name
from cohort_engine.provenance import digest
from cohort_engine.registry import Registry


class Section(BaseModel):
    """Base of all sections: frozen, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


S = TypeVar("S", bound=Section)


class DataConfig(Section):
    """Where the study is, and where the cohort goes."""

    source: str = schema.BIDS
    """``bids`` computes from images, masks and landmarks; ``sct`` takes what the Spinal Cord Toolbox left behind: warps, labels, metric images."""
    bids: str
    """Folder or URL of the BIDS dataset; with ``source: sct`` the folder of the subject folders."""
    store: str
    """Folder or URL of the cohort store to make (``study.zarr``)."""
    derivatives: tuple[str, ...] = ()
    """Derivative folders with masks and landmarks; by default every folder under ``derivatives/``."""
    files: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    """What files are called that have names of their own, by role (``t2w: "*_T1w"`` takes the T1w image in place of the T2w image): a pattern of the
    whole name, of its path (``anat/t2*``), or the words that end it (``T1w``). Of several the first that a subject has counts. Masks and landmarks
    follow the image that was taken (``t2w_mask`` and so on name them)."""
    filters: dict[str, Any] = Field(default_factory=dict)
    """Entities that images must have (``run: "2"``, ``acq: [ax, sag]``, ``rec: null`` for none), of all images or of those of one role
    (``t2w: {acq: sag}``). An image without the entity is taken where no other one has the value."""
    include: tuple[str, ...] = ()
    """Only these participants (``sub-01``); empty means all."""
    exclude: tuple[str, ...] = ()
    """Leave these participants out."""
    renamed: dict[str, str] = Field(default_factory=dict)
    """Participants who were called otherwise when the store was built, new name first (``sub-07: sub-7``): they keep their row."""
    distinct: tuple[str, ...] = ()
    """Participants who are other people than those of the store with the very same files."""

    @field_validator("files")
    @classmethod
    def _words(cls, files: dict[str, str | tuple[str, ...]]) -> dict[str, str | tuple[str, ...]]:
        for role, given in files.items():
            if not given or not all(word.strip() for word in ((given,) if isinstance(given, str) else given)):
                raise ValueError(f"a name or pattern for {role}")
        return files

    @field_validator("filters")
    @classmethod
    def _entities(cls, filters: dict[str, Any]) -> dict[str, Any]:
        for key, given in filters.items():
            if key in ("sub", "ses"):
                raise ValueError("entities of images: participants are chosen by include and exclude, and each session is a subject of its own")
            for values in given.values() if isinstance(given, dict) else (given,):
                for value in values if isinstance(values, list) and values else (values,):
                    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int) or value == ""):
                        raise ValueError(f"a word or number for {key}, a list of them, or null")
        return filters

    @property
    def patterns(self) -> dict[str, tuple[str, ...]]:
        """`files`, each as a tuple."""
        return {role: (given,) if isinstance(given, str) else given for role, given in self.files.items()}

    @property
    def wanted(self) -> dict[str, dict[str, tuple[str | None, ...]]]:
        """`filters` by role, ``""`` for all images; each value a tuple of words.

        Examples
        --------
        >>> DataConfig(bids="b", store="s", filters={"run": 2, "t2w": {"acq": ["ax", None]}}).wanted
        {'t2w': {'acq': ('ax', None)}, '': {'run': ('2',)}}
        """

        def words(given: Any) -> tuple[str | None, ...]:
            return tuple(None if v is None else str(v) for v in (given if isinstance(given, list) else [given]))

        of = {role: {k: words(v) for k, v in given.items()} for role, given in self.filters.items() if isinstance(given, dict)}
        common = {key: words(given) for key, given in self.filters.items() if not isinstance(given, dict)}
        return {**of, "": common}


class TemplateConfig(Section):
    """Which reference space."""

    name: Literal["PAM50", "parametric"] = "PAM50"
    """``PAM50``, or the built-in ``parametric`` cord that needs no download."""
    path: str | None = None
    """Folder of PAM50; by default ``$COHORT_ENGINE_PAM50`` or the installed copy."""
    digest: str | None = None
    """Refuse to run with a template of another content hash."""


class ComputeConfig(Section):
    """Where the work runs. Nothing here changes a number."""

    cluster: str = "local"
    """``local`` starts workers here, ``address`` joins a running scheduler, ``slurm``, ``kubernetes`` and ``ssh`` start them elsewhere,
    ``synchronous`` runs in this process (for debugging). Or a file with this whole section, whose settings the study file's go before: its path, or
    its name in the folder ``$COHORT_ENGINE_CLUSTERS`` (``slurm`` takes ``slurm.yaml`` of that folder, if it is there)."""
    address: str | None = None
    """Scheduler address for ``cluster: address``."""
    workers: int = Field(default=2, ge=1)
    """Workers, each a process that does one thing at a time; on a batch system as many at most as there is work for."""
    at_least: int = Field(default=1, ge=0)
    """Workers that a batch system or Kubernetes keeps, whether there is work for them or not."""
    memory: str = "4 GiB"
    """Memory limit of one worker."""
    cores: int = Field(default=1, ge=1)
    """Processor cores that are asked for with each worker, where they are asked for."""
    gpus: int = Field(default=0, ge=0)
    """Workers with a GPU, beside the others and on the same scheduler: networks run there, and nothing else."""
    gpu_memory: str = "16 GiB"
    """Memory limit of one worker with a GPU (its main memory)."""
    patience: float | None = Field(default=None, gt=0)
    """Seconds that the first worker may take to come, in place of what the kind of cluster waits: a day in a queue, 10 s at an address."""
    tls: bool | str = False
    """Scheduler, workers and this process encrypt what they say to each other, and let nobody else in: ``true`` takes a key in
    ``~/.cohort-engine/tls``, which is made if need be and which workers must see at the same path; a folder its ``cert.pem`` and ``key.pem``."""
    dashboard: str = "127.0.0.1:0"
    """Where the page that shows the cluster at work listens, if this process starts the scheduler; port 0 takes a free one."""
    window: int = Field(default=3, ge=1)
    """Subjects in flight per worker."""
    retries: int = Field(default=2, ge=0)
    """How often a lost worker or a storage error is tried again. Scientific errors never are."""
    gpu: bool = False
    """Networks ask for workers that offer a ``gpu``; without, a GPU that a worker happens to see is used all the same."""
    timeout: dict[str, float] = Field(default_factory=dict)
    """Seconds that a stage may take, by its name, in place of the stage's own limit: one that takes longer is ended like a lost worker."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


CLUSTER_KINDS: Registry[Any] = Registry("cluster", "cohort_engine.engine.clusters")
"""Everything that ``compute.cluster`` may name, see `engine.clusters.base.ClusterKind`; those with settings have a section below ``compute:``."""
CLUSTER_FOLDER = "COHORT_ENGINE_CLUSTERS"
"""Variable of the environment: the folder with a site's cluster files."""


class ReduceConfig(Section):
    """Tables (stage ``reduce``, the whole cohort at once)."""

    estimators: tuple[str, ...] = Field(default=(schema.WA, schema.MAP), min_length=1)
    """Estimators to tabulate. Of these an answer takes the least biased, where it is not asked for another one; the first serves to compare the
    spaces (``qc/<metric>_space_difference``)."""
    spaces: tuple[Literal["template", "native"], ...] = Field(default=(schema.SPACE_TEMPLATE, schema.SPACE_NATIVE), min_length=1)
    """``template`` reduces the packed maps; ``native`` also brings the atlas into each image (stage ``<metric>_native``)."""
    native: Literal["signal", "integral", "interpolate"] = schema.SIGNAL
    """Atlas in the image: its ``integral`` over each voxel; the same as shares of the voxel's ``signal`` where the metric is a ratio; or SCT's way,
    its value at the centre of each voxel (``interpolate``)."""
    min_coverage: float = Field(default=schema.LEAST_COVERAGE, ge=0, le=1)
    """A cell with less of its weight inside the data is NaN. Simulated patients' values are as good where the half of a level is seen as where all of
    it is (``tests/benchmarks/test_patients.py``): a mask with a gap at the compression need not cost that level."""
    weights: Literal["none", "precision"] = "none"
    """Of metrics whose voxels have standard errors (FA, MD ...): whether each voxel counts by how well it is measured beside how much tissues vary
    (``precision``), or all that are reliable count the same."""


STAGE_KINDS: Registry[Any] = Registry("kind of stage", "cohort_engine.stages")
"""Everything that has a section below ``stages:``, see `stages.base.StageKind`."""


class StagesConfig(Section):
    """Scientific parameters. Beside the keys here, each kind of stage in `STAGE_KINDS` has a section of its own."""

    metrics: tuple[str, ...] = (schema.MTR,)
    """Metrics to build; those of `maps` are built without being named here."""
    reduce: ReduceConfig = ReduceConfig()
    """Tables."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class GroupsConfig(Section):
    """Who is compared with whom."""

    column: str = schema.GROUP
    """Column of the subject table."""
    control: str | None = None
    """Its word for healthy people; by default the one that is such a word (``HC``, ``control`` ...)."""
    case: str | None = None
    """Its word for patients; by default the other one, if there is one other."""


class HarmoniseConfig(Section):
    """Removal of scanner effects (ComBat) from every feature."""

    site: str | None = None
    """Column that names the scanner (``site``); by default nothing is harmonised."""
    keep: tuple[str, ...] = (schema.GROUP, schema.AGE, schema.SEX)
    """Columns whose effects must stay; those that the study lacks are left out."""


class TestsConfig(Section):
    """Group tests of every feature."""

    method: Literal["welch", "mann_whitney", "linear"] = "welch"
    """``linear`` adjusts for the covariates."""
    covariates: tuple[str, ...] = ()
    """Columns to adjust for, with ``linear``."""
    family: tuple[str, ...] = ()
    """Features that agree in these (metric, region, level, estimator) are one family of tests for the false discovery rate; by default all are one,
    so that the rate holds for the findings of the study as a whole."""
    weigh: bool = True
    """Whether values count by their standard errors, and people by the probability that their values are usable, where the cohort has these; not with
    ``mann_whitney``."""
    resamples: int = Field(default=0, ge=0)
    """Bootstrap resamples for the intervals; 0 takes analytic ones."""


class RocConfig(Section):
    """How well each feature tells cases from controls."""

    higher: tuple[str, ...] = ()
    """Metrics and measures that disease raises; all others are taken to fall."""
    compare: tuple[tuple[str, str], ...] = ()
    """Pairs of questions, each one feature (``mtr tract='white matter' level=C2:C3``); by default, level by level, white matter of each
    metric against the cord's area, and of each two metrics."""
    resamples: int = Field(default=500, ge=0)
    """Bootstrap resamples for the uncertainty of thresholds."""
    permutations: int = Field(default=999, ge=19)
    """How often the groups are dealt out by chance to see what the best of all features reaches then."""


class ClassifierConfig(Section):
    """A cross-validated classifier of several markers."""

    markers: tuple[str, ...] = ()
    """Questions whose features are its markers; by default the funiculi, grey matter and the area at the remote level."""
    folds: int = Field(default=5, ge=2)
    """Parts that the subjects are cut into."""
    by: str | None = None
    """Column whose values stay together in a fold (``site``); by default people."""
    permutations: int = Field(default=199, ge=0)
    """How often the groups are dealt out by chance and everything is learnt again, for p and the interval."""


class CompressionConfig(Section):
    """Where each cord is compressed most."""

    measure: Literal["diameter_ap", "area"] = "diameter_ap"
    """Profile that is searched."""
    search: tuple[str, str] = ("C2", "C7")
    """First and last level of the search."""
    remote: str = "C2:C3"
    """Level away from the compression, for comparison."""
    gap: float = Field(default=10.0, ge=0)
    """Distance between a slice and its neighbourhood, mm."""
    extent: float = Field(default=20.0, gt=0)
    """Length of the neighbourhood on each side, mm."""
    specificity: float = Field(default=0.9, gt=0, lt=1)
    """Part of healthy people that are called not compressed; 0.9 needs nine of them, 0.95 nineteen."""


class ClustersConfig(Section):
    """Subgroups (k-means)."""

    features: tuple[str, ...] = ()
    """Questions whose features are clustered, and columns of the subject table; by default the clinical scores and the classifier's markers."""
    who: Literal["cases", "all"] = "cases"
    """Whom to cluster."""
    k: int | None = Field(default=None, ge=2)
    """Number of clusters; by default silhouette and stability choose."""
    largest: int = Field(default=6, ge=2)
    """Most clusters to try."""
    resamples: int = Field(default=50, ge=2)
    """Bootstrap samples for the stability."""


class CorrelateConfig(Section):
    """Features against clinical scores."""

    scores: tuple[str, ...] = ()
    """Columns of the subject table; by default every number but age that cases have and that varies."""
    covariates: tuple[str, ...] = ()
    """Columns whose part is taken out of both sides."""
    method: Literal["spearman", "pearson"] = "spearman"
    """Kind of correlation."""
    who: Literal["cases", "all"] = "cases"
    """Whose."""


PACKAGED_NORMS = "pam50-shape"
"""Name of the norms that come with the package: area and diameters of the cord at C2 to C7 of PAM50."""


class NormsConfig(Section):
    """What is healthy."""

    reference: str | None = None
    """Healthy people to compare with: a store; or norms, a file of ``cohort-engine norms fit`` or the packaged ``pam50-shape`` (area and diameters of
    the cord by age and sex), which ten or more of the study's own controls place. By default, and for features without norms, the own controls."""
    covariates: tuple[str, ...] = (schema.AGE, schema.SEX)
    """Columns that the norm depends on; those that nobody has are left out."""


SECTION_KINDS: Registry[Any] = Registry("section of the report", "cohort_engine.sections")
"""Sections of the report, see `sections.base.Section`; those with settings of their own have them below ``analysis:``."""


class AnalysisConfig(Section):
    """Statistics of a cohort (``cohort-engine analyse``). Nothing here changes what is stored of a subject."""

    out: str | None = None
    """Folder for tables, figures and report.html; by default beside the store, ``study_analysis``."""
    title: str | None = None
    """What the report is called; by default as the BIDS dataset is, or else the store."""
    groups: GroupsConfig = GroupsConfig()
    """Who is compared with whom."""
    characteristics: tuple[str, ...] = ()
    """Columns of the subject table that describe the groups (Table 1); by default age, sex, the site, and clinical scores that are known by their
    names (``mjoa``, ``nurick`` ...). With others that the study file names they are all that goes into the page and its tables."""
    exclude: tuple[str, ...] = ()
    """Participants to leave out of the statistics."""
    quality: dict[str, tuple[float | None, float | None]] = Field(default_factory=dict)
    """Quality number -> smallest and largest value that is let in (``mt_dice: [0.85, null]``); a subject without the number stays."""
    features: tuple[str, ...] = ()
    """Questions as in ``cohort-engine query``: ``mtr level=C2,C5:C6,compressed``; by default all: every metric in every region of tissue, area and
    diameter, at every level."""
    space: Literal["template", "native"] | None = None
    """Values of the maps in the template alone, or of each image in its own space alone; by default the least biased of what the cohort has."""
    max_missing: float = Field(default=0.5, ge=0, lt=1)
    """A test is not made where more of a group than this is missing."""
    least: int = Field(default=5, ge=2)
    """People that a test needs in each group, a correlation beside its covariates, and a subgroup: with fewer nothing is tested or called best."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Of every interval."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """False discovery rate below which a finding is called one."""
    seed: int = 1
    """Everything random follows from it."""
    harmonise: HarmoniseConfig = HarmoniseConfig()
    """Removal of scanner effects."""
    tests: TestsConfig = TestsConfig()
    """Group tests."""
    roc: RocConfig = RocConfig()
    """ROC curves."""
    classifier: ClassifierConfig = ClassifierConfig()
    """Classifier of several markers."""
    compression: CompressionConfig = CompressionConfig()
    """Maximal compression."""
    clusters: ClustersConfig = ClustersConfig()
    """Subgroups."""
    correlate: CorrelateConfig = CorrelateConfig()
    """Correlations with clinical scores."""
    norms: NormsConfig = NormsConfig()
    """Healthy reference."""


class Config(Section):
    """A whole study file."""

    preset: str | None = None
    """Settings to begin with (``spine-generic``): what the study file itself says goes before them."""
    data: DataConfig
    """Where the study is, and where the cohort goes."""
    template: TemplateConfig = TemplateConfig()
    """Which reference space."""
    compute: ComputeConfig = ComputeConfig()
    """Where the work runs."""
    stages: StagesConfig = StagesConfig()
    """Scientific parameters."""
    analysis: AnalysisConfig = AnalysisConfig()
    """Statistics of the finished cohort."""

    def science(self) -> dict[str, Any]:
        """Return the part that changes numbers, without a path or a name of anybody: safe to store."""
        return {"source": self.data.source, "template": {"name": self.template.name}, "stages": self.stages.model_dump(mode="json")}

    @property
    def science_hash(self) -> str:
        """Content hash of `science`, 16 hex digits."""
        return digest(self.science())


@cache
def study_model(analysis: bool = True) -> type[Config]:
    """Return `Config` with the sections of all stages and clusters that are known, and of the report: looking these up imports all statistics."""
    models: dict[str, type[Section]] = {"stages": _with_sections(StagesConfig, STAGE_KINDS), "compute": compute_model()}
    models |= {"analysis": _with_sections(AnalysisConfig, SECTION_KINDS)} if analysis else {}
    fields: dict[str, Any] = {k: (m, Field(default_factory=m, description=Config.model_fields[k].description)) for k, m in models.items()}
    return create_model("Config", __base__=Config, __doc__=Config.__doc__, **fields)


@cache
def compute_model() -> type[ComputeConfig]:
    """Return `ComputeConfig` with the sections of all clusters that are known."""
    return _with_sections(ComputeConfig, CLUSTER_KINDS)


def _with_sections(base: type[S], kinds: Registry[Any]) -> type[S]:
    """Add the section of each kind that has one."""
    own = [k for k in kinds.values() if k.settings is not None]
    fields: dict[str, Any] = {k.name: (k.settings, Field(default_factory=k.settings, description=k.words or k.settings.__doc__)) for k in own}
    return create_model(base.__name__, __base__=base, __doc__=base.__doc__, **fields)


class PresetTable(Section):
    """One table of other software that a preset writes."""

    ask: str
    """Question to a cohort."""
    image: str
    """Image of a subject that the other software names in its table."""
    scale: float = 1.0
    """What values are multiplied by to have its unit."""


class Preset(Section):
    """Settings that belong together, and the tables that come of them."""

    settings: dict[str, Any]
    """Sections of a study file."""
    tables: dict[str, PresetTable]
    """By the name of the file."""
    estimator: str
    """Of the tables."""


PRESETS = Path(__file__).parent / "presets"


def preset_of(name: str, *, where: str = "preset") -> Preset:
    """Read a preset.

    Raises
    ------
    UnknownNameError
        There is none of this name.

    Examples
    --------
    >>> preset_of("spine-generic").settings["stages"]["metrics"]
    ['mtr', 'mtsat', 't1', 'fa', 'md', 'rd']
    """
    known = sorted(p.stem for p in PRESETS.glob("*.yaml"))
    if name not in known:
        raise unknown_name("preset", name, known, where=where)
    return parse_section(Preset, read_yaml(PRESETS / f"{name}.yaml"), where=f"preset {name}")


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Lay settings over others, section by section.

    Examples
    --------
    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4})
    {'a': {'b': 3, 'c': 2}, 'd': 4}
    """
    both = {k: merged(below[k], above[k]) for k in below.keys() & above.keys() if isinstance(below[k], dict) and isinstance(above[k], dict)}
    return {**below, **above, **both}


def load_config(path: str | Path, *, preset: str | None = None, cluster: str | None = None) -> Config:
    """Read a study file. Relative paths in `data` and `template` are taken from the file's folder; `preset` stands for one that it does not name.

    `cluster` goes before what the file says of clusters: a kind, or a cluster file.

    Raises
    ------
    ConfigError, UnknownNameError
        All with the place in the file, and near names for unknown keys.
    """
    path = Path(path)
    base = path.resolve().parent
    raw = with_cluster(read_yaml(path), base) | ({} if preset is None else {"preset": preset})
    if cluster is not None:
        raw = merged(raw, with_cluster({"compute": {"cluster": cluster}}, Path()))
    config = parse_config(raw, where=path.name)
    data = config.data.model_copy(update={k: _beside(base, getattr(config.data, k)) for k in ("bids", "store")})
    template = config.template.model_copy(update={"path": _beside(base, config.template.path) if config.template.path else None})
    given = config.analysis
    reference = given.norms.reference
    norms = given.norms.model_copy(update={"reference": _beside(base, reference) if reference and reference != PACKAGED_NORMS else reference})
    analysis = given.model_copy(update={"out": given.out and _beside(base, given.out), "norms": norms})
    return config.model_copy(update={"data": data, "template": template, "analysis": analysis})


def with_cluster(raw: dict[str, Any], base: Path) -> dict[str, Any]:
    """Lay the compute section of a study over the cluster file that it names, if it names one; a path is taken from `base`.

    Raises
    ------
    ConfigError, UnknownNameError
        The file cannot be read, or is no compute section.
    """
    compute = raw.get("compute")
    if not isinstance(compute, dict) or not isinstance(name := compute.get("cluster"), str):
        return raw
    place = base / name if name.endswith((".yaml", ".yml")) else Path(os.environ.get(CLUSTER_FOLDER, "")) / f"{name}.yaml"
    if place.suffix == ".yaml" and place.stem == name and not (CLUSTER_FOLDER in os.environ and place.is_file()):
        return raw
    below = read_yaml(place)
    kind = parse_section(compute_model(), below, where=place.name).cluster
    return {**raw, "compute": {**merged(below, compute), "cluster": kind}}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds sections; whatever is wrong with it is a `ConfigError`."""
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(expected="a readable file", found=error.strerror or "an error", where=str(path), remedy="Check the path.") from error
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(expected="YAML", found=" ".join(str(error).split()), where=str(path), remedy="Check indentation and colons.") from error
    if not isinstance(raw, dict):
        raise ConfigError(expected="sections such as template:", found=type(raw).__name__, where=str(path), remedy="See configs/.")
    return raw


def parse_config(raw: dict[str, Any], *, where: str = "config") -> Config:
    """Validate a nested mapping into a `Config`.

    Examples
    --------
    >>> parse_config({"data": {"bids": "b", "store": "s", "derivativs": []}})
    Traceback (most recent call last):
    ...
    cohort_engine.errors.UnknownNameError: config: data: expected a known key, found 'derivativs'. Did you mean 'derivatives', 'distinct'?
    """
    if raw.get("preset"):
        raw = merged(preset_of(str(raw["preset"]), where=f"{where}: preset").settings, raw)
    of_sections = set(raw.get("analysis") or ()) - set(AnalysisConfig.model_fields)  # keys that a section of the report may know
    config = parse_section(study_model(bool(of_sections)), raw, where=where)
    for name in config.stages.metrics:
        schema.METRICS.find(name, where=f"{where}: stages.metrics")
    for name in config.analysis.tests.family:
        if name not in schema.FEATURE:
            raise unknown_name("part of a feature", name, list(schema.FEATURE), where=f"{where}: analysis.tests.family")
    for name in config.stages.reduce.estimators:
        schema.ESTIMATORS.find(name, where=f"{where}: stages.reduce.estimators")
    return config


def parse_section(kind: type[S], raw: dict[str, Any], *, where: str) -> S:
    """Validate a nested mapping into a section of any kind; what is wrong is said in words."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise _explain(error, kind, where) from error


def _explain(error: ValidationError, kind: type[Section], where: str) -> ConfigError | Exception:
    errors = error.errors(include_url=False)
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])  # a misspelt key also leaves its own unset
    if not first["loc"]:  # the whole does not go together
        return ConfigError(expected=first["msg"].removeprefix("Value error, "), found="other settings", where=where, remedy="Change one of them.")
    *parents, key = (str(p) for p in first["loc"])
    place = ": ".join([where, ".".join(parents)] if parents else [where])
    if first["type"] == "extra_forbidden":
        model: Any = kind
        for parent in parents:
            if parent in model.model_fields:  # else a key of a mapping whose values are sections
                inner = model.model_fields[parent].annotation
                model = get_args(inner)[-1] if get_args(inner) else inner
        return unknown_name("key", key, list(model.model_fields), where=place)
    if first["type"] == "missing":
        return ConfigError(expected=f"a value for '{key}'", found="nothing", where=place, remedy=f"Add {key}: to the study file.")
    found = repr(first.get("input"))
    return ConfigError(
        expected=first["msg"][:1].lower() + first["msg"][1:], found=found, where=f"{place}: {key}", remedy="See docs/reference/config.md."
    )


def _beside(base: Path, location: str) -> str:
    return location if "://" in location or Path(location).is_absolute() else str(base / location)
