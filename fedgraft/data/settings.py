"""Which samples, how they fall to clients, and which parts are held out; imports nothing but pydantic."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError

from fedgraft.settings import LocalPath, Settings, named, setting_fault

Task = Literal["classes", "labels", "real"]


class SyntheticSettings(Settings):
    """Gaussian samples of any number and size, made from the scenario's seed, for scale and for tests."""

    name: Literal["synthetic"] = "synthetic"
    """Which source."""
    kind: Literal["features", "images"] = "features"
    """Ready feature vectors (use the backbone `identity`) or small colour images."""
    task: Task = "classes"
    """One class a sample, several labels a sample, or real targets."""
    num_samples: int = Field(default=1000, ge=2)
    """Samples in all, before a test part is held out."""
    num_classes: int = Field(default=10, ge=2)
    """Classes, or labels for the task `labels`."""
    num_targets: int = Field(default=1, ge=1)
    """Real targets a sample, for the task `real`."""
    num_features: int = Field(default=64, ge=1)
    """Length of a feature vector, for the kind `features`."""
    image_size: int = Field(default=32, ge=4)
    """Height and width in pixels, for the kind `images`."""
    num_clients: int | None = Field(default=None, ge=1)
    """Natural clients of equal size, for the partition `natural`; none by default."""
    separation: float = Field(default=4.0, ge=0)
    """Expected distance between two class centres, in standard deviations of the noise."""


class DigitsSettings(Settings):
    """The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn carries."""

    name: Literal["digits"] = "digits"
    """Which source."""


class FolderSettings(Settings):
    """A folder with one sub-folder of images a class."""

    name: Literal["folder"] = "folder"
    """Which source."""
    path: LocalPath
    """The folder that holds the class folders (or the site folders)."""
    sites: bool = False
    """One level of site folders stands above the class folders; a site is a natural client."""
    labels: tuple[str, ...] | None = None
    """Class folders in the order of the head's outputs; by default the sorted names that are found."""


