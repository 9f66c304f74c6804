"""What an autoencoder keeps: BLEU of reconstruction, both decoders' speed, and token accuracy from noised latents.

    python benchmarks/autoencoder.py --model base-en gutenberg=FILE wikipedia=FILE e2e=FILE:target yelp=FILE -o out.json

Each set is NAME=FILE or NAME=FILE:COLUMN. Sentences of up to 64 tokens are taken (paragraphs are cut into sentences),
n of them, with a fixed seed. Speed is tokens of returned text over wall-clock of decoding alone; the two decoders
run in turn, medians of several rounds.
"""

import argparse
import json
import random
import re
import statistics
import sys
import time

import torch
from sacrebleu.metrics import BLEU

from ladle import LatentDiffusion
from ladle.autoencoder.latents import Latents
from ladle.autoencoder.reconstruction import ReconstructionConfig, decoding_loss
from ladle.data.rows import Columns, read_rows

SENTENCE_END = re.compile(r'(?<=[.!?])["\')]* (?=[A-Z"\'])')
LOG_SNRS = (8.0, 4.0, 3.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0)


def sentences(model: LatentDiffusion, path: str, column: str | None, num: int, seed: int) -> list[str]:
    """`num` sentences of 3 to 64 tokens."""
    found = [s for row in read_rows(path, Columns(text=column)) for s in SENTENCE_END.split(row["text"])]
    random.Random(seed).shuffle(found)
    lengths = (len(model.autoencoder.backbone.tokenizer(s)["input_ids"]) for s in found)
    chosen: list[str] = []
    for sentence, length in zip(found, lengths, strict=False):
        if 3 <= length <= 64:
            chosen.append(sentence)
        if len(chosen) == num:
            break
    return chosen


@torch.no_grad()
def noise_curve(model: LatentDiffusion, texts: list[str], seed: int) -> dict[str, dict[str, float]]:
    """Share of tokens that each decoder gets right, place by place (the autoregressive one from the true beginning),
    from z0 noised to each log-SNR and scaled back."""
    torch.manual_seed(seed)
    curve: dict[str, dict[str, float]] = {}
    for log_snr in LOG_SNRS:
        sums: dict[str, float] = {}
        for start in range(0, len(texts), 100):
            tokens = model.autoencoder.backbone.tokenize(texts[start : start + 100])
            z0 = model.autoencoder.encode(**tokens)
            noised = z0.values + torch.randn_like(z0.values) * 2.718281828 ** (-log_snr / 2)
            latents = Latents(noised * z0.mask[..., None], z0.mask)
            ids, mask = tokens["input_ids"], tokens["attention_mask"]
            _, metrics = decoding_loss(model.autoencoder, latents, ids, mask, ReconstructionConfig())
            for name, value in metrics.items():
                if name.endswith("accuracy"):
                    sums[name] = sums.get(name, 0.0) + float(value) * len(ids)
        curve[str(log_snr)] = {name.removesuffix("_accuracy"): round(v / len(texts), 4) for name, v in sums.items()}
    return curve


def speed(model: LatentDiffusion, texts: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Tokens a second of decoding, by decoder and batch size."""
    tokenizer = model.autoencoder.backbone.tokenizer
    found: dict[str, dict[str, list[float]]] = {}
    for batch_size, num in ((1, 16), (64, 256)):
        latents = model.encode(texts[:num])
        for _ in range(rounds):
            for decoder in ("autoregressive", "parallel"):
                begun = time.perf_counter()
                decoded = model.decode(latents, decoder, batch_size)
                seconds = time.perf_counter() - begun
                num_tokens = sum(len(ids) for ids in tokenizer(decoded)["input_ids"])
                found.setdefault(decoder, {}).setdefault(f"batch_{batch_size}", []).append(num_tokens / seconds)
    return {d: {k: round(statistics.median(v), 1) for k, v in by.items()} for d, by in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--model", default="base-en")
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = LatentDiffusion.from_pretrained(arguments.model)
    metric = BLEU(force=True)  # some sets are tokenized, as they should come back
    report: dict = {"model": arguments.model, "seed": arguments.seed, "reconstruction": {}}
    print("| set | n | latents / tokens | BLEU autoregressive | BLEU parallel | exact |\n|---|---|---|---|---|---|")
    first: list[str] = []
    for item in arguments.sets:
        name, _, path = item.partition("=")
        path, _, column = path.partition(":")
        texts = sentences(model, path, column or None, arguments.n, arguments.seed)
        first = first or texts
        tokens = model.autoencoder.backbone.tokenize(texts)
        ratio = float(model.encode(texts).mask.sum() / tokens["attention_mask"].sum())
        row: dict = {"n": len(texts), "latents_per_token": round(ratio, 3)}
        for decoder in ("autoregressive", "parallel"):
            decoded = model.reconstruct(texts, decoder)
            row[decoder] = round(metric.corpus_score(decoded, [texts]).score, 2)
            if decoder == "autoregressive":
                row["exact"] = round(sum(a == b for a, b in zip(decoded, texts, strict=True)) / len(texts), 4)
        report["reconstruction"][name] = row
        print(
            f"| {name} | {row['n']} | {ratio:.3f} | {row['autoregressive']} | {row['parallel']} | {row['exact']:.1%} |"
        )
    report["signature"] = str(metric.get_signature())
    report["token_accuracy_by_log_snr"] = noise_curve(model, first[:500], arguments.seed)
    print("\n| log-SNR | autoregressive | parallel |\n|---|---|---|")
    for log_snr, row in report["token_accuracy_by_log_snr"].items():
        print(f"| {log_snr} | {row['autoregressive']:.3f} | {row['parallel']:.3f} |")
    report["tokens_per_second"] = speed(model, first, arguments.rounds)
    print("\n| decoder | tokens/s, batch 1 | tokens/s, batch 64 |\n|---|---|---|")
    for decoder, row in report["tokens_per_second"].items():
        print(f"| {decoder} | {row['batch_1']} | {row['batch_64']} |")
    if arguments.output:
        with open(arguments.output, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2)
    print(f"\nn {arguments.n}, seed {arguments.seed}, {arguments.threads} threads", file=sys.stderr)


if __name__ == "__main__":
    main()
