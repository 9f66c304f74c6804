"""The kinds of folders that Ladle writes, and how it knows its own again."""

from pathlib import Path
from typing import NamedTuple

from ladle.data.files import known_json


class Kind(NamedTuple):
    """A kind of folder that Ladle writes.

    names: all that Ladle writes directly in it. markers: (pattern of files, key of their JSON objects); a file with its
    key says that Ladle wrote the folder.
    """

    names: frozenset[str]
    markers: tuple[tuple[str, str], ...]

    def wrote(self, folder: Path) -> bool:
        """Whether Ladle wrote a folder of this kind here."""
        return any(key in known_json(path) for pattern, key in self.markers for path in folder.glob(pattern))


MODEL = Kind(
    frozenset({
        "README.md", "model.json", "backbone", "tokenizer", "bottleneck", "parallel_decoder", "denoiser", "condition",
        "judge", "judges", "source_encoder", "source_tokenizer", "sentence_encoder", "sentence_tokenizer",
        "decoder_condition", "words.txt", "phrases.json", "autoencoder_changes.safetensors",
    }),
    (("model.json", "ladle"),),
)  # fmt: skip
JUDGE = Kind(frozenset({"judge.json", "model.safetensors"}), (("judge.json", "vocabulary"),))
CONTROL = Kind(frozenset({"control.json", "model.safetensors"}), (("control.json", "space"),))
DIRECTION = Kind(frozenset({"direction.json", "model.safetensors"}), (("direction.json", "towards"),))
SCORER = Kind(
    frozenset({"autoregressive.json", "config.json", "model.safetensors", "tokenizer"}),
    (("autoregressive.json", "config"),),
)
PREFIX_CLASSIFIER = Kind(
    frozenset({"prefix_classifier.json", "model.safetensors"}), (("prefix_classifier.json", "config"),)
)
TOKEN_DIFFUSION = Kind(
    frozenset({"token_diffusion.json", "model.safetensors", "tokenizer"}), (("token_diffusion.json", "config"),)
)
RUN = Kind(
    frozenset({
        "recipe.toml", "config.json", "environment.json", "metrics.jsonl", "samples", "state", "final", "trackers",
    }),
    (("environment.json", "ladle"), ("state/*/state.json", "identity")),
)  # fmt: skip
RESULTS = Kind(frozenset({"results.json", "table.md", "plots"}), (("results.json", "suite"),))
