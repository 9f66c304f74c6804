"""How fast is a model with plan latents, from seed to string, and where does its time go? Beside it: GPT-2.

    python benchmarks/speed_plans.py MODEL [--sources rows.jsonl.gz] [--rounds 5] [--cpu]

All systems run in turn, on one thread, in every round. A figure is the median over the rounds of the milliseconds a
text, with the least and the largest. `--cpu` counts the processor's time instead of the clock's, for a machine that
others use too.

GPT-2 is transformers' `GPT2LMHeadModel` with random weights, with the model's own vocabulary size, layers, width and
heads. Random weights take as long as trained ones where the number of tokens is forced: it writes as many as Ladle's
texts have on average, drawn with the same top_p and temperature. A source is its prompt. Its tokens are not turned into
a string, which Ladle's figures include.

"The loop alone" is plain autoregressive writing by Ladle's decoder and loop, without diffusion, drafts and lexicon: as
many tokens as GPT-2, from the memory of one plan. Its rival is GPT-2 without a prompt.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from ladle.autoencoder import backbone as backbone_module
from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.backbone import Backbone
from ladle.autoencoder.language import LanguageBlock, LanguageDecoder
from ladle.autoencoder.loop import _Choice, write
from ladle.conditioning.store import ConditionStore
from ladle.data.rows import read_rows
from ladle.diffusion.perceptron import DenoisingPerceptron
from ladle.pipeline import LatentDiffusion
from ladle.sampling import generation

SINGLE, BATCH = 8, 64  # texts that are written one by one, and at once
STEPS = (8, 32)


class Systems:
    """What is compared, for one model: functions of a batch size that write `SINGLE` texts one by one, or `BATCH`."""

    def __init__(self, model: LatentDiffusion, sources: list[str] | None):
        self.model, self.sources = model, sources
        backbone = model.autoencoder.backbone
        self.tokenizer, self.decoder = backbone.tokenizer, backbone.model.get_decoder()
        self.options = model.parts.sampling
        texts = [text for size in (1, BATCH) for text in self.ladle(size)]
        self.num_tokens = round(statistics.mean(map(len, self.tokenizer(texts)["input_ids"])))
        vocabulary, width = self.decoder.embedding.weight.shape
        self.gpt2 = GPT2LMHeadModel(GPT2Config(
            vocab_size=vocabulary, n_positions=256, n_embd=width, n_layer=len(self.decoder.blocks),
            n_head=self.decoder.num_heads, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )).eval()  # fmt: skip

    def ladle(self, size: int, **options: Any) -> list[str]:
        """From seed to string."""
        given = {} if self.sources is None else {"source": self.sources[: _count(size)]}
        if size > 1:
            return self.model.generate(seeds=range(size), **given, **options)
        return [
            self.model.generate(seeds=[seed], **{name: values[seed] for name, values in given.items()}, **options)[0]
            for seed in range(SINGLE)
        ]

    def without_drafts(self, size: int, **options: Any) -> list[str]:
        """The same texts."""
        with patch.object(self.model.autoencoder.backbone, "phrases", None):
            return self.ladle(size, **options)

    def gpt2_texts(self, size: int, prompts: bool) -> None:
        """As many tokens as Ladle's texts have, behind a source or behind a start token."""
        ids = torch.full((_count(size), 1), 1)
        if prompts and self.sources is not None:
            encoded = self.tokenizer(self.sources[: len(ids)], padding=True, padding_side="left", return_tensors="pt")
            ids, mask = encoded["input_ids"], encoded["attention_mask"]
        else:
            mask = torch.ones_like(ids)
        drawn = {"top_k": 0, "top_p": self.options.top_p, "temperature": self.options.temperature}
        how: dict[str, Any] = {"do_sample": True, **drawn}
        if self.options.temperature == 0:
            how = {"do_sample": False}
        for own, own_mask in zip(ids.split(size), mask.split(size), strict=True):
            if size == 1:  # without its padding
                own, own_mask = own[:, own_mask[0].bool()], own_mask[:, own_mask[0].bool()]
            count = self.num_tokens
            self.gpt2.generate(own, attention_mask=own_mask, min_new_tokens=count, max_new_tokens=count, **how)

    def loop_alone(self, size: int) -> None:
        """The decoder and the loop, with the end token banned until all tokens are written."""
        plan = torch.randn(_count(size), self.model.autoencoder.max_latents, self.decoder.embedding.weight.shape[1])
        uniform = torch.rand(len(plan), self.num_tokens) if self.options.temperature else None
        for first in range(0, len(plan), size):
            numbers = None if uniform is None else uniform[first : first + size]
            write(
                self.decoder, plan[first : first + size], None, start=1, end=2, banned=[2],
                max_tokens=self.num_tokens, uniform=numbers, top_p=self.options.top_p,
                temperature=self.options.temperature,
            )  # fmt: skip

    def all(self) -> dict[str, Callable[[int], object]]:
        """By name."""
        found: dict[str, Callable[[int], object]] = {}
        drafts = self.model.autoencoder.backbone.phrases is not None
        for steps in STEPS:
            found[f"Ladle, {steps} steps"] = lambda size, n=steps: self.ladle(size, num_inference_steps=n)
            if drafts:
                found[f"Ladle, {steps} steps, without drafts"] = lambda size, n=steps: self.without_drafts(
                    size, num_inference_steps=n
                )
        found["GPT-2"] = lambda size: self.gpt2_texts(size, prompts=True)
        found["the loop alone"] = self.loop_alone
        if self.sources is not None:
            found["GPT-2 without a prompt"] = lambda size: self.gpt2_texts(size, prompts=False)
        return found


