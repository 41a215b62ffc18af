"""The schema of report.json: `Report` and its parts, typed, frozen and with a version.

All metrics are percent, float64. A value that could not be measured is None, and null in JSON.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ValidationError, model_validator

from ovss_ray.errors import OvssError
from ovss_ray.reports.fields import Bootstrap, Part, Percent
from ovss_ray.runs.folder import RunFolder

FILE = "report.json"
"""Name of the report in the folder of a run."""
VERSION = 1
"""Version of this schema. Reports without a version, from earlier commits, are read as version 1."""


class Images(Part):
    """Counts of images."""

    expected: int
    """number of requested images"""
    scored: int
    """number of images that were scored without an error"""
    failed: int = 0
    """number of images that failed"""


class LeftOut(Part):
    """Files of a data set that belong to no image."""

    what: str
    """kind of files, such as "label files without a photograph" """
    number: int
    example: str
    """address of one of the files"""


class Files(Part):
    """Counts of changed files, records without digests, and files that belong to no image."""

    changed: int = 0
    """number of images that were scored before their photograph or label file changed"""
    undigested: int = 0
    """number of records of an earlier version, without digests of their files"""
    compact: int = 0
    """number of images whose records were replaced by sums (see runs/compact.py)"""
    left_out: tuple[LeftOut, ...] = ()
    unpaired: str = "error"
    """"error": files that belong to no image make the run incomplete; "skip": the benchmark allows such files"""

    @property
    def incomplete(self) -> int:
        """Number of files that belong to no image; 0 if the benchmark allows them (`unpaired: skip`)."""
        return sum(files.number for files in self.left_out) if self.unpaired == "error" else 0

    @property
    def compact_words(self) -> str:
        """Sentence on records that `ovss report --compact` has replaced by sums; empty if no record was replaced."""
        return (
            f"`ovss report --compact` has replaced the records of {self.compact} images by sums: no intervals and no "
            "values of single images"
            if self.compact
            else ""
        )


class Ids(Part):
    """The requested image ids: their number and digest."""

    count: int
    sha256: str


class Selection(Part):
    """The requested images of a benchmark."""

    split: str
    ids: Ids | None = None
    """the requested ids; None: all ids of the split"""
    limit: int | None = None
    """number of requested images, counted from the first id; None: all"""

    @property
    def restrictions(self) -> tuple[str, ...]:
        """Restrictions of the split in words, such as "first 10"; empty for a whole split."""
        ids = (f"{self.ids.count} ids",) if self.ids else ()
        return (*ids, f"first {self.limit}") if self.limit else ids


class RelationsOf(Part):
    """Pairs (child, father) of labels of a benchmark, such as (grass, plant). The pairs are an input of SG-IoU."""

    file: str
    """file that was passed as `--relations`"""
    sha256: str
    """digest of the pairs (child, father)"""
    children: int
    """number of labels that have a father"""
    pairs: int
    """number of pairs of a child and a father"""


class WordsOf(Part):
    """The user's words and templates for a benchmark. The words replace or extend the classes of the benchmark."""

    file: str
    """file that was passed as `--vocabulary`; empty for words in the config"""
    sha256: str
    """digest of the file, or of the words in the config"""
    words: int
    """number of words; if the user added words to the benchmark's classes, this number includes the classes"""
    mapping: tuple[tuple[str, str | None], ...] = ()
    """pairs (word, label); () if the user set only templates

    If a word is mapped to no label, `label` is None. If a word has synonyms, only the first synonym is stored.
    """
    without_word: tuple[str, ...] = ()
    """labels for which there is no word; they cannot be predicted, so their IoU is 0"""
    templates: tuple[str, ...] = ()
    """templates of the prompts; empty: the method's templates"""


class Group(Part):
    """The scores of a group of labels, such as things or stuff. Instance metrics and metrics of the user add fields."""

    labels: int
    in_truth: int = 0
    """number of labels with pixels in the ground truth"""
    miou: Percent = None
    pooled_iou: Percent = None
    """sum of the intersections of all labels in the group, divided by the sum of the unions of these labels"""


class ClassScore(Part):
    """The scores of one class. Metrics of the user may add keys."""

    name: str
    iou: Percent = None
    acc: Percent = None
    truth_pixels: int = 0
    prediction_pixels: int = 0


class ImageError(Part):
    """An image that failed."""

    image_id: str
    error: str


class PublishedFigure(Part):
    """A published value of a metric, such as mIoU, and the value of the same metric that the run measured."""

    miou: float
    """published value in percent, with the digits of the source; mIoU or the metric that `convention` names"""
    convention: str
    kind: str
    where: str
    metric: str | None
    """name of the metric in the report, such as "miou"; None if `convention` is no key of comparison.METRICS"""
    measured: Percent
    difference: Percent
    """measured minus published value, in percentage points; None if the values are not comparable"""


class Published(Part):
    """The published figures of the run's method."""

    method: str
    backbone: str
    not_comparable: tuple[str, ...]
    """reasons why the figures are not comparable with the run; empty for comparable figures"""
    checkpoint: str
    """sentence on how the weights were identified as the published checkpoint; empty if `not_comparable` has reasons"""
    figures: tuple[PublishedFigure, ...]