class TableSettings(Settings):
    """What the columns of a csv of samples are."""

    label_column: str = "label"
    """Column of the label (of one class a row, empty: it has none), the labels, or the real target."""
    client_column: str | None = None
    """Column of the natural client, for the partition `natural`."""
    client_pattern: str | None = None
    """A regular expression: the natural client is what its first group finds at the beginning of `client_column`; so
    `(.*)_` makes one client of `review_12_1` and `review_12_2`."""
    group_column: str | None = None
    """Column of a group (scanner, sex, region); the run gives the score of each on the central test part."""
    id_column: str | None = None
    """Column of the sample's id; by default the image's path, or the text's row."""
    split_column: str | None = None
    """Column that says `test` for the samples of an official test part."""
    task: Task = "classes"
    """One class a row, several labels a row, or real targets."""
    separator: str = Field(default="|", min_length=1, max_length=1)
    """Character between several labels, or several real targets, of one row."""
    labels: tuple[str, ...] | None = None
    """Label names in the order of the head's outputs; by default the sorted names that are found."""

    @field_validator("client_pattern")
    @classmethod
    def _regular_expression(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise PydanticCustomError("pattern", "{text}", {"text": f"came {value!r}; {error}"}) from error
        return value

    @model_validator(mode="after")
    def _pattern_of_a_column(self) -> TableSettings:
        if self.client_pattern is not None and self.client_column is None:
            raise setting_fault("client_pattern", "is about client_column; name that too")
        return self


class CsvSettings(TableSettings):
    """A table of image files, with a header line."""

    name: Literal["csv"] = "csv"
    """Which source."""
    path: LocalPath
    """The csv file (UTF-8); image paths in it are relative to its folder."""
    path_column: str = "path"
    """Column of the image's path."""


class TextCsvSettings(TableSettings):
    """A table of texts, with a header line.

    HTML entities are read as what they stand for, runs of white space as one blank, and empty texts are left out.
    """

    name: Literal["text-csv"] = "text-csv"
    """Which source."""
    path: LocalPath
    """The csv file (UTF-8)."""
    text_column: str = "text"
    """Column of the text."""
    duplicates: Literal["drop", "keep"] = "drop"
    """Equal texts: `drop` leaves out those that also stand in the official test part, or, where there is none, all but
    the first of each, so that none is trained on and tested on."""


class ArraysSettings(Settings):
    """Arrays `images` or `features`, `labels`, and optionally `client`, `group`, `ids`, more, by name.

    Images are uint8 of `(N, H, W)` or `(N, H, W, 1 or 3)`, features floats of `(N, D)`. `label_names` names the
    classes, `is_test` marks an official test part. Features in a folder are mapped as they are, float32 or float16, and
    read where and when they are used: they may be larger than memory.
    """

    name: Literal["arrays"] = "arrays"
    """Which source."""
    path: LocalPath
    """One .npz file, as `numpy.savez` writes it, or a folder of .npy files, such as `features.npy`."""
    task: Task = "classes"
    """`labels` of (N,) integers from 0 (-1: no label), of (N, L) zeros and ones, or of (N,) or (N, T) real numbers."""


def _one_or_several(value: object) -> object:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


ColumnNames = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


class FeaturesSettings(Settings):
    """Ready features: a table of numbers (.csv, .parquet), a folder of one table a client, or arrays (.npz, .npy)."""

    name: Literal["features"] = "features"
    """Which source."""
    path: LocalPath
    """A .csv or .parquet file; a folder of such files, each a client; or what the source `arrays` reads (.npz, a folder
    of .npy files), by the names that it has there."""
    task: Task = "classes"
    """One class a row, several labels a row (columns of 0 and 1), or real targets."""
    label_columns: Annotated[ColumnNames, BeforeValidator(_one_or_several)] = ("label",)
    """Column of the class, columns of labels (each 0 or 1), or columns of real targets; one name may stand alone."""
    feature_columns: ColumnNames | None = None
    """Columns of the features, in the order in which the head takes them; by default all that have no other use. A
    column of lists (an embedding, in .parquet) is as many features as its lists are long."""
    categories: dict[str, ColumnNames] = Field(default_factory=dict)
    """Values of columns that hold texts, such as `{sex: [f, m]}`: each value becomes a feature of 0 or 1."""
    optional_columns: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Columns that rows may lack, such as one embedding of a picture and one of a text, of which a sample has both or
    one: what is missing becomes 0, and one more feature, `column is there`, is 1 where it is not."""
    client_column: str | None = None
    """Column of the natural client, for the partition `natural`; a folder's files are clients without it."""
    group_column: str | None = None
    """Column of a group (scanner, sex, region); the run gives the score of each on the central test part."""
    id_column: str | None = None
    """Column of the sample's id; by default the row's number."""
    split_column: str | None = None
    """Column that says `test` for the samples of an official test part."""
    labels: tuple[str, ...] | None = None
    """Classes in the order of the head's outputs; by default the sorted names that are found."""

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # workspaces are kept by their settings, and a mapping has no hash

    @model_validator(mode="after")
    def _columns_of_one_use(self) -> FeaturesSettings:
        if self.task == "classes" and len(self.label_columns) > 1:
            text = (
                f"came {len(self.label_columns)} columns; a class stands in one (task: labels has several of 0 and 1)"
            )
            raise setting_fault("label_columns", text)
        if self.task != "classes" and self.labels is not None:
            raise setting_fault("labels", "orders classes; the outputs of this task are its label_columns, in order")
        both = [name for name in self.feature_columns or () if name in self.label_columns]
        if both:
            raise setting_fault("feature_columns", f"names {', '.join(both)}, which label_columns says is the target")
        return self


class BreastCancerSettings(Settings):
    """Tumours by 30 measures of their cells, malignant or benign; 569 patients, carried by scikit-learn."""

    name: Literal["breast-cancer"] = "breast-cancer"
    """Which source."""


class WineSettings(Settings):
    """Wines of three cultivars by 13 chemical measures; 178 wines, carried by scikit-learn."""

    name: Literal["wine"] = "wine"
    """Which source."""


class DiabetesSettings(Settings):
    """How far diabetes went in a year, a number from 25 to 346, by 10 measures; 442 patients, carried by scikit-learn.

    Natural clients are decades of age; groups of the central test part are the two sexes.
    """

    name: Literal["diabetes"] = "diabetes"
    """Which source."""


class AudioArrays(Settings):
    """Names of the arrays of an .npz file of recordings; an array `speaker_names` names the numbers of `speaker`."""

    audio: str = "audio"
    """All recordings end to end: `(num_samples,)` or, of several channels, `(num_samples, num_channels)`."""
    offset: str = "offset"
    """Where each recording begins, and as its last number where the last one ends."""
    sample_rate: str = "sample_rate"
    """Samples a second: one number, or one a recording."""
    labels: str = "labels"
    """The class of each recording: numbers from 0, or texts."""
    client: str | None = None
    """The natural client (speaker, site) of each recording; null: `client`, if there is one."""
    group: str | None = None
    """A group of each recording; null: `group`, if there is one."""
    ids: str | None = None
    """The id of each recording; null: `ids`, if there is one."""
    is_test: str | None = None
    """Which recordings are an official test part; null: `is_test`, if there is one."""


class AudioSettings(Settings):
    """Recordings: a folder with one sub-folder of sound files a class, or one .npz file of all end to end."""

    name: Literal["audio"] = "audio"
    """Which source."""
    path: LocalPath
    """The folder that holds the class folders (or the site folders) of wav, flac, ogg or aiff files, or the .npz file."""  # noqa: E501
    sites: bool = False
    """One level of folders of sites or speakers stands above the class folders; each is a natural client."""
    labels: tuple[str, ...] | None = None
    """Classes in the order of the head's outputs; by default the sorted names that are found."""
    sample_rate: int | None = Field(default=None, ge=1000, le=384_000)
    """Samples a second that all recordings are brought to, Hz; null: the rate that most of them have."""
    arrays: AudioArrays = AudioArrays()
    """Names of the arrays of an .npz file."""


class TorchvisionSettings(Settings):
    """A data set of torchvision, with its official test part if it has one."""

    name: Annotated[str, Field(pattern=r"^torchvision:[A-Za-z0-9_]+$")]
    """`torchvision:` and the name of a class of `torchvision.datasets`, such as `torchvision:FashionMNIST`."""
    root: LocalPath | None = None
    """Folder with the data set's files, laid out as torchvision does; by default `torchvision` in the cache."""
    download: bool = False
    """Download the files if they are missing."""


class SitesSettings(Settings):
    """Each site's own samples, as its own `site.yaml` says; for `fedgraft submit`."""

    name: Literal["sites"] = "sites"
    """Which source."""


def _source_tag(value: object) -> str | None:
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    if isinstance(name, str) and name.startswith("torchvision:"):
        return "torchvision:<Dataset>"
    return name if isinstance(name, str) else None


SourceSettings = Annotated[
    Annotated[SyntheticSettings, Tag("synthetic")]
    | Annotated[DigitsSettings, Tag("digits")]
    | Annotated[FolderSettings, Tag("folder")]
    | Annotated[CsvSettings, Tag("csv")]
    | Annotated[TextCsvSettings, Tag("text-csv")]
    | Annotated[ArraysSettings, Tag("arrays")]
    | Annotated[FeaturesSettings, Tag("features")]
    | Annotated[BreastCancerSettings, Tag("breast-cancer")]
    | Annotated[WineSettings, Tag("wine")]
    | Annotated[DiabetesSettings, Tag("diabetes")]
    | Annotated[AudioSettings, Tag("audio")]
    | Annotated[TorchvisionSettings, Tag("torchvision:<Dataset>")]
    | Annotated[SitesSettings, Tag("sites")],
    Discriminator(_source_tag),
    BeforeValidator(named),
]


class IidSettings(Settings):
    """Equal parts, drawn at random."""

    name: Literal["iid"] = "iid"
    """Which partition."""
    clients: int = Field(ge=1)
    """Number of clients."""


class DirichletSettings(Settings):
    """Each class is shared out by a draw from a Dirichlet distribution (Hsu et al., 2019, arXiv:1909.06335)."""

    name: Literal["dirichlet"] = "dirichlet"
    """Which partition."""
    clients: int = Field(ge=1)
    """Number of clients; some may stay empty when alpha is small."""
    alpha: float = Field(gt=0, allow_inf_nan=False)
    """Concentration: 0.1 is very uneven, 100 nearly even."""


class PathologicalSettings(Settings):
    """Each client holds a fixed number of classes (Li et al., 2022, arXiv:2102.02079)."""

    name: Literal["pathological"] = "pathological"
    """Which partition."""
    clients: int = Field(ge=1)
    """Number of clients."""
    classes_per_client: int = Field(ge=1)
    """Classes that each client holds."""


class ShardsSettings(Settings):
    """Samples sorted by class, cut into shards, shards dealt out (McMahan et al., 2017, arXiv:1602.05629)."""

    name: Literal["shards"] = "shards"
    """Which partition."""
    clients: int = Field(ge=1)
    """Number of clients."""
    shards_per_client: int = Field(default=2, ge=1)
    """Shards that each client gets."""


class SizesSettings(Settings):
    """Random parts of given sizes, one client a size."""

    name: Literal["sizes"] = "sizes"
    """Which partition."""
    sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    """Number of samples of each client (train and validation together)."""


class NaturalSettings(Settings):
    """The owners that the data name: site folders, a csv's client column, an array `client`."""

    name: Literal["natural"] = "natural"
    """Which partition."""
    clients: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Owners that take part; the samples of others are left out. null: all that are not named in `test`."""
    test: tuple[str, ...] = ()
    """Owners that take no part, whose samples are the central test part, in place of an official one or a fraction."""
    into: int | None = Field(default=None, ge=1)
    """Deal whole owners out to this many clients, in the order of their names and as evenly as they allow, so that
    neighbours (documents of one source, patients of one ward) stay together; null: each owner is a client."""

    @model_validator(mode="after")
    def _test_is_apart(self) -> NaturalSettings:
        both = sorted(set(self.clients or ()) & set(self.test))
        if both:
            raise setting_fault("test", f"came {', '.join(both)}, also named in clients; name an owner in one of them")
        if self.into is not None and (self.clients or self.test):
            raise setting_fault("into", "deals all owners out; leave it out where clients or test name some of them")
        return self


class OneSettings(Settings):
    """One owner of all samples."""

    name: Literal["one"] = "one"
    """Which partition."""
    client: str = Field(min_length=1, pattern=r"^[^\n]+$")
    """The owner's name."""


PartitionSettings = Annotated[
    IidSettings
    | DirichletSettings
    | PathologicalSettings
    | ShardsSettings
    | SizesSettings
    | NaturalSettings
    | OneSettings,
    Discriminator("name"),
    BeforeValidator(named),
]


ClassName = Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1)]
"""A class, by its number from 0 or its label name."""


