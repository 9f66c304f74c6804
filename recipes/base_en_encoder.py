"""Make the sentence encoder of `base-en`: all-MiniLM-L6-v2 (Apache-2.0) with a smaller vocabulary.

    python recipes/base_en_encoder.py TEACHER_FOLDER CORPUS.jsonl.gz OUTPUT_FOLDER [--size 16000] [--minutes 20]

Word pieces that are rare in the corpus are left out: their words fall to smaller pieces. Then the encoder learns, on
texts of the corpus, to give the embeddings of the teacher again.
"""

import argparse
import copy
import gzip
import itertools
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from ladle.autoencoder.sentence_encoder import StoredSentenceEncoder

COUNTED, TRAINED, HELD_OUT = 200_000, 600_000, 1_000  # texts
BATCH = 96
LR = 2e-4


def pruned(teacher: Any, tokenizer: Any, counts: Counter[int], size: int) -> tuple[Any, Any]:
    """The teacher and its tokenizer with the special tokens, all single characters and the most frequent pieces."""
    names = {number: name for name, number in tokenizer.get_vocab().items()}
    kept = set(tokenizer.all_special_ids) | {n for n, name in names.items() if len(name.removeprefix("##")) == 1}
    kept |= {number for number, _ in counts.most_common(size)[: size - len(kept)]}
    order = sorted(kept)
    numbers = {names[old]: new for new, old in enumerate(order)}
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["vocab"], state["truncation"], state["padding"] = numbers, None, None
    for token in state["added_tokens"]:
        token["id"] = numbers[token["content"]]
    for token in state["post_processor"]["special_tokens"].values():
        token["ids"] = [numbers[name] for name in token["tokens"]]
    special = {name: getattr(tokenizer, name) for name in ("unk_token", "pad_token", "cls_token", "sep_token")}
    small = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **special)
    student = copy.deepcopy(teacher)
    weight = teacher.get_input_embeddings().weight[order].clone()
    student.set_input_embeddings(torch.nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=None))
    student.config.vocab_size, student.config.pad_token_id = len(order), small.pad_token_id
    return student, small


def embedding(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """The mean of the token states, with norm 1, [N, W]."""
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=96, return_tensors="pt")
    mask = tokens["attention_mask"]
    states = model(input_ids=tokens["input_ids"], attention_mask=mask).last_hidden_state.float()
    return F.normalize((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=-1)


def main() -> None:
    """Write the encoder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("teacher")
    parser.add_argument("corpus")
    parser.add_argument("output", type=Path)
    parser.add_argument("--size", type=int, default=16_000)
    parser.add_argument("--minutes", type=float, default=20)
    given = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(given.teacher)
    teacher = AutoModel.from_pretrained(given.teacher, attn_implementation="eager", add_pooling_layer=False).eval()
    with gzip.open(given.corpus, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in itertools.islice(lines, HELD_OUT + TRAINED)]
    counts: Counter[int] = Counter()
    for start in range(0, COUNTED, 10_000):
        for ids in tokenizer(texts[start : start + 10_000], add_special_tokens=False)["input_ids"]:
            counts.update(ids)
    student, small = pruned(teacher, tokenizer, counts, given.size)
    held_out, texts = texts[:HELD_OUT], texts[HELD_OUT:]
    checked, began, step, rng = (
        StoredSentenceEncoder(copy.deepcopy(student), small),
        time.monotonic(),
        0,
        random.Random(0),
    )
    wanted = StoredSentenceEncoder(teacher, tokenizer).embed(held_out)

    def likeness() -> float:
        checked.model.load_state_dict(student.state_dict())
        return float((checked.embed(held_out) * wanted).sum(1).mean())

    print(f"{len(small):,} pieces; held-out cosine {likeness():.4f}", file=sys.stderr)
    student.requires_grad_(True).eval()  # (without dropout: the target is exact)
    optimizer = torch.optim.AdamW(student.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0.0)
    while (share := (time.monotonic() - began) / (60 * given.minutes)) < 1:
        pool = rng.sample(texts, 20 * BATCH)
        pool.sort(key=len)
        batches = [pool[start : start + BATCH] for start in range(0, len(pool), BATCH)]
        rng.shuffle(batches)
        for batch in batches:
            for group in optimizer.param_groups:
                group["lr"] = LR * min(1, (step + 1) / 50) * max(0.0, 1 - share)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                with torch.no_grad():
                    target = embedding(teacher, tokenizer, batch)
                loss = (1 - (embedding(student, small, batch) * target).sum(1)).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            step += 1
        if step % 200 == 0:
            print(f"{share:.0%}, step {step}, loss {float(loss):.4f}, held out {likeness():.4f}", file=sys.stderr)
    student.half().save_pretrained(given.output)
    small.save_pretrained(given.output)
    print(f"{step} steps; held-out cosine {likeness():.4f}", file=sys.stderr)


if __name__ == "__main__":
    main()
