"""The exact likelihood of texts under an autoregressive model, in the report of the bound of latent diffusion."""

from collections.abc import Sequence

from ladle.baselines.autoregressive import AutoregressiveModel
from ladle.baselines.inputs import Given
from ladle.evaluation.likelihood_report import Counts, LikelihoodReport, Nats


def exact_likelihood(
    model: AutoregressiveModel,
    texts: Sequence[str],
    *,
    label: Given = None,
    source: Given = None,
    name: str = "autoregressive",
) -> LikelihoodReport:
    """-log p(text) of each text with its end token, given its condition. Texts that are longer than the model reads are
    cut, and counted. name: of the model, for the report. Raises UserError as `AutoregressiveModel.prefixes`."""
    nats, tokens = model.score(texts, label=label, source=source)
    limit, tokenizer = model.config.max_tokens, model.tokenizer
    ids = tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
    back = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    cut = [len(own) > limit for own in tokenizer(list(texts))["input_ids"]]
    scored = [own if long else text for text, own, long in zip(texts, back, cut, strict=True)]
    changed = [text for text, own in zip(scored, back, strict=True) if text.strip() != own]
    counts = Counts.of(tokens.tolist(), scored, sum(cut), changed)
    return LikelihoodReport(name, counts, {"exact": Nats(nats.double().numpy())})