class DomainSettings(Settings):
    """How pictures of one domain look; what is left out leaves them as they are."""

    name: str = Field(min_length=1, pattern=r"^[^\n]+$")
    """Name of the domain; the run gives the score of each on the central test part."""
    rotate: float = 0.0
    """Degrees by which pictures are turned, against the clock; corners become black."""
    invert: bool = False
    """Dark becomes bright."""
    contrast: float = Field(default=1.0, ge=0)
    """What distances from middle grey are multiplied by."""
    brightness: float = Field(default=0.0, ge=-1, le=1)
    """What is added to each value, as a part of the whole range."""
    noise: float = Field(default=0.0, ge=0, le=1)
    """Standard deviation of the noise on each value, as a part of the whole range."""
    share: float = Field(default=1.0, ge=0)
    """Clients that have this domain, in proportion to the others; 0: a domain that no client has."""
    test_share: float | None = Field(default=None, ge=0)
    """Samples of the central test part, likewise; null: as `share`."""

    @property
    def changes(self) -> bool:
        """Whether pictures look other than in the source."""
        return bool(self.rotate or self.invert or self.contrast != 1 or self.brightness or self.noise)


class DataSettings(Settings):
    """Where samples come from and how they are divided."""

    source: SourceSettings
    """Where samples come from: a name, or a name with its settings."""
    partition: PartitionSettings
    """How samples fall to clients: a name with its settings."""
    validation_fraction: float = Field(default=0.2, ge=0, lt=1)
    """Part of each client's samples that is kept for validation."""
    test_fraction: float = Field(default=0.2, ge=0, lt=1)
    """Part of all samples held out for the central test, before the split; an official test part goes first."""
    max_samples_per_client: int | None = Field(default=None, ge=1)
    """Cap on a client's samples (train and validation together); the rest is left out."""
    max_train_per_class: int | None = Field(default=None, ge=1)
    """Cap on a client's training samples of each class, for few-shot studies; the rest is left out."""
    unlabelled: Annotated[float, Field(gt=0, le=1)] | tuple[Annotated[str, Field(min_length=1)], ...] | None = None
    """Training samples whose labels the run does not use, in a simulation: a fraction of each client's, drawn by the
    seed, or all those of the clients that are named. Validation and test parts keep theirs. null: none."""
    tasks: Annotated[int, Field(ge=2)] | tuple[tuple[ClassName, ...], ...] | None = None
    """Lifelong learning: classes that arrive one list after another, by number from 0 or by label name, such as
    `[[0, 1], [2, 3]]`, or into how many lists the classes are cut in their order. During a list's rounds
    (`server.rounds`) clients train on samples of its classes only. null: all classes are there from the start."""

    domains: tuple[DomainSettings, ...] = ()
    """Domain shifts for simulations: clients in turn, and samples of the test part, get pictures of these looks."""

    @field_validator("tasks", mode="before")
    @classmethod
    def _lists_of_classes(cls, value: object) -> object:
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        if isinstance(value, list | tuple) and all(isinstance(entry, list | tuple) for entry in value):
            if len(value) < 2 or not all(value):
                sizes = ", ".join(str(len(entry)) for entry in value) or "none"
                text = f"came {len(value)} task(s), of {sizes} classes; expected two tasks at least, none of them empty"
                raise PydanticCustomError("tasks", "{text}", {"text": text})
            return tuple(map(tuple, value))
        text = f"came {value!r}; expected lists of classes, such as [[0, 1], [2, 3]], or a number of tasks from 2"
        raise PydanticCustomError("tasks", "{text}", {"text": text})

    @field_validator("unlabelled", mode="before")
    @classmethod
    def _fraction_or_names(cls, value: object) -> object:
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1):
            return value
        if isinstance(value, list | tuple) and value and all(isinstance(entry, str) and entry for entry in value):
            return tuple(value)
        text = f"came {value!r}; expected a fraction above 0, at most 1, or clients' names, such as [client-0000]"
        raise PydanticCustomError("unlabelled", "{text}", {"text": text})

    @model_validator(mode="after")
    def _labels_that_can_be_left_out(self) -> DataSettings:
        if self.unlabelled is None:
            return self
        if self.at_sites:
            text = "is for simulations only; at a site, samples without labels are those that its data say no label of"
            raise setting_fault("unlabelled", text)
        if self.tasks is not None:
            text = "came beside tasks, which clients are given by the labels of their samples"
            raise setting_fault("unlabelled", f"{text}; set one of the two to null")
        return self

    @property
    def num_tasks(self) -> int:
        """How many tasks arrive one after another; 0: all classes are there from the start."""
        return 0 if self.tasks is None else self.tasks if isinstance(self.tasks, int) else len(self.tasks)

    @model_validator(mode="after")
    def _domains_that_can_be_told_apart(self) -> DataSettings:
        names = [domain.name for domain in self.domains]
        if len(set(names)) < len(names):
            raise setting_fault("domains", f"came the names {', '.join(names)}; give each domain a name of its own")
        if self.domains and not sum(domain.share for domain in self.domains):
            raise setting_fault("domains", "all shares are 0, so that no client has a domain; give one of them more")
        if self.domains and self.at_sites:
            raise setting_fault("domains", "are made in simulations only; sites have the pictures that they have")
        return self

    @property
    def at_sites(self) -> bool:
        """Whether the samples lie at the sites of a federation, and this machine has none of them."""
        return isinstance(self.source, SitesSettings)
