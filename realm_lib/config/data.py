"""The section ``data`` of a profile."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from realm_lib.config.base import Section

Split = Literal["reward_model", "train", "validation", "test"]
"""The splits of the pairs; ``reward_model`` is the share of the training posts kept for training a reward model."""


MAX_UNUSABLE_SHARE = 0.7


class PreprocessingParams(Section):
    """How pairs are read and how features are cached."""

    max_length: Annotated[int, Field(ge=1)] = 1024
    """Most words of a post; a longer one loses its end, a dialogue its oldest turns first. Comments are never cut."""
    batch_size: Annotated[int, Field(ge=1)] = 256
    """Texts between two commits to the feature store: what a kill can cost."""
    num_workers: Annotated[int, Field(ge=1)] = 1
    """Processes that read a hub data set."""
    cache_dir: str = "outputs/.cache"
    """The feature store's folder; runs share it."""


class SplitSizes(Section):
    """Most pairs of each split; null takes all that there are (the simulator needs a number)."""

    train: Annotated[int, Field(ge=1)] | None = None
    validation: Annotated[int, Field(ge=1)] | None = None
    test: Annotated[int, Field(ge=1)] | None = None


class DataParams(Section):
    """Which preference pairs, and which of them train."""

    source: Literal["hub", "local", "simulator"]
    dataset_name: str | None = None
    """Hub data set in a form that is read (params/README.md), as ``stanfordnlp/SHP``; for source hub."""
    dataset_config: str | None = None
    """Its configuration, or the folder in it, as ``preference`` of nvidia/HelpSteer2; null where it has one only."""
    path: str | None = None
    """A file (.jsonl, .json, .csv, also with .gz, or .parquet), a folder of such, or one that ``datasets`` saved.

    Relative to the project root; for source local.
    """
    domains: list[str] | None = None
    """Only these domains, as ``askbaking``; null takes all."""
    splits: SplitSizes = SplitSizes()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Seed of the simulator, and of the order in which posts are taken when a split is capped."""
    min_score_ratio: Annotated[float, Field(ge=1.0)] = 1.0
    """Training pairs whose votes differ by less than this factor are left out (SHP's authors advise 2)."""
    max_pairs_per_post: Annotated[int, Field(ge=1)] | None = None
    """Most training pairs of one post (SHP's authors advise 5)."""
    reward_model_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the training posts kept from the combiner, to train an offline reward model on."""
    max_unusable_share: Annotated[float, Field(ge=0.0, le=1.0)] = MAX_UNUSABLE_SHARE
    """A file of which more than this share of pairs cannot be read stops with all reasons; ties do not count."""
    preprocessing: PreprocessingParams = PreprocessingParams()

    @model_validator(mode="after")
    def _source_has_its_place(self) -> Self:
        if self.source == "hub" and not self.dataset_name:
            raise ValueError("source hub needs dataset_name")
        if self.source == "local" and not self.path:
            raise ValueError("source local needs path: your file or folder of pairs")
        if self.source == "simulator" and None in (self.splits.train, self.splits.validation, self.splits.test):
            raise ValueError("source simulator needs a size for each of splits.train, splits.validation, splits.test")
        return self