class BenchmarkReport(Part):
    """The results of a run on one benchmark."""

    images: Images
    files: Files = Files()
    final: bool
    """true if all requested images were scored without an error, and the number Files.incomplete is 0"""
    selection: Selection
    metrics: Mapping[str, Percent]
    """metric → percent, such as metrics["miou"]; `ovss list metrics` has the names"""
    bootstrap: Bootstrap | None = None
    """confidence intervals; None if they were not computed, for example in a report of an earlier version"""
    measured: Mapping[str, int] = {}
    """metric → number of measured images, such as measured["confusion"]; {} in reports of earlier versions"""
    relations: RelationsOf | None = None
    """relations between labels, which SG-IoU needs; None if the run has no relations, and therefore no SG-IoU"""
    groups: Mapping[str, Group] = {}
    classes: tuple[ClassScore, ...] = ()
    errors: tuple[ImageError, ...] = ()
    published: Published | None = None
    counts: Mapping[str, int] = {}
    """name of a count that a metric reports → integer, such as counts["classes_seen"] of a few-shot fold"""
    asks: str = ""
    """sentence that states which classes each few-shot episode segments; empty for a benchmark without episodes"""
    notes: tuple[str, ...] = ()
    """sentences from the stages of the run (see Stage.notes), such as the seed of a random method"""
    words: WordsOf | None = None
    """the user's words and templates; None if the user set neither"""

    @model_validator(mode="before")
    @classmethod
    def _earlier(cls, raw: Any) -> Any:
        """Add {"files": {"undigested": number of scored images}} to a report of an earlier version without `files`."""
        if isinstance(raw, Mapping) and "files" not in raw and isinstance(images := raw.get("images"), Mapping):
            return {**raw, "files": {"undigested": images.get("scored", 0)}}
        return raw


class Run(Part):
    """The run that the report describes."""

    digest: str
    """twelve hex digits, computed from all settings and files that influence results"""
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    """versions, machine, and weights with their sha256"""
    seconds: Mapping[str, Mapping[str, float]]
    """benchmark → stage → mean wall seconds per scored image"""
    history: tuple[Mapping[str, Any], ...] = ()
    """one entry per command that ran in the folder, oldest first"""
    tracking: Mapping[str, str] = {}
    """experiment tracker → error that prevented logging; {} without errors"""

    @property
    def fake_weights(self) -> tuple[str, ...]:
        """File names of the weights with made-up values."""
        return tuple(str(weights["file"]) for weights in self.environment.get("weights", ()) if weights["fake"])


class Report(Part):
    """The report of a run.

    Example: `report.benchmarks["camvid"].metrics["miou"]` is a float in percent, or None.
    """

    version: Literal[1] = 1
    benchmarks: Mapping[str, BenchmarkReport]
    folds: Mapping[str, Mapping[str, Percent]] = {}
    """data set → metric → mean of the metric over the data set's folds, as in folds["pascal5i"]["fold_miou"]"""
    run: Run

    @property
    def final(self) -> bool:
        """True if all benchmarks are final (see BenchmarkReport.final)."""
        return all(benchmark.final for benchmark in self.benchmarks.values())

    @property
    def lacking(self) -> tuple[str, ...]:
        """Sentences with advice on images without a result, and on files that belong to no image; () if `final`."""
        counts = [benchmark.images for benchmark in self.benchmarks.values()]
        expected, scored = sum(images.expected for images in counts), sum(images.scored for images in counts)
        sentences = []
        if scored < expected:
            advice = "see the report. Give the same command again to retry them"
            sentences.append(f"{expected - scored} of {expected} images have no result; {advice}")
        if unpaired := sum(benchmark.files.incomplete for benchmark in self.benchmarks.values()):
            advice = "Fix their names, or write `unpaired: skip` in the YAML"
            sentences.append(f"{unpaired} files belong to no image (see above). {advice}")
        return tuple(sentences)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read the report in a run's folder; `folder` is a path or URI.

        Raises OvssError if the report is missing, damaged or of another version.
        """
        run = RunFolder(str(folder))
        raw = run.json(FILE)
        if not raw:
            run.config()
            raise OvssError(f"{run.file(FILE)}: no report, since the run was interrupted. Run `ovss report {folder}`")
        if raw.get("version", VERSION) != VERSION:
            raise OvssError(
                f"{run.file(FILE)}: report of version {raw['version']}, but this ovss_ray reads version {VERSION}. "
                "To read it, run `pip install --upgrade ovss_ray`"
            )
        try:
            return cls.model_validate(raw)
        except ValidationError as failure:
            first = failure.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise OvssError(f"{run.file(FILE)}: damaged: {place}: {first['msg']}. Run `ovss report {folder}`") from None

    def save(self, folder: RunFolder) -> None:
        """Write report.json into the folder of a run."""
        folder.save_json(FILE, self.model_dump(mode="json"))
