"""Turn a run's model into a shipped one: half precision, a sentence encoder in 8 bits, on top of a shipped autoencoder,
with figures in its card.

python benchmarks/ship.py runs/e2e/final e2e --base base-en --info info.json
"""

import argparse
import json
from pathlib import Path

import torch

import ladle
from ladle.autoencoder.sentence_encoder import StoredSentenceEncoder
from ladle.storage.encoders import shared_encoder
from ladle.storage.model_folder import load_parts, save_parts
from ladle.storage.parts import ModelParts


def name_encoder(parts: ModelParts) -> None:
    """Let the setting of a model that holds its own sentence encoder name that model. So models that are trained from
    it find the encoder there."""
    autoencoder = parts.autoencoder
    own = isinstance(autoencoder.sentence_encoder, StoredSentenceEncoder)
    if own and shared_encoder(parts.name, autoencoder) is None:
        bottleneck = autoencoder.config.bottleneck.model_copy(update={"sentence_encoder": parts.name})
        autoencoder.config = autoencoder.config.model_copy(update={"bottleneck": bottleneck})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("name")
    parser.add_argument("--base")
    parser.add_argument("--sampling", type=json.loads, default={}, help="JSON: the defaults to sample with")
    parser.add_argument(
        "--info", help="JSON file whose keys replace those of the model's info (see ladle.storage.card)"
    )
    arguments = parser.parse_args()
    parts = load_parts(arguments.model)
    parts.name = arguments.name
    if arguments.info:
        parts.info.update(json.loads(Path(arguments.info).read_text(encoding="utf-8")))
    parts.sampling = parts.sampling.override(**arguments.sampling)
    name_encoder(parts)
    folder = Path(ladle.__file__).parent / "models" / arguments.name
    save_parts(parts, folder, dtype=torch.float16, base=arguments.base, encoder_bits=8)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