def _count(size: int) -> int:
    return SINGLE if size == 1 else size


class Parts:
    """The time of functions, each without that of those that it calls."""

    def __init__(self, clock: Callable[[], float]):
        self.clock, self.own = clock, defaultdict[str, float](float)
        self.open: list[str] = []
        self.last = 0.0

    def _switch(self) -> None:
        now = self.clock()
        if self.open:
            self.own[self.open[-1]] += now - self.last
        self.last = now

    @contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """The time in the block is `name`'s."""
        self._switch()
        self.open.append(name)
        try:
            yield
        finally:
            self._switch()
            self.open.pop()

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, measured."""

        def measured(*given: Any, **options: Any) -> Any:
            with self.measured(name):
                return function(*given, **options)

        return measured


MEASURED: dict[str, list[tuple[Any, str]]] = {
    "reading sources and labels": [(ConditionStore, "__init__")],
    "denoiser: the network": [(DenoisingPerceptron, "forward"), (DenoisingPerceptron, "modulations")],
    "denoiser: noise, solver": [(generation, "draw_latents")],
    "decoder: memory": [(TextAutoencoder, "expand"), (LanguageDecoder, "begin")],
    "decoder: blocks": [(LanguageBlock, "step")],
    "decoder: output layer, embedding": [(LanguageDecoder, "step")],
    "choice of tokens": [(_Choice, "__call__")],
    "the loop's Python": [(backbone_module, "write")],
    "ids to strings": [(Backbone, "detokenize")],
}


def where_it_goes(systems: Systems, size: int, clock: Callable[[], float]) -> dict[str, float]:
    """Milliseconds a text of each part of Ladle's time, with the model's own options."""
    parts = Parts(clock)
    patches = [
        patch.object(owner, name, parts.wrapped(label, getattr(owner, name)))
        for label, functions in MEASURED.items()
        for owner, name in functions
    ]
    for one in patches:
        one.start()
    try:
        with parts.measured("all else"):
            systems.ladle(size)
    finally:
        for one in patches:
            one.stop()
    return {name: 1000 * parts.own[name] / _count(size) for name in [*MEASURED, "all else"]}


def _line(values: Sequence[float]) -> str:
    return f"{statistics.median(values):8.1f} ({min(values):.1f} to {max(values):.1f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--sources", help="rows with texts and sources, for a model that takes sources")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu", action="store_true")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    clock = time.process_time if given.cpu else time.perf_counter
    sources = None
    if given.sources is not None:
        sources = list(dict.fromkeys(row["source"] for row in read_rows(given.sources)))[:BATCH]
    model = LatentDiffusion.from_pretrained(given.model)
    systems = Systems(model, sources)
    vocabulary, width = systems.decoder.embedding.weight.shape
    print(f"{given.model}: vocabulary {vocabulary}, width {width}, layers {len(systems.decoder.blocks)}")
    print(f"{systems.num_tokens} tokens a text on average; {'a source each' if sources else 'no source'}")
    print(f"milliseconds a text ({'processor' if given.cpu else 'clock'}), one thread, median of {given.rounds} rounds")
    for size in (1, BATCH):
        times = defaultdict[str, list[float]](list)
        shares = defaultdict[str, list[float]](list)
        for _ in range(given.rounds):
            for name, run in systems.all().items():
                if size > 1 and name.endswith("without drafts"):
                    continue  # (large batches are not drafted)
                begin = clock()
                run(size)
                times[name].append(1000 * (clock() - begin) / _count(size))
            for name, value in where_it_goes(systems, size, clock).items():
                shares[name].append(value)
        rival = statistics.median(times["GPT-2"])
        plain = statistics.median(times.get("GPT-2 without a prompt", times["GPT-2"]))
        print(f"\nbatch {size}, n = {_count(size)} texts a round")
        for name, values in times.items():
            other = plain if name == "the loop alone" else rival
            ratio = f"   {other / statistics.median(values):.2f} times as fast as GPT-2" if "GPT-2" not in name else ""
            print(f"  {name:36}{_line(values)}{ratio}")
        print(f"where Ladle's time goes ({systems.options.num_inference_steps} steps):")
        for name, values in shares.items():
            print(f"  {name:36}{_line(values)}")


if __name__ == "__main__":
    main()
