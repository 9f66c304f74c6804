"""What does the diffusion of plans add? Texts from plans of a Gaussian with the data's mean and covariance, as samples.

    python benchmarks/gaussian_prior.py MODEL --data train.jsonl.gz -n 1000 -o gaussian.jsonl

The model's own decoder writes them, with its own sampling options, handed over at the same time. Score them with
`ladle evaluate`, beside samples of the model. Every label has a Gaussian of its own if the model knows labels: labels
take turns.
"""

import argparse
from collections.abc import Sequence

import torch

from ladle.conditioning.store import ConditionStore
from ladle.data.rows import read_rows
from ladle.diffusion.prediction import add_noise
from ladle.pipeline import LatentDiffusion
from ladle.sampling.words import decode_texts, decoding, lexicon_for
from ladle.seeding import SampleNoise
from ladle.storage.writing import write_rows

RIDGE = 1e-4  # of the covariance, in units of the normalised channels


def gaussian_plans(plans: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Plans of the Gaussian of plans [N, C] at standard normal draws [M, C]."""
    covariance = torch.cov(plans.double().T) + RIDGE * torch.eye(plans.shape[1], dtype=torch.float64)
    root = torch.linalg.cholesky(covariance)
    return (plans.double().mean(0) + draws.double() @ root.T).float()


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True, help="the model's training rows")
    parser.add_argument("--rows", type=int, default=5000, help="rows used at most")
    parser.add_argument("-n", "--num-samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", required=True)
    given = parser.parse_args(arguments)
    model = LatentDiffusion.from_pretrained(given.model)
    rows = read_rows(given.data)[: given.rows]
    plans = model.encode([row["text"] for row in rows]).values
    count, options = given.num_samples, model.parts.sampling
    noise = [SampleNoise([given.seed + i]) for i in range(count)]
    draws = torch.stack([own.normal([plans.shape[1:]])[0] for own in noise])
    labels = [model.labels[i % len(model.labels)] for i in range(count)] if model.labels else [None] * count
    z0 = torch.empty(count, *plans.shape[1:])
    for label in dict.fromkeys(labels):
        own = torch.tensor([i for i, name in enumerate(labels) if name == label])
        chosen = torch.tensor([i for i, row in enumerate(rows) if label is None or row.get("label") == label])
        z0[own] = gaussian_plans(plans[chosen].flatten(1), draws[own].flatten(1)).view(-1, *plans.shape[1:])
    half = options.conditional if model.labels else options.unconditional
    level = model.diffusion.schedule.level(torch.tensor(half.stop_time))
    zt = add_noise(z0, torch.stack([own.normal([plans.shape[1:]])[0] for own in noise]), level)
    texts = decode_texts(
        model.autoencoder, list(zt / level.scale), None, 128, noise, [float(level.log_snr)] * count,
        ConditionStore(model.parts.reader(), labels, [None] * count),
        lexicon=lexicon_for(model.autoencoder.backbone, []), **decoding(options),
    )  # fmt: skip
    samples = zip(texts, labels, strict=True)
    write_rows(given.output, [{"text": text} | ({"label": label} if label else {}) for text, label in samples])


if __name__ == "__main__":
    main()
